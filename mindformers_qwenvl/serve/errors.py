"""Errors in OpenAI's shape. Plain Python."""

from __future__ import annotations

from typing import Any

__all__ = ["ApiError", "bad_request", "broken", "overloaded", "stopping", "too_long", "unknown_model"]


class ApiError(Exception):
    """An error that is sent to the client.

    Args:
        status: the HTTP status.
        message: what was given, what is expected.
        kind: OpenAI's `type`.
        param: the field at fault, such as `messages[0].content`.
        code: OpenAI's `code`, or one like it.
        retry_after: seconds after which another try may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry_after = param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the response."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def bad_request(param: str | None, message: str, code: str | None = None) -> ApiError:
    """400: a field has a value that is not accepted."""
    return ApiError(400, f"{param}: {message}" if param else message, param=param, code=code)


def too_long(param: str, tokens: int, longest: int) -> ApiError:
    """400: no room for an answer after the prompt."""
    return bad_request(
        param,
        f"the prompt has {tokens} tokens, but this server takes {longest} for prompt and answer together; shorten it",
        "context_length_exceeded",
    )


def unknown_model(name: str, known: list[str]) -> ApiError:
    """404: there is no such model."""
    message = f"the model {name!r} does not exist; this server has: {', '.join(known)}"
    return ApiError(404, message, param="model", code="model_not_found")


def overloaded(waiting: int) -> ApiError:
    """429: the queue is full."""
    return ApiError(
        429,
        f"this server is at its limit of requests, {waiting} of which are waiting; try again later",
        "rate_limit_error",
        code="rate_limit_exceeded",
        retry_after=max(1, min(60, waiting // 8)),
    )


def broken() -> ApiError:
    """503: the network fails at every step."""
    return ApiError(503, "the model cannot answer; the server's log says why", "server_error", code="broken")


def stopping() -> ApiError:
    """503: the server is stopping."""
    return ApiError(
        503, "the server is shutting down; try again later", "server_error", code="shutting_down", retry_after=5
    )
