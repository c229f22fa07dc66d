"""What a setup took in memory and time, as one process measured it.

The process makes the clip several times. Call 0 is the first, with whatever compiles in it; the calls after it are
steady. A call goes through the stages encode, denoise, decode and finish (pixels to pictures); before them come
prepare (imports, downloads) and load, which belong to no call.
Everything raw is kept. Medians over the steady calls and peaks over everything are properties.
A figure that was not measured is None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any


@dataclass(frozen=True)
class MeasuredStage:
    """One stage of one call.

    Attributes:
        stage: "prepare", "load", "encode", "denoise", "decode" or "finish".
        call: 0 for the first call, and so on; None for prepare and load.
        begun_seconds: when it began, since the process did.
        seconds: how long it took; None where it did not end.
        peaks: the most in it, by kind: `process_bytes`, on a card also `allocated_bytes`, `reserved_bytes`,
            `device_bytes`.
        step_seconds: of each denoising step.
    """

    stage: str
    call: int | None = None
    begun_seconds: float = 0.0
    seconds: float | None = None
    peaks: dict[str, int] = field(default_factory=dict)
    step_seconds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fidelity:
    """How near the frames come to the baseline's: means over the frames. None where nothing was compared.

    Attributes:
        psnr_db: of the frames; 100 for equal ones, higher is nearer.
        ssim: of the frames' luma, -1 to 1; 1 for equal ones.
        max_abs_levels: the largest difference of a pixel, of 255.
        latents_relative: the norm of the latents' difference over their norm, which tells apart what 8 bits do not.
    """

    psnr_db: float | None = None
    ssim: float | None = None
    max_abs_levels: float | None = None
    latents_relative: float | None = None


@dataclass(frozen=True)
class Measurement:
    """Memory and time of a setup, raw, with medians and peaks as properties (`figures` has all of them).

    Attributes:
        stages: in the order in which they ran.
        before: memory at the moment when loading began, by kind (`process_bytes`, …): the imports had taken some.
        process_peak_bytes: the most that the process had in memory, as the kernel counts it.
        threads: of torch on the processor.
        device_bytes_from: who told the memory in use on the card: "NVML" or "cudaMemGetInfo".
        resident: each change of where the weights lay: `seconds`, and for each component its bytes by device.
        timeline: columns of equal length: `seconds`, and memory by kind at those moments.
        memory_limit_bytes: what the process was allowed; None for all there was.
        fidelity: the frames beside the baseline's; the baseline's own row tells how near it comes to itself.

    Example:
        >>> stages = (MeasuredStage("load", seconds=2.0), MeasuredStage("finish", call=0, seconds=5.0))
        >>> Measurement(stages).load_seconds
        2.0
        >>> Measurement(stages).clip_seconds is None  # there was no call after the first
        True
    """

    stages: tuple[MeasuredStage, ...] = ()
    before: dict[str, float] = field(default_factory=dict)
    process_peak_bytes: int | None = None
    threads: int | None = None
    device_bytes_from: str | None = None
    resident: tuple[dict[str, float | dict[str, int]], ...] = ()
    timeline: dict[str, tuple[float, ...]] = field(default_factory=dict)
    memory_limit_bytes: int | None = None
    fidelity: Fidelity = Fidelity()

    @cached_property
    def load_seconds(self) -> float | None:
        """Seconds of loading the pipeline."""
        return next((stage.seconds for stage in self.stages if stage.stage == "load"), None)

    @cached_property
    def first_seconds(self) -> float | None:
        """Seconds of the first call, with what it compiles."""
        return _seconds(self._calls[0]) if 0 in self._calls else None

    @cached_property
    def step_seconds(self) -> float | None:
        """Median seconds of a denoising step, over the steady calls."""
        return _median(step for call in self._steady for stage in call for step in stage.step_seconds)

    @cached_property
    def encode_seconds(self) -> float | None:
        """Median seconds of encoding the picture, over the steady calls."""
        return _median(_seconds(call, "encode") for call in self._steady)

    @cached_property
    def sample_seconds(self) -> float | None:
        """Median seconds of encoding and denoising together, over the steady calls."""
        return _median(_seconds(call, "encode", "denoise") for call in self._steady)

    @cached_property
    def decode_seconds(self) -> float | None:
        """Median seconds of decoding the frames, over the steady calls."""
        return _median(_seconds(call, "decode") for call in self._steady)

    @cached_property
    def clip_seconds(self) -> float | None:
        """Median seconds of a whole call, over the steady calls."""
        return _median(_seconds(call) for call in self._steady)

    @cached_property
    def peak_allocated_bytes(self) -> int | None:
        """The most that torch had allocated on the card."""
        return self._peak("allocated_bytes")

    @cached_property
    def peak_reserved_bytes(self) -> int | None:
        """The most that torch had reserved on the card."""
        return self._peak("reserved_bytes")

    @cached_property
    def peak_process_bytes(self) -> int | None:
        """The most that the process had in memory: as the kernel counts it, else the highest sample."""
        return self.process_peak_bytes or self._peak("process_bytes")

    @cached_property
    def bytes_before_loading(self) -> int:
        """What the process had taken before it loaded anything; 0 where a card's memory was measured."""
        return 0 if "allocated_bytes" in self.before else int(self.before.get("process_bytes", 0))

    @cached_property
    def peak_bytes(self) -> int | None:
        """The most that a clip took: on a card what torch allocated, else what the process took on top of its start."""
        if self.peak_allocated_bytes is not None:
            return self.peak_allocated_bytes
        return None if self.peak_process_bytes is None else self.peak_process_bytes - self.bytes_before_loading

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """A line of a table: the other properties, more peaks, and the fidelity, by name.

        `peak_device_bytes` is the most that everybody had in use on the card.
        The peaks of encode, denoise and decode are allocated bytes on a card, and those of the process elsewhere.
        """
        kind = "process_bytes" if self.peak_allocated_bytes is None else "allocated_bytes"
        return {
            "load_seconds": self.load_seconds,
            "first_seconds": self.first_seconds,
            "encode_seconds": self.encode_seconds,
            "step_seconds": self.step_seconds,
            "sample_seconds": self.sample_seconds,
            "decode_seconds": self.decode_seconds,
            "clip_seconds": self.clip_seconds,
            "peak_allocated_bytes": self.peak_allocated_bytes,
            "peak_reserved_bytes": self.peak_reserved_bytes,
            "peak_device_bytes": self._peak("device_bytes"),
            "peak_process_bytes": self.peak_process_bytes,
            **{f"{stage}_peak_bytes": self._peak(kind, stage) for stage in ("encode", "denoise", "decode")},
            **dataclasses.asdict(self.fidelity),
        }

    @cached_property
    def _calls(self) -> dict[int, list[MeasuredStage]]:
        """The calls that came to their end, by number."""
        calls: dict[int, list[MeasuredStage]] = {}
        for stage in self.stages:
            if stage.call is not None:
                calls.setdefault(stage.call, []).append(stage)
        return {n: call for n, call in calls.items() if call[-1].stage == "finish" and call[-1].seconds is not None}

    @property
    def _steady(self) -> list[list[MeasuredStage]]:
        return [call for number, call in self._calls.items() if number > 0]

    def _peak(self, kind: str, *names: str) -> int | None:
        stages = [stage for stage in self.stages if not names or stage.stage in names]
        return max((stage.peaks[kind] for stage in stages if kind in stage.peaks), default=None)


def _seconds(call: list[MeasuredStage], *names: str) -> float:
    return sum(stage.seconds or 0.0 for stage in call if not names or stage.stage in names)


def _median(values: Iterable[float]) -> float | None:
    numbers: list[Any] = list(values)
    return median(numbers) if numbers else None
