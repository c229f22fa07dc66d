"""Rows: what was asked, on which machine, and what came of it. One small file each, beside its clip.

>>> row = rows("results/motion")[0]
>>> row.request.motion_bucket_id, row.timings["sample_seconds"], row.open()
>>> load("results/motion").groupby("motion_bucket_id").sample_seconds.mean()

A folder holds `<key>.json` beside `<key>.mp4`, or `<key>.failed.json`, and the key is a hash of the question. So any
number of writers on any machines may share a folder, and folders merge by being copied together: the same name is the
same question, and a failure never takes the place of an answer.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import math
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from svdlab.atomic_files import whole
from svdlab.generation.clip import Clip, conditioning, read
from svdlab.machine import Machine
from svdlab.media import images
from svdlab.pipelines import hub
from svdlab.pipelines.hub import WeightsError
from svdlab.request import Request
from svdlab.setup import Setup
from svdlab.tiny import WEIGHTS
from svdlab.variants import variant

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Row:
    """One trial on one machine: the question, then the answer or the reason that there is none. Missing is `None`."""

    key: str  # `identity` of the question
    setup: Setup  # with dtype and commit filled in
    request: Request  # complete; a picture without a name lies beside the rows
    status: str = "done"  # or "failed"
    error: str | None = None  # why it failed, one sentence
    clip: Path | None = None  # the video, ready for `show`; the file holds its name only, so that folders can move
    timings: dict[str, float] = field(default_factory=dict)  # seconds, none of them part of another
    quality: dict[str, Any] | None = None
    measurement: dict[str, Any] | None = None  # memory and time, as `svdlab.measure` found them; `summary` reads it
    notes: tuple[str, ...] = ()  # what was noticed on the way
    axes: tuple[str, ...] = ()  # the fields that its sweep varied
    picture: str | None = None  # `images.digest` of what the model saw
    machine: Machine | None = None
    created: str = ""  # UTC, ISO 8601
    version: str | None = None  # of svdlab

    def open(self) -> Clip:
        """The clip, with its frames. A `ValueError` with the reason where there is none."""
        if self.clip is None:
            raise ValueError(f"There is no clip of trial {self.key}: {self.error or 'none was kept.'}")
        return read(self.clip)

    def to_json(self) -> str:
        """What the row's file holds. A number that is not finite becomes null, as JSON has no word for it."""
        fields = _fields(self) | {"clip": self.clip and self.clip.name}
        image = self.request.image if isinstance(self.request.image, str) else None
        fields["request"] = {"image": image} | _fields(self.request, "image")
        return json.dumps(_plain(fields), ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes | dict[str, Any], folder: str | Path = ".") -> Row:
        """The row that `to_json` wrote, now or in another version; what it lacks keeps today's defaults.

        `folder` is where its clip and its picture lie. A `ValueError` for anything that is no row, or whose question
        has a part that only a newer svdlab knows: without it, it would be another question.
        """
        given = _checked(json.loads(text) if isinstance(text, (str, bytes)) else text)
        fields: dict[str, Any] = {f.name: given[f.name] for f in dataclasses.fields(cls) if f.name in given}
        asked, clip, machine = dict(given["request"]), given.get("clip"), given.get("machine")
        if asked.get("image") is None:
            asked["image"] = str(Path(folder) / _picture_name(given.get("picture") or ""))
        fields["setup"], fields["request"] = Setup.from_json(given["setup"]), Request.from_json(asked)
        fields["clip"] = Path(folder) / Path(clip).name if clip else None
        fields["machine"] = machine and Machine(**{f.name: machine.get(f.name) for f in dataclasses.fields(Machine)})
        fields["notes"], fields["axes"] = tuple(given.get("notes") or ()), tuple(given.get("axes") or ())
        return cls(**fields)


def rows(folder: str | Path) -> list[Row]:
    """The rows in `folder`, oldest first. A file that is torn or no row is passed over; a warning names it."""
    found, unread = [], []
    given = _documents(Path(folder))
    with warnings.catch_warnings():  # what a request warns of was said when it was made
        warnings.simplefilter("ignore", UserWarning)
        for fields in given:
            try:
                found.append(Row.from_json(fields, folder))
            except (ValueError, TypeError, AttributeError) as error:
                unread.append(f"Row {fields['key']} in {folder} is passed over: {error}")
    for sentence in unread:
        warnings.warn(sentence, UserWarning, stacklevel=2)
    return sorted(found, key=lambda row: (row.created, row.key))


