"""Any image in, one 8-bit RGB image of the right size out.

An image file is more than pixels: a camera's orientation, a colour profile, transparency, 16 bits, a palette, several
frames. The model knows none of that. `open_image` settles all of it, so that what comes out looks as a person would
see the file. `fit_image` then brings it to the clip's size: crop, pad or stretch. What the model saw is called the
clip's picture.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from svdlab.messages import did_you_mean, first_line, shorten

if TYPE_CHECKING:
    import numpy as np

# The bundled images, by name. Where they come from is written in examples/README.md.
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
    """The image as a person would see it: a new 8-bit RGB image, upright, in sRGB, opaque, the first frame of an
    animation.

    The source is the name of a bundled example ("rocket"; for a file of that name write "./rocket"), a path, an
    http(s) or `data:` URL, a file's bytes, a PIL image, or an array (H, W) or (H, W, 1|3|4) of uint8, uint16, bool, or
    floats in 0..1.

    EXIF orientation is applied, transparency laid over white, 16 bits scaled to 8, CMYK and foreign colours converted
    by the ICC profile where a usable one is present. A ValueError where it is no complete image, too large, or out of
    reach.
    """
    if isinstance(source, Image.Image):
        return _rgb(source, "The image")
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(io.BytesIO(source), f"The data given ({len(source)} bytes)")
    if isinstance(source, str):
        if source.startswith("data:"):
            return _decode(io.BytesIO(_decode_data_url(source)), "The data URL")
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source):
            from svdlab.media.download import download  # and with it http and ssl, which only a URL needs

            return _decode(io.BytesIO(download(source)), f"What {shorten(source.partition('?')[0])} sent")
        source = EXAMPLES.get(source) or Path(source)
    if isinstance(source, Path):
        return _open_file(source)
    import numpy as np  # 60 ms that a path or a URL need not pay

    if isinstance(source, np.ndarray):
        return _from_array(source, "The array")
    raise ValueError(
        f"A {type(source).__name__} is not an image: give a path, a URL, an example's name, a file's bytes, "
        "a PIL image or a NumPy array (a tensor through .cpu().numpy(), channels last)."
    )


def fit_image(
    image: Image.Image, height: int, width: int, how: str = "crop", focus: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """The image at exactly the size asked for, antialiased; one of that size already keeps every pixel.

    `info["image_size"]` of what comes out is the (width, height) that it was fitted from.

    Args:
        image: of any mode and size.
        height, width: in pixels.
        how: "crop" fills the size with as much of the image as has its shape. "pad" shows all of it, over a blurred
            enlarged copy of itself (black bars would become part of the scene). "stretch" shows all of it, distorted.
        focus: x and y in 0..1, which a crop keeps as near its middle as it can.
    """
    image = open_image(image)
    across, down = width / image.width, height / image.height
    scale = min(across, down) if how == "pad" else max(across, down)
    if scale > MAX_ENLARGEMENT:
        warnings.warn(
            f"This image of {image.width}x{image.height} pixels (width x height) is enlarged {scale:.1f} times "
            f"to {width}x{height}, so details will be soft: give a larger one, or ask for a smaller clip.",
            UserWarning,
            stacklevel=2,
        )
    if how == "pad":
        fitted = _pad(image, height, width, scale)
    else:
        box = _crop_box(image.size, height, width, focus) if how == "crop" else None
        fitted = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    fitted.info = {"image_size": image.size}
    return fitted


def _crop_box(
    size: tuple[int, int], height: int, width: int, focus: tuple[float, float] = (0.5, 0.5)
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what a crop keeps: the largest box of the target's shape nearest to the focus."""
    scale = min(size[0] / width, size[1] / height)
    crop = min(width * scale, size[0]), min(height * scale, size[1])
    left, top = (
        min(max(f * full - side / 2, 0.0), full - side) for f, full, side in zip(focus, size, crop, strict=True)
    )
    if crop == (width, height):  # nothing to resample: whole pixels keep it sharp
        left, top = round(left), round(top)
    return left, top, min(left + crop[0], size[0]), min(top + crop[1], size[1])


def to_text(source: str | Path | bytes | Image.Image | np.ndarray) -> str:
    """A name, path or URL as it is; any other image as a `data:` URL that keeps every pixel."""
    return str(source) if isinstance(source, str | Path) else data_url("image/png", png_bytes(open_image(source)))


