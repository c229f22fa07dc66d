"""The pretended card itself: what it counts, and how it breaks."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.gpu
SIZE = 256


def test_it_counts_copies_memory_and_waiting(pretended):
    before = pretended.counts()
    matrix = torch.ones(SIZE, SIZE).to("cuda")
    assert (matrix @ matrix).sum().item() == SIZE**3
    after = pretended.counts()
    more = {name: after[name] - before[name] for name in ("to_card_bytes", "allocated_bytes", "synchronizations")}
    assert more == {"to_card_bytes": 4 * SIZE**2, "allocated_bytes": 4 * SIZE**2, "synchronizations": 1}
    del matrix
    assert torch.cuda.memory_allocated() == before["allocated_bytes"]


def test_it_runs_out_of_memory_and_goes_on(pretended):
    matrix = torch.ones(SIZE, SIZE, device="cuda")
    pretended.set_others_bytes(1 << 30)
    assert torch.cuda.mem_get_info()[0] < pretended.counts()["total_bytes"] - (1 << 30)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(pretended.counts()["total_bytes"] - (1 << 30), device="cuda")
    pretended.fail_allocation(0)
    with pytest.raises(torch.OutOfMemoryError):
        matrix + 1
    assert torch.equal((matrix + 1).cpu(), torch.full((SIZE, SIZE), 2.0))


def test_after_an_illegal_access_it_is_lost(pretended):
    pretended.set_lost(True)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        torch.ones(2, device="cuda")
