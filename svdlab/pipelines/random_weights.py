"""The real modules of a variant without their weights: for random weights at full size, and for predictions.

The published checkpoints' configurations are written out here, so nothing is downloaded to build one. `blank` makes
the modules with shapes and no values; `with_random_weights` fills them, for the memory and the speed of the real ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.machine import best_device
from svdlab.pipelines.hub import WeightsError
from svdlab.progress_bar import quiet_libraries
from svdlab.tiny import WEIGHTS
from svdlab.variants import Variant

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline

# From the configuration files of stabilityai/stable-video-diffusion-img2vid and -xt on the hub.
_UNET: dict[str, Any] = {"sample_size": 96}  # everything else is UNetSpatioTemporalConditionModel's own default
_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
_IMAGE_ENCODER: dict[str, Any] = {  # CLIP ViT-H/14
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "image_size": 224,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}


@quiet_libraries()
def blank(
    variant: Variant, folder: Path | None = None, dtype: torch.dtype | None = None
) -> StableVideoDiffusionPipeline:
    """A pipeline of real modules on torch's meta device: shapes and types, no memory, no values.

    Args:
        variant: whose modules.
        folder: weights whose configuration holds instead; default: the variant's own.
        dtype: of the modules; default: fp32.
    """
    import diffusers
    import torch
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    unet_config: Any = _UNET | {"num_frames": variant.frames}
    vae_config: Any = _VAE
    encoder_config = CLIPVisionConfig(**_IMAGE_ENCODER)
    if folder or variant.repository is None:
        folder = folder or WEIGHTS
        if not (folder / "unet" / "config.json").is_file():  # diffusers would ask the hub for such a name
            raise WeightsError(f"There are no weights in {folder}: name a folder in the hub's layout.")
        unet_config = diffusers.UNetSpatioTemporalConditionModel.load_config(folder / "unet")
        vae_config = diffusers.AutoencoderKLTemporalDecoder.load_config(folder / "vae")
        encoder_config = CLIPVisionConfig.from_pretrained(folder / "image_encoder")
    with torch.device("meta"):
        modules: dict[str, Any] = {
            "unet": diffusers.UNetSpatioTemporalConditionModel.from_config(unet_config),
            "vae": diffusers.AutoencoderKLTemporalDecoder.from_config(vae_config),
            "image_encoder": CLIPVisionModelWithProjection(encoder_config),
        }
    for module in modules.values():
        # To "meta" again: diffusers makes the mixing factors on the processor all the same.
        module.eval().to(device="meta", dtype=dtype)
    scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULER)
    return diffusers.StableVideoDiffusionPipeline(
        **modules, scheduler=scheduler, feature_extractor=CLIPImageProcessor()
    )


def with_random_weights(variant: Variant, dtype: torch.dtype, device: str) -> StableVideoDiffusionPipeline:
    """A pipeline of a variant's true size with random values: the real one's memory and speed, not its pictures.

    Args:
        variant: whose modules.
        dtype, device: of the weights.
    """
    import torch

    pipeline = blank(variant, dtype=dtype)
    generator = torch.Generator(best_device()).manual_seed(0)  # the same values, wherever they are to lie
    for module in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        module.to_empty(device=device)
        for name, tensor in module.named_parameters():
            if tensor.ndim > 1:  # variance kept from layer to layer, so that activations stay within half precision
                values = torch.empty_like(tensor, device=generator.device)
                tensor.data.copy_(values.normal_(0, 0.5 / tensor[0].numel() ** 0.5, generator=generator))
            else:  # norms keep what they see; biases add nothing
                tensor.data.fill_(1.0 if name.endswith("weight") else 0.0)
    # The one buffer that no checkpoint holds: `to_empty` has left it without values.
    embeddings = pipeline.image_encoder.vision_model.embeddings
    embeddings.position_ids = torch.arange(embeddings.num_positions, device=device).expand((1, -1))
    return pipeline
