"""Is this machine ready, and for what? `doctor()` tells in seconds, a line for each fact.

Each check is a small function that looks at one part of the machine. An "ok" is a plain fact. A "note" says that
something is slow or left out. A "problem" keeps clips from being made. Notes and problems say what to do about them.
No check makes a clip, downloads anything or shows a token.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import svdlab
from svdlab.machine import Machine, free_bytes, installed
from svdlab.messages import describe_error
from svdlab.pipelines import hub
from svdlab.pipelines.hub import WeightsError
from svdlab.setup import Setup
from svdlab.variants import VARIANTS

if TYPE_CHECKING:
    from svdlab.prediction.cards import Card

State = Literal["ok", "note", "problem"]
GiB = 2**30


@dataclass(frozen=True)
class Check:
    """One line of the answer: the part of the machine, its state, a fact, and what to do where that is not ok."""

    name: str
    state: State
    fact: str
    todo: str = ""

    def __str__(self) -> str:
        line = f"{self.state:8} {self.name:13} {self.fact}"
        return f"{line}\n{'':23}-> {self.todo}" if self.todo else line


@dataclass(frozen=True, repr=False)
class Readiness:
    """The answer of `doctor`: a line for each check, and whether this machine is `ready`.

    Attributes:
        checks: each with the part of the machine (`name`), its `state`, a `fact`, and what `todo`.
    """

    checks: tuple[Check, ...]

    @property
    def ready(self) -> bool:
        """Whether clips can be made here, at least with the bundled model: no check is a problem."""
        return all(check.state != "problem" for check in self.checks)

    def __str__(self) -> str:
        problems = sum(check.state == "problem" for check in self.checks)
        last = "This machine is ready." if self.ready else f"This machine is not ready: problems to solve: {problems}."
        return "\n".join([*map(str, self.checks), last])

    __repr__ = __str__

    def to_json(self) -> str:
        """The checks as JSON, for a bug report: no token, no name of this computer, the home folder as `~`."""
        checks = [dataclasses.asdict(check) for check in self.checks]
        facts = {"svdlab": svdlab.__version__, "system": platform.platform(), "ready": self.ready, "checks": checks}
        return json.dumps(facts, ensure_ascii=False, indent=1)


def doctor() -> Readiness:
    """Check this machine: libraries, card, memory, weights, disk, video, notebooks.

    `svdlab doctor` does the same from the shell; its exit code is 1 if there is a problem; `--json` writes a report.

    Returns:
        `.checks`, each with `name`, `state`, `fact` and `todo`: an "ok" is a plain fact, a "note" something slow or
        left out, a "problem" keeps clips from being made. `.ready` is True if there is no problem; `.to_json()` is for
        a bug report. A check that fails is a problem that says why. It takes a few seconds, and downloads nothing.

    Example:
        >>> print(doctor())
        ok       Python        3...
        ok       torch         ...
        This machine is ready.
    """
    checks: list[Check] = []
    for check in (_python, _torch, _device, _versions, _weights, _disk, _video, _notebooks):
        try:
            checks += check()
        except Exception as error:  # a broken library raises anything when it is imported
            fact = f"cannot be told ({describe_error(error, where=False)})"
            todo = "Make the environment again, as the README says."
            if isinstance(error, PackageNotFoundError):  # a checkout that is used without being installed
                todo = "Install svdlab: `pip install -e .` in its folder."
            checks.append(Check(check.__name__.strip("_"), "problem", fact, todo))
    return Readiness(tuple(checks))


def _check(name: str, is_ok: bool, fact: str, todo: str, bad_state: State = "note") -> Check:
    return Check(name, "ok", fact) if is_ok else Check(name, bad_state, fact, todo)


def _python() -> list[Check]:
    version, bounds = platform.python_version(), metadata("svdlab")["Requires-Python"] or ""
    is_ok = SpecifierSet(bounds).contains(version, prereleases=True)
    fact = f"{version} on {platform.system()} {platform.machine()}"
    todo = f"svdlab needs Python {bounds}: make an environment with such a one."
    return [_check("Python", is_ok, fact, todo, "problem")]


def _torch() -> list[Check]:
    import torch

    cuda, hip, mps = torch.version.cuda, torch.version.hip, torch.backends.mps.is_available()
    backend = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "Metal" if mps else "for the processor only"
    checks, cudnn = [Check("torch", "ok", f"{torch.__version__}, {backend}")], torch.backends.cudnn.version() or 0
    if torch.__version__.startswith("2.9.") and 90800 <= cudnn < 91500:  # pytorch's issues 163581 and 166122
        number = f"{cudnn // 10000}.{cudnn // 100 % 100}"
        fact = f"{torch.__version__}, {backend}, with cuDNN {number}: 3D convolutions run 4 to 20 times slower"
        checks = [Check("torch", "note", fact, "pip install --upgrade torch: 2.10 and later are not affected.")]
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        [driver, *_] = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError, ValueError):
        return checks  # no driver of NVIDIA's that answers
    usable = torch.cuda.is_available()
    todo = "Install a torch built for CUDA (pytorch.org/get-started), and check that `nvidia-smi` lists the card."
    fact = f"NVIDIA {driver}{'' if usable else ', and this torch sees no card'}"
    return [*checks, _check("driver", usable, fact, todo, "problem" if cuda else "note")]


def _device() -> list[Check]:
    from svdlab.prediction.cards import this_device

    here = Machine.here()
    if here.device == "cpu":
        memory = f"{free_bytes('cpu') / GiB:.1f} GiB free of {(here.memory_bytes or 0) / GiB:.1f}"
        todo = 'Setup("tiny") makes a clip in seconds here; svd and svd-xt need a card: see `svdlab plan`.'
        return [Check("device", "note", f"no card; {here.name}, {here.cores} cores, {memory}", todo)]
    card = this_device()
    memory = f"{card.free_bytes / GiB:.1f} GiB free of {card.memory_bytes / GiB:.1f}"
    todo = "Other programs hold over half of the memory: close them, or restart old kernels."
    device = _check("device", card.free_bytes >= card.memory_bytes / 2, f"{here.name} ({here.device}), {memory}", todo)
    return [device, *(_fit(variant.name, card) for variant in VARIANTS.values() if variant.repository)]


def _fit(variant: str, card: Card) -> Check:
    from svdlab.prediction.fitting import candidates, recommended

    best = recommended(candidates(Setup(variant, dtype="fp16"), card=card, on_card=True), card)
    fits, fact = best.fits_on(card), f"{variant} with {best.setup.label}: {best.needed_bytes / GiB:.1f} GiB predicted"
    if fits == "no":
        todo = f"`svdlab plan --variant {variant}` looks further; a smaller decode_chunk_size or size needs less."
        return Check("fits", "note", f"{fact}, the least of all, and that does not fit", todo)
    return _check("fits", fits == "yes", fact, "That is tight: close the browser and what else uses the card.")


def _versions() -> list[Check]:
    wrong = []
    for needed in map(Requirement, requires("svdlab") or ()):  # those with a marker belong to an extra
        if needed.marker and not needed.marker.evaluate({"extra": "notebooks"}):  # clips need none of the others
            continue
        version = installed(needed.name)
        if not needed.specifier.contains(version, prereleases=True) if version else needed.marker is None:
            wrong.append(f"{needed.name} {version or 'is missing'} (expected {needed.specifier})")
    fact = ", ".join(wrong) or f"all within the bounds of svdlab {svdlab.__version__}"
    todo = "pip install --upgrade svdlab, in an environment of its own."
    return [_check("versions", not wrong, fact, todo, "problem")]


def _weights() -> list[Check]:
    from huggingface_hub import get_token, try_to_load_from_cache

    try:
        hub.check_token()
        fact = "present (never shown)" if get_token() else "none: needed for gated models only"
        checks = [Check("token", "ok", fact)]
    except WeightsError as error:
        checks = [Check("token", "note", "one that cannot be sent", str(error))]
    half = _is_half()
    for variant in VARIANTS.values():
        todo = f"Loading it downloads {variant.stored_bytes(half) / GiB:.1f} GiB, once."
        cached = variant.repository and try_to_load_from_cache(variant.repository, "model_index.json")
        if variant.repository is None:
            checks.append(Check("weights", "ok", f"{variant.name} is bundled"))
        elif isinstance(cached, str):
            try:
                files = hub.check_folder(Path(cached).parent, half=half)
                is_ready = (".fp16" in files["unet"][0].name) == half
                fact = f"{variant.name} is in the cache{'' if is_ready else ', in another precision than is used here'}"
                checks.append(_check("weights", is_ready, fact, todo))
            except WeightsError as error:
                checks.append(Check("weights", "note", f"{variant.name} is in the cache, not whole", _hide_home(error)))
        else:
            gated = variant.gated and not get_token()
            todo += " It asks for a token and for its licence to be accepted first." if gated else ""
            checks.append(Check("weights", "note", f"{variant.name} is not in the cache", todo))
    return checks


def _is_half() -> bool:
    """Whether the published weights are loaded in 16 bits here, as they are on a CUDA card."""
    with suppress(Exception):  # a torch that is missing or broken has a check of its own
        return Setup("svd-xt").resolved().dtype != "fp32"
    return True


def _disk() -> list[Check]:
    from huggingface_hub import constants

    half, cache = _is_half(), Path(constants.HF_HUB_CACHE)
    largest = max(variant.stored_bytes(half) for variant in VARIANTS.values())
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    todo = f"One model takes {largest / GiB:.1f} GiB: make room, or set HF_HOME to a larger disk."
    return [_check("disk", free >= largest, f"{free / GiB:.0f} GiB free at {_hide_home(cache)}", todo)]


def _video() -> list[Check]:
    from PIL import Image

    from svdlab.media.read_video import read_frames, read_metadata
    from svdlab.media.write_video import write_video

    frames = [Image.new("RGB", (64, 64), (level, 90, 200 - level)) for level in (0, 100)]
    with tempfile.TemporaryDirectory() as folder:
        file = write_video(Path(folder) / "clip.mp4", frames, 7, metadata="settings")
        is_ok = len(read_frames(file)[0]) == 2 and read_metadata(file)[0] == "settings"
    fact = f"H.264 through PyAV {installed('av')}: {'written and read back' if is_ok else 'what comes back is another'}"
    return [_check("video", is_ok, fact, "pip install --force-reinstall av", "problem")]


def _notebooks() -> list[Check]:
    if "google.colab" in sys.modules:
        return [Check("notebooks", "ok", "Colab, which brings its own")]
    checks, requirements = [], [Requirement(text) for text in requires("svdlab") or ()]
    for extra, more in {"notebooks": [], "lab": ["jupyterlab_widgets"]}.items():  # without these JupyterLab shows text
        libraries = [n.name for n in requirements if n.marker and n.marker.evaluate({"extra": extra})] + more
        missing = ", ".join(library for library in libraries if not installed(library))
        fact = f"missing: {missing}" if missing else f"all of svdlab[{extra}]"
        checks.append(_check(extra, not missing, fact, f"pip install 'svdlab[{extra}]'"))
    return checks


def _hide_home(text: object) -> str:
    return str(text).replace(str(Path.home()), "~")
