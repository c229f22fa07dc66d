"""The pretended card counts and limits memory, counts copies, and can be lost; each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CARD = Path(__file__).parent / "pretended_card"
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
import card
try:
    library = card.build(Path(sys.argv[2]))
except RuntimeError as error:
    print(f"skip: {error}")
    raise SystemExit
inserted = card.insert(library, 8 << 30, desktop_bytes=1 << 30)
sent = torch.ones(256, 256).to("cuda")
assert inserted.counts()["to_card_bytes"] == inserted.counts()["allocated_bytes"] == 256 * 256 * 4
assert (sent @ sent).sum().item() == 256**3
assert inserted.counts()["synchronizations"] == 1
assert torch.cuda.mem_get_info()[0] < 7 << 30
for failing in (lambda: torch.empty(7 << 30, device="cuda"), lambda: inserted.fail_allocation(0) or sent + 1):
    try:
        failing()
    except torch.OutOfMemoryError:
        continue
    raise AssertionError("memory did not run out")
assert torch.equal((sent + 1).cpu(), torch.full((256, 256), 2.0))
del sent
assert torch.cuda.memory_allocated() == 0
inserted.set_lost(True)
try:
    torch.ones(2, device="cuda")
except RuntimeError as error:
    assert "illegal memory access" in str(error)
print("done")
"""


@pytest.mark.slow
def test_it_counts_runs_out_and_is_lost(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(CARD), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stdout.startswith("skip"):
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "done"
