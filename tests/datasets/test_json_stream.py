"""JSON files value by value, however they are cut into blocks. No MindSpore."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mindformers_qwenvl.datasets import json_stream
from mindformers_qwenvl.datasets.json_stream import BadLine, JsonStream, StreamError

text = st.text(max_size=30)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)
on_files = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
dumps = st.sampled_from(
    [
        json.dumps,
        lambda value: json.dumps(value, ensure_ascii=False),
        lambda value: json.dumps(value, indent=3),
        lambda value: json.dumps(value, separators=(",", ":")),
    ]
)


def write(path, content: str, bom: bool = False):
    path.write_bytes(b"\xef\xbb\xbf" * bom + content.encode("utf-8", "surrogatepass"))
    return path


def utf8(value) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@on_files
@given(content=st.lists(values, max_size=8).filter(utf8), block=st.integers(1, 40), dump=dumps, bom=st.booleans())
def test_a_list_is_what_json_reads(tmp_path, content, block, dump, bom):
    path = write(tmp_path / "a.json", " \n" + dump(content) + "\n ", bom)
    with JsonStream(path, block=block) as stream:
        assert stream.kind() == "list"
        assert list(stream.items()) == content
        assert list(stream.items()) == content  # from the beginning again


@on_files
@given(content=st.dictionaries(text, values, max_size=6).filter(utf8), block=st.integers(1, 40), dump=dumps)
def test_an_object_is_what_json_reads(tmp_path, content, block, dump):
    expected = [
        (key, item) for key, value in content.items() for item in (value if isinstance(value, list) else [value])
    ]
    with JsonStream(write(tmp_path / "a.json", dump(content)), block=block) as stream:
        assert list(stream.sections()) == expected
        assert list(stream.sections(lambda key: len(key) < 3)) == [pair for pair in expected if len(pair[0]) < 3]


@on_files
@given(
    content=st.lists(values, min_size=1, max_size=8).filter(utf8),
    bom=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\n\n \n"]),
)
def test_lines_are_what_json_reads(tmp_path, content, bom, end):
    path = write(tmp_path / "a.jsonl", end.join(json.dumps(value, ensure_ascii=False) for value in content), bom)
    with JsonStream(path) as stream:
        assert list(stream.lines()) == content


@on_files
@given(content=st.lists(values, min_size=1, max_size=5).filter(utf8), block=st.integers(1, 40), data=st.data())
def test_a_torn_list_is_refused(tmp_path, content, block, data):
    whole = json.dumps(content)
    torn = whole[: data.draw(st.integers(1, len(whole) - 1))]
    with JsonStream(write(tmp_path / "a.json", torn), block=block) as stream, pytest.raises(StreamError) as caught:
        list(stream.items())
    assert "a.json: not valid JSON: " in str(caught.value)
    assert " at line 1 column " in str(caught.value)


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize(
    ("content", "good", "reason"),
    [
        ('[1, 2,\n {"a": nope}]', 2, "line 2 column 8"),
        ('[1,\n\n  2 3]', 2, r"expected ',' or '\]' at line 3 column 5"),
        ("[1, 2", 2, "the list is not closed"),
        ("[1, ]", 1, "line 1 column 5"),
        ("[1, ", 1, "the file ends where a value is expected at line 1 column 5"),
        ("[1] 2", 1, "more text after the end at line 1 column 5"),
        ('["a\nb"]', 0, "Invalid control character at line 1 column 4"),
        ("7", 0, r"expected '\['"),
    ],
)  # fmt: skip
def test_where_a_list_is_wrong(tmp_path, content, good, reason, block):
    read = []
    path = write(tmp_path / "a.json", content)
    with (
        JsonStream(path, block=block) as stream,
        pytest.raises(StreamError, match=rf"a\.json: not valid JSON: .*{reason}"),
    ):
        for item in stream.items():
            read.append(item)
    assert len(read) == good


def test_a_list_nested_too_deeply_is_refused(tmp_path):
    with JsonStream(write(tmp_path / "a.json", "[" * 100_000)) as stream, pytest.raises(StreamError, match="too deep"):
        list(stream.items())


@pytest.mark.parametrize(
    ("content", "reason"),
    [("{1: 2}", "expected a key"), ('{"a" 2}', "expected ':'"), ('{"a": 2', "expected ','"), ("{}]", "more text")],
)
def test_where_an_object_is_wrong(tmp_path, content, reason):
    with JsonStream(write(tmp_path / "a.json", content)) as stream, pytest.raises(StreamError, match=reason):
        list(stream.sections())


def test_no_utf8_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b'["ok", "\xff"]')
    with JsonStream(tmp_path / "a.json") as stream, pytest.raises(StreamError, match=r"not UTF-8: .* near byte 8"):
        list(stream.items())


def test_bad_lines_do_not_end_the_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'1\n{"a": [}\n\n"\xff"\n' + b"[" * 100_000 + b"\n2")
    with JsonStream(tmp_path / "a.jsonl") as stream:
        one, *bad, two = stream.lines()
    assert (one, two) == (1, 2)
    assert all(isinstance(line, BadLine) for line in bad)
    assert [line.reason.partition(":")[0] for line in bad] == ["line 2 column 8", "line 4", "line 5"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("\ufeff[1]", "list"),
        ('\n{"a": 1}\n{"a": 2}', "lines"),
        ('{"a": 1}', "lines"),
        ('{"a":\n 1}', "object"),
        ('{"a": "' + "x" * 100 + '"}', "lines"),
        ('{"a": "' + "x" * 10_000 + '"}', "object"),  # longer than 16 blocks
        ("hello", "other"),
    ],
)
def test_kinds(tmp_path, content, kind):
    with JsonStream(write(tmp_path / "a", content), block=64) as stream:
        assert stream.kind() == kind


def test_progress_counts_every_byte(tmp_path):
    path = write(tmp_path / "a.json", json.dumps(["é" * 50] * 100, ensure_ascii=False))
    for read in (JsonStream.items, JsonStream.lines):
        told = []
        with JsonStream(path, block=512, progress=told.append) as stream:
            list(read(stream))
        assert told == sorted(told) and told[-1] == path.stat().st_size


def test_memory_does_not_grow_with_the_file(tmp_path):
    record = {"id": "x" * 40, "conversations": [{"from": "user", "value": "y" * 1000}]}

    def peak(count: int) -> int:
        path = write(tmp_path / f"{count}.json", json.dumps([record] * count))
        tracemalloc.start()
        with JsonStream(path, block=1 << 14) as stream:
            assert sum(1 for _ in stream.items()) == count
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(4000) < 1.2 * peak(100) < 400_000


def test_a_value_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MAX_RECORD", 1000)
    path = write(tmp_path / "a.json", '["' + "x" * 100_000)
    with JsonStream(path, block=100) as stream, pytest.raises(StreamError, match="longer than 1000 characters"):
        list(stream.items())