def png_bytes(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_url(kind: str, data: bytes) -> str:
    """A file's bytes as a `data:` URL, a third longer than they are.

    Args:
        kind: the media type, such as "image/png".
        data: the bytes.
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_sha256(image: Image.Image) -> str:
    """The sha256 of an image's size and RGB pixels, in hex: the same for the same pixels, from whatever file."""
    image = open_image(image)
    return hashlib.sha256(f"RGB {image.width}x{image.height}\n".encode() + image.tobytes()).hexdigest()


def _pad(image: Image.Image, height: int, width: int, scale: float) -> Image.Image:
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    inner = image.resize(size, Image.Resampling.LANCZOS)
    if size == (width, height):
        return inner
    background = image.resize((width, height), Image.Resampling.LANCZOS, box=_crop_box(image.size, height, width))
    background = background.filter(ImageFilter.GaussianBlur(max(height, width) / 32))
    background.paste(inner, ((width - size[0]) // 2, (height - size[1]) // 2))
    return background


def _open_file(path: Path) -> Image.Image:
    name = shorten(str(path))
    try:
        path = path.expanduser()
        if path.is_dir():
            raise ValueError(f"{name} is a folder, not an image: name a file in it.")
        if "\0" in str(path) or not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            hint = f": give a path, a URL, or the name of an example ({', '.join(EXAMPLES)})."
            raise ValueError(f"There is no file {name}{did_you_mean(path.name, [*EXAMPLES, *siblings]) or hint}")
        if not path.is_file():  # a pipe or a device could be read forever
            raise ValueError(f"{name} is not a regular file: give an image's path.")
        with path.open("rb") as file:
            return _decode(file, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: "~" of nobody
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ValueError(f"{name} cannot be read ({reason}): check the path and its permissions.") from None


def _decode(file: BinaryIO, name: str) -> Image.Image:
    """The RGB image in an encoded `file`; `name` is how an error speaks of it."""
    try:
        image = Image.open(file, formats=FORMATS)
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
    with image:
        return _rgb(image, name)


def _damaged(name: str, error: Exception) -> ValueError:
    """For `except Exception`: Pillow's decoders raise nearly anything on a damaged file."""
    return ValueError(f"{name} is a damaged or truncated image ({first_line(error)}): get a complete copy of it.")


def _rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.width, image.height, name)
    try:
        image.load()
    except Exception as error:
        raise _damaged(name, error) from None
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF beside whole pixels says nothing of how to turn them
        image = image.copy()
    if image.mode[0] in "IF":  # 16-bit, 32-bit and float grey, which Pillow would clip
        import numpy as np

        values = np.asarray(image)
        if image.mode == "I" and 0 <= values.min() <= values.max() <= 65535:  # how Pillow hands on 8 or 16 bits
            values = values.astype(np.uint8 if values.max() <= 255 else np.uint16)
        return _from_array(values, name)
    profile, alpha = image.info.get("icc_profile"), None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        alpha = image.getchannel("A")
    if image.mode not in ("L", "CMYK", "LAB"):  # those that a profile may speak of as they are
        image = image.convert("RGB")
    image = _srgb(image, profile)
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, BACKGROUND), alpha)
    image.info = {}  # orientation and profile are in the pixels now, and must not be applied again
    return image


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """RGB in sRGB. A broken profile, or one for other channels, is passed over, as browsers do."""
    if not profile and image.mode != "LAB":
        return image.convert("RGB")
    from PIL import ImageCms  # needed by few pictures

    try:
        lab = image.mode == "LAB"  # which needs no profile of its own
        source = ImageCms.createProfile("LAB") if lab else ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    import numpy as np

    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] > 4
        hint = "; move the channels last with .transpose(1, 2, 0)" if first else ""
        raise ValueError(f"{name} has shape {array.shape}: expected (height, width) or (height, width, 1|3|4){hint}.")
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
    size, limit = f"{width}x{height} pixels (width x height)", f"{MAX_PIXELS // 10**6} million"
    if width < 1 or height < 1:
        raise ValueError(f"{name} is empty, {size}: give one with pixels in it.")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{name} is too large, {size}: at most {limit} are decoded, so scale it down first.")


def _decode_data_url(url: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        raise ValueError(f"{shorten(url)} is not a complete data URL: expected data:image/png;base64,… .") from None
