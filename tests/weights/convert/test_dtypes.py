"""Casts are exact where they can be, round to nearest even where they cannot, and count what overflows."""

from __future__ import annotations

import numpy as np
import pytest

from mindformers_qwenvl.weights.convert import dtypes
from mindformers_qwenvl.weights.convert.dtypes import cast, widen

ALL_16 = np.arange(1 << 16, dtype=np.uint16)


def bf16_by_definition(values: np.ndarray) -> np.ndarray:
    """Nearest bfloat16 by comparing both neighbours in float64, ties to the even bit pattern; finite input."""
    below = (values.view(np.uint32) >> 16).astype(np.uint16)  # toward zero
    above = below + np.uint16(1)
    exact = values.astype(np.float64)
    low, high = (widen(bits, "BF16").astype(np.float64) for bits in (below, above))
    high = np.where(np.isinf(high), np.copysign(2.0**128, exact), high)  # the next value, had the exponent no end
    to_low, to_high = np.abs(exact - low), np.abs(high - exact)
    return np.where((to_high < to_low) | ((to_high == to_low) & (below & 1 == 1)), above, below)


def test_fp32_to_bf16_rounds_to_nearest_even():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    ties = (rng.integers(0, 1 << 16, 50_000, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([bits, ties, ties + 1, ties - 1]).view(np.float32)
    values = values[np.isfinite(values)]
    got, overflow = cast(values, "F32", "BF16")
    assert np.array_equal(got, bf16_by_definition(values))
    assert overflow == np.isinf(widen(got, "BF16")).sum() > 0


def test_bf16_to_fp32_and_back_is_exact_for_every_number():
    wide, _ = cast(ALL_16, "BF16", "F32")
    back, overflow = cast(wide, "F32", "BF16")
    nan = np.isnan(wide)
    assert np.array_equal(back[~nan], ALL_16[~nan])
    assert np.isnan(widen(back[nan], "BF16")).all()
    assert overflow == 0
    assert wide[0x3F80] == 1.0
    assert wide[0xC000] == -2.0


def test_fp16_to_fp32_and_back_is_exact_for_every_number():
    wide, _ = cast(ALL_16.view(np.float16), "F16", "F32")
    back, overflow = cast(wide, "F32", "F16")
    assert np.array_equal(back, ALL_16.view(np.float16), equal_nan=True)
    assert overflow == 0


@pytest.mark.parametrize(("source", "target"), [("BF16", "F16"), ("F16", "BF16")])
def test_16_bit_to_16_bit_is_the_cast_through_fp32(source, target):
    numbers = ALL_16.view(dtypes.STORAGE[source])
    got, overflow = cast(numbers, source, target)
    wide, _ = cast(numbers, source, "F32")
    expected, expected_overflow = cast(wide, "F32", target)
    assert got.tobytes() == expected.tobytes()
    assert overflow == expected_overflow


def test_fp32_to_fp16_is_numpys_own_cast():
    """Random bits; every half, the middle between each two, and their neighbours; infinities and NaN."""
    halves = np.sort(ALL_16.view(np.float16)[np.isfinite(ALL_16.view(np.float16))].astype(np.float32))
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    near = np.concatenate([halves, middles, np.float32([65504, 65520, -65520, np.inf, -np.inf, np.nan])]).view(
        np.uint32
    )
    random = np.random.default_rng(2).integers(0, 1 << 32, 400_000, dtype=np.uint32)
    values = np.concatenate([random, near, near + 1, near - 1]).view(np.float32)
    got, overflow = cast(values, "F32", "F16")
    with np.errstate(all="ignore"):
        expected = values.astype(np.float16)
    assert got.tobytes() == expected.tobytes()
    assert overflow == np.isinf(expected).sum() - np.isinf(values).sum() > 0


def test_overflow_counts_finite_values_only():
    values = np.array([65504, 65519, 65520, -70000, 1e30, np.inf, -np.inf, np.nan, 0], np.float32)
    got, overflow = cast(values, "F32", "F16")
    assert overflow == 3
    assert np.isinf(got).sum() == 5
    assert np.isnan(got[7])
    assert got[0] == got[1] == 65504
    bf16, _ = cast(values, "F32", "BF16")
    assert cast(bf16, "BF16", "F16")[1] == 5  # 65,504 and 65,519 are 65,536 in bfloat16


def test_blocks_make_no_difference(monkeypatch):
    values = np.random.default_rng(1).standard_normal(10_001).astype(np.float32) * 40_000
    whole = {target: cast(values, "F32", target) for target in ("F16", "BF16")}
    monkeypatch.setattr(dtypes, "BLOCK", 1000)
    for target, (array, overflow) in whole.items():
        got, count = cast(values, "F32", target)
        assert got.tobytes() == array.tobytes()
        assert count == overflow
    assert whole["F16"][1] > 0
