"""Is this machine ready, and for what? `doctor()` says in seconds: one line a fact, and what to do where one is wrong.

>>> print(doctor())
ok       torch         2.13.0, CUDA 13.0
note     weights       svd-xt is not in the cache
                       -> Setup("svd-xt") downloads 4.2 GiB when it is first loaded.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import metadata, requires, version
from pathlib import Path
from typing import Literal

import svdlab
from svdlab.machine import Machine, best_device, free_bytes, installed
from svdlab.pipelines import hub
from svdlab.pipelines.hub import WeightsError
from svdlab.variants import VARIANTS

State = Literal["ok", "note", "problem"]
GiB = 2**30
FITS_SECONDS = 5.0  # for predictions that are not remembered; the one under way is finished, which takes 10 s or so
# What fits with each, fastest first. Those that differ by an offload alone cost one prediction together.
LADDER: tuple[tuple[str, ...], ...] = (
    (),
    ("model-offload", "split-guidance", "single-token"),
    ("group-offload", "split-guidance", "single-token"),
    ("group-offload", "split-guidance", "forward-chunking=1", "single-token", "lean-decode"),
)


@dataclass(frozen=True)
class Check:
    """One line: its state, what was found, and what to do about it. With a note something is slow or left out; a
    problem keeps clips, or the card, from working."""

    name: str
    state: State
    found: str
    todo: str = ""

    def __str__(self) -> str:
        lines = [f"{self.state:8} {self.name:13} {self.found}", *([f"{'':23}-> {self.todo}"] if self.todo else [])]
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Readiness:
    """What `doctor` found: printed, or last in a cell, a line for each check."""

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """Whether clips can be made here, at least those of the bundled model: no check is a problem."""
        return all(check.state != "problem" for check in self.checks)

    def __str__(self) -> str:
        problems = sum(check.state == "problem" for check in self.checks)
        last = "This machine is ready." if self.ready else f"This machine is not ready: problems to solve: {problems}."
        return "\n".join([*map(str, self.checks), last])

    __repr__ = __str__

    def to_json(self) -> str:
        """For a bug report: no token, no name of this computer, and the home folder as `~`."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        facts = {"svdlab": svdlab.__version__, "system": platform.platform(), "ready": self.ready, "checks": checks}
        return json.dumps(facts, ensure_ascii=False, indent=1)


def doctor() -> Readiness:
    """What this machine has and lacks, one `Check` a line: libraries, card, memory, weights, video, notebooks.

    Makes no clip, downloads nothing, and never raises: what cannot be told is a problem that says why. `svdlab doctor`
    is the same from the shell, with exit code 1 where something is a problem, and `--json` for a bug report.
    """
    checks: list[Check] = []
    for about in _CHECKS:
        try:
            checks += about()
        except Exception as error:  # a broken library raises anything when it is imported
            found = f"cannot be told ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
            todo = "Install it again: pip install --force-reinstall 'svdlab[notebooks]' in a fresh environment."
            checks.append(Check(about.__name__.strip("_"), "problem", found, todo))
    return Readiness(tuple(checks))


