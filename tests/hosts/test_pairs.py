"""`versions`: which pair is installed, told without importing it, and one sentence where there is none."""

from __future__ import annotations

import sys

import pytest

from mindformers_qwenvl import versions


@pytest.fixture
def place(tmp_path, monkeypatch):
    """`place(mindformers="1.8.0")`: packages that raise when they are imported; nothing else can be found."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.setattr(sys, "path", [str(folder)])
    for name in ("mindformers", "mindspore"):
        monkeypatch.delitem(sys.modules, name, raising=False)

    def put(**versions: str) -> None:
        for name, version in versions.items():
            (folder / name).mkdir()
            text = f'__version__ = "{version}"\nraise SystemExit("imported")\n'
            (folder / name / "__init__.py").write_text(text)

    return put


def sentence() -> str:
    with pytest.raises(versions.HostError) as refused:
        versions.require_host()
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_neither(place):
    assert "neither is installed: pip install 'mindformers-qwenvl[host]'" in sentence()


def test_too_old(place):
    place(mindformers="1.6.0", mindspore="2.7.2")
    text = sentence()
    assert "MindFormers 1.7 or later" in text
    assert "MindFormers 1.6.0 with MindSpore 2.7.2 is installed" in text
    assert "pip install" in text


@pytest.mark.parametrize(
    ("there", "found", "command"),
    [
        ({"mindformers": "1.8.0"}, "only MindFormers 1.8.0 is installed", "pip install 'mindspore==2.7.*'"),
        ({"mindspore": "2.9.0"}, "only MindSpore 2.9.0", "pip install 'mindformers==1.9.*' 'mindspore==2.9.0'"),
        ({"mindspore": "2.7.1"}, "only MindSpore 2.7.1", "pip install 'mindformers==1.8.*' 'mindspore==2.7.1'"),
        ({"mindspore": "2.5.0"}, "only MindSpore 2.5.0", versions.INSTALL),
        ({"mindformers": "9.9.0"}, "only MindFormers 9.9.0", versions.INSTALL),
    ],
)
def test_half_of_a_pair_stays(place, there, found, command):
    place(**there)
    text = sentence()
    assert found in text
    assert command in text


@pytest.mark.parametrize("version", ["1.7.0", "1.8.0", "2.1.0", "2.1.0.dev20260101", "r2.0", "master-abc"])
def test_what_is_tried(place, version):
    """Odd versions, as Ascend builds have them, are tried: capabilities are asked later."""
    place(mindformers=version, mindspore="2.9.0")
    versions.require_host()
    assert versions.installed("mindformers").version == version
    assert "mindformers" not in sys.modules


def test_a_folder_of_that_name_is_not_the_package(place, tmp_path):
    (tmp_path / "packages" / "mindformers").mkdir()
    assert versions.installed("mindformers") is None


@pytest.mark.parametrize(
    ("mindformers", "mindspore", "fits"),
    [
        ("1.7.0", "2.7.1", True),
        ("1.8.0", "2.7.2", True),
        ("1.9.0", "2.7.2", False),
        ("2.1.0", "2.10.0", True),
        ("2.1.0", "2.11.0rc1", True),
        ("2.0.0", "2.11.0", False),
        ("1.9.3", "unknown", True),
    ],
)
def test_what_belongs_together(mindformers, mindspore, fits):
    assert versions.belongs(versions.pair_of(mindformers), mindspore) is fits


def test_what_is_in_no_row():
    assert versions.pair_of("1.6.0") is None
    assert versions.pair_of("3.0") is None
    assert versions.pair_of("") is None
