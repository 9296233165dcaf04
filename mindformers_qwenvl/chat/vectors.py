"""Keeps the vectors of pictures, by their content, so that a picture that comes again is not encoded again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

__all__ = ["PictureVectors", "digest_of"]


def digest_of(pixels: np.ndarray) -> bytes:
    """A digest of pixels, or of any array."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


class PictureVectors:
    """Vectors of the pictures that were used last, in bounded memory.

    Args:
        encode: from pixels to vectors float32 [Q, H].
        most: the most bytes of vectors to keep; 0: none.
    """

    def __init__(self, encode: Callable[[np.ndarray], np.ndarray], most: int):
        self.encode = encode
        self.most = most
        self.size = 0  # bytes that are kept
        self.found = self.encoded = 0  # how often vectors were there, and how often they were made
        self._kept: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, key: Hashable, pixels: np.ndarray) -> np.ndarray:
        """The vectors of a picture; do not modify them. key: identifies the picture, such as its `digest_of`."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                self.found += 1
                return self._kept[key]
        vectors = self.encode(pixels)
        with self._lock:
            self.encoded += 1
            if key not in self._kept and vectors.nbytes <= self.most:
                self._kept[key] = vectors
                self.size += vectors.nbytes
                while self.size > self.most:
                    self.size -= self._kept.popitem(last=False)[1].nbytes
        return vectors

    def clear(self) -> None:
        """Forget them all."""
        with self._lock:
            self._kept.clear()
            self.size = 0
