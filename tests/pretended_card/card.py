"""The Python face of the pretended card: what `torch.cuda` says of it.

`build` compiles the card once; `insert` puts it into this process, for good, so tests give it a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

CONTEXT_BYTES = int(0.4 * 2**30)  # as svdlab counts it, which is not imported here: the card comes before it
SOURCE = Path(__file__).with_name("card.cpp")


def build(folder: Path) -> Path:
    """Compile the card into `folder` where it is not there yet (under a minute); the library's path.

    Raises `RuntimeError` with the compiler's first complaint where it cannot be built.
    """
    from torch.utils.cpp_extension import include_paths, library_paths

    made_of = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    library = folder / f"pretended_card-{made_of}.so"
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    beside = library.with_suffix(".building")
    includes = [f"-I{path}" for path in (*include_paths(), sysconfig.get_paths()["include"])]
    libraries = [f"-L{path}" for path in library_paths()] + ["-ltorch_python", "-ltorch", "-ltorch_cpu", "-lc10"]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    options = ["-std=c++20", "-shared", "-fPIC", "-O0", "-w", abi, "-DAT_PER_OPERATOR_HEADERS"]
    command = ["g++", *options, *includes, str(SOURCE), "-o", str(beside), *libraries]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"there is no compiler ({error})") from None
    if done.returncode:
        complaints = [line for line in done.stderr.splitlines() if "error" in line]
        raise RuntimeError(f"it does not compile with torch {torch.__version__} ({(complaints or ['no reason'])[0]})")
    beside.replace(library)
    return library


def insert(
    library: str | Path,
    total_bytes: int,
    *,
    name: str = "NVIDIA GeForce RTX 4060",
    capability: Sequence[int] = (8, 9),
    desktop_bytes: int = 0,
) -> Any:
    """Make `torch.cuda` find the card in this process; the extension, with its counts and its ways to break.

    `desktop_bytes` are in use by others: they are missing from what is free, and from what can be allocated. So is what
    CUDA itself takes for a process.
    """
    spec = importlib.util.spec_from_file_location("pretended_card", library)
    assert spec
    assert spec.loader
    card = sys.modules["pretended_card"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(card)
    card.set_total_bytes(total_bytes)
    card.set_others_bytes(desktop_bytes + CONTEXT_BYTES)
    for key, value in _face(card, name, (capability[0], capability[1])).items():
        setattr(torch.cuda, key, value)
    torch._C._cuda_getDevice = lambda: 0  # pyright: ignore  (torch.compile asks for it)
    return card


class _Stream:
    """A stream that is always finished."""

    def synchronize(self) -> None: ...
    def wait_stream(self, other: Any) -> None: ...
    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: Any) -> None: ...


def _face(card: Any, name: str, capability: tuple[int, int]) -> dict[str, Any]:
    def properties(device: Any = None) -> SimpleNamespace:
        return SimpleNamespace(
            name=name,
            total_memory=card.counts()["total_bytes"],
            major=capability[0],
            minor=capability[1],
            multi_processor_count=24,
            gcnArchName="",
        )

    def memory(device: Any = None) -> tuple[int, int]:
        counts = card.counts()
        used = counts["allocated_bytes"] + counts["others_bytes"]
        return counts["total_bytes"] - used, counts["total_bytes"]

    share = 1.0

    def set_fraction(fraction: float, device: Any = None) -> None:
        nonlocal share
        get_fraction(device)
        share = fraction
        card.set_limit_bytes(int(fraction * card.counts()["total_bytes"]))

    def get_fraction(device: Any = None) -> float:
        if device is not None:  # as CUDA's own, which takes no device without an index
            torch.cuda._utils._get_device_index(device)
        return share

    def no_nvml(device: Any = None) -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed or it can't be imported.")

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": lambda *_: None,  # one object for each name: torch.compile wants them apart
        "_lazy_init": lambda *_: None,
        "_is_in_bad_fork": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "device": lambda device: contextlib.nullcontext(),
        "get_device_properties": properties,
        "get_device_name": lambda device=None: name,
        "get_device_capability": lambda device=None: capability,
        "is_bf16_supported": lambda including_emulation=True: capability[0] >= 8 or including_emulation,
        "mem_get_info": memory,
        "memory_allocated": lambda device=None: card.counts()["allocated_bytes"],
        "max_memory_allocated": lambda device=None: card.counts()["peak_bytes"],
        "memory_reserved": lambda device=None: card.counts()["allocated_bytes"],
        "max_memory_reserved": lambda device=None: card.counts()["peak_bytes"],
        "reset_peak_memory_stats": lambda device=None: card.reset_peak(),
        "set_per_process_memory_fraction": set_fraction,
        "get_per_process_memory_fraction": get_fraction,
        "device_memory_used": no_nvml,
        "empty_cache": lambda *_: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "ipc_collect": lambda *_: None,
        "synchronize": lambda device=None: card.synchronize(),
        "Stream": _Stream,
        "current_stream": lambda device=None: _Stream(),
        "default_stream": lambda device=None: _Stream(),
        "stream": lambda stream: contextlib.nullcontext(stream),
    }
