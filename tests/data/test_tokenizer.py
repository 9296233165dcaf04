"""QwenVLTokenizer as MindFormers uses it: calls, padding, decoding, saving and loading, YAML."""

from __future__ import annotations

import copy
import json
import pickle
import shutil

import mindspore
import numpy as np
import pytest
from mindformers.mindformer_book import MindFormerBook
from mindformers.models.build_tokenizer import build_tokenizer
from mindformers.models.tokenization_utils_base import AddedToken
from mindformers.tools.register import MindFormerConfig, MindFormerModuleType, MindFormerRegister

from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer
from mindformers_qwenvl.text.layout import make_context, training_sample
from mindformers_qwenvl.text.vocabulary_file import find_vocabulary
from tests.support.golden import GOLDEN, SETS, golden_set
from tests.support.layouts import failed, golden_lines

A56 = str(golden_set("a56").vocab_file)


@pytest.fixture(scope="module")
def real() -> QwenVLTokenizer:
    return QwenVLTokenizer()


@pytest.fixture
def small() -> QwenVLTokenizer:
    return QwenVLTokenizer(A56, image_slots=16)


# ---- text to ids


def test_goldens_as_the_host_calls_it(real):
    for golden in golden_lines("tokenizer/tokenize.jsonl"):
        for key, allowed in (("ids", "all"), ("ids_image_st_only", "image")):
            if failed(golden[key]):
                with pytest.raises(ValueError):
                    real(golden["text"], allowed_special=allowed)
                continue
            expected = golden[key]  # with the bytes of the path in the slots
            assert real(golden["text"], add_special_tokens=False, allowed_special=allowed)["input_ids"] == expected
            assert real.encode(golden["text"], allowed_special=allowed) == expected
            tokens = real.tokenize(golden["text"], allowed_special=allowed)
            assert real.convert_tokens_to_ids(tokens) == expected
            assert real.convert_ids_to_tokens(expected) == tokens
            if "<img>" not in golden["text"]:
                assert real.convert_tokens_to_string(tokens) == golden.get("decode", golden["text"])
        if key == "ids" and "decode" in golden:
            assert real.decode(golden["ids"]) == golden["decode"]


def test_special_ids_and_sizes(real, small):
    golden = json.loads((GOLDEN / "tokenizer/special.json").read_text(encoding="utf-8"))
    for name, value in golden.items():
        if name.endswith("_id"):
            assert getattr(real, name) == value
    assert real.vocab_size == len(real) == golden["n_vocab"] == len(real.get_vocab())
    for tokenizer in (real, small):
        assert tokenizer.pad_token_id == tokenizer.eos_token_id == tokenizer.eod_id
        assert tokenizer.eos_token == tokenizer.pad_token == "<|endoftext|>"
        assert tokenizer.all_special_ids == [tokenizer.eod_id]
        assert tokenizer.get_vocab()["<imgpad>"] == tokenizer.img_pad_id
        assert tokenizer.convert_tokens_to_ids(tokenizer.image_pad_tag) == tokenizer.img_pad_id
    assert real.IMAGE_ST[-3:] == ("<img>", "</img>", "<imgpad>")


def test_padding_truncation_and_tensors(small):
    hi, longer = small.encode_text("hi"), small.encode_text("hello there")
    pad = small.eod_id
    batch = small(["hi", "hello there", ""], padding=True)
    width = len(longer)
    assert batch["input_ids"] == [hi + [pad] * (width - len(hi)), longer, [pad] * width]
    assert batch["attention_mask"] == [[1] * len(hi) + [0] * (width - len(hi)), [1] * width, [0] * width]
    cut = small(["hello there", "hi"], padding="max_length", max_length=3, truncation=True, return_tensors="ms")
    assert isinstance(cut["input_ids"], mindspore.Tensor) and cut["input_ids"].shape == (2, 3)
    assert cut["input_ids"].asnumpy()[0].tolist() == longer[:3]
    assert small(["hi", "hi"], return_tensors="np")["input_ids"].dtype == np.int32


def test_pairs_words_and_ids_go_the_hosts_way(small):
    a, b = small.encode_text("cat"), small.encode_text(" dog")
    assert small("cat", " dog")["input_ids"] == a + b
    assert small(["cat", "cat"], [" dog", ""])["input_ids"] == [a + b, a]
    assert small(["cat", " dog"], is_split_into_words=True)["input_ids"] == a + b
    assert small.encode_plus(a)["input_ids"] == a


