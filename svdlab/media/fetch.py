"""A picture from a URL: public addresses only, and no more bytes, seconds and redirects than a picture needs."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import threading
import time
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from svdlab.messages import first_line, shorten

MAX_DOWNLOAD_BYTES = 50 * 2**20  # a 50-megapixel JPEG has about 25 MB
MAX_DOWNLOAD_SECONDS = 30.0  # for one picture with all its redirects; the name server's own time comes on top
MAX_REDIRECTS = 3  # http to https, a short link, a content server

# some hosts answer only those who say who they are
_HEADERS = {"User-Agent": "svdlab", "Accept": "image/*", "Accept-Encoding": "identity"}


def download(url: str) -> bytes:
    """The bytes at a public address, within the limits above; redirects followed, each checked like the first."""
    deadline = time.monotonic() + MAX_DOWNLOAD_SECONDS
    for _ in range(MAX_REDIRECTS + 1):
        body, location = _get(url, deadline)
        if location is None:
            return body
        url = urljoin(url, location)
    raise ValueError(f"{shown(url)} is one redirect too many (over {MAX_REDIRECTS}): give the picture's own address.")


def _get(url: str, deadline: float) -> tuple[bytes, str | None]:
    """One answer: its body, or where it redirects to."""
    import http.client  # and with it ssl: only a URL needs them

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
            raise ValueError(f"{shown(url)} answered {said}: check the address, or download it by hand.")
        return _body(answer, url, deadline), None
    except (OSError, http.client.HTTPException) as error:
        _check_deadline(url, deadline)
        raise ValueError(
            f"{shown(url)} could not be fetched ({type(error).__name__}: {first_line(error)}): check the address and "
            "the network, or download the picture and give its path."
        ) from None
    finally:
        if watch:
            watch.cancel()
        connection.close()


def _cut(line: socket.socket) -> None:
    """End a connection from another thread: whoever reads from it reads its end."""

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
                raise ValueError(f"{shown(url)} broke off after {len(body)} of {declared} bytes: try again.")
            return bytes(body)
    raise ValueError(
        f"{shown(url)} is over {MAX_DOWNLOAD_BYTES // 2**20} MiB: download it, scale it down, and give its path."
    )


def _parts(url: str) -> tuple[bool, str, int, str]:
    """Whether TLS is used, the host, port and target of an http(s) URL without credentials."""
    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port
    except ValueError as error:
        raise ValueError(f"This URL is malformed ({error}): expected https://host/picture.png.") from None
    if split.scheme not in ("http", "https") or not host or re.search(r"[\x00-\x20]", host):
        raise ValueError(
            f"{shown(url)} cannot be fetched: only http:// and https:// URLs are; give a file as its plain path."
        )
    if split.username is not None or split.password is not None:  # they would travel on in saved requests
        raise ValueError(f"{shown(url)} is given with a user name or password: download the picture and give its path.")
    tls = split.scheme == "https"
    target = (split.path or "/") + (f"?{split.query}" if split.query else "")
    return tls, host, port if port is not None else (443 if tls else 80), target


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to an address that was checked, not to a name that may point elsewhere when asked again."""
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
            f"{shown(url)} took over {MAX_DOWNLOAD_SECONDS:g} seconds: try again, or download it and give its path."
        ) from None


def shown(url: str) -> str:
    """The URL as an error may show it: without user, password and query, where keys are kept."""
    scheme, _, rest = url.partition("://")
    if not rest:
        return shorten(url)
    place = re.split(r"[?#]", rest)[0]
    host, slash, path = place.partition("/")
    return shorten(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")
