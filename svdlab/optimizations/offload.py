"""Keep on the card only what is computing; the rest waits in the machine's memory.

The guides' `enable_model_cpu_offload()`, and its thriftier, far slower sister. Both leave the frames as they were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdlab.optimizations.registry import Optimization

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


MODEL_OFFLOAD = Optimization(
    "model-offload",
    stage="placement",
    exact=True,
    what="one component at a time on the card, the others in the machine's memory; a few seconds a clip",
    apply=_model,
    holds=_model_holds,
    conflicts={"sequential-offload": "each decides alone where a module lives"},
    accelerator=True,
)
SEQUENTIAL_OFFLOAD = Optimization(
    "sequential-offload",
    stage="placement",
    exact=True,
    what="one layer at a time on the card; the least weight memory, many times slower",
    apply=_sequential,
    holds=_sequential_holds,
    accelerator=True,
)
