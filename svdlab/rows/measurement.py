"""Memory and time of a measured setup."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def summary(measurement: dict[str, Any] | None) -> dict[str, float | None]:
    """A measurement in a line: medians over the calls after the first, and peaks over everything. Missing is `None`,
    and so is all of it where nothing was measured.

    `load_seconds`; `first_seconds`, of the first call, with what it compiles; of the others `encode_seconds`,
    `step_seconds`, `clip_seconds` (the whole call). `peak_…_bytes`: allocated and reserved by torch, in use on the card
    by everybody, resident in the process. `encode_`, `denoise_` and `decode_peak_bytes` are allocated ones on a card,
    and of the process elsewhere. `psnr_db`, `ssim`, `max_abs_levels`: nearness to the baseline, whose own row tells how
    near it comes to itself; equal frames have 100, 1 and 0, and latents that differ by less show in `latents_relative`.
    """
    measurement = measurement or {}
    stages = measurement.get("stages", ())
    calls: dict[int, list[dict[str, Any]]] = {}
    for stage in stages:
        if stage["call"] is not None:
            calls.setdefault(stage["call"], []).append(stage)
    whole = {n: call for n, call in calls.items() if call[-1]["stage"] == "finish" and call[-1]["seconds"] is not None}
    steady = [call for n, call in whole.items() if n > 0]

    def seconds(call: list[dict[str, Any]], *names: str) -> float:
        return sum(stage["seconds"] for stage in call if not names or stage["stage"] in names)

    def peak(kind: str, *names: str) -> int | None:
        found = [s["peaks"].get(f"{kind}_bytes") for s in stages if not names or s["stage"] in names]
        return max((bytes_ for bytes_ in found if bytes_ is not None), default=None)

    main = "process" if peak("allocated") is None else "allocated"
    return {
        "load_seconds": next((stage["seconds"] for stage in stages if stage["stage"] == "load"), None),
        "first_seconds": seconds(whole[0]) if 0 in whole else None,
        "encode_seconds": _middle(seconds(call, "encode") for call in steady),
        "step_seconds": _middle(step for call in steady for stage in call for step in stage.get("step_seconds", ())),
        "sample_seconds": _middle(seconds(call, "encode", "denoise") for call in steady),
        "decode_seconds": _middle(seconds(call, "decode") for call in steady),
        "clip_seconds": _middle(seconds(call) for call in steady),
        **{f"peak_{kind}_bytes": peak(kind) for kind in ("allocated", "reserved", "device")},
        "peak_process_bytes": measurement.get("process_peak_bytes") or peak("process"),
        **{f"{stage}_peak_bytes": peak(main, stage) for stage in ("encode", "denoise", "decode")},
        **{name: (measurement.get("fidelity") or {}).get(name) for name in _FIDELITY},
    }


_FIDELITY = ("psnr_db", "ssim", "max_abs_levels", "latents_relative")


def _middle(values: Iterable[float]) -> float | None:
    return median(found) if (found := list(values)) else None
