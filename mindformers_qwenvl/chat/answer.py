"""Answers of a network: whole, as a stream, one or a batch; by the host's `generate()` and its streamers."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindformers.generation import GenerationConfig
from mindformers.generation.streamers import BaseStreamer

from mindformers_qwenvl.chat.vectors import PictureVectors, digest_of
from mindformers_qwenvl.generation.prompt import Pictures, Query, prompt_columns, prompt_that_fits
from mindformers_qwenvl.generation.sampling import RowByRow
from mindformers_qwenvl.generation.settings import settings_for
from mindformers_qwenvl.generation.stopping import EndAnswer, NotYet, stop_ids, stop_sequences
from mindformers_qwenvl.pictures.images import ImageTransform
from mindformers_qwenvl.text.columns import batch_columns
from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE, turn_ends
from mindformers_qwenvl.text.reply import ReplyDecoder, chat_reply
from mindformers_qwenvl.text.rows import Row
from mindformers_qwenvl.text.vocabulary_file import check_model

__all__ = ["Answer", "AnswerStreamer", "Chat", "chat", "chat_stream", "generate_answers"]

VECTORS = 256 * 2**20  # bytes of picture vectors that a `Chat` keeps

History = list[tuple[Query, str]]


@dataclass(frozen=True)
class Answer:
    """What a network wrote.

    ids: its tokens, including the one that ended it. stopped: whether a stop token ended it, not `max_new_tokens`.
    """

    ids: tuple[int, ...]
    stopped: bool


class AnswerStreamer(BaseStreamer):
    """A streamer for `generate()` of one row: calls `on_text` with the whole text so far each time it has grown, and
    once at the end. The text is that of `ReplyDecoder`: never half a character, and at the end what `chat` returns.

    (The host's TextStreamer holds words back until a space follows, and prints the replacement character for a
    character whose tokens have not all come.)
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
    prompts: Sequence[Row],
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
        prompts: the rows of the batch, see `generation.prompt.make_prompt`.
        pictures: those of each row, float32 [3, H, W]; or their vectors [Q, H], from `QwenVL.image_vectors`.
        config: see `settings_for`.
        seeds: one for each row, an int or a list of ints; None: numpy's global random state is used.
        stop_words_ids: sequences of ids that end an answer.
        streamer: one of the host's.
        cancelled: once it is set, by another thread or by the streamer, the answers end.

    Raises:
        ValueError: a prompt is longer than the network takes, or its images have a different number of slots; or the
            tokenizer has the vocabulary of another model.
    """
    check_tokenizer(network, tokenizer)
    check_prompts(network, prompts)
    stops = stop_ids(config, turn_ends(tokenizer))
    sequences = stop_sequences(config, stop_words_ids)
    processors = RowByRow([], config.pad_token_id)
    if sequences or cancelled is not None:
        last_token = next((i for i in stops if i >= 0), tokenizer.eod_id)
        processors.append(EndAnswer(last_token, sequences, [len(prompt) for prompt in prompts], cancelled))
    config = copy.copy(config)
    if config.min_new_tokens:
        processors.append(NotYet(config.min_new_tokens, stops, [len(prompt) for prompt in prompts]))
        config.min_new_tokens = None
    config.eos_token_id, config.row_seeds = stops, seeds
    slots = network.config.num_queries
    rows = [prompt_columns(prompt, shown, slots) for prompt, shown in zip(prompts, pictures, strict=True)]
    output = network.generate(
        generation_config=config,
        logits_processor=processors,
        streamer=streamer,
        **batch_columns(rows, config.pad_token_id),
    )
    answers = [tuple(map(int, row[len(prompt) :])) for row, prompt in zip(output, prompts, strict=True)]
    return [Answer(ids, bool(ids) and ids[-1] in stops) for ids in answers]


def check_tokenizer(network: Any, tokenizer: Any) -> None:
    """Raise ValueError if the tokenizer has the vocabulary of another model."""
    check_model(tokenizer.eod_id, getattr(tokenizer, "vocab_file", "given"), network.config.image_start_id)


def check_prompts(network: Any, prompts: Sequence[Row]) -> None:
    """Raise ValueError if a prompt does not fit the network."""
    for prompt in prompts:
        if len(prompt) >= network.config.seq_length:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, but the network takes {network.config.seq_length} (seq_length) "
                "for prompt and answer together; shorten it"
            )
        for span in prompt.spans[:1]:
            if span.stop - span.start != network.config.num_queries:
                raise ValueError(
                    f"the tokenizer has {span.stop - span.start} slots for an image, but the network has "
                    f"{network.config.num_queries}: use QwenVLTokenizer(..., image_slots={network.config.num_queries})"
                )


class Chat:
    """A network with what it needs to talk: tokenizer, pictures, settings. Holds no history.

    Args:
        network: a `QwenVL`.
        tokenizer: a `QwenVLTokenizer`; or a `QwenVLProcessor`, whose picture policy and folder then apply.
        generation_config: used instead of the network's own.
        keep_pictures: how many decoded pictures to keep for later turns. Their vectors are kept too, in at most
            VECTORS bytes, so that a picture of an earlier turn is not encoded again.
        answer_pictures: whether answers of the history open pictures, see `generation.prompt.make_prompt`.
        **changes: see `settings.CHANGEABLE`.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        generation_config: GenerationConfig | None = None,
        keep_pictures: int = 0,
        answer_pictures: bool = False,
        **changes: Any,
    ):
        template = getattr(tokenizer, "template", None)
        self.network = network
        self.answer_pictures = answer_pictures
        self.tokenizer = tokenizer if template is None else template.tokenizer
        check_tokenizer(network, self.tokenizer)
        if template is None:
            self.pictures = Pictures(ImageTransform(network.config.vision.image_size), keep=keep_pictures)
        else:
            self.pictures = Pictures(template.image_transform, template.dataset_dir or None, keep_pictures)
        self.vectors = PictureVectors(lambda pixels: network.image_vectors(pixels[None])[0], VECTORS)
        self.config = settings_for(network, generation_config, **changes)

    def _shown(self, prompt: Row) -> list[np.ndarray]:
        """For each picture of a prompt its pixels; or its vectors, if vectors are kept."""
        pictures = self.pictures.of(prompt)
        if not self.pictures.keep:
            return pictures
        adapter = self.network.active_adapter
        return [self.vectors.of((adapter, digest_of(pixels)), pixels) for pixels in pictures]

    def prompt(self, query: Query, history: Sequence[Any] | None = None, system: str = SYSTEM_MESSAGE) -> Row:
        """The prompt of `query`, see `generation.prompt.prompt_that_fits`."""
        seq_length = self.network.config.seq_length
        return prompt_that_fits(
            self.tokenizer,
            query,
            history,
            system,
            config=self.config,
            seq_length=seq_length,
            answer_pictures=self.answer_pictures,
        )

    def answer(
        self,
        prompt: Row,
        on_text: Callable[[str], None] | None = None,
        stop_words_ids: Sequence[Sequence[int]] | None = None,
        cancelled: threading.Event | None = None,
    ) -> str:
        """The reply to a prompt. While it is written, `on_text` is called with the text so far; `cancelled` ends it."""
        seed = self.config.seed
        [answer] = generate_answers(
            self.network,
            self.tokenizer,
            [prompt],
            [self._shown(prompt)],
            self.config,
            seeds=None if seed is None else [seed],
            stop_words_ids=stop_words_ids,
            streamer=None if on_text is None else AnswerStreamer(self.tokenizer, on_text),
            cancelled=cancelled,
        )
        return chat_reply(self.tokenizer, answer.ids)

    def stream(self, prompt: Row, stop_words_ids: Sequence[Sequence[int]] | None = None) -> Iterator[str]:
        """The reply while it is written: the whole text so far, each time it has grown, at least once.

        The network runs in a thread of its own. Closing the iterator (`close()`, `break`) ends the answer.
        """
        items: queue.Queue[Any] = queue.Queue()
        cancelled = threading.Event()

        def work() -> None:
            try:
                self.answer(prompt, items.put, stop_words_ids, cancelled)
                items.put(None)
            except BaseException as error:  # raised again in the thread that waits for the text
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
            f"chat: the model's chat_format (generation_config.json) is {chat.config.chat_format!r}, that of a base "
            "model, which continues texts: use generate(); or if the model was trained on conversations, pass "
            "chat_format='chatml'"
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
    """`QwenVL.chat_stream`, see there. Bad arguments raise at the call, not at the first text."""
    talk = _for_chat(network, tokenizer, generation_config, changes)
    return talk.stream(talk.prompt(query, history, system), stop_words_ids)
