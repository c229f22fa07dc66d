"""The measures on drawn clips, where the truth is to be had; the table; photographs."""

import pytest
import torch

from training.bars import BARS, table
from training.evaluate import DRAWN, Edition, measure
from training.grids import grid
from training.measures import colourfulness, flicker_percent, optical_flow
from training.photographs import NAMES, photograph


@pytest.fixture(scope="module")
def figures():
    return measure(DRAWN, "cpu", [("rocket", 2), ("knobs", 2), ("world", "boat", 2)])


def test_drawn_clips_pass_every_bar_that_they_can(figures):
    assert figures["rank"] == [1.0]
    assert max(figures["speed error"]) < 0.03
    assert max(figures["heading error"]) < 1
    assert figures["flicker"] == [0.0]
    assert figures["flow at rest"][0] < 0.5, "the flame alone burns"
    assert figures["last boat"] == [100.0]
    assert figures["flow rank"][0] > 0.9


def test_what_flickers_is_measured_where_nothing_moves():
    clip = Edition(DRAWN).clip(2, 0)
    noise = 0.02 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    still = torch.zeros(clip.shape[-2:], dtype=torch.bool)
    still[:8, :16] = True
    assert flicker_percent(clip.clamp(0.1, 0.9) + noise, still) == pytest.approx(2 * 2 / torch.pi**0.5, rel=0.1)
    assert optical_flow((clip + noise).clamp(0, 1)) > 3 * optical_flow(clip)
    assert colourfulness(clip[0]) > colourfulness(0.5 * clip[0])


def test_a_table_says_which_edition_is_better(figures):
    worse = figures | {"speed error": [0.2], "flicker": [1.0], "vae rocket": [30.0], "size": [72, 128]}
    lines = dict(
        zip([bar.what for bar in BARS], table({"one": figures, "other": worse}, 1).splitlines()[2:], strict=False)
    )
    verdicts = {what: line.rsplit("|", 2)[1].strip() for what, line in lines.items()}
    assert verdicts["median relative error of speed against the rule (bucket 60 to 240)"] == "**first**"
    assert verdicts["flicker at bucket 0: mean change of still parts, of full scale"] == "**first**"
    assert verdicts["VAE reconstruction, PSNR"] == "", "only one of them has it"
    assert "72x128" in lines["picture, height x width"]


def test_a_grid_shows_every_world_at_four_buckets():
    picture = grid(Edition(DRAWN), 2)
    assert picture.shape == (3, 2 * 72, 6 * 128)
    first, resting, _, _, fast, truth = picture[:, 72:].split(128, 2)
    assert torch.equal(first, resting), "a ball stands still at bucket 0"
    assert torch.equal(fast, truth)


def test_ten_photographs_have_a_clips_shape():
    assert len(set(NAMES)) == 10
    for name in NAMES[:2]:
        picture = photograph(name, 36, 64)
        assert picture.shape == (3, 36, 64)
        assert picture.std() > 0.05
