"""Around all requests: host names, API keys, errors in OpenAI's shape, the log, headers."""

from __future__ import annotations

import hmac
import logging
import time
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from mindformers_qwenvl.serve.errors import ApiError
from mindformers_qwenvl.serve.service import Service

__all__ = ["Guard", "printable_path"]

logger = logging.getLogger(__name__)


class Guard:
    """Checks host names and API keys, gives errors OpenAI's shape, logs a line for each request, and adds headers."""

    def __init__(self, app: Any, service: Service):
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def sending(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message.setdefault("headers", []).append((b"x-content-type-options", b"nosniff"))
            await send(message)

        request = Request(scope, receive)
        try:
            self._check(request)
            await self.app(scope, receive, sending)
        except ClientDisconnect:
            status = status or 499
        except ApiError as error:
            if not status:
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, sending)
        except Exception:
            logger.exception("a request failed")
            if status:
                raise
            error = ApiError(500, "the server failed; its log says why", "server_error", code="failed")
            await JSONResponse(error.body, 500)(scope, receive, sending)
        finally:
            self.service.engine.metrics.responses[status] += 1
            seconds = time.monotonic() - start
            logger.info("%s %s %d %.3f s", request.method, printable_path(request.url.path), status, seconds)

    def _check(self, request: Request) -> None:
        limits = self.service.limits
        if limits.hosts is not None:
            host = request.headers.get("host", "")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
            if name.lower() not in limits.hosts:
                raise ApiError(
                    403,
                    f"the request's Host header, {host[:100]!a}, is not a name of this server (see its option "
                    "--server-name)",
                    "permission_error",
                    code="unknown_host",
                )
        path = request.url.path
        if limits.keys and request.method != "OPTIONS" and (path.startswith("/v1") or path == "/metrics"):
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            given = given.strip() if scheme.lower() == "bearer" else ""
            matches = [hmac.compare_digest(given.encode(), key.encode()) for key in limits.keys]
            if not any(matches):
                what = "the API key is not one of this server's" if given else "no API key was given"
                raise ApiError(
                    401,
                    f"{what}; send the header Authorization: Bearer KEY",
                    "authentication_error",
                    code="invalid_api_key",
                )


def printable_path(path: str) -> str:
    """A path as messages and logs show it."""
    return ascii(path[:200])[1:-1]
