"""The routes of the server, an ASGI application of starlette: requests to jobs, pieces to responses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mindformers_qwenvl.serve.errors import ApiError, broken, overloaded, unknown_model
from mindformers_qwenvl.serve.guard import Guard, printable_path
from mindformers_qwenvl.serve.jobs import Job, Piece
from mindformers_qwenvl.serve.page_files import page_routes
from mindformers_qwenvl.serve.replies import Reply, event, model_list
from mindformers_qwenvl.serve.schema import chat_request, completion_request, json_body
from mindformers_qwenvl.serve.service import Service

__all__ = ["make_app"]

logger = logging.getLogger(__name__)

ALIVE = 15  # seconds after which an idle stream sends a comment, so that proxies keep it open


# ---- requests


async def _answer(request: Request, parse: Any) -> Response:
    service: Service = request.app.state.service
    arrived = time.monotonic()
    if service.engine.broken or not service.engine.ready.is_set():
        raise _not_ready(service)
    if service.in_flight >= service.most_in_flight:
        raise overloaded(service.engine.waiting)
    service.in_flight += 1
    jobs: list[Job] = []
    handed_over = False
    try:
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue()

        def send(index: int, piece: Any) -> None:  # called in the engine's thread
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(pieces.put_nowait, (index, piece))

        body = await _body(request, service)
        try:
            asked = parse(json_body(body))
            pool = service.fetching if asked.fetches else service.pool
            jobs, reply = await loop.run_in_executor(pool, service.jobs, asked, arrived, send)
        finally:
            service.reading -= len(body)
        service.engine.submit(jobs)
        request.state.prompt_tokens = reply.prompt_tokens
        if asked.stream:
            handed_over = True
            return _Stream(service, jobs, reply, pieces)
        answer = asyncio.ensure_future(_collect(pieces, len(jobs)))
        gone = asyncio.ensure_future(_disconnected(request.receive))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise ClientDisconnect
            return JSONResponse(reply.whole(answer.result()))
        finally:
            answer.cancel()
            gone.cancel()
    finally:
        if not handed_over:
            service.in_flight -= 1
            for job in jobs:
                service.engine.cancel(job)


async def _collect(pieces: asyncio.Queue[Any], count: int) -> list[list[Piece]]:
    """All pieces of `count` answers."""
    answers: list[list[Piece]] = [[] for _ in range(count)]
    left = count
    while left:
        index, piece = await pieces.get()
        if isinstance(piece, ApiError):
            raise piece
        answers[index].append(piece)
        left -= piece.finish is not None
    return answers


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class _Stream(Response):
    """Server-sent events. When the client disconnects, its rows are freed at the next token."""

    media_type = "text/event-stream"

    def __init__(self, service: Service, jobs: list[Job], reply: Reply, pieces: asyncio.Queue[Any]):
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.service, self.jobs, self.reply, self.pieces = service, jobs, reply, pieces

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            writing = asyncio.ensure_future(self._write(send))
            # A client that reads nothing would block the writer for ever. The engine's limit ends the answer; this one
            # ends the connection.
            limit = self.service.limits.answer_seconds + ALIVE
            await asyncio.wait({writing, gone}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                with contextlib.suppress(OSError):
                    writing.result()
            else:
                writing.cancel()
        finally:
            gone.cancel()
            self.service.in_flight -= 1
            for job in self.jobs:
                self.service.engine.cancel(job)

    async def _write(self, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for text in self._events():
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _events(self) -> AsyncIterator[str]:
        yield self.reply.begin(len(self.jobs)) or ": \n\n"
        left = len(self.jobs)
        getting = None
        while left:
            getting = getting or asyncio.ensure_future(self.pieces.get())
            done, _ = await asyncio.wait({getting}, timeout=ALIVE)
            if not done:
                yield ": waiting\n\n"
                continue
            (index, piece), getting = getting.result(), None
            if isinstance(piece, ApiError):
                yield event(piece.body)
                return
            left -= piece.finish is not None
            yield self.reply.piece(index, piece)
        yield self.reply.end()


async def _body(request: Request, service: Service) -> bytes:
    """The body of a request. Its bytes are counted in `service.reading` until the caller subtracts them.

    Raises:
        ApiError: its Content-Type is not JSON, or it is too large or too slow.
    """
    limits = service.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # pages of other sites may send other types without a CORS check
        raise ApiError(415, f"Content-Type: expected application/json, got {kind[:60] or 'none'}", code="not_json")
    announced = request.headers.get("content-length", "")
    reading = asyncio.ensure_future(_read(request, service, announced))
    try:
        done, _ = await asyncio.wait({reading}, timeout=limits.body_seconds)
        if done:
            return reading.result()
    finally:
        reading.cancel()
    raise ApiError(
        408, f"the request did not arrive within {limits.body_seconds:g} s", "timeout_error", code="request_timeout"
    )


async def _read(request: Request, service: Service, announced: str) -> bytes:
    most = service.limits.body
    too_large = announced.isdecimal() and int(announced[:20]) > most
    chunks, size, kept = [], 0, 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            too_large = too_large or size > most
            if too_large:  # keep reading for a while: a client that is still sending would miss the response
                chunks.clear()
                if size > 2 * most:
                    break
                continue
            if service.reading + len(chunk) > service.limits.bodies:
                raise overloaded(service.engine.waiting)
            service.reading += len(chunk)
            kept += len(chunk)
            chunks.append(chunk)
        if too_large:
            raise ApiError(
                413,
                f"the request is larger than this server's limit of {most} bytes (--max-body)",
                code="request_too_large",
            )
        return b"".join(chunks)
    except BaseException:
        service.reading -= kept
        raise


def _not_ready(service: Service) -> ApiError:
    if service.engine.broken:
        return broken()
    return ApiError(503, "the model is still loading; try again later", "server_error", code="loading", retry_after=5)


async def _chat(request: Request) -> Response:
    return await _answer(request, chat_request)


async def _completion(request: Request) -> Response:
    return await _answer(request, completion_request)


async def _picture(request: Request) -> Response:
    """The picture at an address, for the page: the page's security policy forbids fetching from other servers."""
    service: Service = request.app.state.service
    if service.in_flight >= service.most_in_flight:
        raise overloaded(service.engine.waiting)
    service.in_flight += 1
    try:
        body = await _body(request, service)
        service.reading -= len(body)
        address = json_body(body).get("url")
        loop = asyncio.get_running_loop()
        data, kind = await loop.run_in_executor(service.fetching, service.prompts.download, address, "url")
    finally:
        service.in_flight -= 1
    headers = {"Cache-Control": "no-store", "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, media_type=kind, headers=headers)


async def _models(request: Request) -> Response:
    service: Service = request.app.state.service
    return JSONResponse(model_list(service.names, service.created, service.prompts.longest))


async def _model(request: Request) -> Response:
    service: Service = request.app.state.service
    name = request.path_params["name"]
    for model in model_list(service.names, service.created, service.prompts.longest)["data"]:
        if model["id"] == name:
            return JSONResponse(model)
    raise unknown_model(name, service.names)


async def _health(request: Request) -> Response:
    service: Service = request.app.state.service
    state = "broken" if service.engine.broken else "ready" if service.engine.ready.is_set() else "loading"
    body = {"status": state, "running": service.engine.running, "waiting": service.engine.waiting}
    return JSONResponse(body, 200 if state == "ready" else 503)


async def _metrics(request: Request) -> Response:
    service: Service = request.app.state.service
    metrics, vectors = service.engine.metrics, service.engine.vectors
    metrics.pictures_found, metrics.pictures_encoded = vectors.found, vectors.encoded
    metrics.picture_bytes = vectors.size
    return PlainTextResponse(metrics.text(), media_type="text/plain; version=0.0.4")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = {404: "there is no such address", 405: f"{request.method} is not allowed here"}.get(status, str(error))
    fault = ApiError(status, f"{what}: {request.method} {printable_path(request.url.path)}", code=f"http_{status}")
    return JSONResponse(fault.body, status, getattr(error, "headers", None))


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status, error.headers)


def make_app(service: Service, page: bool = False) -> Starlette:
    """The ASGI application. page: whether to serve the page as well."""
    routes = [
        Route("/v1/chat/completions", _chat, methods=["POST"]),
        Route("/v1/completions", _completion, methods=["POST"]),
        Route("/v1/models", _models, methods=["GET"]),
        Route("/v1/models/{name:path}", _model, methods=["GET"]),
        Route("/health", _health, methods=["GET"]),
        Route("/metrics", _metrics, methods=["GET"]),
        *([*page_routes(), Route("/v1/pictures", _picture, methods=["POST"])] if page else ()),
    ]
    middleware = [Middleware(Guard, service=service)]
    if service.limits.origins:
        middleware.insert(
            0,
            Middleware(
                CORSMiddleware,
                allow_origins=list(service.limits.origins),
                allow_methods=["GET", "POST"],
                allow_headers=["authorization", "content-type"],
            ),
        )
    app = Starlette(
        routes=routes,
        middleware=middleware,
        exception_handlers={HTTPException: _http_error, ApiError: _api_error},
    )
    app.state.service = service
    return app
