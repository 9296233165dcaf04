"""Pictures from http(s) addresses, under an `ImagePolicy`. Standard library only.

Against requests to machines that only this one can reach (SSRF): the name is resolved once, each of its addresses must
be allowed, and the connection goes to one of exactly these addresses. After that the name is used only in the Host
header, in SNI and for the certificate. Each redirect is judged again. Proxies from the environment are not used:
someone else would resolve the name.
"""

from __future__ import annotations

import http.client
import re
import ssl
import time
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from mindformers_qwenvl import __version__
from mindformers_qwenvl.pictures.connection import Resolver, Wire, addresses_of, connect, resolve
from mindformers_qwenvl.pictures.policy import ImageError, ImagePolicy, ImageRefusedError
from mindformers_qwenvl.pictures.sources import is_web_address, shorten, too_large

__all__ = ["Download", "fetch"]

REDIRECTS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
PIECE = 1 << 16  # bytes read at a time
HEADERS = {
    "User-Agent": f"mindformers-qwenvl/{__version__}",
    "Accept": "image/jpeg, image/png, image/webp, image/bmp, image/gif, */*;q=0.1",
    "Connection": "close",
}


@dataclass(frozen=True)
class Download:
    """A fetched picture: its bytes, the server's name for its type ("" if none), and the URL after redirects."""

    data: bytes
    content_type: str
    url: str


def fetch(url: str, policy: ImagePolicy | None = None, *, resolver: Resolver = resolve) -> Download:
    """Fetch `url` under `policy`.

    Args:
        url: an http(s) address.
        policy: see `ImagePolicy`; None is the default one.
        resolver: asked once for the addresses of each name on the way.

    Raises:
        ImageRefusedError: the policy forbids it; the message says which rule does and how to allow it. That includes
            a server that is too slow.
        ImageError: it cannot be fetched: an unknown name, no connection, a bad certificate, a status other than 200, or
            a body that is cut off.
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
                f"image {name}: the certificate of {target.host} is not valid: {error.verify_message}; to trust an "
                "authority of your own, set SSL_CERT_FILE"
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
                "image_policy: {max_redirects: ...} allows more; or give the final address itself",
            )
        url = urljoin(target.url, answer)
        if target.scheme == "https" and url[:5].lower() == "http:":
            raise ImageRefusedError(
                name, f"redirected from https to {shorten(url)}; if you want it over http, give that address"
            )
        name = f"{shorten(target.url)} -> {shorten(url)}"


@dataclass(frozen=True)
class _Target:
    """The parts of an address: `host` as a certificate spells it, `request` is path and query."""

    url: str
    scheme: str
    host: str
    port: int
    request: str

    @classmethod
    def of(cls, url: str, name: str) -> _Target:
        if not is_web_address(url):
            raise ImageRefusedError(name, "only http and https addresses can be fetched")
        if re.search(r"[\x00-\x1f\x7f\\]", url):  # urlsplit drops some of these, and then reads another host
            raise ImageError(f"image {name!r}: the address has control characters or backslashes")
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname or "", parts.port
            if host and not host.isascii():
                host = host.encode("idna").decode()
        except ValueError as error:  # UnicodeError too
            raise ImageError(f"image {name}: not a web address: {error}") from error
        host = host.rstrip(".")
        if not host or "%" in host or port == 0:
            raise ImageError(f"image {name}: not a web address: no usable host and port")
        if "@" in parts.netloc:
            raise ImageRefusedError(name, "the address has a user name or password; pictures are fetched without them")
        request = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
            f"?{quote(parts.query, safe='/?%:@!$&()*+,;=~')}" if parts.query else ""
        )
        return cls(url, scheme, host, port or PORTS[scheme], request)

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def _get(target: _Target, policy: ImagePolicy, deadline: float, resolver: Resolver, name: str) -> Download | str:
    """The picture, or the address that a redirect leads to."""
    policy.check_host(target.host, name)
    addresses = addresses_of(target.host, target.port, policy, deadline, resolver)
    for address in addresses:  # all before the first connection: a bad one among good ones is a known trick
        policy.check_address(address, target.host, name)
    tls_host = target.host if target.scheme == "https" else None
    sock = connect(addresses, target.port, policy, deadline, tls_host=tls_host)
    try:
        connection = http.client.HTTPConnection(target.host, target.port)
        connection.sock = Wire(sock, policy.read_timeout, deadline)
        connection.auto_open = 0
        connection.request("GET", target.request, headers={"Host": target.host_header, **HEADERS})
        response = connection.getresponse()
        if response.status in REDIRECTS:
            location = response.getheader("Location")
            if not location:
                raise ImageError(f"image {name}: {target.host} redirects ({response.status}) without a Location")
            return quote(location.encode("latin-1", "replace"), safe="/?#[]%:@!$&'()*+,;=~\\")
        if response.status != 200:
            raise ImageError(f"image {name}: {target.host} answers {response.status} {response.reason}, expected 200")
        coding = response.getheader("Content-Encoding", "identity")
        if coding.lower() != "identity":
            raise ImageError(f"image {name}: {target.host} sends it compressed ({coding}), which was not asked for")
        data = _read(response, policy.max_bytes, name)
        return Download(data, response.getheader("Content-Type", ""), target.url)
    finally:
        sock.close()


def _read(response: http.client.HTTPResponse, limit: int, name: str) -> bytes:
    """The body: at most `limit` bytes, whatever the headers say."""
    announced = response.length
    if announced is not None and announced > limit:
        raise too_large(name, announced, limit)
    data = bytearray()
    try:
        while piece := response.read(PIECE):
            data += piece
            if len(data) > limit:
                raise too_large(name, None, limit)
    except http.client.IncompleteRead as error:
        raise ImageError(f"image {name}: cut off, the last piece is incomplete") from error
    if announced is not None and len(data) != announced:
        raise ImageError(f"image {name}: cut off after {len(data)} of {announced} bytes")
    return bytes(data)
