"""The same rows from a Ray cluster as from here, whoever is killed on the way; on a real Ray that the tests start."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from sweeps import check_folder, make_trials

from svdlab import Setup
from svdlab.rows.row_files import read_rows
from svdlab.sweeps import ray_cluster
from svdlab.sweeps.dry_run import dry_run
from svdlab.sweeps.make_row import Task
from svdlab.sweeps.run import run

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
ROOT = Path(__file__).parents[1]
SMALL = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
COLD = Setup("svd", dtype="bf16")


def fail_some_seeds() -> None:
    """In every worker, before its first task: seed 13 ends it as the system ends what takes too much memory, and seed
    14 asks for more than the process may have."""
    from svdlab.sweeps import make_row

    plain = make_row.generate

    def generate(pipeline, request, **options):
        if request.seed == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if request.seed == 14:
            import resource

            import torch

            limits = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (64 * 2**30, limits[1]))
            try:
                torch.empty(128 * 2**30, dtype=torch.uint8)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limits)
        return plain(pipeline, request, **options)

    make_row.generate = generate


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two cores, ended whatever happens; more nodes may join."""
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **SMALL})
    try:
        options = {"log_to_driver": False, "logging_level": "error"}
        ray.init(cluster.address, runtime_env={"worker_process_setup_hook": fail_some_seeds}, **options)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def setup(checkpoint) -> Setup:
    return Setup("svd", weights=str(checkpoint), dtype="fp32")


def run_on_ray(trials, folder, **options):
    return run(trials, folder, on="ray", **{"progress": False, "quality": False} | options)


def find_workers(folder: Path) -> list[tuple[str, int]]:
    """Key and process of what is being made."""
    claims = [path.name.split("~") for path in folder.glob(".*~*~*~*~*")]
    return [(key[1:], int(process)) for key, _, process, *_ in claims if key not in (".sweep", ".store")]


@contextmanager
def repeat_beside(attempt: Callable[[], bool]) -> Iterator[list[float]]:
    """Call `attempt` again and again beside what runs, until it succeeds; gives a list for the time when it did."""
    finished, hits = threading.Event(), []

    def watch() -> None:
        while not finished.is_set() and not hits:
            if attempt():
                hits.append(time.time())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield hits
    finally:
        finished.set()
        watcher.join()


# --- who gets what ---------------------------------------------------------------------------------------------------


def test_a_worker_gets_the_share_that_its_setup_needs(monkeypatch, setup, make_request):
    trials, gib = make_trials([setup, dataclasses.replace(setup, device="cpu")], make_request, seed=1), 2**30

    def share(needed_gib, trials, *nodes):
        monkeypatch.setattr(ray_cluster, "_nodes", lambda: list(nodes))
        monkeypatch.setattr(ray_cluster, "_needed_bytes", lambda _: needed_gib * gib)
        cores, cards = ray_cluster._worker_share([Task("", trial) for trial in trials])
        return cores, cards, ray_cluster._places(cores, cards)

    head, cards = {"CPU": 4.0, "memory": 16 * gib}, {"CPU": 16.0, "GPU": 4.0, "memory": 64 * gib}
    assert share(20, trials, head, cards, cards) == (1, 1, 8)
    assert share(1, trials, cards | {"CPU": 2.0}) == (0.5, 1, 4)  # hardly any cores
    assert share(2, trials[1:], cards) == (1, 0, 16)
    assert share(2, trials, head) == (1, 0, 4)
    assert share(6, trials, head, {"CPU": 2.0, "memory": 16 * gib}) == (1, 0, 6)
    assert share(8, trials, head) == (2, 0, 2)  # as many as the memory holds, the cores among them
    assert share(99, trials, head) == (4, 0, 1)
    assert share(2, trials) == (1, 0, 1)  # no node is up yet


def test_one_precision_for_all_whatever_this_machine_has():
    settle = ray_cluster.cluster_setup
    assert settle(Setup("svd"), True) == Setup("svd", dtype="fp16")
    assert settle(Setup("svd", device="cpu"), True) == Setup("svd", dtype="fp32", device="cpu")
    assert settle(COLD, True) == COLD
    assert settle(Setup("svd"), False) == Setup("svd", dtype="fp32", device="cpu")
    with pytest.raises(ValueError, match="device='cuda:1' is one card, and on a cluster Ray gives them out"):
        settle(Setup("svd", device="cuda:1"), True)


def test_a_ray_that_does_not_start_in_time_is_one_sentence(monkeypatch, setup, make_request, tmp_path):
    def time_out(**_):
        raise Exception("The current node timed out during startup.\nMore")  # as bare as Ray raises it

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(ConnectionError, match=r"no Ray to reach .*The current node timed out"):
        run_on_ray(make_trials(setup, make_request, seed=1), tmp_path)


