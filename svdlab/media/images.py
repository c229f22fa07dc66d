"""Any picture in, one 8-bit RGB picture of the right size out.

>>> fit_image(open_image("rocket"), height=72, width=128).size
(128, 72)
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from svdlab.media.encode import data_url, png_bytes
from svdlab.media.fetch import download, shown
from svdlab.messages import did_you_mean, first_line, shorten

if TYPE_CHECKING:
    import numpy as np

# The bundled pictures, by name. Where they come from is written in examples/README.md.
EXAMPLES: dict[str, Path] = {
    p.stem: p for p in sorted((Path(__file__).parents[1] / "examples").glob("*")) if p.suffix in (".png", ".jpg")
}

# Raster formats whose decoders run no program and no script (EPS, for one, starts Ghostscript). Phones' MPO is a JPEG.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
# 240 MB as RGB: more than cameras make, and under 89 million, where Pillow itself begins to warn of bombs.
MAX_PIXELS = 80_000_000
MAX_ENLARGEMENT = 2.0  # beyond this more than three of four pixels are invented
BACKGROUND = (255, 255, 255)  # behind transparent pixels: logos and drawings are made to be seen on a white page


def open_image(source: str | Path | bytes | Image.Image | np.ndarray) -> Image.Image:
    """The picture as a person would see it: upright, in sRGB, opaque, the first frame of an animation.

    `source` is the name of a bundled example ("rocket"; for a file of that name write "./rocket"), a path, an
    http(s) or `data:` URL, a file's bytes, a PIL image, or an array (H, W) or (H, W, 1|3|4) of uint8, uint16, bool, or
    floats in 0..1. Back comes a new 8-bit RGB image that carries nothing but its pixels. EXIF orientation is applied,
    transparency laid over white, 16 bits scaled to 8, CMYK and foreign colours converted by the ICC profile where a
    usable one is present. URLs are fetched directly, not through a proxy, and never from private addresses.

    Raises ValueError, one sentence, for anything that is no whole picture, is too large, or must not be fetched.
    """
    if isinstance(source, Image.Image):
        return _rgb(source, "The image")
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), f"The data given ({len(source)} bytes)")
    if isinstance(source, str):
        if source.startswith("data:"):
            return _decode(io.BytesIO(_data(source)), "The data URL")
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source):
            return _decode(io.BytesIO(download(source)), f"What {shown(source)} sent")
        source = EXAMPLES.get(source) or Path(source)
    if isinstance(source, Path):
        return _open(source)
    import numpy as np  # 60 ms that a path or a URL need not pay

    if isinstance(source, np.ndarray):
        return _from_array(source, "The array")
    raise ValueError(
        f"A {type(source).__name__} is not a picture: give a path, a URL, an example's name, a file's bytes, "
        "a PIL image or a NumPy array (a tensor through .cpu().numpy(), channels last)."
    )


def fit_image(
    picture: Image.Image, height: int, width: int, how: str = "crop", focus: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """The picture at exactly `width` x `height` pixels, RGB, antialiased; already that size, pixel for pixel the same.

    `how`: "crop" fills the size with as much of the picture as has its shape, `focus` (x, y in 0..1, from the left and
    the top) as near the middle as the edges allow; "pad" shows all of it in the middle, before a blurred enlarged copy
    of itself (black bars would become part of the scene); "stretch" shows all of it, distorted.

    What comes back remembers the size that it was fitted from, as `info["image_size"]`: (width, height).

    Warns (UserWarning) where it must enlarge more than twice. Raises ValueError for another `how`, size or focus.
    """
    if how not in ("crop", "pad", "stretch"):
        raise ValueError(f"how={how!r} is unknown: expected one of crop, pad, stretch.")
    if not all(isinstance(side, Integral) and side > 0 for side in (height, width)):
        size = f"{height!r}x{width!r} (height x width)"
        raise ValueError(f"A size of {size} is not possible: both must be whole and above 0.")
    picture = open_image(picture)
    across, down = width / picture.width, height / picture.height
    scale = min(across, down) if how == "pad" else max(across, down)
    if scale > MAX_ENLARGEMENT:
        warnings.warn(
            f"This picture of {picture.width}x{picture.height} pixels (width x height) is enlarged {scale:.1f} times "
            f"to {width}x{height}, so details will be soft: give a larger one, or ask for a smaller clip.",
            UserWarning,
            stacklevel=2,
        )
    if how == "pad":
        fitted = _padded(picture, height, width, scale)
    else:
        box = crop_box(picture.size, height, width, focus) if how == "crop" else None
        fitted = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    fitted.info = {"image_size": picture.size}
    return fitted


def crop_box(
    size: tuple[int, int], height: int, width: int, focus: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float, float, float]:
    """What a crop keeps of a picture of `size` (width, height): left, top, right, bottom in its pixels.

    The largest box of the shape `width` x `height` that has `focus` (x, y in 0..1) as near its middle as fits.
    """
    if len(focus) != 2 or not all(0 <= f <= 1 for f in focus):
        raise ValueError(f"focus={focus} must be two numbers from 0 to 1: x from the left, y from the top.")
    scale = min(size[0] / width, size[1] / height)
    kept = min(width * scale, size[0]), min(height * scale, size[1])
    left, top = (
        min(max(f * whole - part / 2, 0.0), whole - part) for f, whole, part in zip(focus, size, kept, strict=True)
    )
    if kept == (width, height):  # nothing to resample: whole pixels keep it sharp
        left, top = round(left), round(top)
    return left, top, min(left + kept[0], size[0]), min(top + kept[1], size[1])


def to_text(source: str | Path | bytes | Image.Image | np.ndarray) -> str:
    """What a request in JSON stores: a name, path or URL as it is, anything else as `data:image/png;base64,…`.

    `read` gives the data URL back as the same RGB picture, pixel for pixel.
    """
    if isinstance(source, str | Path):
        return str(source)
    return data_url("image/png", png_bytes(open_image(source)))


def image_sha256(picture: Image.Image) -> str:
    """A sha256 (hex) of the RGB picture's size and pixels: the same for the same pixels, from whatever file."""
    picture = open_image(picture)
    return hashlib.sha256(f"RGB {picture.width}x{picture.height}\n".encode() + picture.tobytes()).hexdigest()


