"""A fingerprint of weights, whatever their folder is called."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.pipelines import hub
from svdlab.setup import Setup
from svdlab.tiny import WEIGHTS

if TYPE_CHECKING:
    pass


def weights_fingerprint(setup: Setup) -> str:
    """What is in the weights, whatever their folder is called; where they cannot be read, what was asked for."""
    if setup.weights in ("hub", "random"):
        return setup.weights  # those of the hub are told apart by the setup's revision
    folder = WEIGHTS if setup.weights == "bundled" else Path(setup.weights).expanduser()
    try:
        files = sorted(file for kind in ("*.json", "*/*.json", "*/*.safetensors") for file in folder.glob(kind))
        state = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return _fingerprint(folder, setup.dtype != "fp32", state)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError):  # not weights, or damaged
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
