"""From a setup to a diffusers pipeline, on its device, with every optimisation applied and checked.

>>> pipeline = load(Setup("svd-xt", optimizations=("model-offload", "forward-chunking")))
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from svdlab.machine import best_device, free_bytes, is_out_of_memory
from svdlab.messages import first_line, shorten
from svdlab.pipelines import hub
from svdlab.pipelines.hub import WeightsError
from svdlab.pipelines.random_weights import quiet_libraries, with_random_weights
from svdlab.setup import DTYPES, Setup
from svdlab.tiny import WEIGHTS
from svdlab.variants import variant

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline


def load(setup: Setup) -> StableVideoDiffusionPipeline:
    """A diffusers pipeline, on its device, with every optimisation applied and checked; ready for `generate`.

    It remembers the setup with dtype and commit filled in (`setup_of`). Raises `WeightsError` where weights cannot
    be had or read, `MemoryError` where they cannot fit, `RuntimeError` where an optimisation did not take hold.
    """
    _check_torch()
    import torch

    device = setup.device or best_device()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError(f"device={device!r} is asked for, but torch sees no CUDA card: leave it out, or use 'cpu'.")
    chosen = dict(zip(setup.optimizations, setup.parsed, strict=True))
    for text, (optimization, _) in chosen.items():
        if optimization.accelerator and device == "cpu":
            raise RuntimeError(f"{text!r} needs a GPU to offload from, and this runs on the processor: leave it out.")
        if optimization.phase == "placement" and device not in ("cuda", "cuda:0", "mps"):
            raise RuntimeError(f"{text!r} works on the first card only: choose one with CUDA_VISIBLE_DEVICES instead.")
    setup = dataclasses.replace(setup, dtype=setup.precision)
    dtype: torch.dtype = getattr(torch, DTYPES[setup.precision])

    placed = any(optimization.phase == "placement" for optimization, _ in chosen.values())
    if setup.weights == "random":
        v, where = variant(setup.variant), "cpu" if placed else device
        _check_memory(v.download_bytes * dtype.itemsize // 2, where, f"Random weights of {v.name}")
        pipeline = with_random_weights(v, dtype, where)
    else:
        folder, setup = _folder(setup)
        pipeline = _read(folder, dtype, "cpu" if placed else device)
    if not placed:
        pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)  # `generate` shows its own
    for optimization, value in chosen.values():
        optimization.apply(pipeline, value)
    for text, (optimization, _) in chosen.items():  # all of them after all of them: a later one may undo an earlier one
        if not optimization.holds(pipeline):
            raise RuntimeError(f"{text!r} was applied and did not take hold on this pipeline: leave it out, report it.")
    setattr(pipeline, "_svdlab_setup", setup)  # noqa: B010  (diffusers types its attributes)
    return pipeline


def setup_of(pipeline: StableVideoDiffusionPipeline) -> Setup | None:
    """The setup that `load` made this pipeline from; None for one that somebody made with diffusers alone."""
    return getattr(pipeline, "_svdlab_setup", None)


def _folder(setup: Setup) -> tuple[Path, Setup]:
    """Where the weights lie on disk, and the setup with the commit they are of."""
    if setup.weights == "bundled":
        return WEIGHTS, setup
    if setup.weights == "hub":
        folder = hub.fetch(variant(setup.variant), half=setup.dtype != "fp32", revision=setup.revision)
        return folder, dataclasses.replace(setup, revision=folder.name)  # the cache names a snapshot by its commit
    folder = Path(setup.weights).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"weights={shorten(setup.weights)} is neither 'hub', 'bundled', 'random' nor a folder that exists."
        )
    return folder, setup


def _read(folder: Path, dtype: torch.dtype, device: str) -> StableVideoDiffusionPipeline:
    import torch

    with quiet_libraries():
        from diffusers import StableVideoDiffusionPipeline

    half = hub.check_folder(folder, half=dtype != torch.float32)
    files = {component: hub.weight_files(folder / component, half=half) for component in hub.COMPONENTS}
    stored = sum(file.stat().st_size for found in files.values() for file in found)
    _check_memory(stored * dtype.itemsize // (2 if half else 4), device, f"The weights in {folder}")
    try:
        with quiet_libraries():
            pipeline = StableVideoDiffusionPipeline.from_pretrained(
                folder, dtype=dtype, variant="fp16" if half else None, use_safetensors=True, local_files_only=True
            )
    except Exception as error:  # of either library, for configurations that hold anything at all
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        raise WeightsError(
            f"The weights in {folder} cannot be read ({reason}): a file is missing, damaged or of another model; "
            "fetch or save them again."
        ) from error
    for component, found in files.items():  # diffusers and transformers warn, and go on with made-up values
        names = set().union(*(hub.tensor_names(file) for file in found))
        missing = sorted(set(getattr(pipeline, component).state_dict()) - names)
        if missing:
            raise WeightsError(
                f"{folder / component} lacks {len(missing)} of its tensors ({missing[0]} first): a file is missing or "
                "of another model; fetch or save it again."
            )
    return pipeline


def _check_memory(needed: int, device: str, what: str) -> None:
    free = free_bytes(device)
    if needed > free:
        offload = "" if device == "cpu" else "optimizations=('model-offload',), "
        raise MemoryError(
            f"{what} take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on {device}: "
            f"use dtype='fp16', {offload}a smaller variant, or close other programs."
        )


def _check_torch() -> None:
    import torch

    if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        raise RuntimeError(
            f"torch {torch.__version__} has no scaled_dot_product_attention, so attention alone would ask for 39 GiB: "
            "install torch 2.6 or newer."
        )