def _padded(picture: Image.Image, height: int, width: int, scale: float) -> Image.Image:
    """All of the picture in the middle, over a copy of itself that fills the size and is blurred past recognition."""
    whole = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    inner = picture.resize(whole, Image.Resampling.LANCZOS)
    if whole == (width, height):
        return inner
    ground = picture.resize((width, height), Image.Resampling.LANCZOS, box=crop_box(picture.size, height, width))
    ground = ground.filter(ImageFilter.GaussianBlur(max(height, width) / 32))
    ground.paste(inner, ((width - whole[0]) // 2, (height - whole[1]) // 2))
    return ground


# --- from a file to pixels ---------------------------------------------------------------------------------------


def _open(path: Path) -> Image.Image:
    try:
        path = path.expanduser()
        if path.is_dir():
            raise ValueError(f"{shorten(str(path))} is a folder, not a picture: name a file in it.")
        if "\0" in str(path) or not path.exists():
            raise ValueError(f"There is no file {shorten(str(path))}{_nearest(path)}")
        if not path.is_file():  # a pipe or a device could be read forever
            raise ValueError(f"{shorten(str(path))} is not a regular file: give a picture's path.")
        with path.open("rb") as file:
            return _decode(file, shorten(str(path)))
    except (OSError, RuntimeError) as error:  # RuntimeError: "~" of nobody
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{shorten(str(path))} cannot be read ({reason}): check the path and its permissions."
        ) from None


def _nearest(path: Path) -> str:
    """How the sentence about a missing file ends: with names like it, or with the examples."""
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    other = f": give a path, a URL, or the name of an example ({', '.join(EXAMPLES)})."
    return did_you_mean(path.name, [*EXAMPLES, *beside]) or other


def _decode(file: BinaryIO, name: str) -> Image.Image:
    """The RGB picture in an encoded `file`; `name` is how an error speaks of it."""
    try:
        picture = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:  # Pillow met it first: its words carry the size
        raise ValueError(f"{name} is too large ({first_line(error)}): scale it down first.") from None
    except UnidentifiedImageError:
        file.seek(0)
        raise ValueError(
            f"{name} is not an image that can be read, or its beginning is damaged (it starts with {file.read(12)!r}): "
            f"expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}; convert anything else (HEIC, SVG, PDF) first."
        ) from None
    except Exception as error:
        raise _damaged(name, error) from None
    with picture:
        return _rgb(picture, name)


def _damaged(name: str, error: Exception) -> ValueError:
    """For `except Exception`: Pillow's decoders raise nearly anything on a damaged file."""
    return ValueError(f"{name} is a damaged or truncated image ({first_line(error)}): get a whole copy of it.")


def _rgb(picture: Image.Image, name: str) -> Image.Image:
    """Any PIL image as RGB: size checked, decoded, turned upright, colours converted, laid over white."""
    _check_size(picture.width, picture.height, name)
    try:
        picture.load()
    except Exception as error:
        raise _damaged(name, error) from None
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # broken EXIF beside whole pixels says nothing of how to turn them
        picture = picture.copy()
    if picture.mode[0] in "IF":  # 16-bit, 32-bit and float grey, which Pillow would clip
        import numpy as np

        values = np.asarray(picture)
        if picture.mode == "I" and 0 <= values.min() <= values.max() <= 65535:  # how Pillow hands on 16 bits at times
            values = values.astype(np.uint16)
        return _from_array(values, name)
    profile, alpha = picture.info.get("icc_profile"), None
    if picture.has_transparency_data:
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
        alpha = picture.getchannel("A")
    if picture.mode not in ("L", "CMYK", "LAB"):  # those that a profile may speak of as they are
        picture = picture.convert("RGB")
    picture = _srgb(picture, profile)
    if alpha is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, BACKGROUND), alpha)
    picture.info = {}  # orientation and profile are in the pixels now, and must not be applied again
    return picture


