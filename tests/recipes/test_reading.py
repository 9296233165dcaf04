"""Reading a YAML and its bases, and changing values. tests/stock/test_yaml_reader.py has MindFormers' reader."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindformers_qwenvl.recipes import RecipeError, apply_changes, chain, find, has_key, key_of, read, shipped, yaml_dir
from mindformers_qwenvl.recipes.base_config import MAX_FILES
from mindformers_qwenvl.recipes.yaml_file import MAX_BYTES, MAX_VALUES


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write files, given as name=text, into the current folder."""
    monkeypatch.chdir(tmp_path)

    def written(**files: str) -> None:
        for name, text in files.items():
            path = Path(f"{name}.yaml")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return written


def test_sections_are_merged_and_lists_replaced(write):
    write(
        base="model: {a: 1, list: [1, 2], deep: {x: 1, y: 2}}\nseed: 0\n",
        mine="base_config: base.yaml\nmodel: {a: 5, list: [3], deep: {y: 3}}\nnew: {b: 1}\n",
    )
    assert read("mine.yaml") == {
        "model": {"a": 5, "list": [3], "deep": {"x": 1, "y": 3}},
        "seed": 0,
        "new": {"b": 1},
    }


def test_a_later_base_replaces_whole_sections(write):
    write(
        one="model: {a: 1, b: 2}\nseed: 1\n",
        two="model: {b: 3}\n",
        mine="base_config: [one.yaml, two.yaml]\nmodel: {c: 4}\n",
    )
    assert read("mine.yaml") == {"model": {"b": 3, "c": 4}, "seed": 1}


def test_a_base_may_have_a_base_and_is_looked_for_beside_the_file_that_names_it(write, tmp_path, monkeypatch):
    for folder in ("far", "elsewhere"):
        (tmp_path / folder).mkdir()
    write(**{"far/ground": "a: 1\nb: 1\nc: 1\n", "far/middle": "base_config: ground.yaml\nb: 2\n"})
    write(mine="base_config: far/middle.yaml\nc: 3\n", absolute=f"base_config: {tmp_path}/far/middle.yaml\n")
    assert read("mine.yaml") == {"a": 1, "b": 2, "c": 3}
    monkeypatch.chdir("elsewhere")
    assert read("../mine.yaml") == {"a": 1, "b": 2, "c": 3}
    assert read("../absolute.yaml") == {"a": 1, "b": 2, "c": 1}
    assert chain("../mine.yaml") == [Path("../mine.yaml"), Path("../far/middle.yaml"), Path("../far/ground.yaml")]


def test_null_and_an_empty_section(write):
    write(base="a: {x: 1}\nb: null\nc: 1\n", mine="base_config: base.yaml\na: {}\nb: {y: 2}\nc: null\n")
    assert read("mine.yaml") == {"a": {"x": 1}, "b": {"y": 2}, "c": None}


def test_an_alias_is_a_copy(write):
    """MindFormers makes a configuration of its own of each, too."""
    write(mine="one: &one {x: 1}\ntwo: *one\n")
    assert read("mine.yaml", ["one.x=5"]) == {"one": {"x": 5}, "two": {"x": 1}}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"mine": "base_config: gone.yaml\n"}, r"^mine.yaml: its base_config: gone.yaml: no such file"),
        ({"mine": "base_config: ''\n"}, "mine.yaml: base_config: a file name, or a list of file names, is expected"),
        ({"mine": "base_config: {a: b}\n"}, r"base_config: a file name, .* got \{'a': 'b'\}"),
        ({"mine": "base_config: [.]\n"}, "mine.yaml: its base_config: .* folder"),
        ({"mine": "base_config: mine.yaml\n"}, "circle: mine.yaml -> mine.yaml"),
        (
            {"mine": "base_config: b.yaml\n", "b": "base_config: ./mine.yaml\n"},
            "circle: mine.yaml -> b.yaml -> ./mine.yaml",
        ),
        (
            {"mine": "base_config: b.yaml\na: {x: {y: 1}}\n", "b": "a: {x: 1}\n"},
            "mine.yaml: a.x is a section here, but 1",
        ),
        ({"mine": ""}, "mine.yaml: sections such as `model:` are expected, got an empty file"),
        ({"mine": "- 1\n"}, "sections such as `model:` are expected, got a list"),
        ({"mine": "1: 2\n"}, "sections such as `model:` are expected, got the key 1"),
        ({"mine": "a: 1\nb: [1,\nc: 2\n"}, r"mine.yaml, line 4, column 1: not valid YAML: expected ',' or ']'"),
        ({"mine": "a: 1\n\tb: 2\n"}, r"mine.yaml, line 2, column 1: not valid YAML"),
        ({"mine": "a: *gone\n"}, r"mine.yaml, line 1, column 4: not valid YAML: found undefined alias 'gone'"),
        ({"mine": "a: !!python/object/apply:os.getcwd []\n"}, "line 1, column 4: not valid YAML: could not determine"),
        ({"mine": "a: 1\x00\n"}, "mine.yaml: not valid YAML: .*special characters are not allowed"),
        ({"mine": "a: 2026-13-01\n"}, "mine.yaml: not valid YAML: month must be in 1..12"),
        ({"mine": "a: &a {b: *a}\n"}, "line 1: an anchor that contains its own alias"),
        ({"mine": "a: " + "[" * 50_000 + "]" * 50_000}, "mine.yaml: sections or lists are nested too deeply"),
        ({"mine": "base_config: b.yaml\n", "b": "a: [\n"}, r"^b.yaml, line 2, column 1: not valid YAML"),
    ],
)
def test_what_is_wrong_is_said(write, files, message):
    write(**files)
    with pytest.raises((RecipeError, OSError), match=message):
        read("mine.yaml")


