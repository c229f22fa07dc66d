"""A fingerprint of weights: the same for equal weights, whatever their folder is called.

A row's key needs it, and the cached pipeline. To read every value would take as long as loading them. Training changes
a tensor nearly everywhere or not at all, so 8 KiB of each tensor tell a fine-tuned checkpoint from its parent.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from svdlab.pipelines import hub
from svdlab.setup import Setup
from svdlab.tiny import WEIGHTS


def weights_fingerprint(setup: Setup) -> str:
    """A sha256 of a setup's weights; "hub" (its revision tells the rest), "random", or "unread ..." for none."""
    if setup.weights in ("hub", "random"):
        return setup.weights
    folder = WEIGHTS if setup.weights == "bundled" else Path(setup.weights).expanduser()
    try:
        files = sorted(file for kind in ("*.json", "*/*.json", "*/*.safetensors") for file in folder.glob(kind))
        state = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
        return _fingerprint(folder, setup.dtype != "fp32", state)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError):  # not weights, or damaged
        return f"unread {setup.weights}"


@lru_cache(maxsize=16)
def _fingerprint(folder: Path, half: bool, _state: tuple[Any, ...]) -> str:
    """A hash of the configurations, and of every tensor's name, type, shape, beginning and middle."""
    weights, parts = hub.check_folder(folder, half=half), []
    for path in [*folder.glob("*.json"), *folder.glob("*/*.json")]:
        if ".index." not in path.name:  # how tensors are spread over files makes no difference
            settings = {k: v for k, v in json.loads(path.read_bytes()).items() if k[0] != "_"}  # "_…": who saved it
            settings.pop("transformers_version", None)
            parts.append(f"{path.relative_to(folder).as_posix()} {json.dumps(settings, sort_keys=True)}")
    for component, files in weights.items():
        for path in files:
            with path.open("rb") as file:  # the format: the header's length, the header as JSON, the values
                values = 8 + int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(values - 8))
                header.pop("__metadata__", None)
                for name, entry in header.items():
                    begin, end = entry.pop("data_offsets")
                    sample = hashlib.sha256()
                    for place in (begin, (begin + end) // 2):
                        file.seek(values + place)
                        sample.update(file.read(min(4096, end - place)))
                    parts.append(f"{component} {name} {json.dumps(entry, sort_keys=True)} {sample.hexdigest()}")
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()
