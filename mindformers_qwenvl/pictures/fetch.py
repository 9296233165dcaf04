"""Pictures from http(s) and `data:` addresses, under an `ImagePolicy`. Standard library only.

Against requests to machines that only this one can reach (SSRF): the name is resolved once, every address it has must
be allowed, and the connection goes to one of the very addresses that were looked at; the name itself is used again in
the Host header, in SNI and for the certificate only. Each redirect is judged anew. Proxies of the environment are not
used, for then somebody else would resolve the name.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

from mindformers_qwenvl import __version__
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError

__all__ = ["Download", "Resolver", "decode_data_uri", "fetch", "is_data_uri", "is_web_address", "resolve", "shorten"]

# Gives the addresses of a name, as text, for a port.
Resolver: TypeAlias = "Callable[[str, int], Sequence[str]]"

REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
PIECE = 1 << 16
HEADERS = {
    "User-Agent": f"mindformers-qwenvl/{__version__}",
    "Accept": "image/jpeg, image/png, image/webp, image/bmp, image/gif, */*;q=0.1",
    "Connection": "close",
}


@dataclass(frozen=True)
class Download:
    """What was fetched: `data`, what the server calls it (`content_type`, maybe ""), and from where after redirects."""

    data: bytes
    content_type: str
    url: str


def is_web_address(source: Any) -> bool:
    """Whether `source` is an http(s) address."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def is_data_uri(source: Any) -> bool:
    """Whether `source` is a `data:` address."""
    return isinstance(source, str) and source[:5].lower() == "data:"


def shorten(address: str, limit: int = 200) -> str:
    """An address as messages show it."""
    return address if len(address) <= limit else f"{address[:limit]}... ({len(address)} characters)"


