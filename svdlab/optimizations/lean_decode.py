"""Decode all frames together in the memory that a few of them used to take: the same frames, no seams.

The VAE's decoder alternates blocks that look at one frame with blocks that look at one place in all frames. The first
run here a few frames at a time, the second a few rows at a time, and only one tensor of all frames lives between them.
The norms of the second kind look at everything, so their statistics are gathered first; for that one convolution in
eight is computed twice. The frames differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from svdlab.optimizations.registry import Optimization

if TYPE_CHECKING:
    import torch

ELEMENTS = 2**26  # of one piece of work: a frame of 128 channels at 576x1024 is a little more, and fills any card


def _decode(decoder: Any, video: torch.Tensor) -> torch.Tensor:
    """(frames, channels, height, width) latents to pixels."""
    first, *others = decoder.mid_block.resnets
    order = [decoder.conv_in, first]
    for attention, block in zip(decoder.mid_block.attentions, others, strict=False):  # as diffusers pairs them
        order += [attention, block]
    for up in decoder.up_blocks:
        order += [*up.resnets, *(up.upsamplers or ())]
    spatial: list[Any] = []  # modules that wait to run on each frame
    for module in order:
        if hasattr(module, "temporal_res_block"):
            video = _over_time(module, _frame_by_frame([*spatial, module.spatial_res_block], video))
            spatial = []
        else:
            spatial.append(module)
    spatial += [decoder.conv_norm_out, decoder.conv_act, decoder.conv_out]
    pixels = _frame_by_frame(spatial, video)
    return decoder.time_conv_out(pixels.transpose(0, 1)[None])[0].transpose(0, 1)


def _frame_by_frame(modules: list[Any], video: torch.Tensor) -> torch.Tensor:
    """The modules' output, written over the input where it has the same shape."""
    out, count, start = None, 1, 0
    while start < len(video):
        frames = video[start : start + count]
        for module in modules:
            frames = module(frames, None) if hasattr(module, "conv_shortcut") else module(frames)  # no time embedding
        if out is None:
            same = frames.shape[1:] == video.shape[1:] and frames.dtype == video.dtype
            out = video if same else frames.new_empty(len(video), *frames.shape[1:])
        out[start : start + count] = frames
        start += count
        count = max(1, ELEMENTS // max(frames[0].numel(), video[0].numel()))  # the first frame shows how large they get
    assert out is not None
    return out


def _over_time(block: Any, video: torch.Tensor) -> torch.Tensor:
    """The block's temporal half and its mixing, in place. Its convolutions see three frames and one place."""
    temporal = block.temporal_res_block
    rows = max(1, ELEMENTS // video[:, :, 0].numel())

    def strips() -> Iterator[torch.Tensor]:
        for rows_of_video in video.split(rows, dim=2):
            yield rows_of_video.transpose(0, 1)[None]  # (1, channels, frames, rows, width), a view

    def first_half(strip: torch.Tensor, statistics: Any) -> torch.Tensor:
        return temporal.conv1(temporal.nonlinearity(_normalised(temporal.norm1, strip, *statistics)))

    first = _statistics(temporal.norm1, strips())
    second = _statistics(temporal.norm2, (first_half(strip, first) for strip in strips()))
    for strip in strips():
        change = temporal.nonlinearity(_normalised(temporal.norm2, first_half(strip, first), *second))
        strip.copy_(block.time_mixer(x_spatial=strip, x_temporal=strip + temporal.conv2(change)))
    return video


def _statistics(norm: Any, pieces: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of each group over all pieces, in 32 bits, by Chan's way of joining variances."""
    import torch

    count, mean, squares, shift = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for piece in pieces:
        groups = piece[0].unflatten(0, (norm.num_groups, -1))
        dims, n = tuple(range(1, groups.ndim)), groups[0].numel()
        if count == 0:  # sums of squares would cancel where a mean is far over its deviation: they are taken near it
            shift = groups.mean(dims, keepdim=True, dtype=torch.float32).to(groups.dtype)
        groups = groups - shift
        piece_mean = groups.mean(dims, dtype=torch.float32)
        spread = torch.linalg.vector_norm(groups, dim=dims, dtype=torch.float32) ** 2 - n * piece_mean**2
        difference, total = piece_mean - mean, count + n
        squares = squares + spread.clamp(min=0) + difference**2 * (count * n / total)
        mean, count = mean + difference * (n / total), total
    return shift.flatten().float() + mean, squares / count


def _normalised(norm: Any, piece: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """What the group norm would give if it saw everything: a batch norm whose statistics are known."""
    from torch.nn.functional import batch_norm

    mean, variance = (each.repeat_interleave(norm.num_channels // norm.num_groups) for each in (mean, variance))
    return batch_norm(piece, mean, variance, norm.weight.float(), norm.bias.float(), eps=norm.eps)


def _apply(pipeline: Any, value: str | None) -> None:
    import torch

    class PieceByPiece(type(pipeline.vae.decoder)):
        def forward(self, sample: Any, image_only_indicator: Any, num_frames: int = 1) -> Any:
            return torch.cat([_decode(self, video) for video in sample.split(num_frames)])

    pipeline.vae.decoder.__class__ = PieceByPiece


LEAN_DECODE = Optimization(
    "lean-decode",
    phase="graph",
    affects="rounding",
    what="the VAE's decoder piece by piece: a large decode chunk, up to all frames, in a fraction of the memory",
    apply=_apply,
    holds=lambda pipeline: "PieceByPiece" in pipeline.vae.decoder.forward.__qualname__,
    conflicts={
        "compile-vae": "its loops would be unrolled into one huge graph",
        "sequential-offload": "it reads weights of norms that are elsewhere",
    },
    stages=("decode",),
)
