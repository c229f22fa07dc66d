"""Pictures as bytes, and bytes as text that a page or a JSON file can hold.

A `data:` URL carries a file inside the text that names it, so that an HTML page or a saved request needs nothing
beside it: `data:image/png;base64,iVBORw0…`.
"""

from __future__ import annotations

import base64
import io

from PIL import Image


def png_bytes(image: Image.Image) -> bytes:
    """A PIL image as the bytes of a PNG file, without loss.

    Args:
        image: Any PIL image of a mode that PNG knows (RGB, RGBA, L, …), of any size.

    Returns:
        The file's content.

    Example:
        >>> from PIL import Image
        >>> png_bytes(Image.new("RGB", (2, 2)))[:4]
        b'\\x89PNG'
    """
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def data_url(kind: str, data: bytes) -> str:
    """A file's bytes as a `data:` URL.

    Args:
        kind: The media type, for example "image/png" or "video/mp4".
        data: The file's content.

    Returns:
        `data:<kind>;base64,<content>`, a third longer than `data`.

    Example:
        >>> data_url("text/plain", b"hello")
        'data:text/plain;base64,aGVsbG8='
    """
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