def _python() -> Iterator[Check]:
    yield Check("Python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _torch() -> Iterator[Check]:
    import torch

    cuda, hip, mps = torch.version.cuda, torch.version.hip, torch.backends.mps.is_available()
    backend = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "Metal" if mps else "for the processor only"
    yield Check("torch", "ok", f"{torch.__version__}, {backend}")
    driver = _driver()
    if driver and not torch.cuda.is_available():
        why = f"and torch ({backend}) sees no card"
        todo = "Install a torch built for CUDA (pytorch.org/get-started), and check that `nvidia-smi` lists the card."
        yield Check("driver", "problem" if cuda else "note", f"NVIDIA {driver}, {why}", todo)
    elif driver:
        yield Check("driver", "ok", f"NVIDIA {driver}")


def _attention() -> Iterator[Check]:
    import torch

    if not hasattr(torch.nn.functional, "scaled_dot_product_attention"):
        found = f"torch {torch.__version__} has no fused attention, and attention alone would ask for 39 GiB"
        yield Check("attention", "problem", found, "Install torch 2.6 or newer.")
        return
    x = torch.ones(1, 1, 8, 8, device=best_device())
    finite = bool(torch.nn.functional.scaled_dot_product_attention(x, x, x).isfinite().all())
    found = f"scaled_dot_product_attention {'works' if finite else 'gives not-a-number'} on {best_device()}"
    yield Check("attention", "ok" if finite else "problem", found, "" if finite else "Install another torch or driver.")


def _device() -> Iterator[Check]:
    here = Machine.here()
    free = free_bytes(here.device)
    memory = f"{free / GiB:.1f} GiB free of {(here.memory_bytes or 0) / GiB:.1f}"
    if here.device == "cpu":
        todo = 'Setup("tiny") makes a clip in seconds here; svd and svd-xt need a card: see `svdlab plan`.'
        yield Check("device", "note", f"no card; {here.name}, {here.cores} cores, {memory}", todo)
    else:
        busy = free < (here.memory_bytes or 0) / 2
        todo = "Other programs hold over half of the memory: close them, or restart old kernels." if busy else ""
        yield Check("device", "note" if busy else "ok", f"{here.name} ({here.device}), {memory}", todo)


def _fits() -> Iterator[Check]:
    here = Machine.here()
    if here.device != "cpu":
        names = [name for name, v in VARIANTS.items() if v.repository]
        yield from fits(names, here.memory_bytes or 0)


def fits(names: Iterable[str], memory_bytes: int) -> Iterator[Check]:
    """A line for each variant: the first of `LADDER` that is predicted to fit on a card with so much memory."""
    from svdlab.prediction.estimate import estimate
    from svdlab.setup import Setup

    began = time.monotonic()
    for name in names:
        if time.monotonic() - began > FITS_SECONDS:
            todo = f"`svdlab plan --variant {name}` predicts it in a minute or two, and it is remembered."
            yield Check("fits", "note", f"{name}: not predicted yet", todo)
            continue
        rungs = (estimate(Setup(name, dtype="fp16", optimizations=each)) for each in LADDER)
        found = next((rung for rung in rungs if rung.fits(memory_bytes)), None)
        if found:
            named = f", optimizations={found.setup.optimizations}" if found.setup.optimizations else ""
            needed = f"needs {found.needed_bytes / GiB:.1f} GiB, predicted"
            yield Check("fits", "ok", f'Setup("{name}"{named}) {needed}; `svdlab plan` compares more')
        else:
            todo = f"`svdlab plan --variant {name}` looks further; a smaller decode_chunk_size or size needs less."
            yield Check(
                "fits", "note", f"{name}: none of {len(LADDER)} setups fits in {memory_bytes / GiB:.1f} GiB", todo
            )


def _weights() -> Iterator[Check]:
    from huggingface_hub import constants, get_token, try_to_load_from_cache

    try:
        hub.check_token()
        found, todo = ("present (never shown)", "") if get_token() else ("none: needed for gated models only", "")
        yield Check("token", "ok", found, todo)
    except WeightsError as error:
        yield Check("token", "note", "one that cannot be sent", str(error))
    lacking, largest = [], 0
    for v in VARIANTS.values():
        if v.repository is None:
            yield Check("weights", "ok", f"{v.name} is bundled")
            continue
        cached = try_to_load_from_cache(v.repository, "model_index.json")
        if not isinstance(cached, str):
            lacking.append(v)
            largest = max(largest, v.download_bytes)
            continue
        try:
            hub.check_folder(Path(cached).parent, half=True)
            yield Check("weights", "ok", f"{v.name} is in the cache")
        except WeightsError as error:
            yield Check("weights", "note", f"{v.name} is in the cache, not whole", _homely(str(error)))
    if lacking:
        gated = [v.name for v in lacking if v.gated and not get_token()]
        also = f" {gated[0]} asks for a token and for its licence to be accepted first." if gated else ""
        todo = f"Loading one downloads {largest / GiB:.1f} GiB, once.{also}"
        yield Check("weights", "note", f"not in the cache: {', '.join(v.name for v in lacking)}", todo)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    short = free < largest
    todo = f"One model takes {largest / GiB:.1f} GiB: make room, or set HF_HOME to a larger disk." if short else ""
    yield Check("disk", "note" if short else "ok", f"{free / GiB:.0f} GiB free at {_homely(str(cache))}", todo)


def _video() -> Iterator[Check]:
    from PIL import Image

    from svdlab.media import video

    frames = [Image.new("RGB", (64, 64), (level, 90, 200 - level)) for level in (0, 100)]
    with tempfile.TemporaryDirectory() as folder:
        file = video.write_video(Path(folder) / "clip.mp4", frames, 7, metadata="here")
        whole = len(video.read_frames(file)[0]) == 2 and video.read_metadata(file)[0] == "here"
    found = f"H.264 through PyAV {version('av')}: {'written and read back' if whole else 'what comes back is another'}"
    yield Check("video", "ok" if whole else "problem", found, "" if whole else "pip install --force-reinstall av")


def _versions() -> Iterator[Check]:
    """Installed libraries against this package's lower bounds, and in a checkout against those it is tested with."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    pins = Path(__file__).parents[2] / "constraints.txt"
    tested = dict(re.findall(r"^([\w-]+)==(\S+)$", pins.read_text(), re.MULTILINE)) if pins.is_file() else {}
    old, new = [], []
    for wanted in map(Requirement, requires("svdlab") or ()):
        found = installed(wanted.name)
        if found is None:
            if wanted.marker is None:
                old.append(f"{wanted.name} is missing (expected {wanted.specifier})")
        elif not wanted.specifier.contains(found, prereleases=True):
            old.append(f"{wanted.name} {found} (expected {wanted.specifier})")
        elif (pin := tested.get(wanted.name)) and Version(found).release[:1] > Version(pin).release[:1]:
            new.append(f"{wanted.name} {found} (tested with {pin})")
    if old:
        yield Check(
            "versions", "problem", ", ".join(old), "pip install --upgrade svdlab, in an environment of its own."
        )
    if new:
        todo = "Should something break, install the tested ones: pip install -c constraints.txt -e '.[notebooks]'"
        yield Check("versions", "note", f"newer than tested: {', '.join(new)}", todo)
    if not old + new:
        yield Check("versions", "ok", f"all within the bounds of svdlab {svdlab.__version__}")
    python = metadata("svdlab")["Requires-Python"]
    if python and not Requirement(f"python{python}").specifier.contains(platform.python_version(), prereleases=True):
        yield Check(
            "versions", "problem", f"Python {platform.python_version()} (expected {python})", "Install a newer one."
        )


def _notebooks() -> Iterator[Check]:
    if "google.colab" in sys.modules:
        yield Check("notebooks", "ok", "Colab, which brings its own")
        return
    missing = [name for name in ("ipykernel", "papermill", "pandas", "matplotlib", "mediapy") if not installed(name)]
    if missing:
        todo = "pip install 'svdlab[notebooks]'"
        yield Check("notebooks", "note", f"missing: {', '.join(missing)}", todo)
    else:
        yield Check("notebooks", "ok", f"ipykernel {installed('ipykernel')}, papermill {installed('papermill')}")
    widgets, lab = installed("ipywidgets"), installed("jupyterlab")
    if not widgets or not lab:
        found = f"missing: {', '.join(n for n, v in (('jupyterlab', lab), ('ipywidgets', widgets)) if not v)}"
        todo = "pip install 'svdlab[lab]' for panels with sliders; everything else works without."
        yield Check("widgets", "note", found, todo)
        return
    from jupyter_core.paths import jupyter_path

    manager = Path("@jupyter-widgets", "jupyterlab-manager", "package.json")
    shown = any((Path(folder) / manager).is_file() for folder in jupyter_path("labextensions"))
    todo = "" if shown else "pip install --force-reinstall jupyterlab_widgets beside JupyterLab, then reload the page."
    found = f"ipywidgets {widgets}, JupyterLab {lab}{'' if shown else ', whose extension for widgets is missing'}"
    yield Check("widgets", "ok" if shown else "note", found, todo)


_CHECKS: tuple[Callable[[], Iterator[Check]], ...] = (
    _python, _torch, _attention, _device, _fits, _versions, _weights, _video, _notebooks,
)  # fmt: skip


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where there is none that answers."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        return None
    return said[0] if said else None


def _homely(text: str) -> str:
    return text.replace(str(Path.home()), "~")
