"""Any picture in, one 8-bit RGB picture of the right size out.

>>> fit(read("rocket"), height=72, width=128).size
(128, 72)
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import hashlib
import io
import re
import time
import warnings
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    import ipaddress
    import socket

    import numpy as np

# The bundled pictures, by name. Where they come from is written in examples/README.md.
EXAMPLES: dict[str, Path] = {
    p.stem: p for p in sorted((Path(__file__).parent / "examples").glob("*")) if p.suffix in (".png", ".jpg")
}

# Raster formats whose decoders run no program and no script (EPS, for one, starts Ghostscript). Phones' MPO is a JPEG.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
# 240 MB as RGB: more than cameras make, and under 89 million, where Pillow itself begins to warn of bombs.
MAX_PIXELS = 80_000_000
MAX_DOWNLOAD_BYTES = 50 * 2**20  # a 50-megapixel JPEG has about 25 MB
MAX_DOWNLOAD_SECONDS = 30.0  # for one picture with all its redirects; the name server's own time comes on top
MAX_REDIRECTS = 3  # http to https, a short link, a content server
MAX_ENLARGEMENT = 2.0  # beyond this more than three of four pixels are invented
BACKGROUND = (255, 255, 255)  # behind transparent pixels: logos and drawings are made to be seen on a white page


def read(source: str | Path | bytes | Image.Image | np.ndarray) -> Image.Image:
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
        if source in EXAMPLES:
            return _open(EXAMPLES[source])
        if source.startswith("data:"):
            return _decode(io.BytesIO(_data(source)), "The data URL")
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", source):
            return _decode(io.BytesIO(_download(source)), f"What {_shown(source)} sent")
        return _open(Path(source))
    if isinstance(source, Path):
        return _open(source)
    import numpy as np  # 60 ms that a path or a URL need not pay

    if isinstance(source, np.ndarray):
        return _from_array(source, "The array")
    raise ValueError(
        f"A {type(source).__name__} is not a picture: give a path, a URL, an example's name, a file's bytes, "
        "a PIL image or a NumPy array (a tensor through .cpu().numpy(), channels last)."
    )


def fit(
    picture: Image.Image, height: int, width: int, how: str = "crop", focus: tuple[float, float] = (0.5, 0.5)
) -> Image.Image:
    """The picture at exactly `width` x `height` pixels, RGB, antialiased; already that size, pixel for pixel the same.

    `how`: "crop" fills the size with as much of the picture as has its shape, `focus` (x, y in 0..1, from the left and
    the top) as near the middle as the edges allow; "pad" shows all of it in the middle, before a blurred enlarged copy
    of itself (black bars would become part of the scene); "stretch" shows all of it, distorted.

    Warns (UserWarning) where it must enlarge more than twice. Raises ValueError for another `how`, size or focus.
    """
    if how not in ("crop", "pad", "stretch"):
        raise ValueError(f"how={how!r} is unknown: expected one of crop, pad, stretch.")
    if not all(isinstance(side, Integral) and side > 0 for side in (height, width)):
        raise ValueError(
            f"A size of {height!r}x{width!r} (height x width) is not possible: both must be whole and above 0."
        )
    picture = read(picture)
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
        return _padded(picture, height, width)
    box = crop_box(picture.size, height, width, focus) if how == "crop" else None
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)


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
    file = io.BytesIO()
    read(source).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def digest(picture: Image.Image) -> str:
    """A sha256 (hex) of the RGB picture's size and pixels: the same for the same pixels, from whatever file."""
    picture = read(picture)
    return hashlib.sha256(f"RGB {picture.width}x{picture.height}\n".encode() + picture.tobytes()).hexdigest()


