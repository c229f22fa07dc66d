"""Keep on the card only what is computing; the rest waits in the machine's memory.

The guides' `enable_model_cpu_offload()`, its thriftier, far slower sister, and diffusers' group offload between them,
which can fetch the next layer while one computes. All leave the frames as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdlab.machine import best_device
from svdlab.optimizations.registry import Optimization, Weights

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline


def _model(pipeline: StableVideoDiffusionPipeline, value: str | None) -> None:
    pipeline.enable_model_cpu_offload()


def _model_holds(pipeline: StableVideoDiffusionPipeline) -> bool:
    # A later `.to("cuda")` removes the hooks one by one and leaves this list behind: look at the modules.
    return all(hasattr(module, "_hf_hook") for module in (pipeline.image_encoder, pipeline.unet, pipeline.vae))


def _sequential(pipeline: StableVideoDiffusionPipeline, value: str | None) -> None:
    pipeline.enable_sequential_cpu_offload()


def _sequential_holds(pipeline: StableVideoDiffusionPipeline) -> bool:
    modules = (pipeline.image_encoder, pipeline.unet, pipeline.vae)
    return all(parameter.device.type == "meta" for module in modules for parameter in module.parameters())


def _group(pipeline: StableVideoDiffusionPipeline, value: str | None) -> None:
    import torch
    from diffusers.hooks import apply_group_offloading

    device = torch.device(best_device())
    if value == "stream" and device.type != "cuda":
        raise RuntimeError("'group-offload=stream' needs CUDA's streams to fetch ahead: use 'group-offload'.")
    options: dict[str, Any] = {"offload_type": "leaf_level", "use_stream": value == "stream"}
    if value == "block":
        options = {"offload_type": "block_level", "num_blocks_per_group": 1}
    for module in (pipeline.image_encoder, pipeline.unet):
        apply_group_offloading(module, onload_device=device, **options)
    pipeline.vae.to(device)  # small, and under the hooks it would lose its turn to 32 bits and back for encoding


def _group_holds(pipeline: StableVideoDiffusionPipeline) -> bool:
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    hooked = all(_is_group_offload_enabled(module) for module in (pipeline.image_encoder, pipeline.unet))
    return hooked and pipeline.vae.device.type == best_device()


# --- what is on the device when, for predictions; read in accelerate's and diffusers' hooks --------------------------


def _model_resident(stage: str, weights: Mapping[str, Weights], value: str | None) -> tuple[int, int]:
    """A component leaves when the next one of "image_encoder->unet->vae" comes: the VAE, which encodes, stays through
    the denoising, since none comes after it."""
    there = {"encode": ("image_encoder", "vae"), "denoise": ("unet", "vae"), "decode": ("vae",)}[stage]
    once = {"encode": ("image_encoder", "vae"), "denoise": (), "decode": ()}[stage]
    moved = 2 * sum(weights[part].whole for part in once)  # there, and back when its turn is over
    return sum(weights[part].whole for part in there), moved


def _sequential_resident(stage: str, weights: Mapping[str, Weights], value: str | None) -> tuple[int, int]:
    parts = [weights[part] for part in {"encode": ("image_encoder", "vae"), "denoise": ("unet",)}.get(stage, ("vae",))]
    return max(part.largest_leaf for part in parts), sum(part.whole for part in parts)


def _group_resident(stage: str, weights: Mapping[str, Weights], value: str | None) -> tuple[int, int]:
    grouped = weights[{"encode": "image_encoder"}.get(stage, "unet")]
    if stage == "decode":
        return weights["vae"].whole, 0
    if value == "block":
        return weights["vae"].whole + grouped.largest_block + grouped.beside_blocks, grouped.whole
    ahead = 2 if value == "stream" else 1  # the layer that computes, and with streams the one that comes
    return weights["vae"].whole + ahead * grouped.largest_leaf, 0 if value == "stream" else grouped.whole


_ALONE = "each decides alone where a module lives"

MODEL_OFFLOAD = Optimization(
    "model-offload",
    phase="placement",
    exact=True,
    what="one component at a time on the card, the others in the machine's memory; a few seconds a clip",
    apply=_model,
    holds=_model_holds,
    conflicts=dict.fromkeys(("group-offload", "sequential-offload"), _ALONE),
    accelerator=True,
    traced=lambda _: False,
    resident=_model_resident,
)
GROUP_OFFLOAD = Optimization(
    "group-offload",
    phase="placement",
    exact=True,
    what="one layer at a time on the card, or one block; with streams the next one comes while one computes",
    apply=_group,
    holds=_group_holds,
    values="how weights come: leaf, block, stream",
    accepts=("leaf", "block", "stream").__contains__,
    conflicts={"sequential-offload": _ALONE},
    accelerator=True,
    traced=lambda _: False,
    resident=_group_resident,
)
SEQUENTIAL_OFFLOAD = Optimization(
    "sequential-offload",
    phase="placement",
    exact=True,
    what="one layer at a time on the card; the least weight memory, many times slower",
    apply=_sequential,
    holds=_sequential_holds,
    accelerator=True,
    traced=lambda _: False,
    resident=_sequential_resident,
)
