"""How the model runs: which weights, in which precision, on which device, with which optimisations.

A `Setup` is a value: it is checked when it is made, can be compared and saved, and `load` makes a pipeline of it. What
it leaves open (device, dtype, commit) depends on the machine; `resolved` is the one place that decides it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svdlab.dtypes import DTYPES, usual_dtype
from svdlab.machine import best_device
from svdlab.messages import shorten
from svdlab.optimizations.registry import PHASES, Optimization, check, optimizations, parse
from svdlab.request import Request, fields_of_json
from svdlab.variants import variant


@dataclass(frozen=True)
class Setup:
    """How clips are made, whatever is asked of them; `load(setup)` makes the pipeline.

    `Setup.fitting()` chooses one for this machine or a card. `setup.request(image=...)` makes a complete request.
    `setup.resolved()` fills in device, dtype and commit; `setup.parsed` has the optimisations.
    `to_json()` and `from_json(text)` save and read; `dataclasses.replace` changes fields.

    Args:
        variant: "svd" (14 frames), "svd-xt" (25), "svd-xt-1.1" (25, tuned at fps 7 and bucket 127) or "tiny" (bundled,
            14 small frames in seconds); `VARIANTS` tells more.
        weights: "hub" (published, downloaded once), "bundled" (tiny's), "random" (full size, for memory and speed
            alone) or a folder in the hub's layout; default: "bundled" for tiny, else "hub".
        dtype: "fp32", "fp16" or "bf16"; default: fp16 on a CUDA card, else fp32 (fp16 gave black frames on Apple's).
        optimizations: names, first of the group Weights, then Placement, then Graph, in any order inside a group;
            another order is refused. Some take a value, as in "forward-chunking=5"; without one, group-offload takes
            leaf, attention flash, the compile modes default, and forward-chunking a chunk that suits the clip. All but
            {approximate} leave the frames as they are, rounding aside. Default: none.
            {optimizations}
        revision: a branch, tag or commit of the hub's repository, refused for other weights; default: its main branch.
        device: "cuda", "cuda:1", "mps" or "cpu"; default: the best one here.

    Raises:
        ValueError: an unknown value, or a combination that is not allowed, with the reason.

    Example:
        >>> setup = Setup("svd-xt", optimizations=("model-offload", "forward-chunking"))
        >>> setup.weights, setup.label
        ('hub', 'model-offload, forward-chunking')
    """

    variant: str
    weights: str = ""
    dtype: str | None = None
    optimizations: tuple[str, ...] = ()
    revision: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        v = variant(self.variant)
        names = () if self.optimizations is None else self.optimizations
        names = tuple(map(str, names)) if isinstance(names, Iterable) and not isinstance(names, str) else (str(names),)
        object.__setattr__(self, "optimizations", names)
        object.__setattr__(self, "weights", str(self.weights or ("hub" if v.repository else "bundled")))
        object.__setattr__(self, "device", None if self.device is None else str(self.device))  # torch's own, too
        if self.dtype is not None and self.dtype not in DTYPES:
            expected = f"one of {', '.join(DTYPES)}, or None to let the device decide"
            raise ValueError(f"Unknown dtype {shorten(self.dtype)}: expected {expected}.")
        if self.weights == "hub" and v.repository is None:
            raise ValueError(f"{v.name!r} is not on the hub: leave weights out, its own are bundled.")
        if self.weights == "bundled" and v.repository is not None:
            raise ValueError(f"{v.name!r} is not bundled: use weights='hub', 'random' or a folder.")
        if self.revision is not None and self.weights != "hub":
            raise ValueError(
                f"revision={shorten(self.revision)} goes with weights='hub' only, not with {shorten(self.weights)}."
            )
        if self.device is not None and not re.fullmatch(r"cpu|mps|cuda(:\d{1,3})?", self.device):
            raise ValueError(f"Unknown device {shorten(self.device)}: expected 'cuda', 'cuda:1', 'mps' or 'cpu'.")
        check(self.parsed)

    @property
    def parsed(self) -> tuple[tuple[Optimization, str | None], ...]:
        """Each optimisation with the value after its "=", None where there is none, in the order given."""
        return tuple(parse(text) for text in self.optimizations)

    @property
    def label(self) -> str:
        """The dtype, where one is named, and the optimisations; "plain" where there are neither."""
        return ", ".join(filter(None, (self.dtype, *self.optimizations))) or "plain"

    def resolved(self) -> Setup:
        """This setup with device, dtype and, where the weights are in the hub's cache, their commit filled in.

        Example:
            >>> Setup("tiny", device="mps").resolved().dtype
            'fp32'
        """
        device, revision = self.device or best_device(), self.revision
        if self.weights == "hub":
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(
                str(variant(self.variant).repository), "model_index.json", revision=revision
            )
            revision = Path(cached).parent.name if isinstance(cached, str) else revision  # a snapshot's is its commit
        return dataclasses.replace(self, device=device, dtype=self.dtype or usual_dtype(device), revision=revision)

    def request(self, **fields: Any) -> Request:
        """A complete request for this setup's variant, as `Request.for_variant` makes it.

        Args:
            **fields: fields of `Request`, and `preset`; `image` is required.

        Example:
            >>> Setup("tiny").request(image="rocket", seed=11).num_frames
            14
        """
        return Request.for_variant(self.variant, **fields)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | dict[str, Any]) -> Setup:
        """The setup that `to_json` wrote.

        Args:
            text: the JSON, or the object in it.
        """
        return cls(**fields_of_json(cls, text, "variant"))

    @classmethod
    def fitting(
        cls,
        variant: str | None = None,
        memory: int | str | None = None,
        request: Request | None = None,
        say: Callable[[str], object] = print,
        dtype: str | None = None,
        optimizations: Iterable[str] = (),
    ) -> Setup:
        """The fastest setup that is predicted to fit and leaves the frames as they are, rounding aside.

        Args:
            variant: "svd", "svd-xt", "svd-xt-1.1" or "tiny"; default: "svd-xt" where there is a card or `memory` is
                given, else "tiny", which fits everywhere.
            memory: of a CUDA card: its name ("RTX 3060"), a size ("12GB", as it is sold) or bytes; default: what is
                free on this machine's card, or in its memory where it has none.
            request: what clips will ask for; default: the variant's own size, frames and steps.
            say: called with a sentence that gives the reason; default: it is printed.
            dtype: "fp16", "bf16" or "fp32"; default: "fp16" on a card.
            optimizations: what the setup has in any case.

        Returns:
            A setup with `variant`, `dtype` and `optimizations`; device and weights are left open. One that is predicted
            to fit tightly, with nothing else on the card, is taken only if no other fits.

        Raises:
            MemoryError: no setup fits; the sentence names the nearest and what to ask less of.
            ValueError: the variant or the card is unknown, or the setup cannot make the request.

        Example:
            >>> Setup.fitting("svd-xt", "12GB", say=lambda sentence: None).optimizations
            ('model-offload', 'single-token', 'split-guidance')
        """
        import svdlab  # by the public name, since predictions import this file: the one look upwards

        return svdlab.fitting_setup(variant, memory, request, say, dtype, optimizations)


def _help_line(o: Optimization) -> str:
    words = f"{o.name}: {o.what}."
    words += f" Value: {o.values}." if o.values else ""
    words += f" Not with {', '.join(o.conflicts)}." if o.conflicts else ""
    words += " Not on a processor." if o.accelerator else ""
    return textwrap.fill(words, 108, initial_indent=" " * 4, subsequent_indent=" " * 20, break_on_hyphens=False)


def _help_on_optimizations() -> str:
    """All optimisations by phase, as `help(Setup)` lists them: in their own words, so that the list is complete."""
    lines = []
    for phase in PHASES:
        lines.append(f"{phase.capitalize()}{', one at most' if phase == 'placement' else ''}:")
        lines += [_help_line(o) for o in optimizations().values() if o.phase == phase]
    return "\n            ".join(lines)


_APPROXIMATE = ", ".join(o.name for o in optimizations().values() if not o.exact)
Setup.__doc__ = (
    (Setup.__doc__ or "").replace("{optimizations}", _help_on_optimizations()).replace("{approximate}", _APPROXIMATE)
)
