"""From a setup to a diffusers pipeline: fetch, check, build, place, optimise, look whether it took hold.

The order is that of `load`, from top to bottom. Everything that can be refused is refused before weights are read.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from svdlab.dtypes import torch_dtype
from svdlab.machine import (
    bytes_of_others,
    card_count,
    free_bytes,
    free_memory,
    is_out_of_memory,
    is_unreachable,
    release_frames,
)
from svdlab.messages import first_line, shorten
from svdlab.optimizations.registry import Optimization
from svdlab.pipelines import hub
from svdlab.pipelines.hub import WeightsError
from svdlab.pipelines.random_weights import with_random_weights
from svdlab.progress_bar import quiet_libraries
from svdlab.setup import Setup
from svdlab.tiny import WEIGHTS
from svdlab.variants import explain_unloadable, variant

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline

_REPAIR = "a file is missing, damaged or of another model; fetch or save them again"

_OTHERS_BYTES = 2 * 2**30  # of a card: a desktop and this process's own context take 1.0 to 1.5 GiB


def load(setup: Setup) -> StableVideoDiffusionPipeline:
    """The diffusers pipeline of a setup, on its device, with every optimisation applied, ready for `generate`.

    Args:
        setup: how the model runs. Published weights (4.5 GB a variant, 9 in fp32) are downloaded the first time, with a
            progress bar, into the hub's cache (`HF_HOME`). svd-xt-1.1 needs its licence accepted on the hub, and a
            token (`hf auth login`, or `HF_TOKEN`).

    Returns:
        A new pipeline at every call: delete the one before (`del pipeline`) where a card holds only one.

    Raises:
        WeightsError: the weights cannot be had or read.
        MemoryError: they cannot fit.
        RuntimeError: the device is not there, or an optimisation cannot run on it or did not take hold.

    Example:
        >>> from svdlab import Setup
        >>> load(Setup("tiny")).unet.config["num_frames"]
        14
    """
    setup = setup.resolved()
    device, parsed = str(setup.device), dict(zip(setup.optimizations, setup.parsed, strict=True))
    _check_device(device, parsed)
    earlier = sys.exc_info()[1]
    try:
        return _build(setup, device, parsed)
    except BaseException as error:
        release_frames(error, earlier)  # they hold the pipeline
        free_memory()
        raise


def is_temporary(error: BaseException, setup: Setup) -> bool:
    """Whether a failure is the machine's at that moment, so that the same question may be answered another time.

    So are errors of files, of the network and of the hub, a card that cannot be reached, and memory that is not free,
    where other programs hold it. All else is an answer: what the setup or the request asks for cannot be had here.

    Args:
        error: from loading the setup, or from making a clip with it.
        setup: whose weights and device count. Weights in a folder are no more than the setup says: mended, they are
            another question.
    """
    if isinstance(error, WeightsError):
        return setup.weights == "hub"
    if isinstance(error, OSError) or type(error) is MemoryError or is_unreachable(error):
        return True  # a plain MemoryError is `load`'s, by what is free just then
    return is_out_of_memory(error) and bytes_of_others(str(setup.resolved().device)) > _OTHERS_BYTES


def setup_of(pipeline: StableVideoDiffusionPipeline) -> Setup | None:
    """The setup, resolved, that a pipeline was loaded from; None for one that somebody made with diffusers alone."""
    return getattr(pipeline, "_svdlab_setup", None)


def _build(
    setup: Setup, device: str, parsed: dict[str, tuple[Optimization, str | None]]
) -> StableVideoDiffusionPipeline:
    dtype = torch_dtype(setup.dtype)
    placed = any(optimization.phase == "placement" for optimization, _ in parsed.values())
    first_device = "cpu" if placed else device  # an offload brings the weights to the device itself
    if setup.weights == "random":
        v = variant(setup.variant)
        _check_memory(v.download_bytes * dtype.itemsize // 2, first_device, f"Random weights of {v.name}")
        pipeline = with_random_weights(v, dtype, first_device)
    else:
        folder, setup = _folder(setup)
        pipeline = _read(folder, dtype, first_device)
    if first_device != "cpu":  # where it is already; diffusers warns of fp16 there, offloaded or not
        pipeline.to(first_device)
    pipeline.set_progress_bar_config(disable=True)  # `generate` shows its own
    for optimization, value in parsed.values():
        optimization.apply(pipeline, value)
    for text, (optimization, _) in parsed.items():  # after all of them: a later one may undo an earlier one
        if not optimization.holds(pipeline):
            raise RuntimeError(f"{text!r} was applied and did not take hold on this pipeline: leave it out, report it.")
    setattr(pipeline, "_svdlab_setup", setup)  # noqa: B010  (diffusers types its attributes)
    return pipeline


def _folder(setup: Setup) -> tuple[Path, Setup]:
    """Where the weights lie on disk, and the setup with the commit they are of."""
    if setup.weights == "bundled":
        return WEIGHTS, setup
    if setup.weights == "hub":
        folder = hub.fetch(variant(setup.variant), half=setup.dtype != "fp32", revision=setup.revision)
        return folder, dataclasses.replace(setup, revision=folder.name)  # the cache names a snapshot by its commit
    folder = Path(setup.weights).expanduser()
    if not folder.is_dir():
        reason = explain_unloadable(setup.weights)
        kinds = f"neither 'hub', 'bundled', 'random' nor a folder that exists{reason and f': {reason}'}"
        raise WeightsError(f"weights={shorten(setup.weights)} is {kinds}.")
    return folder, setup


@quiet_libraries()
def _read(folder: Path, dtype: torch.dtype, device: str) -> StableVideoDiffusionPipeline:
    from diffusers import StableVideoDiffusionPipeline

    files = hub.check_folder(folder, half=dtype.itemsize == 2)
    half = ".fp16" in files["unet"][0].name
    sizes = {
        component: dict(pair for file in paths for pair in hub.tensor_sizes(file).items())
        for component, paths in files.items()
    }
    values = sum(sum(tensors.values()) for tensors in sizes.values())
    _check_memory(values * dtype.itemsize, device, f"The weights in {folder}")
    try:
        pipeline = StableVideoDiffusionPipeline.from_pretrained(
            folder, dtype=dtype, variant="fp16" if half else None, use_safetensors=True, local_files_only=True
        )
    except Exception as error:  # of either library, for configurations that hold anything at all
        if is_out_of_memory(error):
            raise
        raise WeightsError(f"The weights in {folder} cannot be read ({first_line(error)}): {_REPAIR}.") from error
    for component, tensors in sizes.items():  # diffusers and transformers warn, and go on with made-up values
        missing = sorted(set(getattr(pipeline, component).state_dict()) - set(tensors))
        if missing:
            lacking = f"lacks {len(missing)} of its tensors ({missing[0]} first)"
            raise WeightsError(f"{folder / component} {lacking}: {_REPAIR}.")
    return pipeline


def _check_device(device: str, parsed: dict[str, tuple[Optimization, str | None]]) -> None:
    import torch

    kind, _, index = device.partition(":")
    count = {"cuda": card_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}[kind]
    if int(index or 0) >= count:
        names = f"{count or 'no'} {'CUDA card' if kind == 'cuda' else 'Apple GPU'}{'s' * (count > 1)}"
        raise RuntimeError(f"device={device!r} is asked for, but torch sees {names}: leave it out, or use 'cpu'.")
    for text, (optimization, value) in parsed.items():
        if optimization.accelerator and device == "cpu":
            raise RuntimeError(f"{text!r} needs a GPU to offload from, and this runs on the processor: leave it out.")
        if optimization.phase == "placement" and device not in ("cuda", "cuda:0", "mps"):
            raise RuntimeError(f"{text!r} works on the first card only: choose one with CUDA_VISIBLE_DEVICES instead.")
        optimization.check_device(value, device)


def _check_memory(needed: int, device: str, what: str) -> None:
    if needed > free_bytes(device):
        free_memory()  # torch keeps what a deleted pipeline had
    if needed > (free := free_bytes(device)):
        offload = "" if device == "cpu" else "optimizations=('model-offload',), "
        raise MemoryError(
            f"{what} take {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free on {device}: "
            f"use dtype='fp16', {offload}a smaller variant, or close other programs."
        )
