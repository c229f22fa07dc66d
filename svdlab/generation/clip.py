"""A clip, and how it comes about: `generate` asks a pipeline for one, `read` opens one that was saved.

>>> clip = generate(pipeline, Request.for_variant("tiny", image="rocket", seed=11))
>>> clip.save("rocket.mp4")
>>> generate(pipeline, read("rocket.mp4").request).frames == clip.frames
True
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

import svdlab
from svdlab.media import images
from svdlab.media.images import image_sha256
from svdlab.request import Request, conditioning
from svdlab.setup import Setup

if TYPE_CHECKING:
    import torch

    OnStep = Callable[[int, int, torch.Tensor], None]


BLACK = 2  # of 255: a frame with no value above this shows nothing on any screen


@dataclass(frozen=True)
class Seam:
    """Where one segment of a chained clip ends. `jump` is the change across it over the median change between
    neighbouring frames: 1 cannot be seen, 3 is a visible cut."""

    frame: int  # the first frame of the new segment
    jump: float | None  # None: nothing else moves, so there is nothing to compare with


@dataclass(frozen=True)
class Clip:
    """Frames, and the truth about them: shown inline when last in a cell.

    `frames` are RGB pictures of the request's size. `request` and `setup` have every open field filled in.
    `latents` (frames, channels, height, width) are what was decoded; None for a clip read from a file.
    `timings` are seconds: `sample_seconds` (encoding and denoising), `decode_seconds`.
    """

    frames: list[Image.Image]
    request: Request
    setup: Setup | None
    timings: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what was noticed or mended on the way, a sentence each
    seams: tuple[Seam, ...] = ()  # of a chained clip
    latents: torch.Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def segments(self) -> int:
        """How many calls of the model this clip was chained from; 1 for an ordinary one."""
        return len(self.seams) + 1

    def save(self, path: str | Path, fps: float | None = None, **options: Any) -> Path:
        """Write `.mp4`, `.gif`, `.webp` or, for a name without a suffix, a folder of PNG frames.

        `fps` is the playback speed; left out, the clip plays at the speed that it was conditioned on. The request, the
        setup and the picture travel inside, so that `read` can make it again. `options`: see `write_video`.
        """

        image = self.request.image  # a picture in memory has no other home: it is carried whole
        picture = image if isinstance(image, Image.Image) else conditioning(self.request)
        settings = {
            "svdlab": svdlab.__version__,
            "request": _without_picture(self.request) | {"image": image if isinstance(image, str) else None},
            "setup": None if self.setup is None else dataclasses.asdict(self.setup),
            "timings": self.timings,
            "notes": self.notes,
            "seams": [dataclasses.asdict(seam) for seam in self.seams],
        }
        text = json.dumps(settings, ensure_ascii=False)
        from svdlab.media.video import write_video  # PyAV, which clips that are only measured can do without

        return write_video(
            path, self.frames, self.request.fps if fps is None else fps, metadata=text, picture=picture, **options
        )

    def _repr_html_(self) -> str:
        from svdlab.media.show import show

        return show(self)._repr_html_()


def read(path: str | Path) -> Clip:
    """The clip saved at `path`, with the request and the setup that made it.

    The frames are as the file holds them (MP4 and GIF lose a little); the settings are exact. The request names its
    picture as it did where that can still be found unchanged, and else carries the copy from inside the file.
    A `ValueError` for a file without settings of ours.
    """
    from svdlab.media import video

    text, picture = video.read_metadata(path)
    try:
        settings = json.loads(text or "")
        fields = dict(settings["request"])
        setup = settings["setup"] and Setup.from_json(settings["setup"])
        seams = tuple(Seam(**seam) for seam in settings.get("seams", ()))
        timings, notes = dict(settings.get("timings", {})), tuple(settings.get("notes", ()))
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error) if isinstance(error, ValueError) and text and "svdlab" in text else "none found"
        raise ValueError(
            f"{path} holds no settings that svdlab can read ({reason}): expected a file written by clip.save."
        ) from error
    with warnings.catch_warnings():  # said when the clip was made, and in its notes
        warnings.simplefilter("ignore", UserWarning)
        request = _with_picture(fields, picture)
    return Clip(video.read_frames(path)[0], request, setup, timings, notes, seams)


def _without_picture(request: Request) -> dict[str, Any]:
    return {f.name: getattr(request, f.name) for f in dataclasses.fields(request) if f.name != "image"}


def _with_picture(fields: dict[str, Any], picture: Image.Image | None) -> Request:
    """The saved request, its picture by name where that still gives the very pixels that the model saw.

    `picture` is then what the model saw; for a request whose picture had no name it is the whole picture itself.
    """
    source = fields.pop("image", None)
    local = isinstance(source, str) and (source in images.EXAMPLES or Path(source).is_file())  # never a URL
    if local:
        request = Request.from_json(fields | {"image": source})
        try:
            if picture is None or image_sha256(conditioning(request)) == image_sha256(picture):
                return request
        except ValueError:
            pass  # the file is another now, or no picture any more
    if picture is None:
        raise ValueError(f"The picture {source!r} is gone and the file carries no copy of it.")
    return dataclasses.replace(Request.from_json(fields | {"image": "rocket"}), image=picture)
