"""The tests that need a card, on a pretended one: `pytest -m gpu` runs the same on a real card.

The card takes PyTorch's name for CUDA, so its tests get one process of their own. It is built once for each version of
torch. `make card` and CI run this, `make test` does not.
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_what_needs_a_card():
    sys.path.insert(0, str(FOLDER))
    try:
        import card

        library = card.build(BUILT)
    except RuntimeError as error:
        pytest.skip(f"there is no pretended card: {error}")
    finally:
        sys.path.remove(str(FOLDER))
    options = {"library": str(library), "total_bytes": 8 * GiB}
    path = os.pathsep.join([str(FOLDER), str(ROOT)])
    environment = os.environ | {"PRETENDED_CARD": json.dumps(options), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "gpu"]
    command += ["--log-level=WARNING", "tests/on_a_card"]  # torch.compile would fill the log
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-5000:], done.stderr[-2000:])
    assert done.returncode == 0