def _srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB. A broken profile, or one for other channels, is passed over, as browsers do."""
    if not profile and picture.mode != "LAB":
        return picture.convert("RGB")
    from PIL import ImageCms  # needed by few pictures

    try:
        lab = picture.mode == "LAB"  # which needs no profile of its own
        given = ImageCms.createProfile("LAB") if lab else ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        return ImageCms.profileToProfile(picture, given, ImageCms.createProfile("sRGB"), outputMode="RGB") or picture
    except (ImageCms.PyCMSError, OSError):
        return picture.convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    """(H, W) or (H, W, 1|3|4) as an RGB picture."""
    import numpy as np

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] > 4
        turn = "; move the channels last with .transpose(1, 2, 0)" if first else ""
        raise ValueError(f"{name} has shape {array.shape}: expected (height, width) or (height, width, 1|3|4){turn}.")
    _check_size(array.shape[1], array.shape[0], name)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not 0 <= low <= high <= 1:  # also where either is NaN
            raise ValueError(
                f"{name} has float values from {low} to {high}: expected 0 to 1, none of them NaN; "
                "divide by the largest possible value (255 for 8 bits), or cut off what is over with .clip(0, 1)."
            )
        array = np.rint(array.astype(np.float32) * 255).astype(np.uint8)
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 / 255 = 257: rounded, never clipped
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ValueError(f"{name} has values of type {array.dtype}: expected uint8, uint16, bool, or floats in 0 to 1.")
    return _rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def _check_size(width: int, height: int, name: str) -> None:
    size, most = f"{width}x{height} pixels (width x height)", f"{MAX_PIXELS // 10**6} million"
    if width < 1 or height < 1:
        raise ValueError(f"{name} is empty, {size}: give a picture with pixels in it.")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} is too large, {size}: at most {most} are decoded, so scale it down first.")


def _data(url: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        raise ValueError(f"{shorten(url)} is not a whole data URL: expected data:image/png;base64,… .") from None
