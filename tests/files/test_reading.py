"""Files that cannot be read as what they should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mindformers_qwenvl.files import read_json, read_text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1,\n "b": }', "is not JSON: Expecting value at line 2 column 7"),
        (b"[" * 200_000, "nested too deeply"),
        (b"1" * 10_000, "is not JSON: Exceeds the limit"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16, not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a git-lfs pointer"),
        (b'{"a": "\xff"}', "not UTF-8: invalid start byte at byte 7"),
        (b"", "is not JSON: Expecting value at line 1 column 1"),
    ],
)
def test_json_that_cannot_be_read_says_why(content, reason):
    Path("a.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.json.*{reason}"):
        read_json("a.json")


def test_json_with_a_byte_order_mark():
    Path("a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json("a.json") == {"a": 1}


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "pipe", "/proc/kmsg"])
def test_devices_and_pipes_are_refused_at_once(path):
    os.mkfifo("pipe")
    with pytest.raises((ValueError, OSError)):
        read_json(path)


def test_a_file_that_is_too_large_is_refused():
    Path("a.json").write_bytes(b"[1, 2, 3]")
    with pytest.raises(ValueError, match="larger than 8 bytes"):
        read_text("a.json", most=8)
