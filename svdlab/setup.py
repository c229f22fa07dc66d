"""How the model runs: which weights, in which precision, with which optimisations. And the pipeline that comes of it.

>>> pipeline = load(Setup("svd-xt", optimizations=("model-offload", "forward-chunking")))
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab import hub
from svdlab.architecture import DTYPES, quiet_libraries, with_random_weights
from svdlab.estimates import choices
from svdlab.hub import WeightsError
from svdlab.machine import best_device, free_bytes
from svdlab.optimizations import check, parse
from svdlab.request import Request
from svdlab.tiny import WEIGHTS
from svdlab.variants import variant

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline


@dataclass(frozen=True)
class Setup:
    """How clips are made, whatever is asked of them. Refuses, with the reason, what cannot be had together.

    `weights` is "hub" (published ones, downloaded once), "bundled" (of the tiny model), "random" (full size, any
    values: memory and speed do not depend on them) or a folder in the hub's layout.
    `dtype` None becomes fp16 on an accelerator and fp32 on a processor when it is loaded.
    `optimizations` are applied in the order given: weights, then placement, then graph.
    """

    variant: str
    weights: str = ""  # "" becomes "bundled" where there are such, else "hub"
    dtype: str | None = None  # "fp32", "fp16", "bf16"
    optimizations: tuple[str, ...] = ()
    revision: str | None = None  # of the hub's repository; a loaded setup names the commit
    device: str | None = None  # "cuda", "cuda:1", "mps", "cpu"; None: the best one here

    def __post_init__(self) -> None:
        v = variant(self.variant)
        names = (self.optimizations,) if isinstance(self.optimizations, str) else tuple(self.optimizations)
        object.__setattr__(self, "optimizations", names)
        object.__setattr__(self, "weights", str(self.weights) or ("hub" if v.repository else "bundled"))
        if self.dtype is not None and self.dtype not in DTYPES:
            expected = f"one of {', '.join(DTYPES)}, or None to let the device decide"
            raise ValueError(f"Unknown dtype {self.dtype!r}: expected {expected}.")
        if self.weights == "hub" and v.repository is None:
            raise ValueError(f"{v.name!r} is not on the hub: leave weights out, its own are bundled.")
        if self.weights == "bundled" and v.repository is not None:
            raise ValueError(f"{v.name!r} is not bundled: use weights='hub', 'random' or a folder.")
        if self.revision is not None and self.weights != "hub":
            raise ValueError(f"revision={self.revision!r} goes with weights='hub' only, not with {self.weights!r}.")
        if self.device is not None and not re.fullmatch(r"cpu|mps|cuda(:\d+)?", self.device):
            raise ValueError(f"Unknown device {self.device!r}: expected 'cuda', 'cuda:1', 'mps' or 'cpu'.")
        check(names, v)

    @property
    def precision(self) -> str:
        """The dtype, or what is taken where it is left open: fp32 on a processor, fp16 elsewhere."""
        return self.dtype or ("fp32" if (self.device or best_device()) == "cpu" else "fp16")

    @property
    def label(self) -> str:
        """The dtype, where one is named, and the optimisations; "plain" where there are neither."""
        return ", ".join(filter(None, (self.dtype, *self.optimizations))) or "plain"

    def request(self, **fields: Any) -> Request:
        """`Request.for_variant` with this setup's variant."""
        return Request.for_variant(self.variant, **fields)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Setup:
        fields = json.loads(text) if isinstance(text, str) else dict(text)
        unknown = set(fields) - {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"Unknown setup field {min(unknown)!r}, written by a newer svdlab: update this one.")
        return cls(**fields)

    @classmethod
    def fitting(
        cls,
        variant: str | None = None,
        memory: int | str | None = None,
        request: Request | None = None,
        say: Callable[[str], object] = print,
    ) -> Setup:
        """The fastest exact setup predicted to fit, for this machine or for a card with `memory` ("8GB", or bytes).

        `variant` left out is "svd-xt" where there is a card, else "tiny". `say` gets a sentence with the reason.
        A `MemoryError` where nothing fits.
        """
        from svdlab import cards
        from svdlab.machine import Machine

        on_card = memory is not None or best_device() == "cuda"
        name = variant or ("svd-xt" if on_card else "tiny")
        size = Machine.here().memory_bytes or 0 if memory is None else cards.memory_bytes(memory)
        where = f"{size / 2**30:.1f} GiB" + ("" if on_card else " of this machine's memory")
        base = cls(name, dtype="fp16" if on_card and name != "tiny" else None)
        if name == "tiny":
            say("tiny: the bundled model, small enough for any machine." + (" No card was found." * (not on_card)))
            return base
        found = choices(base, request, on_card=on_card)
        fitting = [estimate for estimate in found if estimate.fits(size)]
        if not fitting:
            least = min(found, key=lambda estimate: estimate.needed_bytes)
            raise MemoryError(
                f"No setup of {name} fits in {where}: {least} Ask for a smaller decode_chunk_size (now "
                f"{least.request.decode_chunk_size}), fewer frames or a smaller size, or use svd, or tiny."
            )
        say(f"The fastest of {len(found)} exact setups predicted to fit in {where}: {fitting[0]}")
        return fitting[0].setup


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
    chosen = {text: parse(text) for text in setup.optimizations}
    for text, (optimization, _) in chosen.items():
        if optimization.accelerator and device == "cpu":
            raise RuntimeError(f"{text!r} needs a GPU to offload from, and this runs on the processor: leave it out.")
        if optimization.stage == "placement" and device not in ("cuda", "cuda:0", "mps"):
            raise RuntimeError(f"{text!r} works on the first card only: choose one with CUDA_VISIBLE_DEVICES instead.")
    setup = dataclasses.replace(setup, dtype=setup.precision)
    dtype: torch.dtype = getattr(torch, DTYPES[setup.precision])

    placed = any(optimization.stage == "placement" for optimization, _ in chosen.values())
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
        raise WeightsError(f"weights={setup.weights!r} is neither 'hub', 'bundled', 'random' nor a folder that exists.")
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
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
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
