"""SVD's own classes with few and small layers and seeded random weights: a clip takes a moment."""

from __future__ import annotations

from typing import Any


def micro_pipeline(
    frames: int = 6, attends: tuple[bool, ...] = (True, False), channels: int = 32, vae_levels: int = 2
) -> Any:
    """A pipeline of a few megabytes.

    `attends` says which levels of the UNet attend, beside its middle, and `channels` how wide they are. Latents are
    2 ** (`vae_levels` - 1) times smaller than frames.
    """
    import torch
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from svdlab.pipelines.random_weights import SCHEDULER

    torch.manual_seed(0)
    unet = UNetSpatioTemporalConditionModel(
        sample_size=32,
        down_block_types=tuple(f"{'CrossAttn' * each}DownBlockSpatioTemporal" for each in attends),
        up_block_types=tuple(f"{'CrossAttn' * each}UpBlockSpatioTemporal" for each in reversed(attends)),
        block_out_channels=(channels,) * len(attends),
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
        layers_per_block=1,
        cross_attention_dim=16,
        num_attention_heads=(2,) * len(attends),
        num_frames=frames,
    )
    vae = AutoencoderKLTemporalDecoder(
        block_out_channels=(32,) * vae_levels,
        down_block_types=("DownEncoderBlock2D",) * vae_levels,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.5,
    )
    image_encoder = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=224,
            patch_size=56,
            projection_dim=16,
        )
    )
    pipeline = StableVideoDiffusionPipeline(
        vae.eval(), image_encoder.eval(), unet.eval(), EulerDiscreteScheduler(**SCHEDULER), CLIPImageProcessor()
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def break_decoder(pipeline: Any, dtype: Any) -> Any:
    """The pipeline with a VAE whose decoder overflows in one precision (in all, if None)."""
    decode = pipeline.vae.decode

    def overflow(latents, **options):
        output = decode(latents, **options)
        if dtype in (None, latents.dtype):
            output.sample[1] = float("nan")
        return output

    pipeline.vae.decode = overflow
    return pipeline
