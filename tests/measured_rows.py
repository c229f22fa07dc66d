"""Rows of a ladder as `profile` leaves them on a card, without a card."""

from __future__ import annotations

import dataclasses

from svdlab import Machine, Request, Setup
from svdlab.rows.measurement import Measurement
from svdlab.rows.row import Row
from svdlab.rows.typed_json import from_plain

GiB = 2**30
RTX = Machine("cuda", "NVIDIA GeForce RTX 3060", 12 * GiB, 8, "3.12", {})


def rung(*optimizations: str, gib: float, seconds: float, dtype: str = "fp16", psnr: float = 100.0) -> Row:
    """A row as `svdlab.measure` leaves one on a card: load, a first call, and a steady one of two steps."""
    stages, start = [], 0.0
    for call in (None, 0, 1):
        names = ("load",) if call is None else ("encode", "denoise", "decode", "finish")
        for name in names:
            stage_seconds = {"encode": 0.05, "denoise": 0.6, "decode": 0.3, "finish": 0.05}.get(name, 1.0) * seconds
            peak = {"denoise": gib, "decode": 0.8 * gib}.get(name, 0.4 * gib) * GiB
            peaks = {"process_bytes": GiB, "allocated_bytes": int(peak), "reserved_bytes": int(1.1 * peak)}
            stage = {"stage": name, "call": call, "begun_seconds": start, "seconds": stage_seconds, "peaks": peaks}
            stages.append(stage | ({"step_seconds": [stage_seconds / 2] * 2} if name == "denoise" else {}))
            start += stage_seconds
    times = [stage["begun_seconds"] for stage in stages]
    allocated = [stage["peaks"]["allocated_bytes"] for stage in stages]
    resident = [{"seconds": 0.1, "unet": {"cuda": 3 * GiB}, "vae": {"cpu": GiB, "cuda": 0}}]
    return Row(
        key="0" * 16,
        setup=Setup("tiny", dtype=dtype, optimizations=optimizations, device="cuda"),
        request=Request.for_variant("tiny", image="rocket"),
        machine=RTX,
        measurement=from_plain(
            Measurement,
            {
                "stages": stages,
                "before": {"seconds": 0.0, "process_bytes": GiB, "allocated_bytes": 0, "device_bytes": GiB},
                "timeline": {
                    "seconds": times,
                    "allocated_bytes": allocated,
                    "device_bytes": [n + GiB for n in allocated],
                },
                "resident": resident,
                "fidelity": {
                    "psnr_db": psnr,
                    "ssim": 0.99,
                    "max_abs_levels": 1,
                    "latents_relative": 1e-4,
                    "baseline_key": "0" * 16,
                },
            },
            "measurement",
        ),
    )


def ladder_rows() -> list[Row]:
    """Four rungs that were measured, the last of them not exact, and one that failed."""
    failed = dataclasses.replace(
        rung("split-guidance", "lean-decode", gib=1, seconds=1),
        status="failed",
        error="In decode of call 1, having reached 11.9 GiB allocated: out of memory.",
        measurement=None,
    )
    return [
        rung(gib=4, seconds=2),
        rung("split-guidance", gib=2, seconds=2.2),
        rung("single-token", gib=3.9, seconds=1.5),
        rung("fp8", gib=1.5, seconds=2.4, psnr=41.2),
        failed,
    ]
