"""Tags in texts: found and written."""

from __future__ import annotations

import pytest

from mindformers_qwenvl.text.tags import TagPair, Tags, box_text, picture_text, quad_text, ref_text, tag_pairs


def pairs(text, **options):
    return [(pair.kind, pair.content) for pair in tag_pairs(text, **options)]


def test_pairs_in_order_with_their_places():
    text = "a<img>x.png</img><ref>cat</ref><box>(1,2),(3,4)</box><quad>q</quad></box>b"
    found = list(tag_pairs(text))
    assert found[0] == TagPair("image", "x.png", 1, 17)
    assert [(pair.kind, text[pair.start : pair.stop]) for pair in found] == [
        ("image", "<img>x.png</img>"),
        ("ref", "<ref>cat</ref>"),
        ("box", "<box>(1,2),(3,4)</box>"),
        ("quad", "<quad>q</quad>"),
    ]


@pytest.mark.parametrize(
    ("text", "alone", "across"),
    [
        ("<ref>a<box>b</box></ref>", [("ref", None), ("box", "b")], [("ref", "a<box>b</box>")]),
        ("<box>a<img>b</img>", [("box", None), ("image", "b")], [("box", None), ("image", "b")]),
        ("<img>a<box>b</img></box>", [("image", "a<box>b")], [("image", "a<box>b")]),  # a path may hold anything
        ("<ref>a", [("ref", None)], [("ref", None)]),
        ("</ref>", [], []),
        ("<ref></ref>", [("ref", "")], [("ref", "")]),
    ],
)
def test_pairs_that_overlap_or_do_not_close(text, alone, across):
    assert pairs(text) == alone
    assert pairs(text, across_starts=True) == across


def test_other_spellings():
    tags = Tags(box_start="[[", box_end="]]", ref_start="{", ref_end="}", image_start="«", image_end="»")
    assert picture_text(2, "a b.png", tags) == "Picture 2: «a b.png»\n"
    assert picture_text(2, "a b.png") == "Picture 2: <img>a b.png</img>\n"
    text = ref_text("a.*", tags) + box_text((1, 2, 3, 4), tags)
    assert text == "{a.*}[[(1,2),(3,4)]]"
    assert pairs(text, tags=tags) == [("ref", "a.*"), ("box", "(1,2),(3,4)")]
    assert quad_text([(1, 2), (3, 4), (5, 6), (7, 8)]) == "<quad>(1,2),(3,4),(5,6),(7,8)</quad>"
