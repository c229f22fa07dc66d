"""svdlab: a laboratory for Stable Video Diffusion.

Ask for a clip (`Request`), say how the model should run (`Setup`), get frames (`Clip`):

>>> from svdlab import Setup, generate, load, show
>>> pipeline = load(Setup("tiny"))
>>> clip = generate(pipeline, Request.for_variant("tiny", image="rocket", seed=11))
>>> clip.save("rocket.mp4")

Importing this package loads no torch: every name below is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Variant": "variants",
    "VARIANTS": "variants",
    "Request": "request",
    "Machine": "machine",
    "Setup": "setup",
    "load": "setup",
    "estimate": "estimates",
    "Clip": "clip",
    "generate": "clip",
    "read": "clip",
    "conditioning": "clip",
    "chain": "chaining",
    "show": "display",
    "Row": "results",
    "Trial": "trials",
    "grid": "trials",
    "ladder": "trials",
    "measure": "measurements",
    "profile": "measurements",
    "plan": "sweep",
    "run": "sweep",
    "assess": "quality",
    "diagnose": "diagnosis",
    "doctor": "readiness",
    "review": "reviews",
    "report": "reports",
    "wall": "walls",
    "save_wall": "walls",
    "panel": "panels",
}
__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from svdlab.chaining import chain as chain
    from svdlab.clip import Clip as Clip
    from svdlab.clip import conditioning as conditioning
    from svdlab.clip import generate as generate
    from svdlab.clip import read as read
    from svdlab.diagnosis import diagnose as diagnose
    from svdlab.display import show as show
    from svdlab.estimates import estimate as estimate
    from svdlab.machine import Machine as Machine
    from svdlab.measurements import measure as measure
    from svdlab.measurements import profile as profile
    from svdlab.panels import panel as panel
    from svdlab.quality import assess as assess
    from svdlab.readiness import doctor as doctor
    from svdlab.reports import report as report
    from svdlab.request import Request as Request
    from svdlab.results import Row as Row
    from svdlab.reviews import review as review
    from svdlab.setup import Setup as Setup
    from svdlab.setup import load as load
    from svdlab.sweep import plan as plan
    from svdlab.sweep import run as run
    from svdlab.trials import Trial as Trial
    from svdlab.trials import grid as grid
    from svdlab.trials import ladder as ladder
    from svdlab.variants import VARIANTS as VARIANTS
    from svdlab.variants import Variant as Variant
    from svdlab.walls import save_wall as save_wall
    from svdlab.walls import wall as wall


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'svdlab' has no attribute {name!r}")
    value = getattr(import_module(f"svdlab.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
