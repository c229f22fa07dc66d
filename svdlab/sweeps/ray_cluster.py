"""A sweep on a Ray cluster: a warm worker on every card, and rows as they are finished.

Ray places the workers, starts them again where they die, and moves the data. Here is only what Ray cannot know: what a
worker needs, which task spares it loading other weights, and how often a task may kill one.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svdlab.atomic_files import clear_leftovers
from svdlab.dtypes import usual_dtype
from svdlab.messages import first_line
from svdlab.prediction.estimate import estimate_if_readable
from svdlab.rows.row import Row
from svdlab.rows.row_files import write_row
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial, with_image
from svdlab.sweeps.make_row import Task, failed_row
from svdlab.sweeps.picture_cache import PictureCache, make_room
from svdlab.sweeps.ray_worker import Answer, RayWorker

_TRIES = 3  # a task that its worker does not survive so often is to blame itself
_LOOK_SECONDS = 5  # how often new nodes are looked for


@contextmanager
def connected(on: str) -> Iterator[None]:
    """Reach Ray within a `with` block: the one that this process has already, else the one at the address `on`.

    "ray" is this machine's cluster; where it has none, a Ray of its own is started for the block.
    """
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
    except Exception as error:  # Ray raises a bare Exception where its start takes too long
        raise ConnectionError(f"There is no Ray to reach at on={on!r} ({first_line(error)}): start it.") from None
    try:
        yield
    finally:
        ray.shutdown()


def has_cards() -> bool:
    """Whether any node of the cluster has a card."""
    return any(node.get("GPU") for node in _nodes())


def cluster_trials(trials: Iterable[Trial], has_cards: bool) -> list[Trial]:
    """Trials with the setups that all workers take.

    Args:
        trials: as the user gave them.
        has_cards: as for `cluster_setup`.
    """
    return [replace(trial, setup=cluster_setup(trial.setup, has_cards)) for trial in trials]


def cluster_setup(setup: Setup, has_cards: bool) -> Setup:
    """A setup as all workers take it, so that a sweep has one precision: fp16 on cards, fp32 on processors.

    Args:
        setup: of a trial; a ValueError where it names one card, since Ray gives them out.
        has_cards: whether any node has a card; the cluster then uses its cards alone.
    """
    if setup.device and ":" in setup.device:
        raise ValueError(f"device={setup.device!r} is one card, and on a cluster Ray gives them out: leave it out.")
    device = setup.device or ("cuda" if has_cards else "cpu")
    return replace(setup, dtype=setup.dtype or usual_dtype(device), device=setup.device if has_cards else device)


@dataclass(eq=False)
class _WorkerHandle:
    actor: Any
    process: str = ""  # its name; "" until it has started
    setup: Setup | None = None  # whose pipeline it has
    task: Task | None = None  # what it is making


class ClusterSweep:
    """The tasks of a sweep and the workers that make them. Within `connected`.

    Workers that see the claim `scratch` in the results folder write there; those that have a `store` put a copy there.
    A task whose worker dies goes to another one, and a new worker takes the place of the dead one. Ray's own retries
    would wait until that very worker is back, and one on a lost node may never be.
    """

    def __init__(
        self, tasks: list[Task], pictures: PictureCache, scratch: Path, store: str = "", quality: bool = True
    ) -> None:
        import ray

        self._pictures, self._scratch, self._folder = pictures, scratch, scratch.parent
        self._waiting: dict[Setup, deque[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(task.trial.setup, deque()).append(task)
        self._unfinished = len(tasks)
        self._cores, self._cards = _worker_share(tasks)
        actor = ray.remote(RayWorker).options(num_cpus=self._cores, num_gpus=self._cards)
        self._new_actor = lambda: actor.remote(scratch.absolute(), store, quality)
        self._workers: list[_WorkerHandle] = []
        self._calls: dict[Any, _WorkerHandle] = {}  # what Ray is asked for, and of whom
        self._sent: dict[str, Any] = {}  # pictures travel once to each node, not with each task
        self._deaths = Counter[str]()  # of workers, by the key of their task; "" for those in a row that never started

    def rows(self, show_workers: Callable[[int], object]) -> Generator[tuple[Task, Row], None, None]:
        """The row of each task, as it is finished; `show_workers` is called with the number of workers that are up."""
        import ray

        try:
            while self._unfinished:
                while len(self._workers) < min(_places(self._cores, self._cards), self._unfinished):
                    self._workers.append(worker := _WorkerHandle(self._new_actor()))
                    self._calls[worker.actor.start.remote()] = worker
                started = [worker for worker in self._workers if worker.process]
                for worker in started:
                    if worker.task is None:
                        self._give_task(worker)
                show_workers(len(started))
                for call in ray.wait(list(self._calls), timeout=_LOOK_SECONDS)[0]:
                    if finished := self._receive(call, self._calls.pop(call)):
                        self._unfinished -= 1
                        yield finished
        finally:
            for worker in self._workers:
                ray.kill(worker.actor)
                clear_leftovers(self._folder, worker.process)

    def _give_task(self, worker: _WorkerHandle) -> None:
        """A task of the setup that the worker has loaded; where none is left, of that with the most tasks."""
        import ray

        if worker.setup is None or not self._waiting[worker.setup]:
            worker.setup = max(self._waiting, key=lambda setup: len(self._waiting[setup]))
        if self._waiting[worker.setup]:
            worker.task = task = self._waiting[worker.setup].popleft()
            picture = self._pictures.fitted(task.trial.request)
            if picture.sha256 not in self._sent:
                make_room(self._sent)
                self._sent[picture.sha256] = ray.put(picture)
            if not isinstance(task.trial.request.image, str):  # it may be large: the fitted picture goes instead
                task = replace(task, trial=replace(task.trial, request=with_image(task.trial.request, None)))
            self._calls[worker.actor.make.remote(task, self._sent[picture.sha256])] = worker

    def _receive(self, call: Any, worker: _WorkerHandle) -> tuple[Task, Row] | None:
        """A task and its row; None where the worker has started, or its task goes back into the queue."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        task, worker.task = worker.task, None
        try:
            answer: Any = ray.get(call)
        except RayTaskError as error:
            raise (error.cause or error) from None
        except RayError as error:
            return self._replace_dead(worker, task, first_line(error))
        if task is None:
            worker.process, self._deaths[""] = answer, 0
        elif answer is None:  # another writer is making it
            self._waiting[task.trial.setup].append(task)
        else:
            return task, self._row(task, answer)
        return None

    def _replace_dead(self, worker: _WorkerHandle, task: Task | None, reason: str) -> tuple[Task, Row] | None:
        self._workers.remove(worker)
        clear_leftovers(self._folder, worker.process)
        key = task.key if task else ""
        self._deaths[key] += 1
        if self._deaths[key] < _TRIES:
            if task:
                self._waiting[task.trial.setup].append(task)
            return None
        if task is None:
            raise RuntimeError(f"No worker of the cluster can be started: {reason}")
        reason = f"Its worker died {_TRIES} times while making it, at last: {reason}"
        row = failed_row(task, self._pictures.fitted(task.trial.request), reason)
        return task, write_row(row, self._folder, self._scratch)

    def _row(self, task: Task, answer: Answer) -> Row:
        """The row in the folder, written here where the worker could not."""
        if answer.in_folder:
            return replace(answer.row, clip=answer.row.clip and self._folder / answer.row.clip.name)
        row, clip = replace(answer.row, request=task.trial.request, clip=None), None
        if answer.clip is not None:
            clip = self._scratch / f"{row.key}.mp4"
            clip.write_bytes(answer.clip)
        return write_row(row, self._folder, self._scratch, clip, answer.preview)


