"""The Qwen-VL vocabulary over tiktoken: special ids, text to ids and back. Needs neither MindSpore nor MindFormers.

Follows `tokenization_qwen.py` of the original Qwen-VL. The network overwrites the slots of an image. Where only ids are
passed on (`encode_text`), the slots hold the bytes of the image's path, as in the original. Where the path is passed on
separately (`encode_with_images`), they hold image pads, and a path may have any length.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache

from mindformers_qwenvl.checks import whole
from mindformers_qwenvl.files import read_bytes
from mindformers_qwenvl.text.limits import normalised
from mindformers_qwenvl.text.rows import Encoded, ImageSpan
from mindformers_qwenvl.text.slot_paths import path_from_slots, path_to_slots
from mindformers_qwenvl.text.tags import Tags
from mindformers_qwenvl.text.vocabulary_file import FILE_NAME, MAX_BYTES, find_vocabulary, parse_ranks

__all__ = ["SLOT_NAMES", "Vocabulary"]

# How the original cuts text into words before BPE; as much a part of the vocabulary as the ranks are.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ENDOFTEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEXT_SPECIALS = (ENDOFTEXT, IM_START, IM_END, *(f"<|extra_{i}|>" for i in range(205)))
SLOT_NAMES = ("image_slots", "num_queries", "n_queries")  # names of the slots per image in files and arguments
# The original's limit on the path between <img> and </img>, which it writes into the slots. It holds for text that is
# only encoded; prompts and training samples open their pictures by path and have no limit.
MAX_PATH_BYTES = 256
FIXED_TEXTS = 64  # how many encoded texts are remembered


@lru_cache(maxsize=8)
def _encoding(source: bytes, name: str, specials: tuple[str, ...]):
    """tiktoken's encoder. Made once per process and vocabulary: it takes 0.2 s and holds no state."""
    import tiktoken  # 50 ms to import, so not before it is needed

    ranks = parse_ranks(source, name)
    numbered = {token: index for index, token in enumerate(specials, len(ranks))}
    return tiktoken.Encoding("Qwen-VL", pat_str=WORDS, mergeable_ranks=ranks, special_tokens=numbered)


