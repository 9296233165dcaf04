"""The checks of numbers: what passes, and what the errors say."""

import math
import re
from fractions import Fraction

import numpy as np
import pytest

from mindformers_qwenvl.checks import byte_count, is_number, is_whole, number, printable, switch, whole


@pytest.mark.parametrize("value", [0, 7, -3, np.int64(5), 10**400])
def test_whole_numbers(value):
    assert is_whole(value) and whole("n", value, None) is value


@pytest.mark.parametrize("value", [True, False, np.bool_(True), 1.0, "1", None, [1], math.nan])
def test_what_is_not_a_whole_number(value):
    assert not is_whole(value)
    with pytest.raises(ValueError, match="n must be a whole number of 1 or more, got"):
        whole("n", value)


def test_limits_of_whole_numbers_are_allowed_themselves():
    assert [is_whole(value, 1, 3) for value in range(5)] == [False, True, True, True, False]
    assert is_whole(-5, most=0) and not is_whole(1, most=0)


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), Fraction(1, 3), -1e300])
def test_numbers(value):
    assert is_number(value) and number("x", value) is value


@pytest.mark.parametrize("value", [True, math.nan, math.inf, -math.inf, np.float32("nan"), "0.5", None, 1j, 10**400])
def test_what_is_not_a_number(value):
    assert not is_number(value)
    with pytest.raises(ValueError, match="x must be a number, got"):
        number("x", value)


def test_limits_of_numbers():
    values = (0, 0.5, 1)
    assert [is_number(value, 0, 1) for value in values] == [True, True, True]
    assert [is_number(value, above=0, below=1) for value in values] == [False, True, False]
    assert [is_number(value, above=0, most=1) for value in values] == [False, True, True]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "x must be a number, got '?'"),
        ({"least": 0, "most": 1}, "x must be a number from 0 to 1, got '?'"),
        ({"least": 0}, "x must be a number of 0 or more, got '?'"),
        ({"most": 2}, "x must be a number of 2 or less, got '?'"),
        ({"above": 0}, "x must be a number above 0, got '?'"),
        ({"above": 0, "most": 1}, "x must be a number above 0 and at most 1, got '?'"),
        ({"above": 0, "below": 100}, "x must be a number above 0 and below 100, got '?'"),
        ({"least": 0, "below": 1}, "x must be a number of 0 or more and below 1, got '?'"),
        ({"above": 0, "optional": True}, "x must be a number above 0, or left out, got '?'"),
        ({"least": 0, "note": "0 turns it off"}, "x must be a number of 0 or more (0 turns it off), got '?'"),
    ],
)
def test_errors_say_the_range(limits, words):
    with pytest.raises(ValueError, match=f"^{re.escape(words)}$"):
        number("x", "?", **limits)


def test_optional_takes_none():
    assert whole("n", None, optional=True) is None and number("x", None, optional=True) is None
    with pytest.raises(ValueError, match="n must be a whole number of 1 or more, or left out, got 0"):
        whole("n", 0, optional=True)


def test_switch():
    assert switch("csv", True) is True and switch("csv", False) is False
    for value in (1, 0, None, "true", np.bool_(True)):
        with pytest.raises(ValueError, match="csv must be True or False, got"):
            switch("csv", value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("500mb", 5 * 10**8), ("2GiB", 2**31), (" 1.5 K ", 1500), ("123", 123), (123, 123)],
)
def test_byte_counts(text, size):
    assert byte_count("size", text) == size


@pytest.mark.parametrize(("text", "size"), [("64GB", 2**36), ("57.5 gb", 57.5 * 2**30), ("1GiB", 2**30), ("7", 7)])
def test_byte_counts_in_powers_of_1024(text, size):
    assert byte_count("size", text, unit=1024) == size


@pytest.mark.parametrize("text", ["", "GB", "5XB", "-1GB", "0", "0.1", "5 G B", None, "\u0665GB"])
def test_what_is_not_a_byte_count(text):
    with pytest.raises(ValueError, match=r"^--size must be a size such as 500MB or 64GB, got "):
        byte_count("--size", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.jpg\ntraining would read all samples", r"a.jpg\ntraining would read all samples"),
        ("\x1b[31mred\x07\x00", r"\x1b[31mred\x07\x00"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\ud800", r"\ud800"),
        ("图 é 😀 ok", "图 é 😀 ok"),
    ],
)
def test_control_characters_are_escaped(text, expected):
    assert printable(text) == expected
    assert printable("a\nb", keep="\n") == "a\nb"


def test_a_size_of_any_length_is_refused_in_words():
    with pytest.raises(ValueError, match="must be a size"):
        byte_count("--device-memory", str(10**400))
