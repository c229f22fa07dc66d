"""An image from the web: http and https only, no more bytes and seconds than an image needs.

Only what a user writes into a request of their own is ever downloaded. Reading a saved clip, dropping a file on the
panel, listing rows and writing a report never reach for the network, whatever address they find inside.
Proxies are taken from the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY), as other programs do.
"""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

from svdlab.messages import first_line, shorten

MAX_DOWNLOAD_BYTES = 50 * 2**20  # a 50-megapixel JPEG has about 25 MB
MAX_DOWNLOAD_SECONDS = 30.0
_HEADERS = {"User-Agent": "svdlab", "Accept": "image/*"}  # some hosts answer only those who say who they are


def download(url: str) -> bytes:
    """The bytes at a web address; redirects are followed, to http and https alone.

    Messages show the address without its query, where keys are kept.
    """
    import urllib.request as web

    name = shorten(_address(url))
    # build_opener would add handlers for file:, ftp: and data:
    opener = web.OpenerDirector()
    handlers = (web.ProxyHandler, web.HTTPHandler, web.HTTPSHandler, web.HTTPRedirectHandler, web.UnknownHandler)
    for handler in (*handlers, web.HTTPDefaultErrorHandler, web.HTTPErrorProcessor):
        opener.add_handler(handler())
    started, body = time.monotonic(), bytearray()
    try:
        request = web.Request(quote(url, safe="/?%:@!$&'()*+,;=~#[]"), headers=_HEADERS)
        with opener.open(request, timeout=MAX_DOWNLOAD_SECONDS) as reply:
            while part := reply.read1(2**16):  # counted as it comes: a Content-Length may lie, or be missing
                body += part
                if len(body) > MAX_DOWNLOAD_BYTES:
                    raise ValueError(
                        f"{name} is over {MAX_DOWNLOAD_BYTES >> 20} MiB: scale it down, and give its path."
                    )
                if time.monotonic() - started > MAX_DOWNLOAD_SECONDS:
                    raise ValueError(f"{name} took over {MAX_DOWNLOAD_SECONDS:g} seconds: give a file's path.")
            if reply.length:
                raise ValueError(f"{name} broke off after {len(body)} of {len(body) + reply.length} bytes: try again.")
            return bytes(body)
    except HTTPError as error:
        raise ValueError(f"{name} answered {error.code}: check the address, or download it by hand.") from None
    except (OSError, HTTPException) as error:
        reason = f"{type(error).__name__}: {first_line(error)}" if isinstance(error, OSError) else type(error).__name__
        remedy = "check the address and the network, or download the image and give its path"
        raise ValueError(f"{name} could not be fetched ({reason}): {remedy}.") from None


def _address(url: str) -> str:
    """The URL without its query and fragment, checked."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # the port is checked when it is asked for
    except ValueError as error:
        raise ValueError(f"This URL is malformed ({error}): expected https://host/picture.png.") from None
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"{shorten(address)} cannot be fetched: only http:// and https:// are; give a file's path.")
    if "@" in parts.netloc:  # they would travel on in saved requests
        raise ValueError(f"{shorten(address)} is given with a user name or password: download it and give its path.")
    return address
