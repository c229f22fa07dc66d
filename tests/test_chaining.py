from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from svdlab import chain, generate, read
from svdlab.generation.chain import _jump
from svdlab.generation.clip import Seam

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_each_segment_starts_from_the_last_frame(micro, make_request, tmp_path):
    request = make_request(num_frames=3, num_inference_steps=1, decode_chunk_size=3)
    chained = chain(micro, request, 3, progress=False)
    assert (len(chained.frames), chained.segments) == (3 + 2 + 2, 3)
    assert [seam.frame for seam in chained.seams] == [3, 5]
    first = generate(micro, request, progress=False)
    second = generate(micro, dataclasses.replace(request, image=first.frames[-1], seed=6), progress=False)
    for frame, expected in zip(chained.frames, first.frames + second.frames[1:], strict=False):
        assert np.array_equal(np.asarray(frame), np.asarray(expected))
    saved = read(chained.save(tmp_path / "long.mp4"))
    assert saved.seams == chained.seams
    assert saved.picture == chained.picture == first.picture
    assert generate(micro, saved.request, progress=False).frames == first.frames


def test_a_cut_shows_as_a_jump():
    smooth = [Image.new("RGB", (8, 8), (i * 4, 0, 0)) for i in range(10)]
    assert _jump(smooth, 5) == pytest.approx(1)
    cut = [*smooth[:5], Image.new("RGB", (8, 8), (200, 200, 200)), *smooth[6:]]
    assert (_jump(cut, 5) or 0) > 20
    still = [smooth[0]] * 4
    assert _jump(still, 2) is None
    assert Seam(2, None).jump is None


def test_fewer_than_one_segment_is_refused(micro, make_request):
    with pytest.raises(ValueError, match="segments=0 is under 1"):
        chain(micro, make_request(), 0)
