"""Files that are there whole or not at all."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.data.output_file import replacing


def test_the_name_is_given_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")
    with replacing(path, "w") as file:
        file.write("é")
        file.flush()
        assert path.read_text() == "before"
    assert path.read_bytes() == "é".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_left_of_what_failed(tmp_path):
    path = tmp_path / "a.bin"
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
