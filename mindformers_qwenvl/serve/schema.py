"""Checks the fields of a request, which are OpenAI's. Every error names its field. Plain Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mindformers_qwenvl.checks import is_number, is_whole
from mindformers_qwenvl.serve.asked import Asked, Part, Turn
from mindformers_qwenvl.serve.errors import bad_request

__all__ = ["chat_request", "completion_request", "json_body"]

MOST_ANSWERS = 16
MOST_STOPS = 16
MOST_TOP = 20
MOST_BIASES = 1024
MOST_SEED = 2**63 - 1

# OpenAI's fields that are accepted, but have no effect here.
WITHOUT_EFFECT = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
)
SAMPLING = (
    *("max_tokens", "temperature", "top_p", "stop", "seed", "n", "stream", "stream_options"),
    *("presence_penalty", "frequency_penalty", "logit_bias"),
    *("top_k", "repetition_penalty", "min_tokens"),  # not OpenAI's; named as on other servers
)
CHAT = ("model", "messages", "max_completion_tokens", "logprobs", "top_logprobs", "parse_boxes", *SAMPLING)
COMPLETION = ("model", "prompt", "logprobs", "parse_boxes", *SAMPLING)

# Fields for what this model cannot do, and the values that are accepted because they ask for nothing.
REFUSED = {
    "tools": (None, []),
    "tool_choice": (None, "none"),
    "parallel_tool_calls": (None,),
    "functions": (None, []),
    "function_call": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
}
WHY = dict.fromkeys(("tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"), "tools")


def json_body(body: bytes) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        ApiError: the body is not a JSON object.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise bad_request(None, "the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise bad_request(None, f"the body is not JSON: {error.msg.removesuffix(' at')} at {where}") from None
    except (ValueError, RecursionError) as error:
        raise bad_request(None, f"the body cannot be read as JSON: {str(error)[:80]}") from None
    if not isinstance(value, dict):
        raise bad_request(None, f"the body must be a JSON object, got {_shown(value)}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def chat_request(body: Mapping[str, Any]) -> Asked:
    """A body of /v1/chat/completions.

    Raises:
        ApiError: a field is missing, unknown, or has a value that is not accepted; the message names it.
    """
    _known(body, CHAT)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages", f"expected a list of at least one message, got {_shown(messages)}")
    turns = tuple(_turn(message, f"messages[{number}]") for number, message in enumerate(messages))
    limits = [body.get(name) for name in ("max_tokens", "max_completion_tokens")]
    if None not in limits:
        raise bad_request("max_tokens", "give max_tokens or max_completion_tokens, not both")
    name = "max_tokens" if body.get("max_tokens") is not None else "max_completion_tokens"
    wanted = _flag(body, "logprobs")
    top = _whole(body, "top_logprobs", 0, MOST_TOP)
    if top is not None and not wanted:
        raise bad_request("top_logprobs", "is only allowed with logprobs: true")
    return Asked(
        turns=turns,
        max_tokens=_whole(body, name, 1),
        top=(top or 0) if wanted else None,
        **_sampling(body),
    )


def completion_request(body: Mapping[str, Any]) -> Asked:
    """A body of /v1/completions: the prompt is used as it is, as a base model needs it.

    Raises:
        ApiError: as `chat_request`.
    """
    _known(body, COMPLETION)
    prompt = body.get("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise bad_request("prompt", f"expected a string or a list of strings, got {_shown(prompt)}")
    if len(prompts) > MOST_ANSWERS:
        raise bad_request("prompt", f"expected at most {MOST_ANSWERS} strings, got {len(prompts)}")
    for number, one in enumerate(prompts):
        _text(one, "prompt" if isinstance(prompt, str) else f"prompt[{number}]")
        if not one:
            raise bad_request("prompt", "an empty string cannot be continued")
    if len(prompts) > 1 and (body.get("n") or 1) != 1:
        raise bad_request("n", "is only allowed with a single prompt")
    return Asked(
        prompts=tuple(prompts),
        max_tokens=_whole(body, "max_tokens", 1),
        top=_whole(body, "logprobs", 0, 5),
        **_sampling(body),
    )


def _sampling(body: Mapping[str, Any]) -> dict[str, Any]:
    model = body.get("model")
    if not isinstance(model, str):
        raise bad_request("model", f"expected the name of a model (see /v1/models), got {_shown(model)}")
    stream = _flag(body, "stream")
    return {
        "model": model,
        "temperature": _number(body, "temperature", 0, 2),
        "top_p": _number(body, "top_p", 0, 1),
        "top_k": _whole(body, "top_k", 0),
        "repetition_penalty": _number(body, "repetition_penalty", 0.01, 100),
        "min_tokens": _whole(body, "min_tokens", 0),
        "stop": _stops(body.get("stop")),
        "seed": _whole(body, "seed", 0, MOST_SEED),
        "n": _whole(body, "n", 1, MOST_ANSWERS) or 1,
        "presence_penalty": _number(body, "presence_penalty", -2, 2) or 0.0,
        "frequency_penalty": _number(body, "frequency_penalty", -2, 2) or 0.0,
        "logit_bias": _biases(body.get("logit_bias")),
        "stream": stream,
        "include_usage": _stream_options(body.get("stream_options"), stream),
        "parse_boxes": _flag(body, "parse_boxes"),
    }


def _known(body: Mapping[str, Any], known: Sequence[str]) -> None:
    for name, value in body.items():
        if name in known or name in WITHOUT_EFFECT:
            continue
        if name in REFUSED:
            if any(type(value) is type(nothing) and value == nothing for nothing in REFUSED[name]):
                continue
            what = WHY.get(name)
            reason = f"this model cannot use {what}" if what else f"not supported by this server, got {_shown(value)}"
            raise bad_request(name, reason, "unsupported_parameter")
        raise bad_request(_name(name), "unknown field", "unknown_parameter")


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, dict):
        raise bad_request(where, f"expected an object with role and content, got {_shown(message)}")
    role = message.get("role")
    if role in ("tool", "function"):
        raise bad_request(f"{where}.role", "this model cannot use tools", "unsupported_parameter")
    if role not in ("system", "developer", "user", "assistant"):
        raise bad_request(f"{where}.role", f"expected system, user or assistant, got {_shown(role)}")
    for name in ("tool_calls", "function_call", "audio"):
        if message.get(name):
            raise bad_request(f"{where}.{name}", "not supported by this model", "unsupported_parameter")
    unknown = set(message) - {"role", "content", "name", "refusal", "tool_calls", "function_call", "audio"}
    unknown -= {"annotations", "reasoning_content", "boxes"}  # of answers that a client sends back unchanged
    if unknown:
        raise bad_request(f"{where}.{_name(min(unknown))}", "unknown field", "unknown_parameter")
    role = "system" if role == "developer" else role
    content, here = message.get("content"), f"{where}.content"
    if isinstance(content, str):
        return Turn(role, (Part(here, _text(content, here)),), where)
    if not isinstance(content, list) or not content:
        raise bad_request(here, f"expected a string or a list of parts, got {_shown(content)}")
    parts = tuple(_part(part, f"{here}[{number}]", role) for number, part in enumerate(content))
    return Turn(role, parts, where)


def _part(part: Any, where: str, role: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text":
        return Part(f"{where}.text", _text(part.get("text"), f"{where}.text"))
    if kind == "refusal" and role == "assistant":
        return Part(f"{where}.refusal", _text(part.get("refusal"), f"{where}.refusal"))
    if kind != "image_url":
        raise bad_request(where, f"expected a part of type text or image_url, got {_shown(kind or part)}")
    if role != "user":
        raise bad_request(where, f"pictures are only allowed in messages of role user, this one is of role {role}")
    picture = part.get("image_url")
    if isinstance(picture, dict):
        detail = picture.get("detail")
        if detail not in (None, "auto", "low", "high"):
            raise bad_request(f"{where}.image_url.detail", f"expected auto, low or high, got {_shown(detail)}")
        picture = picture.get("url")
        where = f"{where}.image_url.url"
    else:
        where = f"{where}.image_url"
    if not isinstance(picture, str) or not picture.strip():
        raise bad_request(where, f"expected the address of a picture, got {_shown(picture)}", "invalid_image_url")
    return Part(where, picture=_text(picture.strip(), where))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise bad_request(where, f"expected a string, got {_shown(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise bad_request(where, "contains half of a surrogate pair, which is not a character") from None
    return value


def _whole(body: Mapping[str, Any], name: str, least: int, most: int | None = None) -> int | None:
    value = body.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or is_whole(value, least, most):
        return value
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    raise bad_request(name, f"expected a whole number {limits}, got {_shown(value)}")


def _number(body: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = body.get(name)
    if value is None or is_number(value, least, most):
        return None if value is None else float(value)
    raise bad_request(name, f"expected a number from {least} to {most}, got {_shown(value)}")


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise bad_request(name, f"expected true or false, got {_shown(value)}")


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else ([] if value is None else value)
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise bad_request("stop", f"expected a string or a list of strings, none of them empty, got {_shown(value)}")
    if len(stops) > MOST_STOPS or any(len(stop) > 1000 for stop in stops):
        raise bad_request("stop", f"expected at most {MOST_STOPS} strings of at most 1000 characters")
    return tuple(_text(stop, "stop") for stop in stops)


def _biases(value: Any) -> dict[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        raise bad_request("logit_bias", f"expected an object of at most {MOST_BIASES} token ids")
    biases = {}
    for token, bias in value.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 8) or not is_number(bias, -100, 100):
            raise bad_request("logit_bias", "expected token ids, each with a number from -100 to 100")
        biases[int(token)] = float(bias)
    return biases


def _stream_options(value: Any, stream: bool) -> bool:
    if value is None:
        return False
    if not stream:
        raise bad_request("stream_options", "is only allowed with stream: true")
    if not isinstance(value, dict) or set(value) - {"include_usage", "include_obfuscation"}:
        raise bad_request("stream_options", f'expected {{"include_usage": true}}, got {_shown(value)}')
    return _flag(value, "include_usage")


def _shown(value: Any) -> str:
    """A value in the short form that messages show."""
    text = json.dumps(value, ensure_ascii=True) if not isinstance(value, dict | list) else type(value).__name__
    text = {"dict": "an object", "list": "a list" if value else "an empty list"}.get(text, text)
    return "nothing" if value is None else text if len(text) <= 60 else f"{text[:60]}..."


def _name(name: str) -> str:
    return name if len(name) <= 60 and name.isprintable() else ascii(name[:60])[1:-1]