def resolve(host: str, port: int) -> list[str]:
    """Every address of a name, each once, in the system's order of preference.

    Raises:
        OSError: the name is unknown.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(address[0] for *_, address in found))


def fetch(url: str, policy: ImagePolicy | None = None, *, resolver: Resolver = resolve) -> Download:
    """Fetch `url` under `policy` (None: the default one).

    Args:
        url: an http(s) address.
        policy: see `ImagePolicy`.
        resolver: asked once for the addresses of each name on the way.

    Raises:
        ImageRefusedError: a rule of the policy keeps it out; says which and how to allow it.
        ImageError: it cannot be fetched: no such name, no connection, a bad certificate, an answer other than 200, cut
            off, too slow.
    """
    policy = policy or ImagePolicy()
    deadline = time.monotonic() + policy.total_timeout
    name, redirects = shorten(url), 0
    while True:
        target = _Target.of(url, name)
        try:
            answer = _get(target, policy, deadline, resolver, name)
        except ImageError:
            raise
        except TimeoutError as error:
            late = time.monotonic() >= deadline
            rule = "total_timeout" if late else getattr(error, "rule", "read_timeout")
            reason = f"{target.host} took more than {getattr(policy, rule):g} s"
            raise ImageRefusedError(name, reason, rule, f"image_policy: {{{rule}: ...}} waits longer") from error
        except ssl.SSLCertVerificationError as error:
            raise ImageError(
                f"image {name}: the certificate of {target.host} is not valid: {error.verify_message}; for an "
                "authority of your own set SSL_CERT_FILE"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise ImageError(f"image {name}: cannot be fetched from {target.host}: {error or repr(error)}") from error
        if isinstance(answer, Download):
            return answer
        redirects += 1
        if redirects > policy.max_redirects:
            raise ImageRefusedError(
                name,
                f"more than {policy.max_redirects} redirects",
                "max_redirects",
                "image_policy: {max_redirects: ...} follows more; or give the last address itself",
            )
        url = urljoin(target.url, answer)
        if target.scheme == "https" and url[:5].lower() == "http:":
            raise ImageRefusedError(
                name, f"redirected from https to {shorten(url)}; give the http address itself if you mean it"
            )
        name = f"{shorten(target.url)} -> {shorten(url)}"


@dataclass(frozen=True)
class _Target:
    """An address in its parts: `host` as a certificate has it, `request` is path and query."""

    url: str
    scheme: str
    host: str
    port: int
    request: str

    @classmethod
    def of(cls, url: str, name: str) -> _Target:
        if not is_web_address(url):
            raise ImageRefusedError(name, "only http and https addresses are fetched")
        if re.search(r"[\x00-\x1f\x7f\\]", url):  # urlsplit drops some of these, and then reads another host
            raise ImageError(f"image {name!r}: control characters or backslashes in the address")
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
            if host and not host.isascii():
                host = host.encode("idna").decode()
        except ValueError as error:  # UnicodeError too
            raise ImageError(f"image {name}: not a web address: {error}") from error
        host = host.rstrip(".")
        if not host or "%" in host or port == 0:
            raise ImageError(f"image {name}: not a web address, it has no host and port that can be used")
        if "@" in parts.netloc:
            raise ImageRefusedError(name, "a user name or password in the address; pictures are fetched without")
        request = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
            f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~')}" if parts.query else ""
        )
        return cls(url, scheme, host, port or PORTS[scheme], request)

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def _get(target: _Target, policy: ImagePolicy, deadline: float, resolver: Resolver, name: str) -> Download | str:
    """The picture, or the address of a redirect."""
    policy.check_host(target.host, name)
    addresses = _addresses(target, policy, deadline, resolver)
    for address in addresses:  # all of them first: a bad one beside good ones is how such checks are got round
        policy.check_address(address, target.host, name)
    sock = _connect(target, addresses, policy, deadline)
    try:
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = _Wire(sock, policy.read_timeout, deadline)
        connection.auto_open = 0
        connection.request("GET", target.request, headers={"Host": target.host_header, **HEADERS})
        response = connection.getresponse()
        if response.status in REDIRECTS:
            location = response.getheader("Location")
            if not location:
                raise ImageError(f"image {name}: {target.host} redirects ({response.status}) without saying where to")
            return quote(location.encode("latin-1", "replace"), safe="/?#[]%:@!$&'()*+,;=~\\")
        if response.status != 200:
            raise ImageError(f"image {name}: {target.host} answers {response.status} {response.reason}, expected 200")
        coding = response.getheader("Content-Encoding", "identity")
        if coding.lower() != "identity":
            raise ImageError(f"image {name}: {target.host} sends it as {coding}, which was not asked for")
        data = _read(response, policy.max_bytes, name)
        return Download(data, response.getheader("Content-Type", ""), target.url)
    finally:
        sock.close()


def _addresses(target: _Target, policy: ImagePolicy, deadline: float, resolver: Resolver) -> list[str]:
    try:
        return [str(ip_address(target.host))]
    except ValueError:
        pass
    answers: SimpleQueue = SimpleQueue()

    def ask() -> None:
        try:
            answers.put((list(resolver(target.host, target.port)), None))
        except Exception as error:
            answers.put(((), error))

    # The system's resolver takes no time-out, and may think for half a minute.
    threading.Thread(target=ask, name=f"resolve {target.host}", daemon=True).start()
    try:
        found, error = answers.get(timeout=_remaining(deadline, policy.connect_timeout))
    except Empty:
        raise _connect_timeout() from None
    if error is not None:
        raise error if isinstance(error, OSError) else OSError(f"its name cannot be resolved: {error}") from error
    if not found:
        raise OSError("its name has no address")
    return [str(ip_address(address)) for address in found]


def _connect(target: _Target, addresses: Sequence[str], policy: ImagePolicy, deadline: float) -> socket.socket:
    """A connection to the first of `addresses` that takes one, with TLS for https."""
    for number, address in enumerate(addresses, 1):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_remaining(deadline, policy.connect_timeout))
            sock.connect((address, target.port))
            if target.scheme == "https":
                sock.settimeout(_remaining(deadline, policy.connect_timeout))
                sock = ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
            return sock
        except OSError as error:
            sock.close()
            if number == len(addresses) or isinstance(error, ssl.SSLCertVerificationError):
                if isinstance(error, TimeoutError):
                    raise _connect_timeout() from error
                raise
        except BaseException:
            sock.close()
            raise
    raise AssertionError("no addresses")  # `_addresses` gives at least one


def _connect_timeout() -> TimeoutError:
    error = TimeoutError()
    error.rule = "connect_timeout"
    return error


def _remaining(deadline: float, limit: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return min(remaining, limit)


class _Wire:
    """A socket as http.client needs it, whose every wait ends at the deadline: a server that sends a byte now and then
    would get round a time-out of the socket alone, in the headers too."""

    def __init__(self, sock: socket.socket, timeout: float, deadline: float) -> None:
        self.sock, self.timeout, self.deadline = sock, timeout, deadline

    def sendall(self, data: bytes) -> None:
        self.sock.settimeout(_remaining(self.deadline, self.timeout))
        self.sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def close(self) -> None:
        """http.client closes when the headers are read; the socket is closed by whoever opened it."""


class _Reader(io.RawIOBase):
    def __init__(self, wire: _Wire) -> None:
        self.wire = wire

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.wire.sock.settimeout(_remaining(self.wire.deadline, self.wire.timeout))
        return self.wire.sock.recv_into(buffer)


def _read(response: http.client.HTTPResponse, limit: int, name: str) -> bytes:
    """The body, at most `limit` bytes whatever the headers say."""
    announced = response.length
    if announced is not None and announced > limit:
        raise _too_large(name, announced, limit)
    data = bytearray()
    try:
        while piece := response.read(PIECE):
            data += piece
            if len(data) > limit:
                raise _too_large(name, None, limit)
    except http.client.IncompleteRead as error:
        raise ImageError(f"image {name}: cut off, its last piece did not come whole") from error
    if announced is not None and len(data) != announced:
        raise ImageError(f"image {name}: cut off after {len(data)} of {announced} bytes")
    return bytes(data)


def _too_large(name: str, size: int | None, limit: int) -> ImageRefusedError:
    reason = f"{'more' if size is None else f'{size} bytes, more'} than the {limit} bytes allowed"
    return ImageRefusedError(name, reason, "max_bytes", "image_policy: {max_bytes: ...} allows more")


def decode_data_uri(uri: str, policy: ImagePolicy | None = None) -> bytes:
    """The bytes of `data:image/png;base64,...`. What kind of picture they are is seen from them, not from the type.

    Raises:
        ImageRefusedError: more than `max_bytes` of the policy.
        ImageError: not a `data:` address in base64, damaged, or empty.
    """
    policy = policy or ImagePolicy()
    head, comma, body = uri.partition(",")
    name = shorten(uri, 40)
    if not is_data_uri(uri) or not comma:
        raise ImageError(f"image {name}: expected data:image/...;base64,...")
    if head.lower().split(";")[-1].strip() != "base64":
        raise ImageError(f"image {name}: a data: address must be in base64 (data:image/...;base64,...)")
    if len(body) > 4 * policy.max_bytes + 4:  # three characters a byte if all are escaped, and line ends
        raise _too_large(name, None, policy.max_bytes)
    try:
        data = base64.b64decode(re.sub(rb"\s+", b"", unquote_to_bytes(body)), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"image {name}: damaged base64: {error}") from error
    if len(data) > policy.max_bytes:
        raise _too_large(name, len(data), policy.max_bytes)
    if not data:
        raise ImageError(f"image {name}: an empty data: address")
    return data
