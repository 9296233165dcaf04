"""Sizes of Qwen-VL that its config.json does not say: they stand in the original's code. Plain Python."""

from __future__ import annotations

__all__ = ["RESAMPLER_HEAD_DIM", "VIT_MLP_RATIO", "VIT_POSITIONS"]

RESAMPLER_HEAD_DIM = 128  # visual.py divides output_dim into heads of 128
VIT_MLP_RATIO = 4.9231  # of the published vision tower: its MLP is int(hidden_size * 4.9231) wide
VIT_POSITIONS = 256  # rows of the learnt position table, whatever the image size: it was trained at 224 pixels
