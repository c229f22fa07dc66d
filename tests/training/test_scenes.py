"""The drawn world keeps its rule: speeds, stillness, seeds, sizes."""

import itertools
import math

import pytest
import torch

from svdlab.tiny import pixels_per_frame
from training.measures import (
    camera_shift,
    find_camera,
    find_rocket,
    movement,
    moving_parts,
    psnr,
    psnr_moved,
    turn_between,
)
from training.scenes import WIDTH, WORLDS, draw


def test_the_rule_is_exact_and_monotonic():
    speeds = [pixels_per_frame(bucket, 7, WIDTH) for bucket in range(0, 256, 5)]
    assert speeds[0] == 0
    assert all(a < b for a, b in itertools.pairwise(speeds))
    assert all(pixels_per_frame(127, fps, WIDTH) > pixels_per_frame(127, fps + 1, WIDTH) for fps in range(5, 30))
    assert pixels_per_frame(255, 7, width=1024) == 8 * pixels_per_frame(255, 7, width=128)


@pytest.mark.parametrize(("bucket", "fps"), [(40, 7), (127, 12), (255, 6)])
def test_the_rocket_moves_by_the_rule_where_its_nose_points(bucket, fps):
    _, truth = draw([11, 12], bucket, fps)
    step = truth.centres[:, 1:] - truth.centres[:, :-1]
    assert torch.allclose(step.norm(dim=-1), torch.tensor(pixels_per_frame(bucket, fps, WIDTH)), atol=1e-4)
    assert torch.allclose(truth.pixels_per_frame, torch.tensor(pixels_per_frame(bucket, fps, WIDTH)))
    for (x, y), heading in zip(step[:, 0].tolist(), truth.heading.tolist(), strict=True):
        assert turn_between(math.degrees(math.atan2(-y, x)), heading) < 0.1


def test_measuring_finds_the_truth():
    for seed, size in ((21, (72, 128)), (22, (72, 128)), (21, (96, 160))):
        clip, truth = draw([seed], 180, 7, 14, *size)
        speed, heading = movement(find_rocket(clip[0], seed))
        assert speed == pytest.approx(float(truth.pixels_per_frame) * 128 / size[1], rel=0.03)
        assert turn_between(heading, float(truth.heading)) < 1


def test_at_bucket_0_only_the_flame_moves():
    clip, truth = draw([5], 0, 7)
    changed = (clip[0] - clip[0, :1]).abs().amax((0, 1)) > 1 / 255
    assert 0 < changed.float().mean() < 0.03
    rows, columns = changed.nonzero().unbind(1)
    offsets = torch.stack([columns, rows], 1).float() - truth.centres[0, 0]
    radians = math.radians(float(truth.heading[0]))
    assert (offsets @ torch.tensor([math.cos(radians), -math.sin(radians)]) < 0).all(), "the flame is behind the middle"


def test_a_ball_falls_and_comes_back():
    _, truth = draw([3], 255, 25, frames=60, world="ball")
    heights = truth.centres[0, :, 1]
    assert (heights >= heights[0] - 1e-3).all(), "it never rises above its start"
    lowest = int(heights.argmax())
    assert 0 < lowest < 59, "it meets the floor"
    returned = heights[2 * lowest - 1 : 2 * lowest + 2].min()
    assert returned == pytest.approx(float(heights[0]), abs=0.5), "it rises as long as it fell"


@pytest.mark.parametrize("world", ["photo", "leaves", "grain"])
def test_a_camera_approaches_its_goal(world):
    clip, truth = draw([4], 200, 7, world=world)
    camera = find_camera(clip[0], clip[0, 0])
    assert psnr_moved(clip[0, -1], clip[0, 0], camera) > 28, "the last frame is the first one, moved"
    half_way = find_camera(clip[0, :7], clip[0, 0])
    shift, shift_half_way = (camera_shift(each, *clip.shape[-2:]) for each in (camera, half_way))
    assert shift_half_way == pytest.approx(6 / 13 * shift, rel=0.1)
    assert psnr(clip[0, -1], clip[0, 0]) < 26
    large, _ = draw([4], 200, 7, height=144, width=256, world=world)
    x, y = (2 * truth.centres[0, 0]).round().int().tolist()
    box = large[0][..., y - 4 : y + 4, x - 4 : x + 4]
    assert psnr(box[0], box[-1]) > psnr(large[0, 0], large[0, -1]) + 3, "what it approaches stays in its place"


@pytest.mark.parametrize("world", WORLDS)
def test_seeds_are_worlds(world):
    clips, _ = draw([1, 2, 3], [0, 100, 200], [6, 7, 8], frames=4, world=world)
    assert clips.shape == (3, 4, 3, 72, 128)
    assert clips.min() >= 0
    assert clips.max() <= 1
    for index, (bucket, fps) in enumerate([(0, 6), (100, 7), (200, 8)]):
        clip, _ = draw([index + 1], bucket, fps, frames=4, world=world)
        assert torch.allclose(clip[0], clips[index], atol=1e-5)
    assert not torch.allclose(clips[0, 0], clips[1, 0], atol=0.1)
    slow_clip, _ = draw([3], 10, 20, frames=1, world=world)
    assert torch.allclose(slow_clip[0, 0], clips[2, 0], atol=1e-5), "the first frame depends on the seed alone"
    if world != "rocket":  # its flame burns
        assert torch.allclose(clips[0, 0], clips[0, -1], atol=1e-5), "at bucket 0 it stands still"
        assert moving_parts(clips[2]).float().mean() > 0.03


@pytest.mark.parametrize("world", WORLDS)
def test_one_world_at_every_size(world):
    small, truth = draw([7], 200, 7, frames=3, world=world)
    large, large_truth = draw([7], 200, 7, frames=3, height=144, width=256, world=world)
    shrunk = torch.nn.functional.avg_pool2d(large[0], 2)
    assert (shrunk - small[0]).square().mean() < 2e-3
    assert torch.allclose(large_truth.centres, truth.centres * 2, atol=0.2)
    assert torch.allclose(large_truth.pixels_per_frame, truth.pixels_per_frame * 2)


@pytest.mark.parametrize("world", WORLDS)
def test_a_world_is_drawn_on_one_device_alone(world):
    """The meta device computes nothing, and refuses to meet a tensor of any other."""
    clips, truth = draw([1, 2], [10, 200], 7, 2, 32, 48, world, device="meta")
    assert clips.is_meta
    assert truth.centres.is_meta


def test_an_unknown_world_is_refused():
    with pytest.raises(ValueError, match="rocket"):
        draw([0], 0, 7, world="submarine")
