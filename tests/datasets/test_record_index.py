"""Where records are, however the file is cut into blocks, and the index in a file. No MindSpore."""

from __future__ import annotations

import json
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers_qwenvl.datasets import record_index
from mindformers_qwenvl.datasets.annotations import AnnotationError, AnnotationFile
from mindformers_qwenvl.datasets.record_index import BrokenFileError, index_file, open_index

nasty = st.text('\\"[]{},\n ab图', max_size=12)
values = st.recursive(
    nasty | st.integers(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(nasty, inner, max_size=4)
)
dumps = st.sampled_from(
    [json.dumps, lambda value: json.dumps(value, ensure_ascii=False), lambda value: json.dumps(value, indent=1)]
)
on_files = settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def cut(monkeypatch):
    """Sets the size of a block."""
    return lambda size: monkeypatch.setattr(record_index, "BLOCK", size)


def records(path, index) -> list:
    data = path.read_bytes()
    places = map(index.place, range(len(index)))
    return [json.loads(data[start : start + length]) for start, length in places]


@on_files
@given(
    content=st.lists(values, max_size=8),
    block=st.integers(1, 30),
    dump=dumps,
    ends=st.sampled_from(["", "\n ", "\ufeff"]),
)
def test_values_of_a_list(tmp_path, cut, content, block, dump, ends):
    path = tmp_path / "a.json"
    path.write_text(ends + dump(content) + ends.strip("\ufeff"), encoding="utf-8")
    cut(block)
    assert records(path, index_file(path, True)) == content


@on_files
@given(
    content=st.lists(values, min_size=1, max_size=8),
    block=st.integers(1, 30),
    end=st.sampled_from(["\n", "\r\n", "\n\n \t\n"]),
    last=st.booleans(),
    bom=st.booleans(),
)
def test_values_of_lines(tmp_path, cut, content, block, end, last, bom):
    path = tmp_path / "a.jsonl"
    text = end.join(json.dumps(value, ensure_ascii=False) for value in content) + end * last
    path.write_bytes(b"\xef\xbb\xbf" * bom + text.encode())
    cut(block)
    index = index_file(path, False)
    assert records(path, index) == content
    breaks = end.count("\n")
    assert [index.line(number) for number in range(len(index))] == [
        1 + breaks * number for number in range(len(content))
    ]


@pytest.mark.parametrize("block", [1, 3, 1000])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1, 2", "not closed"),
        ('[{"a": [}]', "not closed"),
        ('[{"a": "x]', "not closed"),
        ("[1] 2", "more text after"),
        ("[1]]", "more text after"),
        ("[1][2]", "more text after"),
        ('[[1}, {"a": 1]]', "do not match"),
        ("[1, ]", "a comma before the end"),
        ("[1}", "more text after"),
    ],
)
def test_lists_whose_brackets_do_not_match(tmp_path, cut, content, reason, block):
    path = tmp_path / "a.json"
    path.write_text(content)
    cut(block)
    with pytest.raises(BrokenFileError, match=reason):
        index_file(path, True)
    with pytest.raises(AnnotationError, match=r"a\.json: not valid JSON: .* at line 1 column"):
        AnnotationFile(path)


@pytest.mark.parametrize("content", [b'["\xff"]', b'["\xe5\x9b"]', b'["\xe5\x9b'])
def test_text_that_is_no_utf8(tmp_path, cut, content):
    (tmp_path / "a.json").write_bytes(content)
    cut(3)
    with pytest.raises(BrokenFileError, match="not UTF-8"):
        index_file(tmp_path / "a.json", True)


def test_memory_does_not_grow_with_the_text(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"value": "x" * 100_000}] * 100))  # 10 MB
    tracemalloc.start()
    file = AnnotationFile(path)
    assert file.record(99) == {"value": "x" * 100_000}
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100_000 and peak < 9_000_000


# ---------------------------------------------------------------- in a file


@pytest.fixture
def lines(tmp_path):
    path = tmp_path / "data" / "a.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps({"id": number}) + "\n\n" for number in range(50)))
    return path


@pytest.fixture
def scans(monkeypatch):
    """The files that were scanned."""
    done, scan = [], record_index.index_file
    monkeypatch.setattr(record_index, "index_file", lambda path, is_list: done.append(path) or scan(path, is_list))
    return done


def test_a_kept_index_is_used(lines, tmp_path, scans):
    folder = tmp_path / "indexes"
    for _ in range(3):
        index = open_index(lines, False, folder)
        assert records(lines, index) == [{"id": number} for number in range(50)]
        assert index.line(49) == 99
    assert len(scans) == 1 and len(list(folder.iterdir())) == 1
    assert isinstance(index.bounds, np.memmap) and list(lines.parent.iterdir()) == [lines]
    open_index(lines, False, None)
    assert len(scans) == 2


def test_an_index_of_another_file_of_that_name_is_another(lines, tmp_path, scans):
    other = tmp_path / "a.jsonl"
    other.write_text('{"id": 7}')
    for path, count in ((lines, 50), (other, 1)):
        assert len(open_index(path, False, tmp_path / "indexes")) == count
    assert len(list((tmp_path / "indexes").iterdir())) == 2


def _grown(path, kept):
    path.write_text(path.read_text() + '{"id": 50}')


def _touched(path, kept):
    os.utime(path, ns=(1, 1))


def _same_size_and_time(path, kept):
    before = path.stat()
    path.write_text(path.read_text().replace('{"id": 0}\n\n{"id": 1}\n', '{"id": 0}\n{"id": 1}\n\n'))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _torn(path, kept):
    kept.write_bytes(kept.read_bytes()[:-8])


def _empty(path, kept):
    kept.write_bytes(b"")


def _nonsense(path, kept):
    kept.write_bytes(b"[1]" + kept.read_bytes()[3:])


@pytest.mark.parametrize("change", [_grown, _touched, _same_size_and_time, _torn, _empty, _nonsense])
def test_a_stale_or_broken_index_is_made_anew(lines, tmp_path, scans, change):
    folder = tmp_path / "indexes"
    open_index(lines, False, folder)
    change(lines, next(folder.iterdir()))
    expected = [json.loads(line) for line in lines.read_text().splitlines() if line]
    for _ in range(2):
        assert records(lines, open_index(lines, False, folder)) == expected
    assert len(scans) == 2


def test_an_index_that_cannot_be_kept_is_a_warning(lines, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match=r"the index of .*a\.jsonl cannot be saved"):
        assert len(open_index(lines, False, tmp_path / "file")) == 50
