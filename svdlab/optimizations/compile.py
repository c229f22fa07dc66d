"""Compile the parts that compute: 20 to 25 % faster by the guides, after a first call that takes minutes.

`torch.compile(pipe.vae)` does nothing, since the pipeline calls `vae.decode` and never the module itself: here the
decoder inside is compiled. Modules are compiled in place: offload hooks, `.config` and `.dtype` stay where they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from svdlab.optimizations.registry import Optimization

MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")  # torch.compile's own
_BLOCKS = ["BasicTransformerBlock", "TemporalBasicTransformerBlock"]  # diffusers does not list them for this UNet
_GRAPH_MODES = ("reduce-overhead", "max-autotune")  # with CUDA's graphs, which write each result over the one before
_HOOK_CONFLICT = "its hooks break the one graph that fullgraph asks for"


def _compile(module: Any, value: str | None) -> None:
    from diffusers.models.unets.unet_spatio_temporal_condition import logger
    from torch._dynamo import config

    # The UNet logs where a size does not divide evenly, and a call of a logger would break the graph.
    for name in ("ignore_logging_functions", "ignore_logger_methods"):  # the newer name, the older one
        getattr(config, name, set()).add(logger.info)
    module.compile(mode=value, fullgraph=True)


def _compile_blocks(pipeline: Any, value: str | None) -> None:
    pipeline.unet._repeated_blocks = _BLOCKS
    pipeline.unet.compile_repeated_blocks(mode=value, fullgraph=True)


def _refuse_graphs(name: str, value: str | None, device: str) -> None:
    if value in _GRAPH_MODES and device.startswith("cuda"):
        raise RuntimeError(
            f"'{name}={value}' would overwrite results that are still in use, since CUDA's graphs keep one of each: "
            f"use '{name}=max-autotune-no-cudagraphs', or '{name}'."
        )


def _is_compiled(*modules: Any) -> bool:
    return bool(modules) and all(module._compiled_call_impl is not None for module in modules)


_compiling = partial(
    Optimization,
    phase="graph",
    affects="rounding",
    values=f"a mode of torch.compile: {', '.join(MODES)}",
    accepts=MODES.__contains__,
    traced=lambda value: False,  # what it gains must be measured
)

COMPILE_UNET = _compiling(
    "compile-unet",
    what="torch.compile of the UNet; slow first call, then 20 to 25 % faster by the guides",
    apply=lambda pipeline, value: _compile(pipeline.unet, value),
    holds=lambda pipeline: _is_compiled(pipeline.unet),
    conflicts=dict.fromkeys(("fp8", "model-offload", "group-offload", "sequential-offload"), _HOOK_CONFLICT),
)
COMPILE_VAE = _compiling(
    "compile-vae",
    what="torch.compile of the VAE's decoder; a new decode chunk compiles again",
    apply=lambda pipeline, value: _compile(pipeline.vae.decoder, value),
    check_device=partial(_refuse_graphs, "compile-vae"),  # the chunks of a clip are joined at its end
    holds=lambda pipeline: _is_compiled(pipeline.vae.decoder),
    conflicts={"sequential-offload": _HOOK_CONFLICT},
)
COMPILE_BLOCKS = _compiling(
    "compile-blocks",
    what="torch.compile of the UNet's transformer blocks, which repeat: a far shorter first call than compile-unet",
    apply=_compile_blocks,
    check_device=partial(_refuse_graphs, "compile-blocks"),  # the first blocks' results are used again by the last
    holds=lambda pipeline: _is_compiled(*(m for m in pipeline.unet.modules() if type(m).__name__ in _BLOCKS)),
    conflicts={
        "compile-unet": "it compiles the same blocks as part of the UNet",
        "fp8": _HOOK_CONFLICT,
        "group-offload": _HOOK_CONFLICT,
        "sequential-offload": _HOOK_CONFLICT,
    },
)
