"""The page of the server: a fixed list of files of the package, held in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["page_routes"]

FOLDER = Path(__file__).with_name("page")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
}


def page_routes() -> list[Route]:
    """`/` is index.html, `/page/NAME` each file.

    Raises:
        FileNotFoundError: the package has no page.
    """
    files = {path.name: path for path in sorted(FOLDER.glob("*")) if path.suffix in KINDS and path.is_file()}
    if "index.html" not in files:
        raise FileNotFoundError(f"--page: this install has no page ({FOLDER} has no index.html)")
    routes = [_route(f"/page/{name}", path) for name, path in files.items()]
    return [_route("/", files["index.html"]), *routes]


def _route(address: str, path: Path) -> Route:
    content = path.read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag, "Content-Type": KINDS[path.suffix]}

    async def give(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers)

    endpoint: Any = give
    return Route(address, endpoint, methods=["GET"])
