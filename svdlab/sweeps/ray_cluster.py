"""Work spread over a Ray cluster: warm workers on every card, and what they make as it is finished.

>>> rows = run(trials, "results/motion", on="ray")  # this machine's cards; or an address: "ray://head:10001"

Ray places the workers, starts them again where they die, and moves the data. Here is only what it cannot know: how
much of a card a worker needs, which trial spares it loading other weights, and how often a trial may kill one.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdlab.prediction.estimate import estimate
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial, with_image

if TYPE_CHECKING:
    from PIL import Image

_TRIES = 3  # a trial that its worker does not survive so often is to blame itself
_PER_CARD = 2  # workers at most: one has the card while the other writes and measures its clip; more only take turns
_NOWHERE = ("", 0)
_GLANCE_SECONDS = 5  # how often new nodes are looked for


class Made(NamedTuple):
    """What came of a trial: its row, or the `error` that left none."""

    row: Row | None
    there: bool = False  # in the folder already; if not, it comes with the bytes of its clip
    clip: bytes | None = None
    error: str = ""


@contextmanager
def connected(on: str) -> Iterator[None]:
    """Within, Ray is reached: the one that this process has already, else that at the address `on`. "ray" is the
    cluster that this machine belongs to, and where it belongs to none, a Ray of its own, which ends here too."""
    try:
        import ray
    except ImportError:
        raise ModuleNotFoundError(f'on={on!r} needs Ray: pip install "svdlab[ray]" brings it.') from None
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=None if on == "ray" else on, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ImportError) as error:
        raise ConnectionError(
            f"There is no Ray to reach at on={on!r} ({_line(error)}): start it, or say 'ray'."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def settled(setup: Setup) -> Setup:
    """`setup` as the workers will take it, so that a sweep has one precision: a cluster with cards uses its cards, in
    fp16 where nothing else is said; one without uses its processors. Within `connected`."""
    if setup.device and ":" in setup.device:
        raise ValueError(f"device={setup.device!r} is one card, and on a cluster Ray gives them out: leave it out.")
    if any(node.get("GPU") for node in _nodes()):
        return replace(setup, dtype=setup.dtype or ("fp32" if setup.device == "cpu" else "fp16"))
    return replace(setup, dtype=setup.dtype or "fp32", device=setup.device or "cpu")


def spread(
    trials: Mapping[str, Trial],
    maker: Callable[[], Callable[..., Row | None]],
    picture: Callable[[Request], tuple[Image.Image, str]],
    scratch: Path,
    *,
    options: Mapping[str, dict[str, Any]],
    store: str,
    said: Callable[[int], object],
    gone: Callable[[tuple[str, int]], object],
) -> Iterator[tuple[str, Made]]:
    """What came of each trial, by its key, as it is finished. Within `connected`.

    Each worker calls `maker` once, and what that gives for every trial: with the trial, the folder for its row, what
    tells its picture, its `options`, and `patient`: then None says that somebody else is at it, and it comes last.
    `scratch` lies in the folder for the rows: workers that see it write there, others send what they made. With `store`
    (`s3://…`) they put it there, and send it too. `said` hears how many are up, `gone` whose host and process ended.

    A trial whose worker dies goes to another one, at most three times: not by Ray's `max_task_retries`, which would
    wait with it until that worker is back, and one on a lost node may never be. An error of the maker is raised here.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    cpus, gpus = _share(trials.values())
    actor = ray.remote(_Worker).options(num_cpus=cpus, num_gpus=gpus, max_restarts=_TRIES)
    waiting: dict[Setup, deque[str]] = {}
    for key, trial in trials.items():
        waiting.setdefault(trial.setup, deque()).append(key)
    left, deaths, impatient, reason = set(trials), Counter[str](), set[str](), ""
    crew, idle, busy = list[_Hand](), list[_Hand](), dict[Any, tuple[_Hand, str]]()  # (no key: it is starting)
    sent: dict[str, Any] = {}  # pictures travel once to each node, not with each trial
    try:
        while left:
            while len(crew) < min(_places(cpus, gpus), len(left)):
                crew.append(_Hand(actor.remote(maker, scratch.absolute(), store)))
                busy[crew[-1].started()] = crew[-1], ""
            for hand in list(idle):
                loaded = Counter(other.setup for other in crew if other.setup)
                if (setup := _next(waiting, loaded, hand.setup)) is None:
                    continue
                key = waiting[setup].popleft()
                request, seen = trials[key].request, picture(trials[key].request)
                if seen[1] not in sent:
                    sent = dict(list(sent.items())[-63:]) | {seen[1]: ray.put(seen)}
                if not isinstance(request.image, str):
                    request = with_image(request, None)
                asked = options[key] | {"patient": key not in impatient}
                ref = hand.actor.make.remote(setup, request, trials[key].axes, sent[seen[1]], asked)
                busy[ref], hand.setup = (hand, key), setup
                idle.remove(hand)
            if not busy:
                raise RuntimeError(f"No worker of the cluster can be started: {reason}")
            said(len(idle) + sum(1 for _, key in busy.values() if key))
            for ref in ray.wait(list(busy), timeout=_GLANCE_SECONDS)[0]:
                hand, key = busy.pop(ref)
                try:
                    answer = ray.get(ref)
                except RayTaskError as error:
                    raise (error.cause or error) from None
                except RayError as error:
                    reason = _line(error)
                    if not key:  # it ended for good; one that never started will not, however often it is tried
                        crew = [other for other in crew if other is not hand or hand.place == _NOWHERE]
                        continue
                    gone(hand.place)
                    hand.setup, busy[hand.started()] = None, (hand, "")
                    deaths[key] += 1
                    if deaths[key] < _TRIES:
                        waiting[trials[key].setup].append(key)
                        continue
                    answer = Made(None, error=f"Its worker died {_TRIES} times while making it, at last: {reason}")
                else:
                    idle.append(hand)
                if not key:
                    hand.place = answer
                elif answer is None:
                    impatient.add(key)
                    waiting[trials[key].setup].append(key)
                else:
                    left.remove(key)
                    yield key, answer
    finally:
        for hand in crew:
            ray.kill(hand.actor)
            gone(hand.place)


