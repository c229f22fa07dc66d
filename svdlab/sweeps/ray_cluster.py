"""A sweep on a Ray cluster: warm workers on every card, and what they make as it is finished.

Ray places the workers, starts them again where they die, and moves the data. Here is only what Ray cannot know: how
much of a card a worker needs, which task spares a worker loading other weights, and how often a task may kill one.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svdlab.messages import first_line
from svdlab.prediction.estimate import estimate
from svdlab.setup import Setup
from svdlab.sweeps.grid import with_image
from svdlab.sweeps.make_row import Task
from svdlab.sweeps.pictures import PictureCache
from svdlab.sweeps.ray_worker import Answer, RayWorker

_TRIES = 3  # a task that its worker does not survive so often is to blame itself
_WORKERS_PER_CARD = 2  # at most: one has the card while the other measures and writes its clip; more only take turns
_LOOK_SECONDS = 5  # how often new nodes are looked for


@contextmanager
def connected(on: str) -> Iterator[None]:
    """Reach Ray within a `with` block: the one that this process has already, else the one that is named.

    Args:
        on: An address. "ray" is the cluster that this machine belongs to; where it belongs to none, a Ray of its own
            is started, and ends with the block.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ConnectionError: If no Ray can be reached.
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
        raise ConnectionError(
            f"There is no Ray to reach at on={on!r} ({first_line(error)}): start it, or say 'ray'."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def has_cards() -> bool:
    """Whether any node of the cluster has a card. Within `connected`."""
    return any(node.get("GPU") for node in _nodes())


def cluster_setup(setup: Setup, has_cards: bool) -> Setup:
    """A setup as the workers of a cluster will take it, so that a sweep has one precision.

    Args:
        setup: The setup of a trial.
        has_cards: Whether any node has a card. Such a cluster uses its cards, in fp16 where nothing else is said; one
            without uses its processors, in fp32.

    Raises:
        ValueError: If the setup names one card: Ray gives them out.
    """
    if setup.device and ":" in setup.device:
        raise ValueError(f"device={setup.device!r} is one card, and on a cluster Ray gives them out: leave it out.")
    if has_cards:
        return replace(setup, dtype=setup.dtype or ("fp32" if setup.device == "cpu" else "fp16"))
    return replace(setup, dtype=setup.dtype or "fp32", device=setup.device or "cpu")


@dataclass
class WorkerHandle:
    """A worker as the driver sees it."""

    actor: Any
    process: str = ""  # its name; "" until it has started
    setup: Setup | None = None  # whose pipeline it has
    task: Task | None = None  # what it is making


class ClusterSweep:
    """The tasks of a sweep and the workers that make them. Within `connected`.

    A task whose worker dies goes to another one, at most three times. Ray's `max_task_retries` would wait with it until
    that worker is back, and one on a lost node may never be.

    Args:
        tasks: What to make.
        pictures: What gives their pictures.
        scratch: A claim in the results folder: workers that see it write there.
        store: The address of a store for a copy of all that is made; "" for none.
        quality: Whether clips are measured.
    """

    def __init__(self, tasks: Iterable[Task], pictures: PictureCache, scratch: Path, store: str, quality: bool) -> None:
        import ray

        self._pictures, self._quality = pictures, quality
        self._waiting: dict[Setup, deque[Task]] = {}
        for task in tasks:
            self._waiting.setdefault(task.trial.setup, deque()).append(task)
        self._unfinished = sum(map(len, self._waiting.values()))
        self._cores, self._cards = worker_share([task for queue in self._waiting.values() for task in queue])
        actor = ray.remote(RayWorker).options(num_cpus=self._cores, num_gpus=self._cards, max_restarts=_TRIES)
        self._new_actor = lambda: actor.remote(scratch.absolute(), store)
        self._workers: list[WorkerHandle] = []
        self._calls: dict[Any, WorkerHandle] = {}  # what Ray is asked for, and of whom
        self._deaths = Counter[str]()  # of workers, by the key of their task
        self._sent: dict[str, Any] = {}  # pictures travel once to each node, not with each task
        self._reason = ""  # why the last worker died

    def answers(
        self, on_workers: Callable[[int], object], on_death: Callable[[str], object]
    ) -> Generator[tuple[Task, Answer], None, None]:
        """What came of each task, as it is finished.

        Args:
            on_workers: Called with the number of workers that are up.
            on_death: Called with the name of a worker's process that has ended.

        Raises:
            RuntimeError: If no worker can be started.
            Exception: What the code of a worker raises.
        """
        import ray

        try:
            while self._unfinished:
                while len(self._workers) < min(places(self._cores, self._cards), self._unfinished):
                    self._workers.append(WorkerHandle(self._new_actor()))
                    self._start(self._workers[-1])
                busy = set(map(id, self._calls.values()))
                for worker in self._workers:
                    if id(worker) not in busy:
                        self._give_task(worker)
                if not self._calls:
                    raise RuntimeError(f"No worker of the cluster can be started: {self._reason}")
                starting = sum(worker.task is None for worker in self._calls.values())
                on_workers(len(self._workers) - starting)
                for call in ray.wait(list(self._calls), timeout=_LOOK_SECONDS)[0]:
                    worker = self._calls.pop(call)
                    task, worker.task = worker.task, None
                    answer = self._answer(call, worker, task, on_death)
                    if task and answer:
                        self._unfinished -= 1
                        yield task, answer
        finally:
            for worker in self._workers:
                ray.kill(worker.actor)
                on_death(worker.process)

    def _start(self, worker: WorkerHandle) -> None:
        """Wait for a worker to run; after it died too, however long Ray then takes to find it a place."""
        self._calls[worker.actor.start.options(max_task_retries=-1).remote()] = worker

    def _give_task(self, worker: WorkerHandle) -> None:
        import ray

        loaded = Counter(other.setup for other in self._workers if other.setup)
        setup = next_setup({setup: len(queue) for setup, queue in self._waiting.items()}, loaded, worker.setup)
        if setup is None:
            return
        task = self._waiting[setup].popleft()
        request, picture = task.trial.request, self._pictures.fitted(task.trial.request)
        if picture.sha256 not in self._sent:
            self._sent = dict(list(self._sent.items())[-63:]) | {picture.sha256: ray.put(picture)}
        sent = task
        if not isinstance(request.image, str):  # the fitted picture goes instead
            sent = replace(task, trial=replace(task.trial, request=with_image(request, None)))
        self._calls[worker.actor.make.remote(sent, self._sent[picture.sha256], self._quality)] = worker
        worker.setup, worker.task = setup, task

    def _answer(
        self, call: Any, worker: WorkerHandle, task: Task | None, on_death: Callable[[str], object]
    ) -> Answer | None:
        """What came of a call; None where the worker has started, or its task goes back into the queue."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer: Any = ray.get(call)
        except RayTaskError as error:
            raise (error.cause or error) from None
        except RayError as error:
            self._reason = first_line(error)
            if task is None:  # it ended for good; one that never started will not, however often it is tried
                if worker.process:
                    self._workers.remove(worker)
                return None
            on_death(worker.process)
            worker.setup = None
            self._start(worker)
            self._deaths[task.key] += 1
            if self._deaths[task.key] == _TRIES:
                return Answer(None, error=f"Its worker died {_TRIES} times while making it, at last: {self._reason}")
            answer = None
        if task is None:
            worker.process = answer
            return None
        if answer is None:  # another writer is at it, or its worker died
            self._waiting[task.trial.setup].append(task)
        return answer


def next_setup(waiting: Mapping[Setup, int], loaded: Mapping[Setup, int], own: Setup | None) -> Setup | None:
    """The setup whose task a worker gets next; None where loading other weights does not pay any more.

    A worker keeps its setup while that has tasks. Then comes the setup with the most tasks for each worker that has it,
    unless no more than one each are to come.

    Args:
        waiting: The number of tasks by setup.
        loaded: The number of workers by the setup whose pipeline they have.
        own: The setup whose pipeline this worker has.
    """
    if own is not None and waiting.get(own):
        return own
    most = max(waiting, key=lambda setup: waiting[setup] / (loaded.get(setup, 0) or 0.5))
    return most if waiting[most] > loaded.get(most, 0) else None


def worker_share(tasks: Iterable[Task]) -> tuple[float, float]:
    """The cores and cards that each worker reserves.

    As many share a card, or a node without one, as are predicted to fit into its memory together, with a core each. The
    least node counts for all. Ray limits the threads of a worker to its cores.

    Args:
        tasks: What the workers will make.
    """
    tasks, nodes = list(tasks), _nodes()
    needed = _needed_bytes(tasks)
    with_cards = [node for node in nodes if node.get("GPU")]
    if with_cards and any(task.trial.setup.device != "cpu" for task in tasks):
        cores = min(node.get("CPU", 0) / node["GPU"] for node in with_cards)
        several = max(1, min(_WORKERS_PER_CARD, (_card_bytes() or 0) // needed, int(cores)))
        return min(1.0, int(100 * cores / several) / 100), 1 / several
    nodes = [node for node in nodes if node.get("CPU", 0) >= 1] or [{"CPU": 1.0}]
    workers = [(node["CPU"], min(node["CPU"], node.get("memory", 0) // needed)) for node in nodes]
    return min(cores // max(1, count) for cores, count in workers), 0


def places(cores: float, cards: float) -> int:
    """The number of workers of a share that the nodes hold; at least 1, which waits for a node.

    Args:
        cores: The cores of a worker.
        cards: The cards of a worker.
    """
    shares = [(share, name) for share, name in ((cores, "CPU"), (cards, "GPU")) if share]
    return max(1, sum(int(min(node.get(name, 0) // share for share, name in shares)) for node in _nodes()))


def _needed_bytes(tasks: Iterable[Task]) -> int:
    shapes, needed = {}, [1]
    for trial in (task.trial for task in tasks):
        r = trial.request
        shapes[trial.setup, r.height, r.width, r.num_frames, r.decode_chunk_size, r.max_guidance_scale > 1] = trial
    for trial in shapes.values():
        try:
            needed.append(estimate(trial.setup, trial.request).needed_bytes)
        except (ValueError, OSError, RuntimeError):  # weights that cannot be read, say: the worker will tell
            continue
    return max(needed)


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that lives."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _card_bytes() -> int | None:
    """The memory of the smallest card; None where it is not told. NVIDIA's own tool is asked, since Ray hides cards
    from whoever has not reserved one, and all may be reserved."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(_cards_of_node).options(num_cpus=0)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    strategies = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    try:
        sizes = ray.get([task.options(scheduling_strategy=each).remote() for each in strategies], timeout=60)
    except (RayError, TimeoutError):
        return None
    return min((size for node in sizes for size in node), default=None)


def _cards_of_node() -> list[int]:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return [int(line) * 2**20 for line in text.split()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
