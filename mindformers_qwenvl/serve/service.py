"""What the routes share: the engine, limits, and how a request becomes jobs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mindformers_qwenvl.generation.settings import settings_for
from mindformers_qwenvl.generation.stopping import stop_ids, stop_sequences
from mindformers_qwenvl.serve.asked import Asked
from mindformers_qwenvl.serve.choose import Nudges
from mindformers_qwenvl.serve.engine import Engine
from mindformers_qwenvl.serve.errors import bad_request, unknown_model
from mindformers_qwenvl.serve.jobs import Job
from mindformers_qwenvl.serve.prompts import Prompts
from mindformers_qwenvl.serve.replies import Reply
from mindformers_qwenvl.text.layout import turn_ends

__all__ = ["Limits", "Service"]

PREPARING, FETCHING = 4, 8  # threads that open pictures: those inside requests, and those on other servers


@dataclass(frozen=True)
class Limits:
    """What the server accepts.

    body: bytes of a request. bodies: bytes of all requests that are being read or prepared. body_seconds: for a
    request's body to arrive. answer_seconds: from a request's arrival to its last token. origins: other sites whose
    pages may use this server. hosts: names that the Host header may have; None: any. keys: API keys, one of which a
    request must give; empty: none is needed.
    """

    body: int = 48 * 2**20
    bodies: int = 512 * 2**20
    body_seconds: float = 60
    answer_seconds: float = 600
    origins: tuple[str, ...] = ()
    hosts: frozenset[str] | None = None
    keys: tuple[str, ...] = field(default=(), repr=False)


class Service:
    """What the routes share.

    Args:
        engine: answers jobs.
        prompts: makes prompts.
        config: the generation configuration, from `settings_for`, which requests may override.
        names: of the models; the first is the base model, the others are adapters.
        limits: see `Limits`.
    """

    def __init__(self, engine: Engine, prompts: Prompts, config: Any, names: Sequence[str], limits: Limits):
        self.engine, self.prompts, self.config, self.names, self.limits = engine, prompts, config, list(names), limits
        self.tokenizer = engine.tokenizer
        self.created = int(time.time())
        self.pool = ThreadPoolExecutor(PREPARING, "qwenvl-prepare")
        # Fetching a picture may take half a minute, and other requests must not wait for it.
        self.fetching = ThreadPoolExecutor(FETCHING, "qwenvl-fetch")
        self.in_flight = 0  # requests for answers
        self.most_in_flight = engine.queue + engine.rows + 16
        self.reading = 0  # bytes of bodies
        self.own_chatml = config.chat_format == "chatml"

    def jobs(self, asked: Asked, arrived: float, send: Any) -> tuple[list[Job], Reply]:
        """The jobs of a request, and the reply made from their pieces, which are passed to `send(index, piece)`.

        Raises:
            ApiError: see `Prompts.of`; or the model is unknown, or a setting is out of range.
        """
        if asked.model not in self.names:
            raise unknown_model(asked.model, self.names)
        config = self._settings(asked)
        for token in asked.logit_bias:
            if token >= self.engine.network.config.vocab_size:
                raise bad_request("logit_bias", f"there is no token {token}")
        chatml = asked.chat or self.own_chatml
        config.chat_format = "chatml" if chatml else "raw"
        stops = stop_ids(config, turn_ends(self.tokenizer))
        sequences = stop_sequences(config)
        prompts = self.prompts.of(asked)
        wanted = [(row, pictures, number) for row, pictures in prompts for number in range(asked.n)]
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        jobs = []
        for index, (row, pictures, number) in enumerate(wanted):
            jobs.append(
                Job(
                    prompt=row,
                    pictures=pictures,
                    config=config,
                    adapter=asked.model if asked.model != self.names[0] else None,
                    most=min(config.max_new_tokens, self.prompts.longest - len(row)),
                    stops=stops,
                    stop_sequences=sequences,
                    stop_texts=asked.stop,
                    strip=asked.chat,
                    seed=[seed, number] if number else seed,
                    nudges=Nudges(asked.presence_penalty, asked.frequency_penalty, asked.logit_bias),
                    top=asked.top,
                    deadline=arrived + self.limits.answer_seconds,
                    send=lambda piece, index=index: send(index, piece),
                    asked=arrived,
                )
            )
        sizes = [[(one.width, one.height) for one in pictures] for _, pictures, _ in wanted]
        reply = Reply(
            self.tokenizer,
            asked.model,
            asked.chat,
            sum(len(row) for row, _ in prompts),
            sizes if asked.parse_boxes else None,
            asked.include_usage,
        )
        return jobs, reply

    def _settings(self, asked: Asked) -> Any:
        do_sample = True if asked.temperature or (asked.top_p or 1) < 1 or asked.top_k else None
        if asked.temperature == 0:
            do_sample = False
        try:
            return settings_for(
                self.engine.network,
                self.config,
                max_new_tokens=asked.max_tokens,
                do_sample=do_sample,
                temperature=asked.temperature,
                top_k=asked.top_k,
                top_p=asked.top_p,
                repetition_penalty=asked.repetition_penalty,
                min_new_tokens=asked.min_tokens,
            )
        except ValueError as error:
            raise bad_request(None, str(error)) from None
