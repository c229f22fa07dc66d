"""The real modules of a variant without their weights: for random weights at full size, and for predictions.

The published checkpoints' configurations are written out here, so nothing is downloaded to build one. `blank` makes
the modules with shapes and no values; `with_random_weights` fills them, for the memory and the speed of the real ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.machine import best_device
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


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the libraries while models are built: bars of seconds, and warnings that do not concern our readers.

    transformers warns that torchvision is missing, and here Pillow prepares the pictures. Afterwards the libraries'
    bars and verbosity are as they were found.
    """
    from diffusers.utils import logging as diffusers
    from transformers.utils import logging as transformers

    libraries: list[Any] = [diffusers, transformers]
    before = [(library, library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def blank(
    variant: Variant, folder: Path | None = None, dtype: torch.dtype | None = None
) -> StableVideoDiffusionPipeline:
    """A pipeline of real modules on torch's meta device: shapes and types, no memory, no values.

    Args:
        variant: whose modules.
        folder: weights in the hub's layout whose configuration holds instead; default: the variant's own.
        dtype: of the modules; default: fp32.

    Returns:
        The pipeline.
    """
    import torch

    with quiet_libraries():
        from diffusers import (
            AutoencoderKLTemporalDecoder,
            EulerDiscreteScheduler,
            StableVideoDiffusionPipeline,
            UNetSpatioTemporalConditionModel,
        )
        from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    unet_config: Any
    vae_config: Any
    if variant.repository is None:
        folder = folder or WEIGHTS
    if folder is not None:
        unet_config = UNetSpatioTemporalConditionModel.load_config(folder / "unet")
        vae_config = AutoencoderKLTemporalDecoder.load_config(folder / "vae")
        encoder_config = CLIPVisionConfig.from_pretrained(folder / "image_encoder")
    else:
        unet_config = _UNET | {"num_frames": variant.frames}
        vae_config = _VAE
        encoder_config = CLIPVisionConfig(**_IMAGE_ENCODER)
    with torch.device("meta"):
        unet: Any = UNetSpatioTemporalConditionModel.from_config(unet_config)
        vae: Any = AutoencoderKLTemporalDecoder.from_config(vae_config)
        image_encoder: Any = CLIPVisionModelWithProjection(encoder_config)
    with quiet_libraries():
        for module in (unet, vae, image_encoder):
            # To "meta" again: diffusers makes the mixing factors on the processor all the same.
            module.eval().to(device="meta", dtype=dtype)
    return StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=image_encoder,
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )


def with_random_weights(
    variant: Variant, dtype: torch.dtype, device: str, seed: int = 0
) -> StableVideoDiffusionPipeline:
    """A pipeline of a variant's true size with random values: the memory and speed of the real one, not its pictures.

    Args:
        variant: whose modules.
        dtype: of the weights.
        device: where the weights lie.
        seed: of the values, which are small, so that no step overflows in half precision.

    Returns:
        The pipeline.
    """
    import torch

    pipeline = blank(variant, dtype=dtype)
    generator = torch.Generator(best_device()).manual_seed(seed)  # the same values, wherever they are to lie
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
