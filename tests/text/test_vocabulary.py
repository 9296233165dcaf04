"""Vocabulary: golden ids and texts, special ids, files that are missing or corrupt, invariants. No MindFormers here."""

from __future__ import annotations

import base64
import copy
import json
import os
import pickle
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mindformers_qwenvl.text.tags import Tags
from mindformers_qwenvl.text.vocabulary import FIXED_TEXTS, Vocabulary
from mindformers_qwenvl.text.vocabulary_file import find_vocabulary
from tests.support.golden import GOLDEN, SETS, golden_set
from tests.support.layouts import failed, golden_lines

REAL = Vocabulary.from_file()
SMALL = Vocabulary.from_file(golden_set("a56").vocab_file, image_slots=16)
PIECES = st.sampled_from(
    [
        *(
            "<|im_start|>",
            "<|im_end|>",
            "<|endoftext|>",
            "<|extra_7|>",
            "<ref>",
            "</ref>",
            "<box>",
            "</quad>",
            "</img>",
        ),
        *("<imgpad>", "<|", "|>", "im_start", "system\n", "\n", " ", "猫", "e\u0301", "Hello", "12", "<"),
    ]
)
TEXTS = (
    st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join).filter(lambda text: "<img>" not in text)
)


def test_goldens_ids_and_texts():
    for golden in golden_lines("tokenizer/tokenize.jsonl"):
        for key, allowed in (("ids", "all"), ("ids_image_st_only", "image")):
            if failed(golden[key]):
                with pytest.raises(ValueError):
                    REAL.encode_text(golden["text"], allowed)
            else:
                assert REAL.encode_text(golden["text"], allowed) == golden[key], golden["text"]
        if "decode" in golden:
            _check_decode(golden)


def test_goldens_decode():
    for golden in golden_lines("tokenizer/decode.jsonl"):
        _check_decode(golden)


def _check_decode(golden):
    options = {
        "decode": {},
        "decode_skip": {"skip_special_tokens": True},
        "decode_keep_image_special": {"skip_special_tokens": True, "keep_image_special": True},
        "decode_ignore": {"errors": "ignore"},
    }
    for key in options.keys() & golden.keys():
        if failed(golden[key]):
            with pytest.raises(ValueError):
                REAL.decode(golden["ids"], **options[key])
        else:
            assert REAL.decode(golden["ids"], **options[key]) == golden[key], (key, golden["ids"])


def test_special_ids_of_the_published_vocabulary():
    golden = json.loads((GOLDEN / "tokenizer/special.json").read_text(encoding="utf-8"))
    assert REAL.size == golden.pop("n_vocab") == 151860
    stop_words = {key: golden.pop(key) for key in ("stop_words_chatml", "stop_words_raw")}
    assert REAL.special_ids == golden
    assert stop_words["stop_words_chatml"] == [[REAL.im_end_id], [REAL.im_start_id]]
    assert stop_words["stop_words_raw"] == [REAL.encode_text("Human:"), [REAL.eod_id]]


@pytest.mark.parametrize("name", SETS)
def test_special_ids_follow_the_ranks(name):
    vocabulary = Vocabulary.from_file(golden_set(name).vocab_file)
    assert vocabulary.special_ids == golden_set(name).meta["special_ids"]
    assert vocabulary.size == golden_set(name).meta["n_tokens"]
    assert [vocabulary.token(vocabulary.eod_id + n) for n in (0, 1, 2, 3, 207, 216)] == [
        *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|extra_0|>", "<|extra_204|>", "<imgpad>")
    ]


# ---- images


@pytest.mark.parametrize("slots", [1, 16, 256, 1000])
def test_an_image_takes_its_slots_and_its_path_is_kept(slots):
    vocabulary = Vocabulary.from_file(golden_set("a56").vocab_file, image_slots=slots)
    path = "a/very/long/path/" * 10 + "0.png"  # longer than the slots of a small model
    encoded = vocabulary.encode_with_images(f"x<img>{path}</img>y<img>猫.jpg</img>")
    assert encoded.images == (path, "猫.jpg")
    for span in encoded.spans:
        assert span.stop - span.start == slots
        assert encoded.ids[span.start - 1] == vocabulary.img_start_id
        assert set(encoded.ids[span.start : span.stop]) == {vocabulary.img_pad_id}
        assert encoded.ids[span.stop] == vocabulary.img_end_id
    assert len(encoded) == 1 + slots + 2 + 1 + slots + 2
    assert vocabulary.decode(encoded.ids) == "x<img></img>y<img></img>"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("see <img>a.png and go", "unclosed image tag.*a.png and go"),
        ("<img>a<img>b</img></img>", r"<img> is inside <img>a<img>b</img>"),
        ("<img><box>1</box></img>", "<box> is inside"),
        ("<img>" + "p" * 257 + "</img>", "257 bytes, the limit is 256: 'ppp"),
    ],
)
def test_bad_image_tags_are_named(text, named):
    with pytest.raises(ValueError, match=named):
        REAL.encode_text(text)


