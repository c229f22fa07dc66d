"""The machine a clip is made on: its device, that device's memory, and the libraries that run there.

Everything that depends on hardware asks here: which device is the best one, how much memory is free, what the peak
was, and whether an error means that memory ran out.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import subprocess
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from types import CodeType

_OUT_OF_MEMORY = re.compile(  # as torch, CUDA's libraries, other accelerators, C++ and the system say it
    r"out of memory|(can't|cannot) allocate memory|enough memory|bad_alloc|STATUS_ALLOC_FAILED|PT_DEVMEM Alloc", re.I
)
_UNREACHABLE = re.compile(  # as torch and CUDA say it, and `load`
    r"busy or unavailable|no CUDA-capable device|No CUDA GPUs|no NVIDIA driver|torch sees (no|\d+) (CUDA|Apple)", re.I
)


@dataclass(frozen=True)
class Machine:
    """One computer as a row remembers it; `Machine.here()` is this one. `print` it for a line.

    Args:
        device: "cuda", "cuda:1", "mps" or "cpu": the one that clips are made on.
        name: of the card, or of the processor.
        memory_bytes: the device's memory; None: not known.
        cores: processor cores that this process may use.
        python: its version.
        libraries: versions by name; None: not installed.
        commit: of svdlab's checkout; None where it is installed from a wheel.

    Example:
        >>> Machine.here().device in ("cuda", "mps", "cpu")
        True
    """

    device: str
    name: str
    memory_bytes: int | None
    cores: int
    python: str
    libraries: dict[str, str | None]
    commit: str | None = None

    @classmethod
    @cache
    def here(cls, device: str | None = None) -> Machine:
        """This machine. The first call loads torch, which knows the device.

        Args:
            device: a setup's. The best one here is described if it is None, or if this machine has no such card.
        """
        import psutil
        import torch

        index = (device and torch.device(device).index) or 0
        if device is None or (device.startswith("cuda") and index >= card_count()) or device == "mps":
            device, index = best_device(), 0
        name, memory_bytes = _processor(), psutil.virtual_memory().total
        if device.startswith("cuda"):  # (Apple's GPU shares the memory of the processor)
            card = torch.cuda.get_device_properties(index)
            name, memory_bytes = card.name, card.total_memory
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        libraries = {library: installed(library) for library in ("torch", "diffusers", "transformers", "accelerate")}
        return cls(device, name, memory_bytes, cores, platform.python_version(), libraries, _commit())

    def __str__(self) -> str:
        memory = "unknown memory" if self.memory_bytes is None else f"{self.memory_bytes / 2**30:.1f} GiB"
        device = f"{self.name}, {self.cores} cores" if self.device == "cpu" else f"{self.name} ({self.device})"
        libraries = " · ".join(f"{name} {number or 'missing'}" for name, number in self.libraries.items())
        return f"{device}, {memory} · Python {self.python} · {libraries}"


def best_device() -> str:
    """ "cuda" where torch finds a card, else "mps" where Apple's GPU is present, else "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def free_bytes(device: str) -> int:
    """The memory that a device ("cuda", "cuda:1", "mps" or "cpu") could still give away now."""
    import psutil
    import torch

    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    return psutil.virtual_memory().available


def card_count() -> int:
    """How many CUDA cards can be used: none where the driver is too old for torch, whatever NVIDIA's tools count."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def free_memory() -> None:
    """Give back the memory that clips took; a pipeline that is kept stays."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def release_frames(
    error: BaseException | None, earlier: BaseException | None = None, until: CodeType | None = None
) -> None:
    """Let go of what an error keeps in memory: a notebook holds its last one, and so the variables of its frames.

    Args:
        error: The caught error. The frame that caught it, and frames that still run, keep their variables.
        earlier: An error that the caller was handling already; its frames keep theirs.
        until: The code of a function whose frame keeps its variables, and so does all that it called.
    """
    visited = {id(earlier)}
    while error is not None and id(error) not in visited:
        visited.add(id(error))
        for frame, _ in islice(traceback.walk_tb(error.__traceback__), 1, None):
            if frame.f_code is until:
                return
            with suppress(RuntimeError):  # it runs
                frame.clear()
        error = error.__cause__ or error.__context__


def reset_peak(device: str) -> None:
    """Begin to count the peak of a device's memory anew; only CUDA cards count one."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(torch.device(device))


def peak_bytes(device: str) -> int | None:
    """The most that torch had allocated on a device since `reset_peak`; None where the device counts no peak."""
    import torch

    return torch.cuda.max_memory_allocated(torch.device(device)) if device.startswith("cuda") else None


def allowed_bytes(device: str) -> int:
    """What this process may have of a CUDA card's memory: all of it, or its `set_per_process_memory_fraction`."""
    import torch

    share_of = getattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 1.0)  # unknown to older ones
    share = share_of(torch.device(device).index)  # torch refuses a device without one; None is the current card
    return int(torch.cuda.get_device_properties(device).total_memory * share)


def synchronize(device: str) -> None:
    """Wait until a device has done what it was given; a processor always has."""
    import torch

    if device != "cpu":
        torch.accelerator.synchronize(torch.device(device))


def card_is_lost() -> bool:
    """Whether everything that this process asks of its card fails, as after an illegal access: it must start again."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def bytes_of_others(device: str) -> int:
    """What other programs hold of a card's memory, and this process's context (about 0.5 GiB); 0 on other devices.

    A card that is too full to answer has `sys.maxsize`.
    """
    import torch

    if not device.startswith("cuda"):
        return 0
    try:
        free, total = torch.cuda.mem_get_info(torch.device(device))
    except RuntimeError:
        return sys.maxsize
    return total - free - torch.cuda.memory_reserved(torch.device(device))


def is_unreachable(error: BaseException) -> bool:
    """Whether an error says that the device cannot be reached at all: it is missing, busy, or its driver is."""
    return isinstance(error, RuntimeError) and bool(_UNREACHABLE.search(str(error)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    in_words = isinstance(error, (RuntimeError, OSError)) and _OUT_OF_MEMORY.search(str(error))
    return isinstance(error, MemoryError) or bool(in_words)


def installed(library: str) -> str | None:
    """The version of a library by its name on PyPI; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    with suppress(OSError):  # not Linux
        if model := re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()):
            return model[1]
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    root = Path(__file__).resolve().parents[1]
    if (root / ".git").exists():  # not so where it is installed from a wheel
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    return None
