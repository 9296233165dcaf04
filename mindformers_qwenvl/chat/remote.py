"""A client of servers with OpenAI's interface, ours or another. Standard library only."""

from __future__ import annotations

import http.client
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from mindformers_qwenvl.checks import printable

__all__ = ["Remote", "RemoteError"]

TRIES = 6  # how often a request is sent that a busy server refuses
LONGEST_WAIT = 60.0  # seconds before the next try
LONGEST_BODY = 64 * 2**20  # bytes of an answer


class RemoteError(OSError):
    """The server does not answer, or says that it cannot. `status` is the HTTP status, or 0 if there was none."""

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


class Remote:
    """A server.

    Args:
        url: its base, such as http://127.0.0.1:8000/v1.
        key: the API key, sent as a bearer token; None: no key.
        timeout: seconds without a sign of life.

    Raises:
        ValueError: the URL does not begin with http:// or https://, or names no host.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 600):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected the address of a server like http://127.0.0.1:8000/v1, got {url!r}")
        self.url, self.key, self.timeout = url.rstrip("/"), key, timeout
        self._opener = urllib.request.build_opener(_NoRedirect)  # a key must not follow a redirect to another host

    def models(self) -> list[str]:
        """Names of its models, at least one.

        Raises:
            RemoteError: it does not list any.
        """
        with self._open("/models", None) as response:
            answer = _json(response)
        try:
            names = [model["id"] for model in answer["data"]]
        except (KeyError, TypeError):
            names = []
        if not names or not all(isinstance(name, str) for name in names):
            raise RemoteError(f"{self.url}/models lists no models")
        return names

    def ask(self, body: Mapping[str, Any], tries: int = TRIES) -> str:
        """The text of the answer to a chat request; a server that is busy is asked again, up to `tries` times in all.

        Raises:
            RemoteError: there is no answer.
        """
        for attempt in range(tries):
            try:
                with self._open("/chat/completions", body) as response:
                    answer = _json(response)
                content = answer["choices"][0]["message"]["content"]
                return content if isinstance(content, str) else ""
            except RemoteError as error:
                if error.status not in (429, 503) or attempt == tries - 1:
                    raise
                wait = error.retry_after if error.retry_after is not None else 2.0**attempt
                time.sleep(min(wait, LONGEST_WAIT))
            except (KeyError, IndexError, TypeError):
                raise RemoteError(f"{self.url}: the answer has no choices[0].message.content") from None
        raise AssertionError("no tries")

    def stream(self, body: Mapping[str, Any]) -> Iterator[str]:
        """The text of the answer to a chat request while it is written, piece by piece. Closing the iterator ends the
        answer.

        Raises:
            RemoteError: there is no answer, or it breaks off.
        """
        finished = False
        with self._open("/chat/completions", {**body, "stream": True}) as response:
            try:
                for line in response:
                    data = line.strip()
                    if not data.startswith(b"data:"):
                        continue
                    data = data.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    chunk = json.loads(data)
                    if chunk.get("error"):
                        raise RemoteError(_said(chunk))
                    for choice in chunk.get("choices", ())[:1]:
                        finished = finished or bool(choice.get("finish_reason"))
                        yield (choice.get("delta") or {}).get("content") or ""
            except (ValueError, AttributeError, TypeError):
                raise RemoteError(f"{self.url}: the stream contains something other than JSON") from None
            except (http.client.HTTPException, OSError) as error:
                if isinstance(error, RemoteError):
                    raise
                raise RemoteError(f"{self.url}: the answer breaks off: {error or type(error).__name__}") from error
        if not finished:
            raise RemoteError(f"{self.url}: the answer breaks off")

    def _open(self, path: str, body: Mapping[str, Any] | None) -> Any:
        headers = {"Accept": "application/json, text/event-stream", "User-Agent": "mindformers-qwenvl"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            return self._opener.open(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            reason = "it took too long" if isinstance(reason, socket.timeout) else reason
            raise RemoteError(f"{self.url} does not answer: {reason}") from error

    def _refused(self, error: urllib.error.HTTPError) -> RemoteError:
        with error:
            said = ""
            with suppress(OSError, ValueError, http.client.HTTPException):
                said = _said(json.loads(error.read(65536)))
            retry_after = error.headers.get("Retry-After", "")
        wait = float(retry_after) if retry_after.isdecimal() else None
        return RemoteError(f"{self.url} answers {error.code}: {said or error.reason}", error.code, wait)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def _json(response: Any) -> Any:
    try:
        return json.loads(response.read(LONGEST_BODY))
    except (ValueError, RecursionError, http.client.HTTPException, OSError) as error:
        raise RemoteError(f"{response.url}: the answer cannot be read: {type(error).__name__}") from error


def _said(body: Any) -> str:
    """The message of an error in OpenAI's shape, or in that of other servers."""
    error = body.get("error", body) if isinstance(body, dict) else body
    message = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return printable(str(message))[:500]
