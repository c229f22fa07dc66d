"""The bars that an edition of the tiny model is held to, and the table that says how it did."""

import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from svdlab.atomic_files import atomic_write
from svdlab.tiny import pixels_per_frame

from .scenes import WIDTH

MARKERS = "<!-- tiny-table -->", "<!-- /tiny-table -->"
Values = Mapping[str, list[float]]


@dataclass(frozen=True)
class Bar:
    """One line of the table: what is measured, what is wanted, and how a number comes from the values of all clips.

    `number` gives one number, None where nothing was measured; `text` what is shown of it. `more` says whether a
    larger number is better; None where it is only told.
    """

    what: str
    at_least: str
    aim: str
    number: Callable[[Values], float]
    text: Callable[[Values], str]
    more: bool | None = True

    def better(self, one: Values, other: Values) -> str:
        """Which of two editions is the better, where both were measured."""
        if self.more is None:
            return ""
        try:
            first, second = self.number(one), self.number(other)
        except (KeyError, statistics.StatisticsError):
            return ""
        return "equal" if first == second else "second" if (second > first) == self.more else "**first**"


def _bar(
    what: str, at_least: str, aim: str, key: str, form: str, more: bool | None = True, middle=statistics.median
) -> Bar:
    def number(values: Values) -> float:
        return middle(values[key])

    return Bar(what, at_least, aim, number, lambda values: form.format(number(values)), more)


def _by_knob(values: Values, prefix: str) -> dict[float, float]:
    """The mean of the values at each setting of a knob, in their order."""
    settings = [key for key in values if key.startswith(prefix)]
    if not settings:
        raise KeyError(prefix)
    return {float(key.removeprefix(prefix)): statistics.mean(values[key]) for key in settings}


def _fall(values: Values, prefix: str) -> bool:
    return all(one > other for one, other in pairwise(_by_knob(values, prefix).values()))


def _speeds(values: Values) -> str:
    speeds = _by_knob(values, "speed at ").items()
    told = ", ".join(f"{speed:.2f} ({pixels_per_frame(150, rate, WIDTH):.2f}) at {rate:g}" for rate, speed in speeds)
    return ("yes: " if _fall(values, "speed at ") else "no: ") + told


def _likenesses(values: Values) -> str:
    told = ", ".join(f"{value:.1f} dB at {noise:g}" for noise, value in _by_knob(values, "likeness at ").items())
    return ("yes: " if _fall(values, "likeness at ") else "no: ") + told


def _harm(values: Values) -> float:
    """What guidance up to 2 loses against none, in dB."""
    return statistics.mean(values["guided 1"]) - statistics.mean(values["guided 2"])


def _cast(values: Values) -> float:
    """How far guidance up to 2 takes the last frame's colours from the truth's, as a share of them."""
    return abs(statistics.mean(values["colours 2"]) - 1)


def _worlds(values: Values, prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): statistics.mean(each) for key, each in values.items() if key.startswith(prefix)}


def _told(values: Values, prefix: str) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in _worlds(values, prefix).items())


def _mean_of_worlds(prefix: str) -> Callable[[Values], float]:
    return lambda values: statistics.mean(value for name, value in _worlds(values, prefix).items() if name != "rocket")