def test_which_specials_count_is_configurable(small):
    text = "<|im_end|><ref>"
    end, ref = small.im_end_id, small.ref_start_id
    plain = small.encode_text("<|im_end|>", "none")
    safe = QwenVLTokenizer(A56, allowed_special="image")
    assert small(text)["input_ids"] == [end, ref]
    assert safe(text)["input_ids"] == safe([text])["input_ids"][0] == [*plain, ref]
    assert safe(text, allowed_special="all")["input_ids"] == [end, ref]
    assert QwenVLTokenizer(A56, allowed_special=["<|im_end|>"])(text)["input_ids"][0] == end
    turns = [("user", text), ("assistant", "ok")]
    count = [np.isin(training_sample(turns, t, max_length=99).input_ids, end).sum() for t in (small, safe)]
    assert count == [4, 3]
    assert np.isin(make_context(small, text)[1].ids, end).sum() == 2
    with pytest.raises(ValueError, match="'chat'"):
        QwenVLTokenizer(A56, allowed_special="chat")
    with pytest.raises(ValueError, match="im_end"):
        small(text, allowed_special="none", disallowed_special="all")


def test_errors_reach_the_caller(small):
    for text in ("<img>a.png", "<img>a<img>b</img>"):
        with pytest.raises(ValueError, match="<img>"):
            small(text)
    with pytest.raises(ValueError, match="1017"):
        small.convert_ids_to_tokens([1, 1017])
    with pytest.raises(ValueError, match="nonsense"):
        small.convert_tokens_to_ids(["nonsense"])


# ---- ids to text


def test_decode_takes_every_kind_of_ids(real):
    hello = real.encode_text("Hello")[0]
    for ids in (
        *(hello, np.int32(hello), np.array(hello), [hello], (hello,), np.array([hello], np.int64), [np.int32(hello)]),
        *(mindspore.Tensor(hello, mindspore.int32), mindspore.Tensor([hello], mindspore.int32)),
    ):
        assert real.decode(ids) == "Hello"
    assert real.decode([]) == ""
    assert real.decode([[hello], [hello, 0]]) == real.batch_decode([[hello], [hello, 0]]) == ["Hello", "Hello!"]
    assert real.decode(np.array([[hello, 0]])) == ["Hello!"]


def test_goldens_decode(real):
    for golden in golden_lines("tokenizer/decode.jsonl"):
        for key, options in (
            ("decode", {}),
            ("decode_skip", {"skip_special_tokens": True}),
            ("decode_ignore", {"errors": "ignore"}),
            ("decode_keep_image_special", {"skip_special_tokens": True, "keep_image_special": True}),
        ):
            if failed(golden[key]):
                with pytest.raises(ValueError):
                    real.decode(golden["ids"], **options)
            else:
                assert real.decode(golden["ids"], **options) == golden[key]


def test_errors_is_an_argument_and_a_default():
    tokenizer = QwenVLTokenizer(A56, errors="ignore")
    assert tokenizer.decode([255, 32]) == "A"
    assert tokenizer.decode([255, 32], errors="replace") == "\ufffdA"
    with pytest.raises(UnicodeDecodeError):
        tokenizer.decode([255], errors="strict")


def test_list_format(small):
    elements = [{"image": "a.png"}, {"text": "Where? "}, {"ref": "cat", "box": [[1, 2, 3, 4]]}]
    text = small.from_list_format(elements)
    assert text == "Picture 1: <img>a.png</img>\nWhere? <ref>cat</ref><box>(1,2),(3,4)</box>"
    assert small.to_list_format(text)[1:] == [
        {"image": "a.png"},
        {"text": "\nWhere? "},
        {"ref": "cat"},
        {"box": "(1,2),(3,4)"},
    ]
    other = QwenVLTokenizer(A56, image_start_tag="[I]", image_end_tag="[/I]")
    assert other.from_list_format(elements[:1]) == "Picture 1: [I]a.png[/I]\n"
    assert other(other.from_list_format(elements[:1]))["input_ids"].count(other.img_pad_id) == 256 - len("a.png")


