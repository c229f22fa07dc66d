"""A clip: frames, the picture that the model saw, and everything that is needed to make them again.

`generate` makes one, `Clip.save` writes it as a video that plays anywhere, `read` opens that again. The request, the
setup and the picture travel inside the file. The user's image is read once, before a clip is made. What is done with
the clip afterwards uses the picture that it holds, whatever has become of the image's file by then.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import svdlab
from svdlab.media import images
from svdlab.media.images import image_sha256
from svdlab.messages import shorten
from svdlab.request import Request, conditioning, quiet_requests
from svdlab.setup import Setup

if TYPE_CHECKING:
    import numpy as np
    import torch

    OnStep = Callable[[int, int, torch.Tensor], None]


OF_REQUEST: Any = None  # a picture left out: fitted from the request's image when the clip is made
BLACK = 2  # of 255: a frame with no value above this shows nothing on any screen


@dataclass(frozen=True)
class Seam:
    """Where one segment of a chained clip ends and the next begins.

    Attributes:
        frame: The index of the new segment's first frame.
        jump: The change into it over the median of the others: 1 cannot be seen, 3 is a cut. None if nothing moves.
    """

    frame: int
    jump: float | None


@dataclass(frozen=True)
class Clip:
    """Frames, and what they were made from; plays inline as the last line of a cell. `save` writes it, `read` opens it.

    Attributes:
        frames: PIL images, RGB, of the request's size.
        request: What was asked for, every open field filled in.
        setup: How the model ran; None for a pipeline that svdlab did not load.
        timings: Seconds by name: `sample_seconds` (encoding and denoising) and `decode_seconds`.
        notes: What was noticed or mended on the way, a sentence each.
        seams: Where the segments of a chained clip join, each with `frame`, the index of a segment's first frame, and
            `jump`, the change into it over the usual change: 1 cannot be seen, 3 is a cut, None if nothing moves.
        latents: What was decoded, (frames, channels, height, width), on the processor, scaled as the UNet has them: the
            VAE takes them divided by `pipeline.vae.config.scaling_factor`. None for a clip from a file.
        picture: What the model saw: RGB, of the request's size. Left out, it is fitted from the request's image.

    Example:
        With `clip = generate(load(Setup("tiny")), Request(image="rocket", num_frames=2))`:
        >>> clip.request.seed, len(clip.frames), clip.picture.size
        (0, 2, (160, 96))
    """

    frames: list[Image.Image]
    request: Request
    setup: Setup | None
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seams: tuple[Seam, ...] = ()
    latents: torch.Tensor | None = field(default=None, repr=False, compare=False)
    picture: Image.Image = OF_REQUEST

    def __post_init__(self) -> None:
        if self.picture is None:
            object.__setattr__(self, "picture", conditioning(self.request))

    @property
    def segments(self) -> int:
        """How many calls of the model this clip was chained from; 1 for an ordinary one."""
        return len(self.seams) + 1

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Width and height of the request's image before it was fitted; None where that is not known."""
        return self.picture.info.get("image_size")

    def save(self, path: str | Path, fps: float | None = None, **options: Any) -> Path:
        """Write the clip as a video that carries its request, setup and picture inside.

        Args:
            path: `.mp4`, `.gif`, `.webp` or, without a suffix, a folder of PNG frames. Missing folders are made.
            fps: Playback speed, 0.1 to 240. Left out, the clip plays at the `fps` that it was conditioned on.
            options: `loop` is how often it plays: 0 (default) for ever, or 1, 2 and more. An MP4 or a folder holds its
                frames that often; for 0, once, and the player decides. `max_bytes` is the most that a GIF may take, 1
                or more; its colours and size give way; default: no limit. `crf` is the quality of an MP4: 1 (best) to
                51 (worst), default 17.

        Returns:
            The path. An older file there is replaced.

        Raises:
            ValueError: Another suffix, a folder that holds more than PNG frames, an option that the format has not, or
                a GIF that cannot be so small.

        Example:
            With `clip = generate(load(Setup("tiny")), Request(image="rocket"))`:
            >>> clip.save("fast.gif", fps=12, max_bytes=100_000).name
            'fast.gif'
        """
        image = self.request.image
        settings = {
            "svdlab": svdlab.__version__,
            "request": vars(self.request) | {"image": image if isinstance(image, str) else None},
            "setup": None if self.setup is None else dataclasses.asdict(self.setup),
            "image_size": self.image_size,
            "timings": self.timings,
            "notes": self.notes,
            "seams": [dataclasses.asdict(seam) for seam in self.seams],
        }
        text = json.dumps(settings, ensure_ascii=False)
        from svdlab.media.write_video import write_video  # PyAV, which clips that are only measured can do without

        return write_video(
            path, self.frames, self.request.fps if fps is None else fps, metadata=text, picture=self.picture, **options
        )

    def _repr_html_(self) -> str:
        from svdlab.media.show import show

        return show(self)._repr_html_()


