"""The arguments of `generate()`: each one is used, or refused by its name."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from mindformers.generation import GenerationConfig

from mindformers_qwenvl.checks import refuse_unknown, whole
from mindformers_qwenvl.generation.sampling import RowByRow
from mindformers_qwenvl.generation.stopping import EndAnswer, end_ids, stop_sequences

__all__ = ["GenerateArguments", "check_names", "known_arguments"]

# Arguments of the network itself.
INPUTS = ("images", "image_context_pos", "attention_mask")
# Arguments that are handled here.
OURS = ("num_return_sequences", "stop_words_ids", "adapter_id")
# Arguments that the original's scripts give Hugging Face's generate(), with the values that change nothing here. None:
# any value. A cache only changes the speed, and hidden states are only returned in a dictionary.
WITHOUT_EFFECT: dict[str, tuple[Any, ...] | None] = {
    "use_cache": None,
    "output_hidden_states": None,
    "output_attentions": None,
    "length_penalty": None,  # of beam search, see num_beams
    "early_stopping": None,
    "num_beams": (1, None),
    "num_beam_groups": (1, None),
    "synced_gpus": (False, None),
    "parallel_decoding": (False, None),
}


def known_arguments() -> set[str]:
    """Every name that `generate()` takes, besides input_ids."""
    usual = {name for name in GenerationConfig().to_dict() if not name.startswith("_")}
    direct = {"generation_config", "logits_processor", "streamer", "seed"}
    return usual | direct | {*INPUTS, *OURS, *WITHOUT_EFFECT}


def check_names(given: Any, what: str = "generate()", more: Any = ()) -> None:
    """Raise `UnknownNameError`, naming the nearest one, for a name neither in `known_arguments()` nor in `more`."""
    refuse_unknown(what, given, known_arguments() | set(more))


class GenerateArguments:
    """A base class for networks, ahead of the host's `GenerationMixin`, which drops arguments that it does not know."""

    def generate(
        self,
        input_ids: Any,
        generation_config: Any = None,
        logits_processor: Any = None,
        streamer: Any = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Answers to prompts: rows of ids int32, each its prompt and the answer.

        Args:
            input_ids: [B, S] or [S], a list, array or Tensor, padded to one length. Pictures whose paths are in their
                slots, as `tokenizer(text)` writes them, are opened; others are `images=` and `image_context_pos=`.
            generation_config: used instead of the network's own.
            logits_processor, streamer: the host's.
            seed: of sampling.
            **kwargs: settings of a `GenerationConfig`, which take precedence; `attention_mask` [B, S], 0 where a row is
                padded, on the left or on the right; `num_return_sequences`, answers to each prompt, with sampling;
                `stop_words_ids`, sequences of ids that end an answer; and what the original's scripts pass without
                effect on the answer, such as `use_cache`.

        Returns:
            The rows; those of a prompt that was padded on the left begin with that padding, so that
            `row[input_ids.shape[1]:]` is the answer. The answers to one prompt follow each other.

        Raises:
            TypeError: an argument does not exist; the message names the nearest one.
            ValueError: a value cannot be used, the network does not have an id, or an image has no picture.
            FileNotFoundError, ImageError: a picture cannot be used; names it and says why.
        """
        check_names(kwargs)
        ids = self._as_rows(input_ids)
        if generation_config is not None or "eos_token_id" in kwargs:
            generation_config, kwargs = _with_lists(generation_config, kwargs)
        kwargs = _without_the_usual(kwargs)
        pad = self._pad_token_id(generation_config, kwargs)
        ids, left = _without_left_padding(ids, kwargs.pop("attention_mask", None), pad)
        if kwargs.get("image_context_pos") is not None and any(map(len, left)):
            raise ValueError("image_context_pos needs rows that are padded on the right, not on the left")
        ids_and_pictures = self._with_pictures(ids, kwargs.pop("images", None), kwargs.pop("image_context_pos", None))
        count = self._answers_each(generation_config, kwargs)
        ids, images, positions = (_repeated(array, count) for array in ids_and_pictures)
        if images is not None:
            positions[..., 0] = np.arange(len(ids)).reshape(-1, 1, 1)
            kwargs |= {"images": images, "image_context_pos": positions}
        left = [row for row in left for _ in range(count)]
        config = self.generation_config if generation_config is None else generation_config
        sequences = stop_sequences(config, kwargs.pop("stop_words_ids", None))
        if sequences:
            lengths = self._valid_length(ids).tolist()
            ends = EndAnswer(self._end_token(generation_config, kwargs), sequences, lengths)
            logits_processor = RowByRow([*(logits_processor or ()), ends], pad)
        output = super().generate(ids, generation_config, logits_processor, streamer, seed, **kwargs)
        return _with_left_padding(output, left)

    def _as_rows(self, input_ids: Any) -> np.ndarray:
        """input_ids int32 [B, S].

        Raises:
            ValueError: the rows differ in length, or hold something other than ids of the network.
        """
        try:
            ids = np.array(input_ids)
        except ValueError as error:
            raise ValueError(f"input_ids: the rows must be padded to the same length ({error})") from None
        if ids.dtype == object or not np.issubdtype(ids.dtype, np.integer) or not ids.size:
            raise ValueError(f"input_ids must be whole numbers [B, S], with at least one, got {ids.dtype} {ids.shape}")
        ids = ids.reshape(-1, ids.shape[-1])
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            wrong = int(ids.max()) if ids.max() >= self.config.vocab_size else int(ids.min())
            raise ValueError(
                f"input_ids: there is no token {wrong}: the network has the ids 0 to {self.config.vocab_size - 1} "
                "(vocab_size). Does the tokenizer have the vocabulary of this model?"
            )
        return ids.astype(np.int32)

    def _with_pictures(self, ids: np.ndarray, images: Any, positions: Any) -> tuple[Any, Any, Any]:
        """(ids, images, image_context_pos). A network with a vision tower opens the pictures that the ids name."""
        if images is not None or positions is not None:
            raise TypeError(f"{type(self).__name__}.generate() takes no images: it is only a language model")
        return ids, None, None

    def _pad_token_id(self, config: Any, kwargs: dict[str, Any]) -> int:
        found = (kwargs.get("pad_token_id"), getattr(config, "pad_token_id", None), self.config.pad_token_id)
        return next(int(value) for value in found if value is not None)

    def _answers_each(self, config: Any, kwargs: dict[str, Any]) -> int:
        """`num_return_sequences`; only sampling can give more than one answer."""
        config = self.generation_config if config is None else config
        given = kwargs.pop("num_return_sequences", None)
        count = whole(
            "num_return_sequences",
            getattr(config, "num_return_sequences", None) if given is None else given,
            optional=True,
        )
        sampled = kwargs.get("do_sample")
        sampled = getattr(config, "do_sample", False) if sampled is None else sampled
        if count not in (None, 1) and (not sampled or kwargs.get("temperature") == 0):
            raise ValueError(
                f"num_return_sequences={count} needs sampling (do_sample=True): greedy search has one answer"
            )
        return count or 1

    def _end_token(self, config: Any, kwargs: dict[str, Any]) -> int:
        places = (kwargs, vars(config) if config is not None else {}, vars(self.generation_config))
        ends = next((place["eos_token_id"] for place in places if place.get("eos_token_id") not in (None, [])), [])
        ends = [i for i in end_ids(ends) if i >= 0]
        if not ends:
            raise ValueError("stop_words_ids need an eos_token_id of 0 or more: that token ends the answer")
        return ends[0]


def _with_lists(config: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """`eos_token_id` as the list that the host wants, in the keywords and in a copy of the configuration."""
    kwargs = dict(kwargs)
    if "eos_token_id" in kwargs:
        if kwargs["eos_token_id"] is None:
            del kwargs["eos_token_id"]  # that of the configuration
        else:
            kwargs["eos_token_id"] = end_ids(kwargs["eos_token_id"])
    if config is not None and not isinstance(getattr(config, "eos_token_id", []), list):
        config = copy.copy(config)
        config.eos_token_id = [] if config.eos_token_id is None else end_ids(config.eos_token_id)
    return config, kwargs


def _without_the_usual(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name, allowed in WITHOUT_EFFECT.items():
        if name in kwargs and allowed is not None and kwargs[name] not in allowed:
            raise ValueError(
                f"generate(): {name}={kwargs[name]!r} is not supported; leave it out, or pass {allowed[0]}"
            )
    if kwargs.get("adapter_id"):
        raise ValueError("generate(): adapter_id is not supported; name the adapter with set_adapter(name)")
    return {name: value for name, value in kwargs.items() if name not in {*WITHOUT_EFFECT, "adapter_id"}}


def _without_left_padding(ids: np.ndarray, mask: Any, pad: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The rows, padded on the right, and the padding that was on the left of each."""
    nothing = [ids[row, :0] for row in range(len(ids))]
    if mask is None:
        return ids, nothing
    mask = np.array(mask)
    mask = mask.reshape(-1, mask.shape[-1]) if mask.ndim else mask
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask must be 0 or 1 for each of input_ids {ids.shape}; its shape is {mask.shape}")
    if (wrong := mask[~np.isin(mask, (0, 1))]).size:
        raise ValueError(f"attention_mask must be 0 or 1 for each of input_ids, got {wrong[0]}")
    rows, left = np.full_like(ids, pad), []
    for row, (tokens, said) in enumerate(zip(ids, mask, strict=True)):
        places = np.flatnonzero(said)
        if not len(places) or places[-1] - places[0] + 1 != len(places):
            raise ValueError(f"attention_mask: row {row} must have at least one 1, and its ones must be contiguous")
        rows[row, : len(places)] = tokens[places]
        left.append(tokens[: places[0]])
    return rows, left


def _with_left_padding(output: Any, left: list[np.ndarray]) -> Any:
    if not any(map(len, left)):
        return output
    rows = output.sequences if hasattr(output, "sequences") else output
    rows = [np.concatenate([pads, row]) for pads, row in zip(left, rows, strict=True)]
    if hasattr(output, "sequences"):
        output.sequences = rows
        return output
    return rows


def _repeated(array: Any, count: int) -> Any:
    return array if array is None or count == 1 else np.repeat(array, count, axis=0)
