"""Pictures from elsewhere: servers on this machine, one that speaks HTTP as told, one that answers raw bytes; and
`data:` addresses."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

TLS = Path(__file__).with_name("tls")
TLS_NAME = "pictures.test"
# Times of an `ImagePolicy` for tests of something else: a busy machine may stand still for many seconds.
PATIENT = {"connect_timeout": 300, "read_timeout": 300, "total_timeout": 600}


def picture(kind: str = "PNG", size: tuple[int, int] = (20, 12)) -> bytes:
    """The bytes of a picture of noise, `size` = (width, height)."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def data_uri(data: bytes, head: str = "data:image/png;base64") -> str:
    """`data` as an address that holds it."""
    return f"{head},{base64.b64encode(data).decode()}"


@dataclass
class Site:
    """A running server. `pages`: path -> (status, headers, body); None in the place of a body sends no length and
    `endless` bytes. `seen`: (path, Host header) of every request; `names`: what TLS clients asked for."""

    port: int = 0
    scheme: str = "http"
    pages: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"

    def page(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        self.pages[path] = (status, given, body)
        return self.url(path)

    def redirect(self, path: str, location: str, status: int = 302) -> str:
        return self.page(path, b"", status, Location=location)


@contextlib.contextmanager
def site(tls: bool = False) -> Iterator[Site]:
    """Serve on 127.0.0.1 at a free port, until the block ends."""
    served = Site(scheme="https" if tls else "http")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            served.seen.append((self.path, self.headers["Host"]))
            status, headers, body = served.pages.get(self.path, (404, {}, b"nothing here"))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                if value:  # "" leaves a header out
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that hang up are what is tested

    server = Server(("127.0.0.1", 0), Handler)
    served.port = server.server_port
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "certificate.pem", TLS / "key.pem")
        context.sni_callback = lambda sock, name, context: served.names.append(name)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A port whose every connection is handed to `talk(connection, over)`; `over` is set when the block ends."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    talk(connection, over)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(60)
