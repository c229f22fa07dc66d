"""The tests that need a card, on a pretended one: `pytest -m gpu` runs the same on a real card.

The card takes PyTorch's name for CUDA, so it gets processes of its own. It is built once for each version of torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "tests" / "pretended_card"
BUILT = ROOT / "build" / "pretended_card"
GiB = 2**30
pytestmark = pytest.mark.xdist_group("pretended card")  # one worker builds it


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """Of a Python that finds the card."""
    sys.path.insert(0, str(FOLDER))
    try:
        import card

        library = card.build(BUILT)
    except RuntimeError as error:
        pytest.skip(f"there is no pretended card: {error}")
    finally:
        sys.path.remove(str(FOLDER))
    path = os.pathsep.join([str(FOLDER), str(ROOT)])
    options = {"library": str(library), "total_bytes": 8 * GiB}
    return os.environ | {"PRETENDED_CARD": json.dumps(options), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run_on_card(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_the_card_counts_runs_out_and_is_lost(environment):
    run_on_card(environment, "-c", PROGRAM)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("marks", ["gpu and not slow", pytest.param("gpu and slow", marks=pytest.mark.slow)])
def test_what_needs_a_card(environment, marks):
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", marks]
    run_on_card(environment, "-m", "pytest", *options, "tests/on_a_card")


PROGRAM = """
import pretended_card as card
import torch

sent = torch.ones(256, 256).to("cuda")
assert card.counts()["to_card_bytes"] == card.counts()["allocated_bytes"] == 256 * 256 * 4
assert (sent @ sent).sum().item() == 256**3
assert card.counts()["synchronizations"] == 1
card.set_others_bytes(1 << 30)
assert torch.cuda.mem_get_info()[0] < 7 << 30
for failing in (lambda: torch.empty(7 << 30, device="cuda"), lambda: card.fail_allocation(0) or sent + 1):
    try:
        failing()
    except torch.OutOfMemoryError:
        continue
    raise AssertionError("memory did not run out")
assert torch.equal((sent + 1).cpu(), torch.full((256, 256), 2.0))
del sent
assert torch.cuda.memory_allocated() == 0
card.set_lost(True)
try:
    torch.ones(2, device="cuda")
except RuntimeError as error:
    assert "illegal memory access" in str(error)
"""
