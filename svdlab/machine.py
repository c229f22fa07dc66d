"""The machine a clip is made on: what it is called, how much memory it has, which libraries run there.

>>> print(Machine.here())
AMD EPYC, 2 cores, 23.5 GiB · Python 3.11.7 · torch 2.13.0 · diffusers 0.42.1
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "diffusers", "transformers", "accelerate")


@dataclass(frozen=True)
class Machine:
    """One computer as a row remembers it. Memory is that of the device, in bytes; `None` is not known."""

    device: str  # "cuda", "mps" or "cpu": where a clip is made unless a setup says otherwise
    name: str  # of the card, or of the processor
    memory_bytes: int | None
    cores: int
    python: str
    libraries: dict[str, str | None]  # name -> version; None: not installed
    commit: str | None = None  # of this package's checkout, where it is one

    @classmethod
    def here(cls) -> Machine:
        """This machine. Asks torch for its device, so the first call loads torch."""
        return _here()

    def __str__(self) -> str:
        memory = "unknown memory" if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB"
        what = f"{self.name}, {self.cores} cores" if self.device == "cpu" else f"{self.name} ({self.device})"
        libraries = " · ".join(f"{name} {found or 'missing'}" for name, found in self.libraries.items())
        return f"{what}, {memory} · Python {self.python} · {libraries}"


@lru_cache(maxsize=1)
def _here() -> Machine:
    device = best_device()
    name, memory = _device_facts(device)
    return Machine(
        device=device,
        name=name,
        memory_bytes=memory,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        python=platform.python_version(),
        libraries={library: installed(library) for library in LIBRARIES},
        commit=_commit(),
    )


def best_device() -> str:
    """ "cuda" where torch sees a card, else "mps" where Apple's is present, else "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_bytes(device: str) -> int:
    """Memory in bytes that `device` could still give away now."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return psutil.virtual_memory().available


_OUT_OF_MEMORY = re.compile(  # as torch, CUDA's libraries, other accelerators, C++ and the system say it
    r"out of memory|(can't|cannot) allocate memory|enough memory|bad_alloc|STATUS_ALLOC_FAILED|PT_DEVMEM Alloc", re.I
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device.

    Args:
        error: what was raised.

    Returns:
        True for a `MemoryError`, and for errors of torch and the system in their own words.

    Example:
        >>> is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"))
        True
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, (RuntimeError, OSError)) and bool(_OUT_OF_MEMORY.search(str(error)))


def reset_peak(device: str) -> None:
    """Begin to count the peak of a device's memory anew.

    Args:
        device: "cuda", "cuda:1", "mps" or "cpu"; only CUDA cards count one.
    """
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(torch.device(device))


def peak_bytes(device: str) -> int | None:
    """The most that torch had allocated on a device since `reset_peak`.

    Args:
        device: "cuda", "cuda:1", "mps" or "cpu".

    Returns:
        Bytes; None where the device counts no peak.
    """
    import torch

    return torch.cuda.max_memory_allocated(torch.device(device)) if device.startswith("cuda") else None


def _device_facts(device: str) -> tuple[str, int | None]:
    import psutil
    import torch

    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        return properties.name, properties.total_memory
    return _processor(), psutil.virtual_memory().total  # Apple's GPU shares the memory of the processor


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def installed(library: str) -> str | None:
    """The version of a library; None where it is not there."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():  # installed from a wheel
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