def test_a_finished_sweep_does_not_start_ray(monkeypatch, setup, make_request, tmp_path):
    trials = make_trials([setup, dataclasses.replace(setup, dtype=None)], make_request, seed=[1, 2])
    rows = run(trials, tmp_path, progress=False, quality=False)
    monkeypatch.setattr(ray_cluster, "connected", lambda on: 1 / 0)
    assert [row.key for row in run_on_ray(trials, tmp_path)] == [row.key for row in rows]
    monkeypatch.setattr("svdlab.setup.best_device", lambda: "cuda")  # elsewhere, and its own precision is another one
    assert (dry_run(trials, tmp_path).to_make, dry_run(trials, tmp_path, on="ray").to_make) == (2, 0)
    with pytest.raises(ZeroDivisionError):
        run_on_ray(make_trials(setup, make_request, seed=[1, 3]), tmp_path)


def test_without_ray_one_sentence_says_what_to_install(monkeypatch, setup, make_request, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"on='ray' needs Ray: pip install \"svdlab\[ray\]\" brings it\.$"):
        run_on_ray(make_trials(setup, make_request, seed=1), tmp_path / "rows")
    assert not (tmp_path / "rows").exists()
    with pytest.raises(ValueError, match="name the cluster"):
        run([], tmp_path, store="s3://bucket/rows")


def test_a_local_run_does_not_load_ray():
    code = "import sys, svdlab.sweeps.run; print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


# --- the same rows ---------------------------------------------------------------------------------------------------


def test_a_cluster_makes_the_rows_that_this_machine_makes(cluster, setup, make_request, picture, tmp_path, capsys):
    picture.rotate(180).save(tmp_path / "cat.png")
    bf16, broken = dataclasses.replace(setup, dtype="bf16"), dataclasses.replace(setup, weights=str(tmp_path / "none"))
    trials = make_trials([setup, bf16], partial(make_request, image=picture), seed=1)
    trials += make_trials([setup, bf16], partial(make_request, image=str(tmp_path / "cat.png")), seed=1)
    trials += make_trials(broken, make_request, seed=[1, 2])
    rows = run_on_ray([*trials, trials[0]], tmp_path / "there", progress=True, quality=True)
    local_rows = run(trials, tmp_path / "here", progress=False, quality=True)
    assert [row.key for row in rows] == [row.key for row in (*local_rows, local_rows[0])]
    assert [row.status for row in rows] == ["done"] * 4 + ["failed"] * 2 + ["done"]
    assert "nor a folder that exists" in (rows[4].error or "")
    for row, local_row in zip(rows, local_rows, strict=False):
        assert (row.request, row.quality, row.axes) == (local_row.request, local_row.quality, local_row.axes)
        if row.clip:
            assert row.open().request == local_row.open().request
            assert [f.tobytes() for f in row.open().frames] == [f.tobytes() for f in local_row.open().frames]
    check_folder(tmp_path / "there", trials, failed=2)
    assert "2 workers" in (text := capsys.readouterr().err)
    assert "clips a minute" in text
    assert dry_run(trials, tmp_path / "there").to_make == 0
    assert run_on_ray(trials, tmp_path / "there") == rows[:-1]
    new_rows = run_on_ray(trials, tmp_path / "there", retry_failed=True)
    assert new_rows[:4] == rows[:4]
    assert all(new.created > old.created for new, old in zip(new_rows[4:], rows[4:6], strict=True))


def test_a_worker_killed_in_the_middle_of_a_clip_costs_nothing(cluster, setup, make_request, tmp_path):
    trials = make_trials(setup, make_request, steps=6, seed=range(6))

    def strike() -> bool:
        busy = find_workers(tmp_path)
        for _, pid in busy[:1]:
            time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)
        return bool(busy)

    with repeat_beside(strike) as hits:
        rows = run_on_ray(trials, tmp_path)
    assert hits
    assert [row.request.seed for row in rows] == list(range(6))
    check_folder(tmp_path, trials)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="a folder that only one process sees")
@pytest.mark.slow
def test_clips_come_through_ray_where_there_is_no_shared_folder_and_lie_in_the_store_too(
    cluster, setup, make_request, picture, tmp_path
):
    trials = [*make_trials(setup, make_request, seed=[1, 2]), *make_trials(setup, make_request, seed=14)]
    (tmp_path / "real").mkdir()
    descriptor = os.open(tmp_path / "real", os.O_RDONLY)
    try:
        rows = run_on_ray(trials, Path(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)
    assert "llocat" in (rows[2].error or "")  # a failure comes through, too
    check_folder(tmp_path / "real", trials, failed=1)

    store = f"file://{tmp_path}/bucket/motion"
    run_on_ray(trials[:2], tmp_path / "first", store=store)
    check_folder(tmp_path / "first", trials[:2])
    check_folder(tmp_path / "bucket" / "motion", trials[:2])
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bucket" / "motion").iterdir()}
    run_on_ray(trials[:2], tmp_path / "second", store=store)  # another driver, elsewhere
    check_folder(tmp_path / "second", trials[:2])
    assert times == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "bucket" / "motion").iterdir()}