@pytest.mark.parametrize("path", ["", ".", "folder.yaml", "gone.yaml", os.devnull])
def test_it_has_to_be_a_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    Path("folder.yaml").mkdir()
    with pytest.raises((RecipeError, OSError), match="the path of a YAML file is expected"):
        read(path)


def test_bytes_that_are_not_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(RecipeError, match=r"a\.yaml is not a YAML file: byte 3 is not UTF-8"):
        read(tmp_path / "a.yaml")


@pytest.mark.parametrize("bomb", ["plain", "merge keys", "files", "size"])
def test_what_grows_without_bound_is_refused_at_once(write, bomb):
    """Nine times as much at each of a dozen levels; a gigabyte if written out."""
    if bomb == "plain":
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        write(mine="\n".join(lines))
        message = f"more than {MAX_VALUES:,} values"
    elif bomb == "merge keys":
        lines = ["a0: &a0 {x: 1, y: 2}"]
        lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 12)]
        write(mine="\n".join(lines))
        message = f"more than {MAX_VALUES:,} values"
    elif bomb == "files":
        for number in range(12):
            write(**{f"f{number}": f"base_config: [{', '.join([f'f{number + 1}.yaml'] * 9)}]\n"})
        write(f12="a: 1\n", mine="base_config: f0.yaml\n")
        message = f"more than {MAX_FILES} files"
    else:
        write(mine="a: " + "x" * MAX_BYTES)
        message = f"larger than {MAX_BYTES:,} bytes"
    with pytest.raises(RecipeError, match=message):
        read("mine.yaml")


def test_changes(write):
    write(mine="a: {b: 1, c: [1]}\nd: null\n")
    content = read("mine.yaml", ["a.b=2", "a.c=[3, 4]", "d.e.f='text'", "g=", "h=a=b", "a.x=True"])
    assert content == {
        "a": {"b": 2, "c": [3, 4], "x": True},
        "d": {"e": {"f": "text"}},
        "g": None,
        "h": "a=b",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("a.b", "--set a.b: KEY=VALUE is expected"),
        ("=1", "--set =1: KEY=VALUE is expected"),
        ("a..b=1", "KEY=VALUE is expected"),
        ("a.b.c=1", "--set a.b.c=1: a.b is not a section in the YAML, but 1"),
        ("a.b=[1", "--set a.b=\\[1, line 1, column 3: not valid YAML"),
    ],
)
def test_changes_that_cannot_be_made(change, message):
    with pytest.raises(RecipeError, match=message):
        apply_changes({"a": {"b": 1}}, [change])


def test_keys():
    assert key_of("a.b=c=d") == "a.b"
    assert has_key({"a": {"b": None}}, "a.b")
    assert not has_key({"a": {"b": None}}, "a.b.c")
    assert not has_key({"a": 1}, "b")


def test_find(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "finetune_qwenvl_tiny"
    assert name in shipped()
    assert find(name) == find(f"{name}.yaml") == yaml_dir() / f"{name}.yaml"
    assert find(f"./sub/{name}.yaml") == Path(f"sub/{name}.yaml")  # a path is a path
    assert find("gone.yaml") == Path("gone.yaml")
    Path(f"{name}.yaml").write_text("mine: 1\n")
    assert find(f"{name}.yaml") == Path(f"{name}.yaml")  # a file of the user takes precedence


def test_the_host_is_not_imported():
    code = (
        "import sys; from mindformers_qwenvl.recipes import find, read; read(find('finetune_qwenvl_9.6b')); "
        "sys.exit(any(name.partition('.')[0] in ('mindformers', 'mindspore', 'numpy') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
