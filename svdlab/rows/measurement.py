"""What a setup took in memory and time, as one process measured it.

The process makes the clip several times. Call 0 is the first, with whatever compiles in it; the calls after it are
steady. A call goes through the stages encode, denoise, decode and finish (pixels to pictures); before them come
prepare (imports, downloads) and load, which belong to no call.
Everything raw is kept; medians and peaks are properties. A figure that was not measured is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from svdlab.rows.typed_json import fields_of

COUNTED_CALL = -1  # the clip whose tensors were followed, which takes time: its seconds count for nothing


@dataclass(frozen=True)
class MeasuredStage:
    """One stage of one call."""

    stage: str  # "prepare", "load", "encode", "denoise", "decode" or "finish"
    call: int | None = None  # 0 for the first call; None for prepare and load; `COUNTED_CALL`
    begun_seconds: float = 0.0  # since the process began
    seconds: float | None = None  # None where it did not end
    peaks: dict[str, int] = field(default_factory=dict)  # by kind: process_, allocated_, reserved_ and device_bytes
    step_seconds: tuple[float, ...] = ()  # of each denoising step
    others_busy: float | None = None  # the share of the machine's processors that other programs used meanwhile


@dataclass(frozen=True)
class Fidelity:
    """How near the frames come to the baseline's. None where nothing was compared."""

    psnr_db: float | None = None  # mean over the frames; 100 for equal ones, higher is nearer
    ssim: float | None = None  # mean over the frames of their luma's, -1 to 1 (equal)
    max_abs_levels: float | None = None  # the largest difference of a value, of 255
    latents_relative: float | None = None  # norm of the latents' difference over theirs: tells what 8 bits do not
    baseline_key: str | None = None  # of the row that they were compared with; None in rows of older versions


@dataclass(frozen=True)
class Measurement:
    """Memory and time of a setup, raw, with medians and peaks as properties (`figures` has all of them).

    Attributes:
        stages: in the order in which they ran.
        before: what the imports had taken when loading began, and the `seconds` until then: `process_bytes`, and on a
            card `allocated_bytes` (torch's) and `device_bytes` (everybody's).
        process_peak_bytes: the most that the process had in memory, as the kernel counts it.
        threads: of torch on the processor.
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
    resident: tuple[dict[str, float | dict[str, int]], ...] = ()
    timeline: dict[str, tuple[float, ...]] = field(default_factory=dict)
    memory_limit_bytes: int | None = None
    fidelity: Fidelity = Fidelity()

    @property
    def load_seconds(self) -> float | None:
        """Seconds of loading the pipeline."""
        return next((stage.seconds for stage in self.stages if stage.stage == "load"), None)

    @property
    def first_seconds(self) -> float | None:
        """Seconds of the first call, with what it compiles."""
        return sum(stage.seconds or 0.0 for stage in self._calls[0]) if 0 in self._calls else None

    @property
    def step_seconds(self) -> float | None:
        """Median seconds of a denoising step, as all medians over the calls after the first."""
        return _median(step for call in self._steady_calls for stage in call for step in stage.step_seconds)

    @property
    def encode_seconds(self) -> float | None:
        """Median seconds of encoding the picture."""
        return self._median_seconds("encode")

    @property
    def sample_seconds(self) -> float | None:
        """Median seconds of encoding and denoising together."""
        return self._median_seconds("encode", "denoise")

    @property
    def decode_seconds(self) -> float | None:
        """Median seconds of decoding the frames."""
        return self._median_seconds("decode")

    @property
    def clip_seconds(self) -> float | None:
        """Median seconds of a whole call."""
        return self._median_seconds("encode", "denoise", "decode", "finish")

    @property
    def clip_times(self) -> list[float]:
        """Seconds of each whole call after the first."""
        return [sum(stage.seconds or 0.0 for stage in call) for call in self._steady_calls]

    @property
    def others_busy(self) -> float | None:
        """Median share (0 to 1) of the machine's processors that other programs used, the first call left out."""
        stages = (stage for call in self._steady_calls for stage in call)
        return _median(stage.others_busy for stage in stages if stage.others_busy is not None)

    @property
    def peak_allocated_bytes(self) -> int | None:
        """The most that torch had allocated on the card; elsewhere, the most that its tensors took."""
        return self._peak("allocated_bytes")

    @property
    def peak_reserved_bytes(self) -> int | None:
        """The most that torch had reserved on the card."""
        return self._peak("reserved_bytes")

    @property
    def peak_process_bytes(self) -> int | None:
        """The most that the process had in memory: as the kernel counts it, else the highest sample."""
        return self.process_peak_bytes or self._peak("process_bytes")

    @property
    def bytes_before_loading(self) -> int:
        """What the process had taken before it loaded anything; 0 where torch's own memory was measured."""
        return 0 if self.peak_allocated_bytes is not None else int(self.before.get("process_bytes", 0))

    @property
    def peak_bytes(self) -> int | None:
        """The most that a clip took: as torch allocated it, or else by how much the process grew."""
        if self.peak_allocated_bytes is not None:
            return self.peak_allocated_bytes
        return None if self.peak_process_bytes is None else self.peak_process_bytes - self.bytes_before_loading

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """A line of a table: the other properties, more peaks, and the fidelity, numbers by name.

        `peak_device_bytes` is the most that everybody had in use on the card.
        The peaks of encode, denoise and decode are allocated bytes on a card, and those of the process elsewhere.
        """
        kind = "process_bytes" if self.peak_allocated_bytes is None else "allocated_bytes"
        return {
            **{f"{name}_seconds": getattr(self, f"{name}_seconds") for name in _TIMES},
            "peak_allocated_bytes": self.peak_allocated_bytes,
            "peak_reserved_bytes": self.peak_reserved_bytes,
            "peak_device_bytes": self._peak("device_bytes"),
            "peak_process_bytes": self.peak_process_bytes,
            **{f"{stage}_peak_bytes": self._peak(kind, stage) for stage in ("encode", "denoise", "decode")},
            **{name: value for name, value in fields_of(self.fidelity).items() if name != "baseline_key"},
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
    def _steady_calls(self) -> list[list[MeasuredStage]]:
        return [call for number, call in self._calls.items() if number > 0]

    def _median_seconds(self, *names: str) -> float | None:
        return _median(sum(s.seconds or 0.0 for s in call if s.stage in names) for call in self._steady_calls)

    def _peak(self, kind: str, *names: str) -> int | None:
        stages = [stage for stage in self.stages if not names or stage.stage in names]
        return max((stage.peaks[kind] for stage in stages if kind in stage.peaks), default=None)


_TIMES = ("load", "first", "encode", "step", "sample", "decode", "clip")


def _median(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return median(numbers) if numbers else None