def fetch(store: str, folder: Path, scratch: Path) -> None:
    """Bring what the store has and `folder` has not, each file whole or not at all, rows after what they name."""
    import fsspec

    files, root = fsspec.url_to_fs(store)
    there = {Path(path).name for path in files.ls(root, detail=False)} if files.exists(root) else set()
    for name in sorted(map(Path, there - {path.name for path in folder.iterdir()}), key=_rows_last):
        if name.suffix in (".json", ".mp4", ".png"):
            files.get_file(f"{root}/{name}", str(scratch / name))
            (scratch / name).replace(folder / name)


def _rows_last(path: Path) -> bool:
    return path.suffix == ".json"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


# --- on the worker ---------------------------------------------------------------------------------------------------


class _Worker:
    """One process with one warm pipeline, as Ray runs it."""

    def __init__(self, maker: Callable[[], Callable[..., Row | None]], scratch: Path, store: str) -> None:
        self.row_of, self.store = maker(), store
        self.folder = scratch.parent if os.access(scratch, os.W_OK) and not store else None

    def start(self) -> tuple[str, int]:
        return socket.gethostname(), os.getpid()

    def make(
        self, setup: Setup, request: Request, axes: tuple[str, ...], seen: tuple[Any, str], options: dict[str, Any]
    ) -> Made | None:
        _leave_if_the_card_is_lost()
        trial = Trial(setup, request if request.image else with_image(request, seen[0]), axes)
        with nullcontext(self.folder) if self.folder else tempfile.TemporaryDirectory() as place:
            row = self.row_of(trial, Path(place), lambda _: seen, **options)
            if row is None:
                return None
            if self.store:
                _put(Path(place), self.store)
            clip = None if self.folder or row.clip is None else row.clip.read_bytes()
        return Made(replace(row, request=with_image(row.request, None)), self.folder is not None, clip)