def load(folder: str | Path) -> pandas.DataFrame:
    """The rows as a tidy table, oldest first: one line a row. Opens no clip.

    The columns are named as the fields of rows, requests and setups, as the timings (seconds) and as the measures of
    quality (nested ones joined: `motion_median`), as in a measurement's `summary`, and `machine_…`; a name taken before
    gets its group in front. A list of words is one text and other lists are tuples, so that `groupby` takes them.
    """
    lines = [_line(fields, os.fspath(folder)) for fields in _documents(Path(folder))]
    lines.sort(key=lambda line: (line.get("created") or "", line["key"]))
    return _needed("pandas").DataFrame(lines, columns=None if lines else list(_FIRST[:4]))


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


def export(folder: str | Path, path: str | Path) -> Path:
    """`load(folder)` as one `.parquet` or `.csv` file, whole or not at all."""
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise ValueError(f"Cannot export to {path.name!r}: use a name that ends in .parquet or .csv.")
    if path.suffix == ".parquet":
        _needed("pyarrow")
    table = load(folder)
    with whole(path) as beside:
        (table.to_csv if path.suffix == ".csv" else table.to_parquet)(beside, index=False)
    return path


def find(folder: str | Path, key: str) -> Row | None:
    """The row of that key; None where there is none, it is torn, or its clip is gone: so that it is made anew."""
    for name in (f"{key}.json", f"{key}.failed.json"):
        path = Path(folder) / name
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                row = Row.from_json(path.read_bytes(), folder)
        except (OSError, ValueError, TypeError, AttributeError):
            continue
        if row.clip is None or row.clip.exists():
            return row
    return None


def save(row: Row, folder: str | Path, scratch: Path, clip: Path | None = None) -> Row:
    """Move a row into `folder`, after its `clip` and its picture, so that no row ever names what is not there.

    `scratch`, on the same disk, is for what is not whole yet. Of several writers of one key the last one wins.
    """
    folder = Path(folder)
    if not isinstance(row.request.image, str):
        picture = conditioning(row.request)
        row = dataclasses.replace(row, picture=images.digest(picture))
        picture.save(scratch / "picture.png")
        _move(scratch / "picture.png", folder / _picture_name(row.picture or ""))
    if clip is not None:
        row = dataclasses.replace(row, clip=_move(clip, folder / f"{row.key}{clip.suffix}"))
    failures = folder / f"{row.key}.failed.json"
    (scratch / "row.json").write_text(row.to_json(), encoding="utf-8")
    _move(scratch / "row.json", folder / f"{row.key}.json" if row.status == "done" else failures)
    if row.status == "done":
        failures.unlink(missing_ok=True)
    return row


# --- the identity of a question --------------------------------------------------------------------------------------


def identity(setup: Setup, request: Request, picture: str | None = None, **also: Any) -> str:
    """16 hex digits, the same for the same question on any machine, wherever its picture and its weights lie.

    They hash the setup (`settled`, less its device), what is in its weights, every field of the complete request, and
    in place of the picture and its crop the pixels that the model sees; `picture` is their digest where it is known.
    `also` is what else sets the question apart.
    """
    asked = request.filled(setup.variant)
    question = {
        "setup": _changed(settled(setup), "device", "weights"),
        "weights": weights_of(settled(setup)),
        "request": _changed(asked, "image", "fit", "focus"),
        "picture": picture or images.digest(conditioning(asked)),
    } | also
    return hashlib.sha256(json.dumps(_plain(question), sort_keys=True).encode()).hexdigest()[:16]


def settled(setup: Setup) -> Setup:
    """`setup` with what it leaves open filled in as `svdlab.load` would: the dtype, the commit in the hub's cache."""
    revision, repository = setup.revision, variant(setup.variant).repository
    if setup.weights == "hub" and repository:
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(repository, "model_index.json", revision=revision)
        revision = Path(cached).parent.name if isinstance(cached, str) else revision  # snapshots are named by commit
    return dataclasses.replace(setup, dtype=setup.precision, revision=revision)


def weights_of(setup: Setup) -> str:
    """What is in the weights, whatever their folder is called; where they cannot be read, what was asked for."""
    if setup.weights in ("hub", "random"):
        return setup.weights  # those of the hub are told apart by the setup's revision
    folder = WEIGHTS if setup.weights == "bundled" else Path(setup.weights).expanduser()
    try:
        files = sorted(file for kind in ("*.json", "*/*.json", "*/*.safetensors") for file in folder.glob(kind))
        state = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return _fingerprint(folder, setup.dtype != "fp32", state)
    except (OSError, ValueError, WeightsError):
        return f"unread {setup.weights}"


