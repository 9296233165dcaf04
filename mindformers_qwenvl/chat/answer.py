"""Answers of a network: whole, as a stream, one or a batch. Through the host's `generate()` and its streamers."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.generation import GenerationConfig
from mindformers.generation.streamers import BaseStreamer
from mindformers.tools.logger import logger

from mindformers_qwenvl.chat.prompt import Pictures, Prompt, Query, chat_prompt, columns
from mindformers_qwenvl.generation.sampling import EndAnswer, RowByRow
from mindformers_qwenvl.generation.settings import settings_for, stop_ids, stop_sequences
from mindformers_qwenvl.pictures.images import ImageTransform
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE
from mindformers_qwenvl.text.reply import ReplyDecoder, chat_reply

__all__ = ["Answer", "AnswerStreamer", "Chat", "chat", "chat_stream", "generate_answers"]

History = list[tuple[Query, str]]


@dataclass(frozen=True)
class Answer:
    """What a network wrote: its ids, the one that ended it included; stopped: it ended by itself."""

    ids: tuple[int, ...]
    stopped: bool


class AnswerStreamer(BaseStreamer):
    """A streamer for `generate()` of one row: calls `on_text` with the whole text so far whenever it has grown, and
    once at the end. The text is that of `ReplyDecoder`, so never half a character, and at last what `chat` returns.

    (The host's TextStreamer holds words back until a space follows, and prints the replacement character in the place
    of what is cut.)
    """

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        self.decoder = ReplyDecoder(tokenizer)
        self.on_text = on_text
        self.shown = ""
        self._prompt_is_next = True

    def put(self, value: Any) -> None:
        if self._prompt_is_next:
            self._prompt_is_next = False
            return
        for token in np.atleast_1d(np.asarray(value)).reshape(-1):
            self._show(self.decoder.add(int(token)))

    def end(self) -> None:
        self._show(self.decoder.end(), last=True)

    def _show(self, text: str, last: bool = False) -> None:
        if last or text != self.shown:
            self.shown = text
            self.on_text(text)


def generate_answers(
    network: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    pictures: Sequence[Sequence[np.ndarray]],
    config: GenerationConfig,
    *,
    seeds: Sequence[Any] | None = None,
    stop_words_ids: Sequence[Sequence[int]] | None = None,
    streamer: BaseStreamer | None = None,
    cancelled: threading.Event | None = None,
) -> list[Answer]:
    """Answers to a batch of prompts.

    Args:
        network, tokenizer: a `QwenVL` and its `QwenVLTokenizer`.
        prompts, pictures: its rows, see `prompt.columns`.
        config: see `settings_for`.
        seeds: of each row, an int or a list of ints; None: numpy's global state decides.
        stop_words_ids: sequences of ids after which an answer ends.
        streamer: of the host.
        cancelled: once it is set, from another thread or the streamer, the answers end.

    Raises:
        ValueError: a prompt is longer than the network takes, or its images have another number of slots.
    """
    check_prompts(network, prompts)
    if ms.get_context("mode") == ms.PYNATIVE_MODE:
        _warn_once("PYNATIVE_MODE is many times slower; call mindspore.set_context(mode=mindspore.GRAPH_MODE) first")
    stops = stop_ids(config, tokenizer)
    sequences = stop_sequences(config, stop_words_ids)
    processors = RowByRow([], config.pad_token_id)
    if sequences or cancelled is not None:
        last_token = next((i for i in stops if i >= 0), tokenizer.eod_id)
        processors.append(EndAnswer(last_token, sequences, [len(prompt) for prompt in prompts], cancelled))
    config = copy.copy(config)
    config.eos_token_id, config.row_seeds = stops, seeds
    try:
        output = network.generate(
            generation_config=config,
            logits_processor=processors,
            streamer=streamer,
            **columns(prompts, pictures, config.pad_token_id),
        )
    except BaseException:
        if network.block_mgr:  # the host gives its blocks back at the end only, and would soon have none
            network.block_mgr.clear_cache()
        raise
    answers = [tuple(map(int, row[len(prompt) :])) for row, prompt in zip(output, prompts, strict=True)]
    return [Answer(ids, bool(ids) and ids[-1] in stops) for ids in answers]


def check_prompts(network: Any, prompts: Sequence[Prompt]) -> None:
    """Raise ValueError if a prompt does not fit the network."""
    for prompt in prompts:
        if len(prompt) >= network.config.seq_length:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, and the network takes {network.config.seq_length}, the answer "
                "included (seq_length); shorten it"
            )
        for span in prompt.spans[:1]:
            if span.stop - span.start != network.config.num_queries:
                raise ValueError(
                    f"the tokenizer has {span.stop - span.start} slots for an image, the network "
                    f"{network.config.num_queries}: QwenVLTokenizer(..., image_slots={network.config.num_queries})"
                )


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)


class Chat:
    """A network with what it needs to talk: tokenizer, pictures, settings. Holds no history.

    Args:
        network: a `QwenVL`.
        tokenizer: a `QwenVLTokenizer`, or a `QwenVLProcessor`, whose policy and folder for pictures then hold.
        generation_config: goes in the place of the network's own.
        keep_pictures: how many decoded pictures to keep for later turns.
        **changes: see `settings.CHANGEABLE`.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        generation_config: GenerationConfig | None = None,
        keep_pictures: int = 0,
        **changes: Any,
    ):
        template = getattr(tokenizer, "template", None)
        self.network = network
        self.tokenizer = tokenizer if template is None else template.tokenizer
        if template is None:
            self.pictures = Pictures(ImageTransform(network.config.vision.image_size), keep=keep_pictures)
        else:
            self.pictures = Pictures(template.image_transform, template.dataset_dir or None, keep_pictures)
        self.config = settings_for(network, generation_config, **changes)

    def prompt(self, query: Query, history: Sequence[Any] | None = None, system: str = SYSTEM_MESSAGE) -> Prompt:
        """The prompt; where `max_window_size` would let it grow beyond the network, its oldest exchanges are left out,
        so that `max_new_tokens` of answer, or a quarter of `seq_length`, find room."""
        seq_length = self.network.config.seq_length
        return chat_prompt(
            self.tokenizer,
            query,
            history,
            system,
            max_window_size=self.config.max_window_size,
            chat_format=self.config.chat_format,
            longest=seq_length - min(self.config.max_new_tokens, seq_length // 4),
        )

    def answer(
        self,
        prompt: Prompt,
        on_text: Callable[[str], None] | None = None,
        stop_words_ids: Sequence[Sequence[int]] | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        """The reply to a prompt; `on_text` is called with the text so far while it is written, until `cancelled`."""
        seed = self.config.seed
        [answer] = generate_answers(
            self.network,
            self.tokenizer,
            [prompt],
            [self.pictures.of(prompt)],
            self.config,
            seeds=None if seed is None else [seed],
            stop_words_ids=stop_words_ids,
            streamer=None if on_text is None else AnswerStreamer(self.tokenizer, on_text),
            cancelled=cancelled,
        )
        return chat_reply(self.tokenizer, answer.ids)

    def stream(self, prompt: Prompt, stop_words_ids: Sequence[Sequence[int]] | None = None) -> Iterator[str]:
        """The reply while it is written: the whole text so far, each time it has grown, at least once.

        The network runs in a thread of its own. Whoever stops listening (`close()`, `break`) ends the answer.
        """
        items: queue.Queue[Any] = queue.Queue()
        cancelled = threading.Event()

        def work() -> None:
            try:
                self.answer(prompt, items.put, stop_words_ids, cancelled)
                items.put(None)
            except BaseException as error:  # raised again where the text is waited for
                items.put(error)

        thread = threading.Thread(target=work, name="qwenvl-chat", daemon=True)
        thread.start()
        last = None
        try:
            while (item := items.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                if item != last:
                    last = item
                    yield item
        finally:
            cancelled.set()
            thread.join()


def _for_chat(network: Any, tokenizer: Any, generation_config: GenerationConfig | None, changes: dict) -> Chat:
    chat = Chat(network, tokenizer, generation_config, **changes)
    if chat.config.chat_format != "chatml":
        raise ValueError(
            f"chat: the model's {chat.config.chat_format!r} chat_format (generation_config.json) is that of a base "
            "model, which continues texts; if this one was trained on conversations, give chat_format='chatml', else "
            "use generate()"
        )
    return chat


def chat(
    network: Any,
    tokenizer: Any,
    query: Query,
    history: History | None = None,
    system: str = SYSTEM_MESSAGE,
    append_history: bool = True,
    stop_words_ids: Sequence[Sequence[int]] | None = None,
    generation_config: GenerationConfig | None = None,
    **changes: Any,
) -> tuple[str, History]:
    """`QwenVL.chat`, see there."""
    history = [] if history is None else history
    talk = _for_chat(network, tokenizer, generation_config, changes)
    response = talk.answer(talk.prompt(query, history, system), stop_words_ids=stop_words_ids)
    if append_history:
        history.append((query, response))
    return response, history


def chat_stream(
    network: Any,
    tokenizer: Any,
    query: Query,
    history: History | None = None,
    system: str = SYSTEM_MESSAGE,
    stop_words_ids: Sequence[Sequence[int]] | None = None,
    generation_config: GenerationConfig | None = None,
    **changes: Any,
) -> Iterator[str]:
    """`QwenVL.chat_stream`, see there. What is wrong with the arguments is said at the call, not at the first text."""
    talk = _for_chat(network, tokenizer, generation_config, changes)
    return talk.stream(talk.prompt(query, history, system), stop_words_ids)