def _padded(picture: Image.Image, height: int, width: int) -> Image.Image:
    """All of the picture in the middle, over a copy of itself that fills the size and is blurred past recognition."""
    scale = min(width / picture.width, height / picture.height)
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
            raise ValueError(f"{_short(path)} is a folder, not a picture: name a file in it.")
        if "\0" in str(path) or not path.exists():
            raise ValueError(f"There is no file {_short(path)}{_nearest(path)}")
        if not path.is_file():  # a pipe or a device could be read forever
            raise ValueError(f"{_short(path)} is not a regular file: give a picture's path.")
        with path.open("rb") as file:
            return _decode(file, _short(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: "~" of nobody
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{_short(path)} cannot be read ({reason}): check the path and its permissions.") from None


def _nearest(path: Path) -> str:
    """How the sentence about a missing file ends: with names like it, or with the examples."""
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [*EXAMPLES, *beside], n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f": give a path, a URL, or the name of an example ({', '.join(EXAMPLES)})."


def _decode(file: BinaryIO, name: str) -> Image.Image:
    """The RGB picture in an encoded `file`; `name` is how an error speaks of it."""
    try:
        picture = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:  # Pillow met it first: its words carry the size
        raise ValueError(f"{name} is too large ({_line(error)}): scale it down first.") from None
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
    return ValueError(f"{name} is a damaged or truncated image ({_line(error)}): get a whole copy of it.")


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
    if width < 1 or height < 1:
        raise ValueError(
            f"{name} is empty, {width}x{height} pixels (width x height): give a picture with pixels in it."
        )
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{name} is too large, {width}x{height} pixels (width x height): at most {MAX_PIXELS // 10**6} million "
            "are decoded, so scale it down first."
        )


def _data(url: str) -> bytes:
    head, comma, body = url.partition(",")
    try:
        if not comma or not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        raise ValueError(f"{_short(url)} is not a whole data URL: expected data:image/png;base64,… .") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _short(text: object) -> str:
    text = str(text)
    return repr(text if len(text) <= 200 else text[:100] + "…" + text[-20:])


# --- from a URL to a file's bytes --------------------------------------------------------------------------------

_HEADERS = {  # some hosts answer only those who say who they are
    "User-Agent": "svdlab (+https://github.com/svdlab/svdlab)",
    "Accept": "image/*",
    "Accept-Encoding": "identity",
}


def _download(url: str) -> bytes:
    """The bytes at a public address, within the limits above; redirects followed, each checked like the first."""
    from urllib.parse import urljoin

    deadline = time.monotonic() + MAX_DOWNLOAD_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        body, location = _get(url, deadline)
        if location is None:
            return body
        url = urljoin(url, location)
    raise ValueError(f"{_shown(url)} is one redirect too many (over {MAX_REDIRECTS}): give the picture's own address.")


def _get(url: str, deadline: float) -> tuple[bytes, str | None]:
    """One answer: its body, or where it redirects to."""
    import http.client
    import threading
    from urllib.parse import quote

    tls, host, port, target = _parts(url)
    connection = http.client.HTTPConnection(host, port)
    connection.default_port = 443 if tls else 80  # which the Host header leaves out
    watch = None
    try:
        line: Any = _connect(host, port, deadline)
        if tls:
            line = _tls_context().wrap_socket(line, server_hostname=host, do_handshake_on_connect=False)
        connection.sock = line
        # A limit for each read is none for a server that sends a byte now and then: at the deadline the line is cut.
        watch = threading.Timer(_left(deadline), _cut, (line,))
        watch.daemon = True
        watch.start()
        if tls:
            line.do_handshake()
        connection.request("GET", quote(target, safe="/?%:@!$&'()*+,;=~"), headers=_HEADERS)
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308) and answer.headers["Location"]:
            return b"", answer.headers["Location"]
        if answer.status != 200:
            said = f"{answer.status} {http.client.responses.get(answer.status, '')}".strip()
            raise ValueError(f"{_shown(url)} answered {said}: check the address, or download it by hand.")
        return _body(answer, url, deadline), None
    except (OSError, http.client.HTTPException) as error:
        _check_deadline(url, deadline)
        raise ValueError(
            f"{_shown(url)} could not be fetched ({type(error).__name__}: {_line(error)}): check the address and the "
            "network, or download the picture and give its path."
        ) from None
    finally:
        if watch:
            watch.cancel()
        connection.close()


def _cut(line: socket.socket) -> None:
    """End a connection from another thread: whoever reads from it reads its end."""
    import socket

    with contextlib.suppress(OSError):  # ended by itself
        socket.socket.shutdown(line, socket.SHUT_RDWR)  # not SSLSocket's own, which takes the TLS state from its reader


def _body(answer: Any, url: str, deadline: float) -> bytes:
    """The whole body, counted as it comes: a Content-Length may lie, or be missing."""
    declared = answer.length  # None where the server does not say
    body = bytearray()
    while len(body) <= MAX_DOWNLOAD_BYTES and (declared or 0) <= MAX_DOWNLOAD_BYTES:
        part = answer.read1(2**16)
        body += part
        if not part:
            _check_deadline(url, deadline)
            if declared is not None and len(body) < declared:
                raise ValueError(f"{_shown(url)} broke off after {len(body)} of {declared} bytes: try again.")
            return bytes(body)
    raise ValueError(
        f"{_shown(url)} is over {MAX_DOWNLOAD_BYTES // 2**20} MiB: download it, scale it down, and give its path."
    )


def _parts(url: str) -> tuple[bool, str, int, str]:
    """Whether TLS is used, the host, port and target of an http(s) URL without credentials."""
    from urllib.parse import urlsplit

    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port
    except ValueError as error:
        raise ValueError(f"This URL is malformed ({error}): expected https://host/picture.png.") from None
    if split.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20]", host):
        raise ValueError(
            f"{_shown(url)} cannot be fetched: only http:// and https:// URLs are; give a file as its plain path."
        )
    if split.username is not None or split.password is not None:  # they would travel on in saved requests
        raise ValueError(
            f"{_shown(url)} is given with a user name or password: download the picture and give its path."
        )
    tls = split.scheme == "https"
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    return tls, host, port if port is not None else (443 if tls else 80), target


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to an address that was checked, not to a name that may point elsewhere when asked again."""
    import ipaddress
    import socket

    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise ValueError(f"The host {host!r} cannot be found: check the address and the network.") from None
    for *_, address in found:
        if not _allowed_address(ipaddress.ip_address(address[0])):
            raise ValueError(
                f"{host!r} points to {address[0]}, which is not a public address, and nothing is fetched from private "
                "networks: download the picture and give its path."
            )
    failure = OSError("no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_left(deadline))
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


def _allowed_address(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether `ip` is on the public internet, and so is the IPv4 address that it may carry. Tests replace this."""
    import ipaddress

    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64, RFC 6052: networks without IPv4 reach it through this
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            return _allowed_address(carried)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved)


def _tls_context() -> Any:
    """Certificates and host names are verified. Tests replace this, to trust their own."""
    import ssl

    return ssl.create_default_context()


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.001)


def _check_deadline(url: str, deadline: float) -> None:
    if time.monotonic() >= deadline - 0.05:  # a timer may be early by a hair
        raise ValueError(
            f"{_shown(url)} took over {MAX_DOWNLOAD_SECONDS:g} seconds: try again, or download it and give its path."
        ) from None


def _shown(url: str) -> str:
    """The URL as an error may show it: without user, password and query, where keys are kept."""
    scheme, _, rest = url.partition("://")
    if not rest:
        return _short(url)
    place = re.split(r"[?#]", rest)[0]
    host, slash, path = place.partition("/")
    return _short(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")