def test_tags_may_be_spelled_otherwise():
    vocabulary = Vocabulary.from_file(golden_set("a56").vocab_file, image_slots=2, tags=Tags(image_start="[I]"))
    assert vocabulary.encode_text("[I]a</img>") == [1014, 97, 1016, 1015]
    assert vocabulary.img_start_id not in vocabulary.encode_text("<img>")
    with pytest.raises(ValueError, match="a different spelling"):
        Vocabulary.from_file(golden_set("a56").vocab_file, tags=Tags(image_start="<ref>"))


# ---- which specials


def test_allowed_special_takes_words_and_lists():
    text = "<|im_start|><ref>"
    start, ref = REAL.im_start_id, REAL.ref_start_id
    plain_start, plain_ref = REAL.encode_text("<|im_start|>", "none"), REAL.encode_text("<ref>", "none")
    assert REAL.encode_text(text, "all") == REAL.encode_text(text, None) == [start, ref]
    assert REAL.encode_text(text, "image") == [*plain_start, ref]
    assert REAL.encode_text(text, ["<|im_start|>"]) == [start, *plain_ref]
    assert not {start, ref} & set(REAL.encode_text(text, "none"))
    with pytest.raises(ValueError, match="<nope>"):
        REAL.encode_text(text, ["<nope>"])
    with pytest.raises(ValueError, match="'imag'"):
        REAL.encode_text(text, "imag")
    with pytest.raises(ValueError, match=r"im_start"):
        REAL.encode_text(text, "image", disallowed_special="all")


@given(TEXTS)
def test_people_cannot_write_chat_specials(text):
    ids = REAL.encode_text(text, "image")
    assert not [i for i in ids if REAL.eod_id <= i < REAL.ref_start_id]


@given(TEXTS)
def test_round_trip(text):
    for vocabulary in (REAL, SMALL):
        for allowed in ("all", "image", "none"):
            assert vocabulary.decode(vocabulary.encode_text(text, allowed)) == unicodedata.normalize("NFC", text)


@given(TEXTS, st.text("abc/.猫", max_size=20), TEXTS)
def test_round_trip_around_an_image(before, path, after):
    assume(unicodedata.normalize("NFC", ">" + after)[0] == ">")  # U+0338 after a tag makes its > another letter
    encoded = SMALL.encode_with_images(f"{before}<img>{path}</img>{after}")
    head = unicodedata.normalize("NFC", before)
    assert encoded.images == (path,)
    assert SMALL.decode(encoded.ids) == f"{head}<img></img>{unicodedata.normalize('NFC', after)}"
    (span,) = encoded.spans
    assert SMALL.decode(encoded.ids[: span.start - 1]) == head


def test_half_a_surrogate_pair_becomes_the_replacement_character():
    assert REAL.decode(REAL.encode_text("a\ud800b")) == "a\ufffdb"


def test_unknown_ids_and_tokens_are_named():
    for ids, named in (([1, 151860], "151860.*item 1"), ([-100], "-100.*item 0")):
        with pytest.raises(ValueError, match=named):
            REAL.decode(ids)
    assert REAL.decode([9707, 151860], skip_special_tokens=True) == "Hello"  # as in the original
    with pytest.raises(ValueError, match="-100"):
        REAL.decode([-100], skip_special_tokens=True)
    with pytest.raises(ValueError, match="151860"):
        REAL.token(151860)
    with pytest.raises(ValueError, match="no such token"):
        REAL.id("no such token")
    with pytest.raises(TypeError, match="NoneType"):
        REAL.encode_text(None)


@pytest.mark.parametrize("slots", [0, -1, 2.5, True, "16"])
def test_image_slots_must_be_a_positive_number(slots):
    with pytest.raises(ValueError, match="image_slots"):
        Vocabulary.from_file(golden_set("a56").vocab_file, image_slots=slots)


# ---- the file

GOOD = b"".join(base64.b64encode(bytes([byte])) + b" %d\n" % byte for byte in range(256))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (b"", "243 of the single bytes that UTF-8 uses"),
        (GOOD[:1000], "line 124: expected `base64 rank`, found 3 bytes of another form"),
        (GOOD[:1001], "line 124"),
        (GOOD.replace(b"IQ== 33\n", b""), "line 34: expected rank 33, got 34"),
        (GOOD + b"YWI= 258\n", "line 257: expected rank 256, got 258"),
        (GOOD + b"IQ== 256\n", r"line 257: token b'!' is repeated; it already has rank 33"),
        (GOOD + b"Y!I= 256\n", "line 257: expected `base64 rank`, found 8 bytes of another form"),
        (GOOD + b"YWI= x\n", "line 257"),
        (GOOD + b"YWI=\n", "line 257"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:b2b1\n", "line 1.*git lfs pull"),
        (b"\x89PNG\r\n\x1a\n\x00", "line 1"),
    ],
)
def test_a_corrupt_file_is_named_with_its_line(tmp_path, source, named):
    path = tmp_path / "broken.tiktoken"
    path.write_bytes(source)
    with pytest.raises(ValueError, match=named) as caught:
        Vocabulary.from_file(path)
    assert str(path) in str(caught.value)


