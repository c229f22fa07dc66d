"""Compile the parts that compute: the guides' 20 to 25 %, after a first call that takes minutes.

`torch.compile(pipe.vae)` does nothing, since the pipeline calls `vae.decode` and never the module itself: here the
decoder inside is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from svdlab.optimizations.registry import Optimization

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline
    from torch import nn

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # torch.compile's own


def _compile(module: nn.Module, value: str | None) -> None:
    from diffusers.models.unets.unet_spatio_temporal_condition import logger
    from torch._dynamo import config

    # The UNet logs where a size does not divide evenly, and a call of a logger would break the graph.
    for name in ("ignore_logging_functions", "ignore_logger_methods"):  # the newer name, the older one
        getattr(config, name, set()).add(logger.info)
    # In place: offload hooks, `.config` and `.dtype` stay where diffusers looks for them.
    module.compile(mode=value, fullgraph=True)


def _compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None


_MODES = f"a mode of torch.compile: {', '.join(MODES)}"
_HOOKS = "its hooks break the one graph that fullgraph asks for"  # why not with an offload
_REPEATED = ["BasicTransformerBlock", "TemporalBasicTransformerBlock"]  # diffusers does not list them for this UNet


def _compile_blocks(pipeline: StableVideoDiffusionPipeline, value: str | None) -> None:
    pipeline.unet._repeated_blocks = _REPEATED
    pipeline.unet.compile_repeated_blocks(mode=value, fullgraph=True)


def _blocks_compiled(pipeline: StableVideoDiffusionPipeline) -> bool:
    found = [_compiled(module) for module in pipeline.unet.modules() if type(module).__name__ in _REPEATED]
    return bool(found) and all(found)


COMPILE_UNET = Optimization(
    "compile-unet",
    phase="graph",
    exact=True,
    what="torch.compile of the UNet; slow first call, then 20 to 25 % faster by the guides",
    apply=lambda pipeline, value: _compile(pipeline.unet, value),
    holds=lambda pipeline: _compiled(pipeline.unet),
    values=_MODES,
    accepts=MODES.__contains__,
    traced=lambda _: False,
    conflicts=dict.fromkeys(("model-offload", "group-offload", "sequential-offload"), _HOOKS),
)
COMPILE_VAE = Optimization(
    "compile-vae",
    phase="graph",
    exact=True,
    what="torch.compile of the VAE's decoder; a new decode chunk compiles again",
    apply=lambda pipeline, value: _compile(pipeline.vae.decoder, value),
    holds=lambda pipeline: _compiled(pipeline.vae.decoder),
    values=_MODES,
    accepts=MODES.__contains__,
    traced=lambda _: False,
    conflicts={"sequential-offload": _HOOKS},
)
COMPILE_BLOCKS = Optimization(
    "compile-blocks",
    phase="graph",
    exact=True,
    what="torch.compile of the UNet's transformer blocks, which repeat: a far shorter first call than compile-unet",
    apply=_compile_blocks,
    holds=_blocks_compiled,
    values=_MODES,
    accepts=MODES.__contains__,
    traced=lambda _: False,
    conflicts={
        "compile-unet": "it compiles the same blocks as part of the whole",
        **dict.fromkeys(("group-offload", "sequential-offload"), _HOOKS),
    },
)