# ---- arguments


@pytest.mark.parametrize("name", ["image_slots", "num_queries", "n_queries"])
def test_slots_under_every_name(name):
    assert QwenVLTokenizer(A56, **{name: 16})("<img></img>")["input_ids"].count(1016) == 16


def test_slots_that_disagree_are_refused_and_may_be_set_later(small):
    with pytest.raises(ValueError, match=r"num_queries.*image_slots"):
        QwenVLTokenizer(A56, image_slots=16, num_queries=64)
    assert QwenVLTokenizer(A56, image_slots=16, num_queries=16).image_slots == 16
    twin = copy.deepcopy(small)
    small.image_slots = 4
    assert small("<img></img>")["input_ids"].count(small.img_pad_id) == 4
    assert twin("<img></img>")["input_ids"].count(small.img_pad_id) == 16


def test_special_tokens_may_be_named_but_not_added(small):
    assert QwenVLTokenizer(A56, pad_token="<|extra_0|>").pad_token_id == 803
    assert QwenVLTokenizer(A56, pad_token=AddedToken("<|im_end|>")).pad_token_id == 802
    assert small.add_tokens(["<img>", "</img>"], special_tokens=True) == 0 and len(small) == 1017
    for add in (lambda: small.add_tokens(["<new>"]), lambda: QwenVLTokenizer(A56, pad_token="<pad>")):
        with pytest.raises(ValueError, match="no tokens can be added"):
            add()


@pytest.mark.parametrize("vocab_file", ["", None])
def test_old_yaml_keys(vocab_file):
    MindFormerRegister.register_cls(QwenVLTokenizer, MindFormerModuleType.TOKENIZER)
    config = MindFormerConfig(type="QwenVLTokenizer", vocab_file=vocab_file, max_length=32)
    tokenizer = build_tokenizer(config, tokenizer_name="qwenvl_9.6b")
    assert tokenizer.vocab_size == 151860 and tokenizer.vocab_file == str(find_vocabulary())
    assert len(tokenizer("word " * 40)["input_ids"]) > 32  # as in the old version: it does not cut


def test_yaml_errors_name_the_file(tmp_path):
    MindFormerRegister.register_cls(QwenVLTokenizer, MindFormerModuleType.TOKENIZER)
    broken = tmp_path / "broken.tiktoken"
    broken.write_bytes(b"IQ== 0\nIg== 2\n")
    for path, kind, named in (
        (tmp_path / "nowhere.tiktoken", FileNotFoundError, "nowhere.tiktoken.*vocab"),
        (broken, ValueError, "broken.tiktoken.*line 2"),
    ):
        with pytest.raises(kind, match=named):
            build_tokenizer(MindFormerConfig(type="QwenVLTokenizer", vocab_file=str(path)))


# ---- saving and loading


def check_equal(one: QwenVLTokenizer, two: QwenVLTokenizer) -> None:
    assert type(one) is type(two)
    for text in ("hi 猫 <img>x.png</img>", "<|im_start|><ref>a</ref>"):
        assert one(text) == two(text)
    for name in ("image_slots", "errors", "allowed_special", "pad_token", "eod_id", "padding_side", "tags"):
        assert getattr(one, name) == getattr(two, name), name


@pytest.fixture
def unusual() -> QwenVLTokenizer:
    return QwenVLTokenizer(
        A56,
        image_slots=5,
        errors="ignore",
        allowed_special={"<img>", "</img>", "[P]"},
        pad_token="<|im_end|>",
        image_pad_tag="[P]",
        padding_side="left",
        max_length=32,
    )