def test_a_file_of_another_kind_is_not_shown(tmp_path):
    """A link in a folder that was downloaded may lead to it."""
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(b"root:x:0:0:secret\n")
    with pytest.raises(ValueError, match="line 1") as caught:
        Vocabulary.from_file(path)
    assert "secret" not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_what_never_ends_is_not_read(tmp_path, kind):
    path = tmp_path / "qwen.tiktoken"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate((16 << 20) + 1)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises((FileNotFoundError, ValueError), match=r"qwen\.tiktoken"):
        Vocabulary.from_file(path)


def test_blank_lines_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "windows.tiktoken"
    path.write_bytes(GOOD.replace(b"\n", b"\r\n") + b"\r\n")
    assert Vocabulary.from_file(path).eod_id == 256


def test_a_missing_file_says_how_to_get_one(tmp_path, monkeypatch):
    for missing in (tmp_path / "nowhere" / "qwen.tiktoken", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"pip install 'mindformers-qwenvl\[vocab\]'") as caught:
            find_vocabulary(missing)
        assert str(missing) in str(caught.value)
    monkeypatch.setitem(sys.modules, "dashscope", None)
    for empty in (None, ""):
        with pytest.raises(FileNotFoundError, match=r"dashscope.*pip install 'mindformers-qwenvl\[vocab\]'"):
            find_vocabulary(empty)


def test_dashscope_is_found_and_not_run(tmp_path, monkeypatch):
    package = tmp_path / "dashscope"
    (package / "resources").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "resources" / "qwen.tiktoken").write_bytes(GOOD)
    monkeypatch.delitem(sys.modules, "dashscope", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_vocabulary() == package / "resources" / "qwen.tiktoken"


def test_a_folder_stands_for_the_file_in_it():
    assert find_vocabulary(golden_set("a56").directory) == golden_set("a56").vocab_file


def test_paths_that_have_no_room_in_their_slots():
    """They are remembered in this process; elsewhere they are an error, not another picture."""
    vocabulary = SMALL
    path = "/data/coco/train2014/COCO_train2014_000000000009.jpg"
    ids = vocabulary.encode_text(f"<img>{path}</img><img>a.png</img>")
    assert len(ids) == 2 * 18 and vocabulary.decode(ids) == f"<img>{path}</img><img>a.png</img>"
    assert vocabulary.encode_text(f"<img>{path}</img>") == ids[:18]  # the same number
    ids[2:4] = list(b"99")
    with pytest.raises(ValueError, match="tokenised in another process or too long ago"):
        vocabulary.decode(ids)
    narrow = vocabulary.with_image_slots(1).encode_text(f"<img>{path}</img>", max_path_bytes=None)
    assert narrow == [vocabulary.img_start_id, vocabulary.img_pad_id, vocabulary.img_end_id]


# ---- copies


def test_pickle_needs_no_file_and_copies_share(tmp_path):
    path = tmp_path / "qwen.tiktoken"
    path.write_bytes(GOOD)
    vocabulary = Vocabulary.from_file(path, image_slots=3, tags=Tags(image_pad="<p>"))
    path.unlink()
    dump = tmp_path / "vocabulary.pickle"
    dump.write_bytes(pickle.dumps(vocabulary))
    code = f"""
import pickle
vocabulary = pickle.load(open({str(dump)!r}, "rb"))
print(vocabulary.encode_text("A<img>x</img>"), vocabulary.tags.image_pad)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=GOLDEN.parents[2]
    )
    assert run.stdout.strip() == f"{vocabulary.encode_text('A<img>x</img>')} <p>"
    assert copy.deepcopy(vocabulary) is copy.copy(vocabulary) is vocabulary
    assert vocabulary.with_image_slots(5).image_slots == 5 and vocabulary.image_slots == 3


def test_import_is_light():
    code = (
        "import sys, mindformers_qwenvl.text.layout, mindformers_qwenvl.text.vocabulary\n"
        "print([n for n in ('mindspore', 'mindformers', 'transformers', 'tiktoken') if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=GOLDEN.parents[2]
    )
    assert run.stdout.strip() == "[]"


def test_fixed_texts_are_remembered_as_they_would_be_encoded():
    vocabulary = Vocabulary.from_file(golden_set("a56").vocab_file, image_slots=3)
    for text in ("assistant", "<img>a.png</img> <|im_start|>", "", "e\u0301"):
        for allowed in (None, "all", "image", "none", ["<|im_start|>"]):
            want = vocabulary.encode_with_images(text, allowed)
            assert vocabulary.encode_fixed(text, allowed) == want == vocabulary.encode_fixed(text, allowed)
    assert vocabulary.encode_fixed("user") is vocabulary.encode_fixed("user")
    for number in range(200):
        vocabulary.encode_fixed(str(number))
    assert len(vocabulary._fixed) <= FIXED_TEXTS
    with pytest.raises(ValueError, match="unclosed"):
        vocabulary.encode_fixed("<img>a.png")