@lru_cache(maxsize=16)
def _fingerprint(folder: Path, half: bool, _state: tuple[Any, ...]) -> str:
    """A hash of the configurations, and of every tensor's name, type, shape and 8 KiB of its values.

    A fine-tuned checkpoint has its parent's headers, so values must count; to read them all would take as long as to
    load them. Training changes a tensor nearly everywhere or not at all, so its beginning and its middle tell.
    """
    half, parts = hub.check_folder(folder, half=half), []
    for path in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
        if ".index." not in path.name:  # how tensors are spread over files makes no difference
            settings = {k: v for k, v in json.loads(path.read_bytes()).items() if k[0] != "_"}  # "_…": who saved it
            settings.pop("transformers_version", None)
            parts.append(f"{path.relative_to(folder).as_posix()} {json.dumps(settings, sort_keys=True)}")
    for component in hub.COMPONENTS:
        for path in hub.weight_files(folder / component, half=half):
            with path.open("rb") as file:  # the format: the header's length, the header as JSON, the values
                values = 8 + int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(values - 8))
                header.pop("__metadata__", None)
                for name, about in header.items():
                    begin, end = about.pop("data_offsets")
                    sample = hashlib.sha256()
                    for place in (begin, (begin + end) // 2):
                        file.seek(values + place)
                        sample.update(file.read(min(4096, end - place)))
                    parts.append(f"{component} {name} {json.dumps(about, sort_keys=True)} {sample.hexdigest()}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def _changed(thing: Setup | Request, *left_out: str) -> dict[str, Any]:
    """The fields that are not at their default: so a field added later leaves the keys of older rows as they are."""
    defaults = {f.name: f.default for f in dataclasses.fields(thing)}
    return {name: value for name, value in _fields(thing, *left_out).items() if value != defaults[name]}


# --- files -----------------------------------------------------------------------------------------------------------


def _documents(folder: Path) -> list[dict[str, Any]]:
    """The rows' files as they are, one for each key: an answer before a failure."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}: run a sweep into it first.")
    found: dict[str, dict[str, Any]] = {}
    for entry in os.scandir(folder):
        if entry.name.endswith(".json"):
            try:
                with open(entry, "rb") as file:  # noqa: PTH123  (a Path for each of 10,000 would take as long again)
                    fields = _checked(json.loads(file.read()))
            except (OSError, ValueError, RecursionError) as error:
                warnings.warn(f"{entry.path} is passed over: it is torn, or no row ({error}).", stacklevel=3)
                continue
            if fields["key"] not in found or fields.get("status") == "done":
                found[fields["key"]] = fields
    return list(found.values())


def _checked(fields: Any) -> dict[str, Any]:
    kinds = {"key": str, "setup": dict, "request": dict}
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), kind) for name, kind in kinds.items()):
        raise ValueError("expected a JSON object with a key, a setup and a request")
    return fields


def _line(fields: dict[str, Any], folder: str) -> dict[str, Any]:
    """One row as columns."""
    fields["clip"] = fields.get("clip") and os.path.join(folder, fields["clip"])  # noqa: PTH118  (a third of Path's time)
    fields["request"].pop("variant", None)  # it is the setup's
    line: dict[str, Any] = {}
    for name in _FIRST:
        _spread(line, name, name, fields.pop(name, None), "")
    machine, measurement = fields.pop("machine", None) or {}, fields.pop("measurement", None)
    for name, value in fields.items():
        if name != "quality" or value:
            _spread(line, name, name, value, "")
    if measurement:
        line.update(summary(measurement))
    _spread(line, "machine", "machine", machine | (machine.pop("libraries", None) or {}), "machine_")
    return line


_FIRST = ("key", "status", "error", "clip", "setup", "request")  # of the columns


def _spread(line: dict[str, Any], group: str, name: str, value: Any, prefix: str) -> None:
    if isinstance(value, dict):
        for leaf, inner in value.items():
            if isinstance(inner, (dict, list)) or prefix + leaf in line:
                _spread(line, group, prefix + leaf, inner, f"{prefix}{leaf}_")
            else:
                line[prefix + leaf] = inner
        return
    if isinstance(value, list):
        value = ", ".join(value) if all(isinstance(item, str) for item in value) else tuple(value)
    line[f"{group}_{name}" if name in line else name] = value


def _fields(thing: Any, *left_out: str) -> dict[str, Any]:
    return {f.name: getattr(thing, f.name) for f in dataclasses.fields(thing) if f.name not in left_out}


def _plain(value: Any) -> Any:
    """`value` in the words of JSON."""
    if isinstance(value, (Setup, Machine)):
        value = _fields(value)
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # NumPy's and torch's numbers and arrays
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _move(file: Path, to: Path) -> Path:
    """Whole or not at all, after a power cut too."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())
    file.replace(to)
    return to


def _picture_name(digest: str) -> str:
    return f"{digest[:16]}.png"


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        extra = "parquet" if name == "pyarrow" else "notebooks"
        raise ModuleNotFoundError(f"This needs {name}: pip install 'svdlab[{extra}]' brings it.") from None
