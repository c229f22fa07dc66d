"""Keep on the card only what is computing; the rest waits in the machine's memory.

Three ways, all of which leave the frames as they were. `model-offload` moves components (the guides'
`enable_model_cpu_offload()`), `sequential-offload` moves layers and is far slower, and `group-offload` lies between
them: it can fetch the next layer while one computes. A prediction cannot run them without a card, so each also says
which weights are on the device when, as read in the hooks of accelerate and diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from svdlab.machine import best_device
from svdlab.optimizations.registry import Optimization, Residence, WeightBytes

_PLACEMENT_CONFLICT = "each decides alone where a module lives"
_GROUPS = ("leaf", "block", "stream")


def _components(pipeline: Any) -> tuple[Any, Any, Any]:
    return pipeline.image_encoder, pipeline.unet, pipeline.vae


def _model_residence(stage: str, weights: Mapping[str, WeightBytes], value: str | None) -> Residence:
    # A component leaves when the next one of "image_encoder->unet->vae" comes: the VAE stays for the denoising.
    resident = {"encode": ("image_encoder", "vae"), "denoise": ("unet", "vae"), "decode": ("vae",)}[stage]
    # Each comes and goes once a clip, the VAE for encoding and for decoding. The UNet's way counts with the encoding,
    # since of the denoising one step is asked for.
    moved = {"encode": weights.keys(), "denoise": (), "decode": ("vae",)}[stage]
    return Residence(sum(weights[name].total for name in resident), 2 * sum(weights[name].total for name in moved))


def _sequential_residence(stage: str, weights: Mapping[str, WeightBytes], value: str | None) -> Residence:
    names = {"encode": ("image_encoder", "vae"), "denoise": ("unet",), "decode": ("vae",)}[stage]
    return Residence(max(weights[name].largest_layer for name in names), None)  # its hooks take longer than the weights


def _group_residence(stage: str, weights: Mapping[str, WeightBytes], value: str | None) -> Residence:
    vae = weights["vae"].total
    if stage == "decode":
        return Residence(vae)
    grouped = weights["image_encoder" if stage == "encode" else "unet"]
    if value == "block":
        return Residence(vae + grouped.largest_block + grouped.outside_blocks, 2 * grouped.block_traffic)
    if value == "stream":  # the layer that computes and the one that comes; a copy stays behind, so none goes back
        return Residence(vae + 2 * grouped.largest_layer, grouped.layer_traffic, overlaps=True)
    return Residence(vae + grouped.largest_layer, 2 * grouped.layer_traffic)


def _apply_group(pipeline: Any, value: str | None) -> None:
    import torch
    from diffusers.hooks import apply_group_offloading

    device = torch.device(best_device())
    options: dict[str, Any] = {"offload_type": "leaf_level", "use_stream": value == "stream"}
    if value == "block":
        options = {"offload_type": "block_level", "num_blocks_per_group": 1}
    for module in (pipeline.image_encoder, pipeline.unet):
        apply_group_offloading(module, onload_device=device, **options)
    pipeline.vae.to(device)  # small, and under the hooks it would lose its turn to 32 bits and back for encoding


def _check_streams(value: str | None, device: str) -> None:
    if value == "stream" and not device.startswith("cuda"):
        raise RuntimeError("'group-offload=stream' needs CUDA's streams to fetch ahead: use 'group-offload'.")


def _group_holds(pipeline: Any) -> bool:
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    hooked = all(_is_group_offload_enabled(module) for module in (pipeline.image_encoder, pipeline.unet))
    return hooked and pipeline.vae.device.type == best_device()


_offloading = partial(Optimization, phase="placement", affects="nothing", accelerator=True, traced=lambda value: False)

MODEL_OFFLOAD = _offloading(
    "model-offload",
    what="one component at a time on the card, the others in the machine's memory; a few seconds a clip",
    apply=lambda pipeline, value: pipeline.enable_model_cpu_offload(),
    # A later `.to("cuda")` removes the hooks one by one and leaves the pipeline's list behind: look at the modules.
    holds=lambda pipeline: all(hasattr(module, "_hf_hook") for module in _components(pipeline)),
    conflicts=dict.fromkeys(("group-offload", "sequential-offload"), _PLACEMENT_CONFLICT),
    residence=_model_residence,
)
GROUP_OFFLOAD = _offloading(
    "group-offload",
    what="one layer at a time on the card (leaf), one block, or one layer while the next one comes (stream)",
    apply=_apply_group,
    holds=_group_holds,
    check_device=_check_streams,
    values=", ".join(_GROUPS),
    accepts=_GROUPS.__contains__,
    conflicts={"sequential-offload": _PLACEMENT_CONFLICT},
    residence=_group_residence,
)
SEQUENTIAL_OFFLOAD = _offloading(
    "sequential-offload",
    what="one layer at a time on the card; the least weight memory, many times slower",
    apply=lambda pipeline, value: pipeline.enable_sequential_cpu_offload(),
    holds=lambda pipeline: all(p.is_meta for module in _components(pipeline) for p in module.parameters()),
    residence=_sequential_residence,
)
