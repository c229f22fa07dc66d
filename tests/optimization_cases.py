"""How each optimisation is tried: a line for each, read by the generic tests in `test_optimizations`.

What the frames have to be follows from the optimisation's own `affects`; a line says what to try it with.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Case:
    """One way to try one optimisation.

    Attributes:
        text: as a setup names it, with a value or without.
        dtype: of the clips that are compared. "bf16" shows what changes nothing in "fp32".
        compiles: whether its first clip takes far longer than others, so that only the slow tests try it.
    """

    text: str
    dtype: str = "fp32"
    compiles: bool = False


CASES = [
    Case("channels-last"),
    Case("fp8"),
    Case("group-offload"),
    Case("model-offload"),
    Case("sequential-offload"),
    Case("attention"),
    Case("compile-blocks", compiles=True),
    Case("compile-unet", compiles=True),
    Case("compile-vae", compiles=True),
    Case("forward-chunking"),
    Case("forward-chunking=2"),
    Case("lean-decode"),
    Case("single-token"),
    Case("split-guidance"),
]


def parameters(cases: list[Case]) -> list:
    """The cases for `pytest.mark.parametrize`."""
    return [pytest.param(c, id=c.text, marks=pytest.mark.slow if c.compiles else ()) for c in cases]