@pytest.mark.parametrize("file_format", ["json", "yaml"])
def test_saved_folder_loads(unusual, tmp_path, file_format, monkeypatch):
    MindFormerRegister.register_cls(QwenVLTokenizer, MindFormerModuleType.TOKENIZER)
    monkeypatch.setitem(MindFormerBook.get_tokenizer_name_to_processor(), "QwenVLTokenizer", "QwenVLProcessor")
    folder = tmp_path / "saved"
    unusual.save_pretrained(folder, file_format=file_format)
    assert (folder / "qwen.tiktoken").read_bytes() == golden_set("a56").vocab_file.read_bytes()
    assert {path.name for path in folder.iterdir()} == {
        *("qwen.tiktoken", "tokenizer_config.json", "special_tokens_map.json"),
        *(["mindspore_model.yaml"] if file_format == "yaml" else []),
    }
    assert str(golden_set("a56").directory) not in (folder / "tokenizer_config.json").read_text()
    check_equal(QwenVLTokenizer.from_pretrained(str(folder)), unusual)
    again = QwenVLTokenizer.from_pretrained(folder, image_slots=7)
    assert again.image_slots == 7
    again.save_pretrained(folder, file_format=file_format)
    assert QwenVLTokenizer.from_pretrained(folder).image_slots == 7


def test_save_refuses_what_it_cannot_write(small, tmp_path):
    with pytest.raises(ValueError, match="'toml'"):
        small.save_pretrained(tmp_path, file_format="toml")


@pytest.mark.parametrize("name", SETS)
def test_original_folder_loads_with_the_slots_of_its_model(name, tmp_path):
    tokenizer = QwenVLTokenizer.from_pretrained(golden_set(name).directory)
    assert tokenizer.image_slots == golden_set(name).meta["n_queries"]
    assert tokenizer.img_pad_id == golden_set(name).meta["special_ids"]["img_pad_id"]
    assert tokenizer.model_max_length == 8192
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "QwenVLTokenizer" and "auto_map" not in config
    check_equal(QwenVLTokenizer.from_pretrained(tmp_path), tokenizer)


def test_original_folder_with_a_yaml_in_it_loads(tmp_path):
    MindFormerRegister.register_cls(QwenVLTokenizer, MindFormerModuleType.TOKENIZER)
    for name in ("config.json", "tokenizer_config.json", "qwen.tiktoken"):
        shutil.copy(golden_set("b224").directory / name, tmp_path)
    (tmp_path / "model.yaml").write_text("run_mode: predict\n")
    assert QwenVLTokenizer.from_pretrained(tmp_path).image_slots == 64


def test_bare_vocabulary_folder_loads(tmp_path):
    shutil.copy(A56, tmp_path)
    assert QwenVLTokenizer.from_pretrained(tmp_path, num_queries=3).image_slots == 3


def test_folder_without_a_vocabulary_is_an_error_not_the_published_one(tmp_path):
    shutil.copy(golden_set("a56").directory / "config.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "qwen.tiktoken")):
        QwenVLTokenizer.from_pretrained(tmp_path)
    assert QwenVLTokenizer.from_pretrained(tmp_path, vocab_file=A56).image_slots == 16


def test_folder_with_broken_json_is_named(tmp_path):
    shutil.copy(A56, tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        QwenVLTokenizer.from_pretrained(tmp_path)


def test_pickle_and_deep_copy(unusual, tmp_path):
    path = tmp_path / "qwen.tiktoken"
    shutil.copy(A56, path)
    tokenizer = QwenVLTokenizer(path, image_slots=3)
    path.unlink()
    check_equal(pickle.loads(pickle.dumps(tokenizer)), tokenizer)
    check_equal(copy.deepcopy(tokenizer), tokenizer)
    check_equal(pickle.loads(pickle.dumps(unusual)), unusual)


def test_an_empty_text_takes_a_short_way_to_what_the_host_gives(small):
    from mindformers.models.tokenization_utils import PreTrainedTokenizer

    host = PreTrainedTokenizer.__call__(small, "", add_special_tokens=False)
    given = small("", add_special_tokens=False)
    assert type(given) is type(host) and dict(given) == dict(host) == {"input_ids": [], "attention_mask": []}


@pytest.mark.parametrize(
    ("response", "history", "reason"),
    [
        ("A cat.", [("<img>a.png</img>What is it?", "A cat.")], "the response has no box"),
        ("<ref>cat</ref><box>(1,2),(3,4)</box>", [("What is it?", None)], "the conversation has no picture"),
    ],
)
def test_without_a_box_or_a_picture_nothing_is_drawn_and_a_warning_says_why(
    small, warnings_of_host, response, history, reason
):
    assert small.draw_bbox_on_latest_picture(response, history) is None  # as in the original
    [warning] = warnings_of_host()
    assert warning == f"draw_bbox_on_latest_picture returns None: {reason}"