def frame_changes(frames: list[Image.Image]) -> np.ndarray:
    """The mean absolute change of the pixels into each frame but the first, in levels."""
    import numpy as np

    pixels = np.stack([np.asarray(frame, dtype=np.float32) for frame in frames])
    return np.abs(np.diff(pixels, axis=0)).mean(axis=(1, 2, 3))


def read(path: str | Path) -> Clip:
    """A saved clip, with the request, the setup and the picture that made it; nothing is fetched from the web.

    Request, setup, timings and notes are exact; the frames are as the file holds them (MP4 and GIF lose a little).

    Args:
        path: What `Clip.save` wrote.

    Returns:
        The clip. If the original image file still gives the same picture, the request still points to it; if not, or if
        it was a URL, the request holds the picture itself. Either way it makes the same clip again.

    Raises:
        ValueError: There is no file, it holds no settings of svdlab's or not the picture, or is no complete video.

    Example:
        With `clip = generate(load(Setup("tiny")), Request(image="rocket"))`:
        >>> saved = read(clip.save("clip.mp4"))
        >>> saved.request == clip.request, saved.picture == clip.picture
        (True, True)
    """
    from svdlab.media.read_video import read_frames, read_metadata

    text, cover = read_metadata(path)
    try:
        settings = json.loads(text or "")
        fields = dict(settings["request"])
        setup = settings["setup"] and Setup.from_json(settings["setup"])
        seams = tuple(Seam(**seam) for seam in settings.get("seams", ()))
        image_size = tuple(map(int, settings.get("image_size") or ()))[:2]
        timings, notes = dict(settings.get("timings", {})), tuple(settings.get("notes", ()))
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error) if isinstance(error, ValueError) and text and "svdlab" in text else "none found"
        raise ValueError(f"{path} holds no settings that svdlab can read ({reason}): use one of clip.save.") from error
    with quiet_requests():  # said when the clip was made, and in its notes
        request, picture = _with_image(fields, cover, path)
    if len(image_size) == 2:
        picture.info["image_size"] = image_size
    return Clip(read_frames(path)[0], request, setup, timings, notes, seams, picture=picture)


def _with_image(fields: dict[str, Any], cover: Image.Image | None, path: str | Path) -> tuple[Request, Image.Image]:
    # The image keeps its name only where that still gives the pixels of the copy inside the file: a file from somebody
    # else cannot make a request point at a picture of the reader's that it does not hold itself.
    name = fields.pop("image", None)
    example = isinstance(name, str) and name in images.EXAMPLES
    if cover is None:
        if example:
            request = Request.from_json(fields | {"image": name})
            return request, conditioning(request)
        raise ValueError(
            f"The picture that the clip was made from is not in {path} (its name was {shorten(name)}): make the clip "
            "again from a picture of your own, or take a copy of the clip that was not converted."
        )
    carried = dataclasses.replace(Request.from_json(fields | {"image": "rocket"}), image=cover)
    picture = conditioning(carried)  # older files carry a picture in memory unfitted
    with suppress(ValueError, OSError, RuntimeError):  # no image any more, 100,000 letters, the home of nobody
        if example or (isinstance(name, str) and Path(name).expanduser().is_file()):  # never a URL
            request = dataclasses.replace(carried, image=name)
            if image_sha256(conditioning(request)) == image_sha256(picture):
                return request, picture
    return carried, picture