class Vocabulary:
    """Text to ids and back. It never changes, so copies share it; it pickles without needing the file.

    The special tokens follow the n ranks: eod n, im_start n+1, im_end n+2, 205 extras, then the tags in the order of
    `Tags`. Attributes (and keys of `special_ids`): eod_id, im_start_id, im_end_id, ref_start_id, ref_end_id,
    box_start_id, box_end_id, quad_start_id, quad_end_id, img_start_id, img_end_id, img_pad_id. `size` counts ranks and
    specials.

    Args:
        source: content of a tiktoken file.
        name: what errors call it, usually its path.
        image_slots: how many positions an image takes between its tags.
        tags: spelling of the image and grounding tags.
    """

    def __init__(self, source: bytes, name: str = FILE_NAME, *, image_slots: int = 256, tags: Tags | None = None):
        whole("image_slots", image_slots)
        self.source, self.name, self.image_slots, self.tags = source, name, image_slots, tags or Tags()
        specials = (*TEXT_SPECIALS, *self.tags)
        if len(set(specials)) != len(specials) or not all(specials):
            raise ValueError(f"every tag needs a different spelling that is not empty, got {self.tags}")
        self.encoding = _encoding(source, name, specials)
        self.ranks = parse_ranks(source, name)
        self.specials = {token: index for index, token in enumerate(specials, len(self.ranks))}
        self.image_specials = frozenset(self.tags)
        self._allowed = {
            None: frozenset(self.specials),
            "all": frozenset(self.specials),
            "image": self.image_specials,
            "none": frozenset(),
        }
        self._fixed: dict[tuple[str, frozenset[str]], Encoded] = {}
        self._heads = {token[0] for token in specials}  # a text without any of these letters has no special token
        self.size = len(self.ranks) + len(self.specials)
        named = {"eod": ENDOFTEXT, "im_start": IM_START, "im_end": IM_END}
        named |= {f.name.replace("image", "img"): getattr(self.tags, f.name) for f in fields(self.tags)}
        self.special_ids = {f"{name}_id": self.specials[token] for name, token in named.items()}
        self.__dict__.update(self.special_ids)

    @classmethod
    def from_file(cls, vocab_file: str | os.PathLike | None = None, **kwargs) -> Vocabulary:
        """Read `vocab_file` (see `find_vocabulary`); further arguments go to the class."""
        path = find_vocabulary(vocab_file)
        return cls(read_bytes(path, MAX_BYTES), str(path), **kwargs)

    def with_image_slots(self, image_slots: int) -> Vocabulary:
        """The same vocabulary with another number of slots per image."""
        return _rebuild(self.source, self.name, image_slots, self.tags)

    def __reduce__(self):
        return _rebuild, (self.source, self.name, self.image_slots, self.tags)

    def __copy__(self) -> Vocabulary:
        return self

    def __deepcopy__(self, memo: dict) -> Vocabulary:
        return self

    # ---- text to ids

    def allowed(self, allowed_special: str | Collection[str] | None) -> frozenset[str]:
        """Special tokens recognised in text: "all" (also None), "image" (the nine tags), "none", or those given.

        Raises:
            ValueError: any other word, or a token that is not a special token of this vocabulary.
        """
        if allowed_special is None or isinstance(allowed_special, str):
            if allowed_special in self._allowed:
                return self._allowed[allowed_special]
            raise ValueError(
                f"allowed_special must be 'all', 'image', 'none' or a list of tokens, got {allowed_special!r}"
            )
        unknown = [token for token in allowed_special if token not in self.specials]
        if unknown:
            raise ValueError(f"allowed_special names {unknown}, which are not special tokens of this vocabulary")
        return frozenset(allowed_special)

    def encode_with_images(
        self,
        text: str,
        allowed_special: str | Collection[str] | None = None,
        disallowed_special: str | Collection[str] = (),
        max_path_bytes: int | None = None,
    ) -> Encoded:
        """Ids of `text` after NFC. `<img>path</img>` becomes start tag, `image_slots` pads, end tag.

        Args:
            text: what to encode.
            allowed_special: see `allowed`; every other special token stays plain text.
            disallowed_special: special tokens the text must not contain ("all": every one that is not allowed).
            max_path_bytes: limit on the UTF-8 bytes of a path (never below the slots of an image); None: no limit.

        Raises:
            ValueError: an image tag is not closed, contains another special token or a path over the limit; or the
                text contains a disallowed special token, or is beyond the bounds of limits.py.
            TypeError: `text` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"text to encode must be a string, got {type(text).__name__}: {text!r}")
        text = normalised(text)
        recognised = self.allowed(allowed_special)
        if not any(head in text for head in self._heads):  # tiktoken takes 20 us to look for 217 special tokens
            with _panics_as_errors():
                return Encoded(self.encoding.encode_ordinary(text))
        with _panics_as_errors():
            ids = self.encoding.encode(text, allowed_special=recognised, disallowed_special=disallowed_special)
        if self.img_start_id not in ids:
            return Encoded(ids)
        output: list[int] = []
        images: list[str] = []
        spans: list[ImageSpan] = []
        position = 0
        for start, end in self._image_tags(ids):
            images.append(self._path_from_text(ids[start + 1 : end], max_path_bytes))
            output += ids[position : start + 1]
            spans.append(ImageSpan(len(output), len(output) + self.image_slots))
            output += [self.img_pad_id] * self.image_slots
            output.append(self.img_end_id)
            position = end + 1
        output += ids[position:]
        return Encoded(output, tuple(images), tuple(spans))

    def encode_fixed(self, text: str, allowed_special: str | Collection[str] | None = None) -> Encoded:
        """`encode_with_images`, remembered, for texts of every sample such as the names of the roles: in a pipeline,
        where pictures drive the vocabulary out of the CPU cache, encoding a word takes 50 us. Do not modify the result.
        """
        key = (text, self.allowed(allowed_special))
        if (encoded := self._fixed.get(key)) is None:
            if len(self._fixed) >= FIXED_TEXTS:
                self._fixed.clear()
            encoded = self._fixed[key] = self.encode_with_images(*key)
        return encoded

    def encode_text(
        self,
        text: str,
        allowed_special: str | Collection[str] | None = None,
        disallowed_special: str | Collection[str] = (),
        max_path_bytes: int | None = MAX_PATH_BYTES,
    ) -> list[int]:
        """The ids of `encode_with_images` as a list, with the paths of images in their slots (see slot_paths.py); by
        default with the original's limit on paths."""
        encoded = self.encode_with_images(text, allowed_special, disallowed_special, max_path_bytes)
        ids = encoded.ids
        for path, span in zip(encoded.images, encoded.spans, strict=True):
            written = path_to_slots(path, self.image_slots)
            ids[span.start : span.start + len(written)] = written
        return ids

    def _image_tags(self, ids: list[int]) -> Iterator[tuple[int, int]]:
        """Positions of each image start tag and of the first end tag after it; a lone end tag is text."""
        start, end = _find(ids, self.img_start_id, 0), 0
        while start >= 0:
            end = _find(ids, self.img_end_id, start)
            if end < 0:
                shown = [i for i in ids[start : start + 20] if i < self.size]
                text = self.encoding.decode(shown, errors="replace")
                raise ValueError(
                    f"unclosed image tag: no {self.tags.image_end} follows {text!r}, which starts at token {start}"
                )
            yield start, end
            start = _find(ids, self.img_start_id, end)

    def _path_from_text(self, ids: list[int], max_bytes: int | None) -> str:
        path = self.encoding.decode_bytes(ids).decode("utf-8")
        if any(i >= self.eod_id for i in ids):
            inner = next(self.token(i) for i in ids if i >= self.eod_id)
            raise ValueError(
                f"the special token {inner} is inside {self.tags.image_start}{path[:80]}{self.tags.image_end}; only a "
                "path or URL may stand there, so close one image before the next begins"
            )
        if max_bytes is None:
            return path
        size, limit = len(path.encode()), max(max_bytes, self.image_slots)
        if size > limit:
            raise ValueError(
                f"the image path has {size} bytes, the limit is {limit}: {path[:80]!r}…; max_path_bytes=None removes "
                "the limit; processors have none"
            )
        return path

    # ---- ids to text

    def token(self, index: int) -> bytes | str:
        """The token of an id: bytes of a rank, text of a special.

        Raises:
            ValueError: there is no such id.
        """
        if not 0 <= index < self.size:
            raise ValueError(f"unknown token id {index}: {self.name!r} has ids 0 to {self.size - 1}")
        token = self.encoding.decode_single_token_bytes(index)
        return token.decode() if index >= self.eod_id else token

    def id(self, token: bytes | str) -> int:
        """The id of a token (bytes, or text of a special or of a whole token).

        Raises:
            ValueError: there is no such token.
        """
        if token in self.specials:
            return self.specials[token]
        key = token.encode() if isinstance(token, str) else token
        if key not in self.ranks:
            raise ValueError(f"token {token!r} is not in the vocabulary {self.name!r}")
        return self.ranks[key]

    def decode(
        self,
        ids: Iterable[int],
        skip_special_tokens: bool = False,
        errors: str = "replace",
        keep_image_special: bool = False,
    ) -> str:
        """Text of `ids`. An image reads `<img></img>`, or `<img>path</img>` if its slots begin with the bytes of a
        path, as the original writes them.

        Args:
            ids: token ids.
            skip_special_tokens: leave out every id from `eod_id` on, even unknown ones. Paths stay, as in the original.
            errors: what to do with bytes that are not UTF-8 ("replace", "ignore", "strict").
            keep_image_special: with `skip_special_tokens`, keep the ref, box and quad tags.

        Raises:
            ValueError: an id is unknown; or an image is not closed, has no pad, or begins with bytes that are not a
                path.
        """
        ids = [int(i) for i in ids]
        top = self.eod_id if skip_special_tokens else self.size
        kept = range(self.ref_start_id, self.quad_end_id + 1) if keep_image_special else ()
        if ids and not (min(ids) >= 0 and (skip_special_tokens or max(ids) < top)):
            position, index = next((p, i) for p, i in enumerate(ids) if not 0 <= i < self.size)
            raise ValueError(f"unknown token id {index} (item {position}): {self.name!r} has ids 0 to {self.size - 1}")
        if self.img_start_id not in ids and not skip_special_tokens:
            return self.encoding.decode(ids, errors=errors)
        output: list[bytes] = []

        def add(part: list[int]) -> None:
            output.append(self.encoding.decode_bytes([i for i in part if i < top or i in kept]))

        position = 0
        for start, end in self._image_tags(ids):
            add(ids[position : start + 1])
            output.append(self._path_from_slots(ids[start + 1 : end]))
            position = end
        add(ids[position:])
        return b"".join(output).decode("utf-8", errors)

    def _path_from_slots(self, slots: list[int]) -> bytes:
        if self.img_pad_id not in slots:
            raise ValueError(f"none of the {len(slots)} slots of an image is {self.tags.image_pad}: {slots[:8]}…")
        return (path_from_slots(slots, self.img_pad_id) or "").encode()


@contextmanager
def _panics_as_errors() -> Iterator[None]:
    """Raise a panic of tiktoken's Rust code as ValueError. As a BaseException it would end the whole process."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the text cannot be tokenised: {error}") from None


def _rebuild(source: bytes, name: str, image_slots: int, tags: Tags) -> Vocabulary:
    return Vocabulary(source, name, image_slots=image_slots, tags=tags)


def _find(ids: list[int], value: int, start: int) -> int:
    try:
        return ids.index(value, start)
    except ValueError:
        return -1
