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
from typing import Any

from svdlab.machine import best_device
from svdlab.optimizations import check, parse
from svdlab.optimizations.registry import Optimization
from svdlab.request import Request
from svdlab.variants import variant

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # our name -> torch's


@dataclass(frozen=True)
class Setup:
    """How clips are made, whatever is asked of them. Refuses, with the reason, what cannot be had together.

    `weights` is "hub" (published ones, downloaded once), "bundled" (of the tiny model), "random" (full size, any
    values: memory and speed do not depend on them) or a folder in the hub's layout.
    `dtype` None becomes fp16 on a CUDA card and fp32 elsewhere when it is loaded.
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
        check(self.parsed)

    @property
    def precision(self) -> str:
        """The dtype; where it is left open, fp16 on a CUDA card and fp32 elsewhere.

        Apple's GPUs get fp32, since fp16 gave black frames there (diffusers issue 6220).
        """
        return self.dtype or ("fp16" if (self.device or best_device()).startswith("cuda") else "fp32")

    @property
    def parsed(self) -> tuple[tuple[Optimization, str | None], ...]:
        """Each optimisation with the value after its "=" (None where there is none), in the order given."""
        return tuple(parse(text) for text in self.optimizations)

    @property
    def label(self) -> str:
        """The dtype, where one is named, and the optimisations; "plain" where there are neither."""
        return ", ".join(filter(None, (self.dtype, *self.optimizations))) or "plain"

    def resolved(self) -> Setup:
        """This setup with what it leaves open filled in as `load` would: device, dtype, and the commit in the cache."""
        revision, repository = self.revision, variant(self.variant).repository
        if self.weights == "hub" and repository:
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(repository, "model_index.json", revision=revision)
            revision = (
                Path(cached).parent.name if isinstance(cached, str) else revision
            )  # snapshots are named by commit
        return dataclasses.replace(self, device=self.device or best_device(), dtype=self.precision, revision=revision)

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
        import svdlab  # by the public name: predictions are made of setups

        return svdlab.fitting_setup(variant, memory, request, say)
