"""Vectors of pictures are kept."""

from __future__ import annotations

import numpy as np

from mindformers_qwenvl.chat.vectors import PictureVectors, digest_of


def test_vectors_are_kept_in_bounded_memory():
    made = []

    def encode(pixels):
        made.append(pixels)
        return pixels * 2.0

    vectors = PictureVectors(encode, most=3 * 80)
    pictures = [np.full(10, number, np.float64) for number in range(5)]
    for _ in range(2):
        for picture in pictures[:3]:
            assert (vectors.of(digest_of(picture), picture) == picture * 2).all()
    assert len(made) == 3 and (vectors.encoded, vectors.found, vectors.size) == (3, 3, 240)
    vectors.of(digest_of(pictures[3]), pictures[3])  # the one that was used longest ago is dropped
    vectors.of(digest_of(pictures[1]), pictures[1])
    assert len(made) == 4 and len(vectors) == 3
    vectors.of(digest_of(pictures[0]), pictures[0])
    assert len(made) == 5 and vectors.size == 240
    nothing = PictureVectors(encode, most=0)
    nothing.of(b"", pictures[0])
    assert len(nothing) == 0 and nothing.size == 0