# --- what may happen -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_trial_that_always_kills_its_worker_is_recorded_and_the_rest_go_on(cluster, setup, make_request, tmp_path):
    trials = make_trials(setup, make_request, seed=[11, 12, 13, 14, 15, 16])
    rows = run_on_ray(trials, tmp_path)
    assert [row.status for row in rows] == ["done", "done", "failed", "failed", "done", "done"]
    assert (rows[2].error or "").startswith("Its worker died 3 times while making it, at last: ")
    assert "llocat" in (rows[3].error or "")
    check_folder(tmp_path, trials, failed=2)
    assert run_on_ray(trials, tmp_path) == rows


@pytest.mark.slow
def test_a_lost_node_takes_nothing_with_it_and_a_new_one_is_used(cluster, setup, make_request, tmp_path):
    trials = make_trials(setup, make_request, steps=4, seed=range(100, 124))
    nodes = [cluster.add_node(num_cpus=1, **SMALL)]
    try:
        with ThreadPoolExecutor(1) as executor:  # (nodes start in the main thread only)
            future = executor.submit(run_on_ray, trials, tmp_path)
            while len({pid for _, pid in find_workers(tmp_path)}) < 3 and not future.done():
                time.sleep(0.002)
            lost_pids = {pid for _, pid in find_workers(tmp_path)}
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1, **SMALL))
            new_pids = set[int]()
            while not future.done():
                new_pids |= {pid for _, pid in find_workers(tmp_path)}
                time.sleep(0.002)
            future.result()
    finally:
        for node in nodes:
            cluster.remove_node(node)
    assert len(lost_pids) == 3
    assert new_pids - lost_pids, "the new node was not used"
    check_folder(tmp_path, trials)


@pytest.mark.slow
def test_a_driver_killed_is_started_again(cluster, setup, make_request, picture, tmp_path):
    picture.save(tmp_path / "cat.png")
    trials = make_trials(setup, partial(make_request, image=str(tmp_path / "cat.png")), steps=4, seed=range(12))
    code = (
        "import sys, pickle; from svdlab import run; from pathlib import Path; "
        "run(pickle.loads(Path(sys.argv[1]).read_bytes()), sys.argv[2], on=sys.argv[3], quality=False)"
    )
    (tmp_path / "trials").write_bytes(pickle.dumps(trials))
    folder = tmp_path / "rows"
    driver = subprocess.Popen([sys.executable, "-c", code, tmp_path / "trials", folder, cluster.address])
    try:
        while driver.poll() is None and len(list(folder.glob("*.json"))) < 2:
            time.sleep(0.05)
    finally:
        driver.kill()
        driver.wait()
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert 2 <= len(times) < 12
    run_on_ray(trials, folder)
    check_folder(folder, trials)
    assert times.items() <= {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}.items()


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(cluster, setup, make_request, tmp_path):
    trials = make_trials(setup, make_request, steps=4, seed=range(12))

    def strike() -> bool:
        if enough := len(list(tmp_path.glob("*.json"))) >= 2:
            os.kill(os.getpid(), signal.SIGINT)
        return enough

    with repeat_beside(strike), pytest.raises(KeyboardInterrupt, match=r"Stopped: \d+ of 12 rows are in"):
        run_on_ray(trials, tmp_path)
    count = len(read_rows(tmp_path))
    assert 2 <= count < 12
    run_on_ray(trials, tmp_path)
    check_folder(tmp_path, trials)


@pytest.mark.slow
def test_the_notebook_runs_on_a_cluster_from_the_command_line(cluster, tmp_path):
    (tmp_path / "study.yaml").write_text(
        "axes: {motion_bucket_id: [60, 180], seed: [1]}\n"
        "fixed: {num_frames: 4, num_inference_steps: 1, decode_chunk_size: 4}\n"
    )
    command = [sys.executable, "-m", "svdlab", "run", str(ROOT / "notebooks/02_micro_conditioning.ipynb"), "study.yaml"]
    process = subprocess.run(
        [*command, "--on", cluster.address], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    copy = (tmp_path / "results/study/02_micro_conditioning.ipynb").read_text()
    assert "clip 2 of 2, 2 workers" in copy
    assert len(read_rows(tmp_path / "results/study")) == 2


def test_the_example_clusters_are_what_ray_takes():
    import yaml
    from ray.autoscaler._private.util import prepare_config, validate_config

    for path in sorted((ROOT / "clusters").glob("*.yaml")):
        validate_config(prepare_config(yaml.safe_load(path.read_text())))
    script = (ROOT / "clusters" / "slurm.sh").read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    process = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "symmetric-run", "--help"], capture_output=True
    )
    assert b"--min-nodes" in process.stdout