def _worker_share(tasks: list[Task]) -> tuple[float, int]:
    """The cores and cards that each worker reserves: a card with a core, or else what its memory needs.

    As many share a node without cards as are predicted to fit into its memory, with a core each at least. The least
    node counts for all. Ray limits the threads of a worker to its cores.
    """
    nodes = _nodes()
    with_cards = [node for node in nodes if node.get("GPU")]
    if with_cards and any(task.trial.setup.device != "cpu" for task in tasks):
        return min(1.0, *(int(100 * node.get("CPU", 0) / node["GPU"]) / 100 for node in with_cards)), 1
    needed = _needed_bytes(tasks)
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1] or [{"CPU": 1.0}]
    workers = [(node["CPU"], min(node["CPU"], node.get("memory", 0) // needed)) for node in nodes]
    return min(cores // max(1, count) for cores, count in workers), 0


def _places(cores: float, cards: int) -> int:
    """The number of workers of a share that the nodes hold; at least 1, which waits for a node."""
    shares = [(share, name) for share, name in ((cores, "CPU"), (cards, "GPU")) if share]
    return max(1, sum(int(min(node.get(name, 0) // share for share, name in shares)) for node in _nodes()))


def _needed_bytes(tasks: list[Task]) -> int:
    shapes, needed = {}, [1]
    for trial in (task.trial for task in tasks):
        r = trial.request
        shapes[trial.setup, r.height, r.width, r.num_frames, r.decode_chunk_size, r.max_guidance_scale > 1] = trial
    for trial in shapes.values():
        if prediction := estimate_if_readable(trial.setup, trial.request):
            needed.append(prediction.needed_bytes)
    return max(needed)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that lives."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
