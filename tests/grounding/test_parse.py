"""Answers to boxes and back: well-formed, malformed, made up."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mindformers_qwenvl.grounding import Box, Quad, parse, to_text
from mindformers_qwenvl.text.list_format import from_list_format, to_list_format
from mindformers_qwenvl.text.tags import Tags

TAGS = list(Tags())
GRID = st.integers(0, 999)
LABELS = st.none() | st.text(max_size=12).map(str.strip).filter(lambda label: not any(tag in label for tag in TAGS))


@st.composite
def answers(draw):
    """A list of boxes and quads, as `parse` would give it."""
    found = []
    for label in draw(st.lists(LABELS, max_size=4)):
        for number in range(draw(st.integers(1, 3))):
            kind, count = draw(st.sampled_from([(Box, 4), (Quad, 8)]))
            numbers = draw(st.lists(GRID, min_size=count, max_size=count))
            found.append(kind.of(numbers, label, continues=label is not None and number > 0))
    return found


def test_an_answer_of_the_original():
    text = "<ref>格子衬衫</ref><box>(588,499),(725,789)</box>"
    (box,) = parse(text).objects
    assert box == Box(588, 499, 725, 789, "格子衬衫")
    assert text[slice(*box.span)] == "<box>(588,499),(725,789)</box>"
    assert not box.clipped and not box.reordered and not parse(text).problems
    assert to_text([box]) == text


def test_several_boxes_of_one_ref():
    text = (
        "There are <ref> two dogs </ref><box>(1,2),(3,4)</box>\n<box>(5,6),(7,8)</box> and"
        "<box>(9,9),(9,9)</box><ref>cat</ref> at <box>(0,0),(1,1)</box><ref>two dogs</ref><box>(2,2),(3,3)</box>"
    )
    assert [(box.label, box.continues) for box in parse(text).boxes] == [
        *(("two dogs", False), ("two dogs", True), (None, False), (None, False), ("two dogs", False))
    ]


def test_quads_stand_beside_boxes():
    text = "<ref>sign</ref><quad>(1,2),(30,4),(28,40),(2,38)</quad><box>(1,2),(30,40)</box>"
    found = parse(text)
    assert found.quads == (Quad(((1, 2), (30, 4), (28, 40), (2, 38)), "sign"),)
    assert found.boxes == (Box(1, 2, 30, 40, "sign", True),)
    assert to_text(found.objects) == text


@pytest.mark.parametrize(
    ("content", "box", "clipped", "reordered"),
    [
        ("(725,789),(588,499)", (588, 499, 725, 789), False, True),
        ("(588,789),(725,499)", (588, 499, 725, 789), False, True),
        ("(0,0),(1000,1000)", (0, 0, 999, 999), True, False),
        ("(-5,3),(2,+4)", (0, 3, 2, 4), True, False),
        ("(1200,5),(1100,6)", (999, 5, 999, 6), True, True),
        (" ( 1 , 2 ) , ( 3 , 4 ) ", (1, 2, 3, 4), False, False),
        ("1,2,3,4", (1, 2, 3, 4), False, False),  # the original does not look at brackets either
        ("(5,5),(5,5)", (5, 5, 5, 5), False, False),
        ("(１,２),(３,４)", (1, 2, 3, 4), False, False),
    ],
)
def test_boxes_that_are_put_right(content, box, clipped, reordered):
    found = parse(f"<box>{content}</box>")
    (one,) = found.objects
    assert (one.coordinates, one.clipped, one.reordered, found.problems) == (box, clipped, reordered, ())


@pytest.mark.parametrize(
    ("text", "reason", "piece"),
    [
        ("a<box></box>", "a box takes 4 whole numbers", "<box></box>"),
        ("<box>(1,2),(3)</box>", "a box takes 4", "<box>(1,2),(3)</box>"),
        ("<box>(1,2),(3,4),(5,6),(7,8)</box>", "a box takes 4", "<box>(1,2),(3,4),(5,6),(7,8)</box>"),
        ("<box>(1.5,2),(3,4)</box>", "a box takes 4", "<box>(1.5,2),(3,4)</box>"),
        ("<box>(a,b),(c,d)</box>", "a box takes 4", "<box>(a,b),(c,d)</box>"),
        ("<box>(1,2),(3,9999999999)</box>", "a box takes 4", "<box>(1,2),(3,9999999999)</box>"),
        ("<box>(1 2),(3,4,5)</box>", "a box takes 4", "<box>(1 2),(3,4,5)</box>"),
        ("<quad>(1,2),(3,4)</quad>", "a quad takes 8 whole numbers", "<quad>(1,2),(3,4)</quad>"),
        ("<box>(1,2),(3,4)", "the box tag is not closed", "<box>(1,2),(3,4)"),
        ("<box>(1,2)</quad> x", "the box tag is not closed", "<box>(1,2)</quad> x"),
        ("<ref>cat and <box>(1,2),(3,4)</box></ref>", "the ref tag is not closed", "<ref>cat and "),
        ("<box>(1,2),(3,<box>(1,2),(3,4)</box>", "the box tag is not closed", "<box>(1,2),(3,"),
    ],
)
def test_what_is_no_box_is_reported(text, reason, piece):
    found = parse(text)
    (problem,) = found.problems
    assert reason in problem.reason and problem.text == piece == text[slice(*problem.span)]
    assert reason in str(problem) and f"characters {problem.span[0]} to {problem.span[1]}" in str(problem)
    assert list(found.objects) == ([Box(1, 2, 3, 4)] if text.count("<box>") == 2 or "<ref>" in text else [])


def test_a_bad_box_does_not_take_its_neighbours_along():
    found = parse("<ref>a</ref><box>(1,2)</box><box>(1,2),(3,4)</box><box>x</box><box>(5,6),(7,8)</box></box></ref>")
    assert found.objects == (Box(1, 2, 3, 4, "a"), Box(5, 6, 7, 8, "a", True))
    assert len(found.problems) == 2


def test_images_are_not_looked_into():
    assert parse("<img><box>(1,2),(3,4)</box></img><ref>a</ref><img>x</img><box>(1,2),(3,4)</box>").objects == (
        Box(1, 2, 3, 4),
    )


def test_tags_may_be_spelled_otherwise():
    tags = Tags(box_start="[", box_end="]", ref_start="{", ref_end="}")
    text = "{a*}[(1,2),(3,4)]<box>(1,2),(3,4)</box>"
    assert parse(text, tags).objects == (Box(1, 2, 3, 4, "a*"),)
    assert to_text(parse(text, tags).objects, tags) == "{a*}[(1,2),(3,4)]"


@given(answers())
def test_to_text_and_back(found):
    again = parse(to_text(found))
    assert list(again.objects) == found and not again.problems


@given(answers(), st.text(max_size=5).filter(lambda text: "<" not in text))
def test_spans_find_the_boxes_in_any_text(found, around):
    text = around + to_text(found) + around
    for one in parse(text).objects:
        (alone,) = parse(text[slice(*one.span)]).objects
        assert (alone.coordinates == one.coordinates) if isinstance(one, Box) else (alone.points == one.points)


@given(answers())
def test_boxes_and_refs_are_those_of_the_original(found):
    """Its `_fetch_all_box_with_ref`, over the list format, whose goldens are held elsewhere."""
    assume(unicodedata.is_normalized("NFC", to_text(found)))  # the list format is of the text after NFC
    elements = to_list_format(to_text(found))
    want = []
    for before, element in zip([{}, *elements], elements, strict=False):
        if "box" in element:
            numbers = tuple(map(int, element["box"].replace("(", "").replace(")", "").split(",")))
            x1, x2, y1, y2 = *sorted(numbers[::2]), *sorted(numbers[1::2])
            want.append(((x1, y1, x2, y2), before["ref"].strip() if "ref" in before else None))
    boxes = parse(to_text(found)).boxes
    assert [(box.coordinates, None if box.continues else box.label) for box in boxes] == want


PIECES = st.sampled_from(
    [*TAGS, "(1,2)", ",", "(999,-5)", "1000", "(3,4),(1,2)", " ", "x", "(", "99999999999999", "猫"]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join))
def test_any_text_is_read_and_accounted_for(text):
    found = parse(text)
    spans = sorted([one.span for one in found.objects] + [problem.span for problem in found.problems])
    for (_, stop), (start, _) in pairwise(spans):
        assert stop <= start
    for one in found.objects:
        tag = "box" if isinstance(one, Box) else "quad"
        piece = text[slice(*one.span)]
        assert piece.startswith(f"<{tag}>") and piece.endswith(f"</{tag}>")
    inside_images = sum(text.count(f"<{tag}>") for tag in ("box", "quad")) if "<img>" in text else 0
    reported = len(found.objects) + sum(problem.text.startswith(("<box>", "<quad>")) for problem in found.problems)
    if not inside_images:
        assert reported == text.count("<box>") + text.count("<quad>")


@given(st.lists(st.lists(GRID, min_size=4, max_size=4).map(Box.of), min_size=1, max_size=3), LABELS)
def test_the_list_format_writes_what_parse_reads(found, label):
    element = {"box": [box.coordinates for box in found]} | ({} if label is None else {"ref": label})
    text = from_list_format([element])
    assert [(box.coordinates, box.label) for box in parse(text).boxes] == [(box.coordinates, label) for box in found]


def test_labels_with_tags_are_not_written():
    with pytest.raises(ValueError, match=r"must not hold tags, got 'a</ref>'"):
        to_text([Box(1, 2, 3, 4, "a</ref>")])


def test_many_unclosed_tags_take_no_time():
    found = parse("<box>" * 20_000 + "<ref>" * 20_000)
    assert len(found.problems) == 40_000


def test_needs_no_mindspore():
    code = "import sys, mindformers_qwenvl.grounding; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert not {"mindspore", "mindformers", "matplotlib"} & set(run.stdout.split())