BARS = (
    Bar("picture, height x width", "96x160", "144x256", lambda values: values["size"][0],
        lambda values: "x".join(map(str, values["size"]))),
    _bar("VAE reconstruction, PSNR", "28 dB", "32 dB", "vae rocket", "{:.1f} dB", middle=statistics.mean),
    Bar("the same, other worlds", "", "", _mean_of_worlds("vae "), lambda values: _told(values, "vae ")),
    _bar("first frame against the conditioning picture, PSNR", "23 dB", "27 dB", "first frame", "{:.1f} dB"),
    _bar("rank correlation of measured speed with the bucket (20 to 240), median over scenes", "0.95", "0.99", "rank",
         "{:.2f}"),
    _bar("median relative error of speed against the rule (bucket 60 to 240)", "25 %", "10 %", "speed error", "{:.1%}",
         more=False),
    _bar("median heading error", "15°", "5°", "heading error", "{:.1f}°", more=False),
    Bar("speed falls with fps, as the rule says (of 128 pixels a frame, in brackets the rule's, at bucket 150)",
        "monotonic", "", lambda values: _fall(values, "speed at "), _speeds),
    Bar("likeness to the input falls as `noise_aug_strength` rises (first frame)", "monotonic", "",
        lambda values: _fall(values, "likeness at "), _likenesses),
    _bar("flicker at bucket 0: mean change of still parts, of full scale", "0.6 %", "0.3 %", "flicker", "{:.2f} %",
         more=False, middle=statistics.mean),
    _bar("rank correlation of plain optical flow (`assess`, mean motion) with the bucket, mean over scenes", "0.97",
         "0.99", "flow rank", "{:.2f}", middle=statistics.mean),
    _bar("unmasked optical flow (DIS, medium) at bucket 0 over that at 127", "0.3", "0.1", "flow at rest", "{:.2f}",
         more=False, middle=statistics.mean),
    _bar("last frame at bucket 220 against the truth, around what moves: rockets, PSNR", "+2 dB", "+4 dB",
         "last rocket", "{:.1f} dB", middle=statistics.mean),
    Bar("the same, other worlds", "", "", _mean_of_worlds("last "), lambda values: _told(values, "last ")),
    _bar("real photographs: first frame, PSNR", "27 dB", "30 dB", "photo first", "{:.1f} dB", middle=statistics.mean),
    _bar("the same: rank correlation of the camera's motion with the bucket, mean", "0.9", "0.97", "photo camera",
         "{:.2f}", middle=statistics.mean),
    _bar("the same: last frame against the picture moved by the measured camera, PSNR", "22 dB", "26 dB", "photo moved",
         "{:.1f} dB", middle=statistics.mean),
    Bar("guidance 1 / up to 2 / up to 3: clip against the truth, PSNR", "no harm at 2", "helps", _harm,
        lambda values: " / ".join(f"{each:.1f}" for each in _by_knob(values, "guided ").values()) + " dB", more=False),
    Bar("the same: colours of the last frame over the truth's", "5 % at 2", "", _cast,
        lambda values: " / ".join(f"{each:.2f}" for each in _by_knob(values, "colours ").values()), more=False),
    _bar("one clip of 14 frames on 2 cores, 4 steps, fp32", "8 s", "5 s", "seconds", "{:.1f} s", more=None),
    _bar("files", "40 MB", "25 MB", "megabytes", "{:.1f} MB", more=None),
)  # fmt: skip


def table(editions: Mapping[str, Values], scenes: int) -> str:
    """The bars as Markdown, a column an edition; of two, which is better where both were measured."""
    names = ["measured"] if len(editions) == 1 else list(editions)
    head = ["bar", "at least", "aim", *names, *(["better"] if len(names) == 2 else [])]
    lines = [head, ["---"] * len(head)]
    for bar in BARS:
        cells = []
        for values in editions.values():
            try:
                cells.append(bar.text(values))
            except (KeyError, statistics.StatisticsError):
                cells.append("–")
        verdict = [bar.better(*editions.values())] if len(names) == 2 else []
        lines.append([bar.what, bar.at_least, bar.aim, *cells, *verdict])
    how = f"{scenes} scenes from seeds never trained on; clips made in bf16, seconds measured in fp32."
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", how])


def write_between(path: Path, text: str) -> bool:
    """Put `text` between the markers of a file that has them."""
    if not path.exists() or MARKERS[0] not in (old := path.read_text()):
        return False
    new = re.sub(f"{MARKERS[0]}.*?{MARKERS[1]}", lambda _: f"{MARKERS[0]}\n{text}\n{MARKERS[1]}", old, flags=re.DOTALL)
    with atomic_write(path) as beside:
        beside.write_text(new)
    return True
