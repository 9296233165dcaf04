"""Joins separate low-rank factors for the parts of one matrix into factors of the whole. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["block_diagonal"]


def block_diagonal(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], of: int, places: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """One A and one B for a matrix whose rows form `of` equal parts; the parts at `places` have their own factors.

    The product is exact: part i is B_i A_i, because the other blocks in its rows of B are zero. The scale alpha / rank
    must stay that of the parts.

    Args:
        a: [rank, in] each.
        b: [rows / of, rank] each.

    Returns:
        A [parts * rank, in], B [rows, parts * rank].
    """
    rows = b[0].shape[0]
    ranks = [one.shape[0] for one in a]
    whole = np.zeros((rows * of, sum(ranks)), b[0].dtype)
    column = 0
    for place, rank, block in zip(places, ranks, b, strict=True):
        whole[place * rows : (place + 1) * rows, column : column + rank] = block
        column += rank
    return np.concatenate(list(a)), whole
