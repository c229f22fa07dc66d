"""A clip, and how it comes about: `generate` asks a pipeline for one, `read` opens one that was saved.

>>> clip = generate(pipeline, Request.for_variant("tiny", image="rocket", seed=11))
>>> clip.save("rocket.mp4")
>>> generate(pipeline, read("rocket.mp4").request).frames == clip.frames
True
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
    import torch

    OnStep = Callable[[int, int, torch.Tensor], None]


OF_REQUEST: Any = None  # a picture left out: fitted from the request's image when the clip is made
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
    `picture` is what the model saw: RGB, of the request's size. Saving and measuring a clip use it, and never read the
    request's image again, which may be another one by then.
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
        """Write `.mp4`, `.gif`, `.webp` or, for a name without a suffix, a folder of PNG frames.

        `fps` is the playback speed; left out, the clip plays at the speed that it was conditioned on. The request, the
        setup and the picture travel inside, so that `read` can make it again. `options`: see `write_video`.
        """
        image = self.request.image
        settings = {
            "svdlab": svdlab.__version__,
            "request": _without_image(self.request) | {"image": image if isinstance(image, str) else None},
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


def read(path: str | Path) -> Clip:
    """The clip saved at `path`, with the request and the setup that made it.

    The frames are as the file holds them (MP4 and GIF lose a little); the settings are exact. `picture` is the copy
    inside the file. The request names its image as it did where that file still gives the very same pixels, and else
    carries the picture itself. Nothing is fetched: of a clip made from a URL the request carries the picture.
    A `ValueError` for a file without settings of ours, or without the picture.
    """
    from svdlab.media.read_video import read_frames, read_metadata

    text, cover = read_metadata(path)
    try:
        settings = json.loads(text or "")
        fields = dict(settings["request"])
        setup = settings["setup"] and Setup.from_json(settings["setup"])
        seams = tuple(Seam(**seam) for seam in settings.get("seams", ()))
        image_size = tuple(map(int, settings.get("image_size") or ()))
        timings, notes = dict(settings.get("timings", {})), tuple(settings.get("notes", ()))
    except (ValueError, TypeError, KeyError) as error:
        reason = str(error) if isinstance(error, ValueError) and text and "svdlab" in text else "none found"
        raise ValueError(
            f"{path} holds no settings that svdlab can read ({reason}): expected a file written by clip.save."
        ) from error
    with quiet_requests():  # said when the clip was made, and in its notes
        request, picture = _with_image(fields, cover, path)
    if image_size:
        picture.info["image_size"] = image_size
    return Clip(read_frames(path)[0], request, setup, timings, notes, seams, picture=picture)


def _without_image(request: Request) -> dict[str, Any]:
    return {f.name: getattr(request, f.name) for f in dataclasses.fields(request) if f.name != "image"}


def _with_image(fields: dict[str, Any], cover: Image.Image | None, path: str | Path) -> tuple[Request, Image.Image]:
    """The saved request, and the picture that the model saw.

    The image keeps its name only where that still gives the pixels of the copy inside the file: a file from somebody
    else cannot make a request point at a picture of the reader's that it does not hold itself.
    """
    name = fields.pop("image", None)
    named = isinstance(name, str)
    if cover is None:
        if named and name in images.EXAMPLES:
            request = Request.from_json(fields | {"image": name})
            return request, conditioning(request)
        raise ValueError(
            f"The picture that the clip was made from is not in {path} (its name was {shorten(name)}): make the clip "
            "again from a picture of your own, or take a copy of the clip that was not converted."
        )
    carried = dataclasses.replace(Request.from_json(fields | {"image": "rocket"}), image=cover)
    picture = conditioning(carried)  # older files carry a picture in memory unfitted
    if not named or not (name in images.EXAMPLES or _is_file(name)):  # never a URL
        return carried, picture
    with suppress(ValueError):  # the file may be no picture any more
        request = dataclasses.replace(carried, image=name)
        if image_sha256(conditioning(request)) == image_sha256(picture):
            return request, picture
    return carried, picture


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a name of 100,000 letters, or with a zero in it
        return False
