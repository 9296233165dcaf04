"""The methods of `QwenVL` that answer: chat, likelihood, boxes. The folder chat does the work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE

__all__ = ["Answering"]


class Answering:
    """Questions to a network, and its answers."""

    def chat(
        self,
        tokenizer: Any,
        query: Any,
        history: list | None = None,
        system: str = SYSTEM_MESSAGE,
        append_history: bool = True,
        stop_words_ids: list[list[int]] | None = None,
        generation_config: Any = None,
        **changes: Any,
    ) -> tuple[str, list]:
        """Answer `query`, the next turn of a conversation, in ChatML (original: QWenLMHeadModel.chat).

        Args:
            tokenizer: a `QwenVLTokenizer`; or a `QwenVLProcessor`, whose rules for images then apply.
            query: a text, as `tokenizer.from_list_format` makes it, or the list itself, in which an image may be
                anything `pictures.opening.open_image` takes.
            history: pairs (query, answer), oldest first; this one is appended unless `append_history` is False.
            system: the system message.
            stop_words_ids: more sequences of ids that end the answer.
            generation_config: used instead of `self.generation_config`, the generation_config.json of the model.
            **changes: settings that differ from it: max_new_tokens, max_window_size, do_sample, temperature, top_k,
                top_p, repetition_penalty, chat_format; and `seed`, which makes sampling reproducible. With
                `answer_pictures=True`, `<img>path</img>` in an answer of the history opens that picture, as in the
                original; a model can write any path.

        Returns:
            The answer and the history. As in the original, an answer that `max_new_tokens` cuts loses its last token.

        Raises:
            ValueError, TypeError: an argument is out of its range, or the prompt is longer than the network takes.
            FileNotFoundError, ImageError: an image cannot be used; names it and says why.
        """
        from mindformers_qwenvl.chat.answer import chat

        return chat(
            self, tokenizer, query, history, system, append_history, stop_words_ids, generation_config, **changes
        )

    def chat_stream(
        self,
        tokenizer: Any,
        query: Any,
        history: list | None = None,
        system: str = SYSTEM_MESSAGE,
        stop_words_ids: list[list[int]] | None = None,
        generation_config: Any = None,
        **changes: Any,
    ) -> Iterator[str]:
        """The answer of `chat` while it is written: the whole text so far, each time it has grown, and never half a
        character; the last one is what `chat` returns. As in the original, `history` is left to the caller."""
        from mindformers_qwenvl.chat.answer import chat_stream

        return chat_stream(self, tokenizer, query, history, system, stop_words_ids, generation_config, **changes)

    def score(
        self,
        prompts: Any,
        options: Any,
        tokenizer: Any = None,
        *,
        images: Any = None,
        chat_format: str = "raw",
        batch_size: int = 8,
    ) -> list[Any]:
        """How well each option continues its prompt, as the original's multiple-choice benchmarks ask.

        Args:
            prompts: texts with <img>path</img>, queries in list form, or token ids [L] each.
            options: texts such as [" A", " B"], the same for all prompts; or a list for each prompt, of texts or ids.
            tokenizer: a `QwenVLTokenizer` or `QwenVLProcessor`; not needed for token ids.
            images: for prompts of token ids, a list for each prompt: what `open_image` takes, or float32 [3, H, W],
                normalised.
            chat_format: "raw": the prompt as it is; "chatml": in the frame of a chat.
            batch_size: how many prompts are computed at once; the result does not depend on it.

        Returns:
            For each prompt an array float32 [options]: the mean of -log p over the tokens of each option. The
            option with the smallest mean is the network's choice.

        Raises:
            ValueError: prompts, options and images do not fit each other or the network.
            FileNotFoundError, ImageError: an image cannot be used; names it and says why.
        """
        from mindformers_qwenvl.chat.likelihood import score

        return score(self, prompts, options, tokenizer, images=images, chat_format=chat_format, batch_size=batch_size)

    def ground(self, tokenizer: Any, image: Any, text: str, **changes: Any) -> Any:
        """Find what `text` describes in a picture, with the prompt of the original's RefCOCO benchmarks.

        Args:
            tokenizer: a `QwenVLTokenizer`; or a `QwenVLProcessor`, whose rules for pictures then apply.
            image: anything `open_image` takes.
            text: such as "the red shape".
            **changes: to the generation configuration, as in `chat`; the defaults are those of the benchmark.

        Returns:
            A `grounding.Found`, whose `boxes` have the label `text`; there are none if the network wrote none.

        Raises:
            ValueError, FileNotFoundError, ImageError: as `chat`.
        """
        from mindformers_qwenvl.chat.ground import ground

        return ground(self, tokenizer, image, text, **changes)