def _leave_if_the_card_is_lost() -> None:
    """After an illegal access, say, whatever the process asks of its card fails: Ray starts another process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)


def _put(place: Path, store: str) -> None:
    """Each file whole or not at all, the row after what it names."""
    import fsspec

    files, root = fsspec.url_to_fs(store)
    files.makedirs(root, exist_ok=True)
    for path in sorted((path for path in place.iterdir() if path.is_file()), key=_rows_last):
        with files.transaction, files.open(f"{root}/{path.name}", "wb") as file:
            file.write(path.read_bytes())


# --- who gets what ---------------------------------------------------------------------------------------------------


@dataclass
class _Hand:
    """A worker as it is seen from here."""

    actor: Any
    setup: Setup | None = None  # whose pipeline it has
    place: Any = _NOWHERE  # host and process

    def started(self) -> Any:
        """Answers when it runs; after it died too, however long it then waits for a place."""
        return self.actor.start.options(max_task_retries=-1).remote()


def _next(waiting: Mapping[Setup, deque[str]], loaded: Mapping[Setup, int], own: Setup | None) -> Setup | None:
    """The setup for a worker that has `own` loaded: the same while it has trials. Else the one with the most for each
    worker that has it; but where no more than one each are to come, loading it once more does not pay."""
    if own is not None and waiting.get(own):
        return own
    most = max(waiting, key=lambda setup: len(waiting[setup]) / (loaded.get(setup, 0) or 0.5))
    return most if len(waiting[most]) > loaded.get(most, 0) else None


def _share(trials: Iterable[Trial]) -> tuple[float, float]:
    """The cores and cards of each worker: as many on a card, or on a node without one, as are predicted to fit into its
    memory together, with a core each. The least node counts for all. Ray limits a worker's threads to its cores."""
    nodes, needed = _nodes(), _needed_bytes(trials)
    with_cards = [node for node in nodes if node.get("GPU")]
    if with_cards and any(trial.setup.device != "cpu" for trial in trials):
        cores = min(node.get("CPU", 0) / node["GPU"] for node in with_cards)
        several = max(1, min(_PER_CARD, (_card_bytes() or 0) // needed, int(cores)))
        return min(1.0, int(100 * cores / several) / 100), 1 / several
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1] or [{"CPU": 1.0}]
    fitting = [(node["CPU"], min(node["CPU"], node.get("memory", 0) // needed)) for node in nodes]
    return min(cores // max(1, workers) for cores, workers in fitting), 0


def _places(cpus: float, gpus: float) -> int:
    """How many workers of that share the nodes hold, and at least one: it waits for a node where none does."""
    shares = [(share, name) for share, name in ((cpus, "CPU"), (gpus, "GPU")) if share]
    return max(1, sum(int(min(node.get(name, 0) // share for share, name in shares)) for node in _nodes()))


def _needed_bytes(trials: Iterable[Trial]) -> int:
    shapes, needed = {}, [1]
    for trial in trials:
        r = trial.request
        shapes[trial.setup, r.height, r.width, r.num_frames, r.decode_chunk_size, r.max_guidance_scale > 1] = trial
    for trial in shapes.values():
        try:
            needed.append(estimate(trial.setup, trial.request).needed_bytes)
        except (ValueError, OSError, RuntimeError):  # weights that cannot be read, say: the worker will tell
            continue
    return max(needed)


def _nodes() -> list[dict[str, float]]:
    """What Ray counts on each node that lives."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _card_bytes() -> int | None:
    """The memory of the smallest card; None where it is not told. NVIDIA's own tool is asked, since Ray hides cards
    from whoever has not reserved one, and all may be reserved."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(_cards_here).options(num_cpus=0)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    try:
        told = ray.get([task.options(scheduling_strategy=where).remote() for where in there], timeout=60)
    except RayError:
        return None
    return min((size for sizes in told for size in sizes), default=None)


def _cards_here() -> list[int]:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return [int(line) * 2**20 for line in told.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
