"""Position arithmetic of Qwen-VL in plain numpy: rotary angles, dynamic NTK, logn, 2-D tables and their resizing."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["inverse_frequencies", "log_n_scale", "ntk_limits", "resize_matrix", "sincos_table"]


def ntk_limits(train_length: int, longest: int) -> np.ndarray:
    """Lengths beyond which dynamic NTK takes the next base, int32 [levels - 1].

    A prompt of `length` tokens uses level ``sum(length > limits)``; level 0 is the trained base. Original:
    modeling_qwen.py, ``alpha = max(2 ** ceil(log2(length / train_length) + 1) - 1, 1)``, whose steps are at
    train_length * 2**n.
    """
    limits = []
    while train_length << len(limits) < longest:
        limits.append(train_length << len(limits))
    return np.array(limits, np.int32)


def inverse_frequencies(head_dim: int, base: float, levels: int) -> np.ndarray:
    """Rotary frequencies for every level of dynamic NTK, float32 [levels, head_dim / 2].

    Level n has alpha = 2**(n + 1) - 1 and base * alpha ** (d / (d - 2)) (original: modeling_qwen.py,
    RotaryEmbedding). float32 throughout, as there, so that a later cos() sees the same angle.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    rows = []
    for level in range(levels):
        alpha = 2 ** (level + 1) - 1
        rows.append(np.float32(1) / np.float32(base * alpha ** (head_dim / (head_dim - 2))) ** exponents)
    return np.stack(rows).astype(np.float32)


def log_n_scale(train_length: int, longest: int) -> np.ndarray:
    """The scale of the query at each position (logn attention), float32 [longest].

    log(i) / log(train_length) at 1-based position i > train_length, 1 before (original: modeling_qwen.py,
    QWenAttention.logn_tensor).
    """
    position = np.arange(1, longest + 1, dtype=np.float64)
    return np.maximum(np.log(position) / math.log(train_length), 1.0).astype(np.float32)


def sincos_table(dim: int, side: int) -> np.ndarray:
    """The resampler's fixed 2-D table, float32 [side * side, dim]: first half columns, second half rows.

    Original: visual.py, get_2d_sincos_pos_embed (from MAE).
    """
    quarter = dim // 4
    frequency = 1.0 / 10000 ** (np.arange(quarter) / quarter)
    rows, columns = np.divmod(np.arange(side * side), side)
    halves = []
    for axis in (columns, rows):
        angle = np.multiply.outer(axis, frequency)
        halves += [np.sin(angle), np.cos(angle)]
    return np.concatenate(halves, axis=1).astype(np.float32)


def _resize_1d(source: int, target: int) -> np.ndarray:
    """Bicubic resampling of a line, float64 [target, source]: a = -0.75, half-pixel centres, clamped edges."""
    a = -0.75
    matrix = np.zeros((target, source))
    for row in range(target):
        centre = (row + 0.5) * source / target - 0.5
        first = math.floor(centre) - 1
        for tap in range(first, first + 4):
            distance = abs(centre - tap)
            if distance <= 1:
                weight = ((a + 2) * distance - (a + 3)) * distance**2 + 1
            else:
                weight = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
            matrix[row, min(max(tap, 0), source - 1)] += weight
    return matrix


def resize_matrix(source_rows: int, target_rows: int) -> np.ndarray | None:
    """Bicubic resizing of a square position table as one matrix, float32 [target_rows, source_rows].

    Resizing is linear in the table, so ``resize_matrix(256, 1024) @ table`` replaces torch's
    ``F.interpolate(mode="bicubic", align_corners=False)`` exactly, is differentiable and needs no operator of its
    own (original: visual.py, get_abs_pos). None if the sizes agree: the original then leaves the table alone.

    Args:
        source_rows: rows of the table, a square number.
        target_rows: patches of the image, a square number.
    """
    source, target = math.isqrt(source_rows), math.isqrt(target_rows)
    if source == target:
        return None
    line = _resize_1d(source, target)
    return np.kron(line, line).astype(np.float32)
