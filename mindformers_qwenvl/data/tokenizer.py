"""`QwenVLTokenizer`: the vocabulary of `text/vocabulary.py` as a MindFormers tokenizer."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from numbers import Integral
from typing import TYPE_CHECKING, Any

from mindformers.models.tokenization_utils import PreTrainedTokenizer
from mindformers.models.tokenization_utils_base import AddedToken, BatchEncoding
from mindformers.tools.logger import logger

from mindformers_qwenvl.checks import arguments_of, refuse_unknown
from mindformers_qwenvl.config.keys import TOKENIZER
from mindformers_qwenvl.data.tokenizer_files import NOT_ARGUMENTS, TokenizerFiles
from mindformers_qwenvl.text import list_format
from mindformers_qwenvl.text.rows import Encoded
from mindformers_qwenvl.text.tags import Tags
from mindformers_qwenvl.text.vocabulary import ENDOFTEXT, MAX_PATH_BYTES, SLOT_NAMES, Vocabulary
from mindformers_qwenvl.text.vocabulary_file import FILE_NAME

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["QwenVLTokenizer"]


class QwenVLTokenizer(TokenizerFiles, PreTrainedTokenizer):
    """Tokenizer of Qwen-VL.

    `tokenizer(text)["input_ids"]` normalises to NFC, recognises special tokens and expands images: `<img>path</img>`
    becomes `img_start_id`, `image_slots` times `img_pad_id`, `img_end_id`. The ids of the special tokens are attributes
    (`eod_id`, `im_start_id`, `im_end_id`, `img_start_id`, `img_end_id`, `img_pad_id`, `ref_start_id`, ...); they follow
    the ranks of the vocabulary, whatever its size. Padding and end of text are both `eod_id`.

    Args:
        vocab_file: a qwen.tiktoken, or a folder that has one; None or "": the copy in the package dashscope.
        image_slots: positions of one image. `num_queries` and `n_queries` are other names for it.
        errors: what decoding does with bytes that are not UTF-8: "replace", "ignore" or "strict".
        allowed_special: special tokens recognised in text: "all", "image" (image and grounding tags only, so that a
            user's text cannot contain `<|im_start|>`), "none", or a list of tokens. A call may override it.
        pad_token, eos_token: `<|endoftext|>`; another special token of the vocabulary may be named.
        max_path_bytes: the original's limit on the path in `<img>...</img>`, for `tokenizer(text)`; None: no limit.
            Processors and training have no limit in any case.
        image_start_tag, image_end_tag, image_pad_tag, ref_start_tag, ref_end_tag, box_start_tag, box_end_tag,
            quad_start_tag, quad_end_tag: spelling of the tags.
        **kwargs: those of the host's tokenizer (`model_max_length`, `padding_side`, ...). Others in old YAMLs, such as
            `max_length`, are accepted without effect; unknown ones are an error.

    Raises:
        FileNotFoundError: there is no vocabulary file; the message says how to get one.
        ValueError: the file is corrupt (names file and line), or image_slots, allowed_special or a tag is not valid.
    """

    vocab_files_names = {"vocab_file": FILE_NAME}  # noqa: RUF012 - the host's base class declares it so
    VOCAB_FILES = vocab_files_names
    FILE_LIST = ["tokenizer_config.json"]  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(
        self,
        vocab_file: str | os.PathLike | None = None,
        image_slots: int | None = None,
        errors: str = "replace",
        allowed_special: str | Collection[str] = "all",
        pad_token: str | AddedToken = ENDOFTEXT,
        eos_token: str | AddedToken = ENDOFTEXT,
        max_path_bytes: int | None = MAX_PATH_BYTES,
        **kwargs,
    ):
        for name in self.FILE_LIST:  # the host's reader of a YAML hands over the files beside it
            kwargs.pop(name, None)
        refuse_unknown("QwenVLTokenizer", kwargs, KNOWN, shown=_ARGUMENTS)
        kwargs = {name: value for name, value in kwargs.items() if name not in WITHOUT_EFFECT}
        spelled = {f.name: kwargs.pop(f"{f.name}_tag") for f in fields(Tags) if f"{f.name}_tag" in kwargs}
        slots = {name: kwargs.pop(name, None) for name in SLOT_NAMES[1:]} | {"image_slots": image_slots}
        given = {name: value for name, value in slots.items() if value is not None}
        if len(set(given.values())) > 1:
            raise ValueError(f"image_slots and its other names must agree, got {given}")
        self.vocabulary = Vocabulary.from_file(
            vocab_file, image_slots=next(iter(given.values()), 256), tags=Tags(**spelled)
        )
        self.vocabulary.allowed(allowed_special)  # raises now, not at the first text
        self.allowed_special = allowed_special if isinstance(allowed_special, str) else sorted(allowed_special)
        self.errors = errors
        self.max_path_bytes = max_path_bytes
        self.vocab_file, self.tags = self.vocabulary.name, self.vocabulary.tags
        self.__dict__.update(self.vocabulary.special_ids)
        self.__dict__.update({f"{f.name}_tag": getattr(self.tags, f.name) for f in fields(Tags)})
        super().__init__(
            image_slots=self.image_slots,
            errors=errors,
            allowed_special=self.allowed_special,
            max_path_bytes=max_path_bytes,
            pad_token=pad_token,
            eos_token=eos_token,
            **{f"{name}_tag": tag for name, tag in spelled.items()},
            **kwargs,
        )

    @classmethod
    def known_arguments(cls) -> Collection[str]:
        """Names of all arguments."""
        return KNOWN

    @property
    def image_slots(self) -> int:
        """Positions of one image. It can be set, because a YAML may have it only in the network's section."""
        return self.vocabulary.image_slots

    @image_slots.setter
    def image_slots(self, value: int) -> None:
        self.vocabulary = self.vocabulary.with_image_slots(value)
        self.init_kwargs["image_slots"] = value

    # ---- size and tokens

    @property
    def vocab_size(self) -> int:
        """Number of ranks and special tokens: 151,860 for the published vocabulary."""
        return self.vocabulary.size

    def __len__(self) -> int:
        return self.vocabulary.size

    @property
    def IMAGE_ST(self) -> tuple[str, ...]:
        """The nine image and grounding tags; the original's name for them."""
        return tuple(self.tags)

    def get_vocab(self) -> dict[bytes | str, int]:
        """Token -> id; a rank's token is bytes, a special token's is text."""
        return {**self.vocabulary.ranks, **self.vocabulary.specials}

    def _add_tokens(self, new_tokens: list[str | AddedToken], special_tokens: bool = False) -> int:
        """No tokens can be added: those that are special tokens already count as 0 added, others are an error."""
        unknown = [str(token) for token in new_tokens or () if str(token) not in self.vocabulary.specials]
        if unknown:
            raise ValueError(f"{unknown} are not special tokens of this vocabulary, and no tokens can be added to it")
        return 0

    def convert_tokens_to_ids(self, tokens: str | bytes | Iterable[str | bytes] | None) -> int | list[int] | None:
        """Ids of tokens as `tokenize` gives them.

        Raises:
            ValueError: a token is unknown.
        """
        if tokens is None:
            return None
        if isinstance(tokens, (str, bytes)):
            return self.vocabulary.id(tokens)
        return [self.vocabulary.id(token) for token in tokens]

    def convert_ids_to_tokens(
        self, ids: int | Iterable[int], skip_special_tokens: bool = False
    ) -> bytes | str | list[bytes | str]:
        """Tokens of ids: bytes for ranks, text for special tokens.

        Raises:
            ValueError: an id is unknown.
        """
        if isinstance(ids, Integral):
            return self.vocabulary.token(int(ids))
        return [self.vocabulary.token(int(i)) for i in ids if not (skip_special_tokens and i >= self.eod_id)]

    def convert_tokens_to_string(self, tokens: Iterable[str | bytes]) -> str:
        """The text of tokens."""
        data = b"".join(token.encode() if isinstance(token, str) else token for token in tokens)
        return data.decode("utf-8", self.errors)

    # ---- text to ids

    def encode_with_images(
        self,
        text: str,
        allowed_special: str | Collection[str] | None = None,
        disallowed_special: str | Collection[str] = (),
    ) -> Encoded:
        """Ids with the images among them, see `Vocabulary.encode_with_images`. `allowed_special` None: the tokenizer's.
        Paths of images may have any length."""
        allowed = self.allowed_special if allowed_special is None else allowed_special
        return self.vocabulary.encode_with_images(text, allowed, disallowed_special)

    def encode_fixed(self, text: str) -> Encoded:
        """`encode_with_images(text)`, remembered; see `Vocabulary.encode_fixed`."""
        return self.vocabulary.encode_fixed(text, self.allowed_special)

    def encode_text(
        self,
        text: str,
        allowed_special: str | Collection[str] | None = None,
        disallowed_special: str | Collection[str] = (),
    ) -> list[int]:
        """The ids of `encode_with_images`; here paths are limited to `max_path_bytes`."""
        allowed = self.allowed_special if allowed_special is None else allowed_special
        return self.vocabulary.encode_text(text, allowed, disallowed_special, self.max_path_bytes)

    def tokenize(
        self,
        text: str,
        pair: str | None = None,
        add_special_tokens: bool = False,
        allowed_special: str | Collection[str] | None = None,
        disallowed_special: str | Collection[str] = (),
        **kwargs,
    ) -> list[bytes | str]:
        """Tokens of `text`: bytes for ranks, text for special tokens."""
        return self.convert_ids_to_tokens(self.encode_text(text, allowed_special, disallowed_special))

    def __call__(self, text=None, *args, **kwargs):
        """The host's. Its training transform encodes an empty text for every sample, which can skip that path."""
        if isinstance(text, str) and not (text or args or kwargs.keys() - {"add_special_tokens"}):
            return BatchEncoding({name: [] for name in self.model_input_names})
        return super().__call__(text, *args, **kwargs)

    def _encode_plus(self, text, text_pair=None, **kwargs):
        if not kwargs.get("is_split_into_words"):
            specials = _take_specials(kwargs)
            text, text_pair = (self._as_ids(part, specials) for part in (text, text_pair))
        return super()._encode_plus(text, text_pair, **kwargs)

    def _batch_encode_plus(self, batch_text_or_text_pairs, **kwargs):
        if not kwargs.get("is_split_into_words"):
            specials = _take_specials(kwargs)
            # Always pairs: the host would take a bare list of ids for a pair.
            pairs = (item if isinstance(item, (list, tuple)) else (item, None) for item in batch_text_or_text_pairs)
            batch_text_or_text_pairs = [tuple(self._as_ids(part, specials) for part in pair) for pair in pairs]
        return super()._batch_encode_plus(batch_text_or_text_pairs, **kwargs)

    def _as_ids(self, part: Any, specials: dict[str, Any]) -> Any:
        """Text straight to ids, which the host takes as they are. For text it would make tokens first, which is slower.
        It refuses an empty list, so text without tokens stays text."""
        return (self.encode_text(part, **specials) or "") if isinstance(part, str) else part

    # ---- ids to text

    def decode(self, token_ids, skip_special_tokens: bool = False, clean_up_tokenization_spaces=None, **kwargs):
        """Text of ids (an int, a list, a numpy array, a MindSpore tensor); a list of texts for a list of lists.

        An image becomes `<img></img>`, see `Vocabulary.decode`, which also explains `errors` and `keep_image_special`.

        Raises:
            ValueError: an id is unknown, or an image is not complete.
        """
        if isinstance(token_ids, Integral) or getattr(token_ids, "ndim", None) == 0:
            token_ids = [int(token_ids)]  # the host looks at the first item
        return super().decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces, **kwargs)

    def _decode(
        self,
        token_ids: Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        errors: str | None = None,
        keep_image_special: bool = False,
        **kwargs,
    ) -> str:
        return self.vocabulary.decode(token_ids, skip_special_tokens, errors or self.errors, keep_image_special)

    # ---- list format

    def from_list_format(self, elements: Sequence[dict[str, Any]]) -> str:
        """Text of `[{"image": path}, {"text": ...}, ...]`, see `list_format.from_list_format`."""
        return list_format.from_list_format(elements, self.tags)

    def to_list_format(self, text: str) -> list[dict[str, str]]:
        """Elements of a text, see `list_format.to_list_format`."""
        return list_format.to_list_format(text, self.tags)

    def draw_bbox_on_latest_picture(
        self, response: str, history: Sequence[Sequence[Any]] | None = None, **options: Any
    ) -> Image | None:
        """The last picture of the conversation with the boxes of `response` drawn on it. As in the original, None if
        the response has no box or the conversation no picture; a warning says which.

        picture = tokenizer.draw_bbox_on_latest_picture(response, history)
        if picture is not None:
            picture.save("boxes.png")

        Args:
            response: the answer.
            history: exchanges (query, answer), oldest first.
            **options: `font`, `root`, `policy`, ..., see `grounding.draw_on_latest_picture`.

        Raises:
            FileNotFoundError, ImageError: the picture cannot be opened; the message names it and says why.
        """
        # Imported here: it needs Pillow, which text alone does not.
        from mindformers_qwenvl.grounding import draw_on_latest_picture, latest_picture

        picture = draw_on_latest_picture(response, history, tags=self.tags, **options)
        if picture is None:
            has_picture = latest_picture(response, history, self.tags) is not None
            why = "the response has no box" if has_picture else "the conversation has no picture"
            logger.warning("draw_bbox_on_latest_picture returns None: %s", why)
        return picture


_ARGUMENTS = arguments_of(QwenVLTokenizer)
# `max_length` is in old YAMLs; auto_map names code of the original repository.
WITHOUT_EFFECT = ("max_length", "auto_map", "type", "auto_register")
KNOWN = frozenset((*_ARGUMENTS, *TOKENIZER, *WITHOUT_EFFECT, *NOT_ARGUMENTS))


def _take_specials(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: kwargs.pop(name) for name in ("allowed_special", "disallowed_special") if name in kwargs}
