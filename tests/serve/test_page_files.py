"""The files of the page, without a browser: nothing from elsewhere, nothing inline, both languages complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "mindformers_qwenvl" / "serve" / "page"
FILES = sorted(PAGE.iterdir())
SCRIPTS = [file for file in FILES if file.suffix == ".js"]
HTML = (PAGE / "index.html").read_text(encoding="utf-8")
SVG_NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never fetched


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def table(language: str) -> dict[str, str]:
    """The words of a language as words.js holds them."""
    block = re.search(rf"^  {language}: \{{\n(.*?)^  \}},", read(PAGE / "words.js"), re.DOTALL | re.MULTILINE)[1]
    lines = [line for line in block.splitlines() if line.strip()]
    found = [re.fullmatch(r'    (\w+): "(.+)",', line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    words = dict(match.groups() for match in found)
    assert len(words) == len(lines), "a word stands twice"
    return words


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_outside_address(file):
    text = read(file).replace(SVG_NAMESPACE, "")
    found = re.findall(r"""(?:https?:)?//[\w.-]+\.\w+|@import|url\(\s*["']?(?!#)|\bintegrity=""", text)
    assert found == []


def test_nothing_inline():
    """The policy of the page allows neither scripts nor styles within the HTML."""
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", HTML, re.IGNORECASE) == []
    for opening, inside in re.findall(r"<script([^>]*)>(.*?)</script>", HTML, re.DOTALL):
        assert 'src="page/' in opening and inside == ""


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.name)
def test_scripts_put_in_text_alone(file):
    """There is no way in which the words of a model or a user could become HTML or code."""
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser|createContextualFragment"
    assert re.findall(rf"{forbidden}|setHTML|\beval\(|new Function|setAttribute\(\s*[\"']style", read(file)) == []


def test_every_file_is_reached():
    """Following links and imports from index.html: no file is missing, none is left over."""
    reached, waiting = {"index.html"}, re.findall(r'(?:src|href)="page/([^"]+)"', HTML)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += re.findall(r'from "\./([^"]+)"', read(PAGE / name))
    assert reached == {file.name for file in FILES}


def test_both_languages_have_the_same_words():
    english, chinese = table("en"), table("zh")
    assert english.keys() == chinese.keys()
    for name, text in english.items():
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[name])), name
    same = {name for name, text in english.items() if text == chinese[name]}
    assert same == {"topP"}
    assert not re.search(r"[\u4e00-\u9fff]", "".join(english.values()))


def test_every_word_is_used_and_every_used_word_exists():
    code = "".join(read(file) for file in SCRIPTS if file.name != "words.js")
    in_html = set(re.findall(r'data-(?:text|placeholder|label)="(\w+)"', HTML))
    said = set(re.findall(r'\b(?:say|button)\("(\w+)"', code))
    words = table("en").keys()
    assert in_html | said <= words
    assert {word for word in words if word not in in_html and f'"{word}"' not in code} == set()


def test_labels_belong_to_fields():
    """Each field has a label, each control of a dialog a name; each id is one element's."""
    ids = re.findall(r'\bid="([^"]+)"', HTML)
    assert len(ids) == len(set(ids))
    for field in re.findall(r"<(?:input|textarea|select)[^>]*>", HTML):
        labelled = (
            "aria-label=" in field
            or "hidden" in field
            or re.search(rf"<label[^>]*>(?:(?!</label>).)*{re.escape(field)}", HTML, re.DOTALL)
        )
        assert labelled, field
    for described in re.findall(r'aria-describedby="([^"]+)"', HTML):
        assert described in ids
    used = set(re.findall(r'\$\("([\w-]+)"\)|getElementById\("([\w-]+)"\)', "".join(map(read, SCRIPTS))))
    assert {one or other for one, other in used} <= set(ids)
