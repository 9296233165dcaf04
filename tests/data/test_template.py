"""The template in MindFormers' own transform: golden samples, faults, arguments."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from mindformers_qwenvl.text.layout import BadSampleError
from tests.support.golden import golden_set
from tests.support.layouts import failed, golden_lines, pads_in_images
from tests.support.pictures import draw
from tests.support.transforms import conversation, stock_transform

SFT = golden_lines("sft/sft.jsonl")
CUT = "overlong_cut_in_image"  # the original cuts through the image; here that is an error or drops the sample
IMAGE = re.compile("<img>(.*?)</img>")


@pytest.fixture(scope="module")
def tokenizer():
    """The real vocabulary, 256 slots an image."""
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    return QwenVLTokenizer()


def turns(case):
    """The conversation as the stock loader gives it: an array of (role, text)."""
    pairs = [[turn["from"], turn["value"].replace("https://", "")] for turn in case["conversations"]]
    return np.array(pairs or np.empty((0, 2), dtype="U1"))


def draw_pictures(case, folder) -> list[str]:
    paths = [path for _, text in turns(case).tolist() for path in IMAGE.findall(text)]
    for seed, path in enumerate(paths):
        draw(folder / path, seed=seed)
    return paths


@pytest.mark.parametrize("case", [case for case in SFT if "error" not in case], ids=lambda case: case["name"])
def test_golden_sft(case, tokenizer, tmp_path):
    paths = draw_pictures(case, tmp_path)
    transform = stock_transform(tokenizer, case["max_len"] - 1, dataset_dir=str(tmp_path))
    if case["name"] == CUT:
        with pytest.raises(BadSampleError, match="image 1 of 1"):
            transform(turns(case))
        return
    input_ids, images, positions, labels = transform(turns(case))
    np.testing.assert_array_equal(input_ids, pads_in_images(case["input_ids"], tokenizer))
    np.testing.assert_array_equal(labels, pads_in_images(case["labels"], tokenizer))
    assert (input_ids.dtype, labels.dtype, positions.dtype, images.dtype) == (np.int32, np.int32, np.int32, np.uint8)
    assert images.shape == (3, 28, 28, 3) and positions.shape == (3, 256, 2)
    assert not positions[:, :, 0].any()
    slots = np.flatnonzero(input_ids == tokenizer.img_pad_id)
    np.testing.assert_array_equal(positions[: len(paths), :, 1].ravel(), slots)
    assert (positions[len(paths) :, :, 1] == -1).all() and not images[len(paths) :].any()
    for picture, path in zip(images, paths, strict=False):
        np.testing.assert_array_equal(
            picture, transform.model_transform_template.image_transform.pixels(tmp_path / path)
        )


@pytest.mark.parametrize("case", [case for case in SFT if failed(case)], ids=lambda case: case["name"])
def test_what_the_original_refuses_is_refused_by_name(case, tokenizer, tmp_path):
    draw(tmp_path / "a.png")
    reason = {"KeyError": "the role must be", "ValueError": "unclosed", "IndexError": "no turns"}[case["error"]]
    with pytest.raises(BadSampleError, match=f"^sample that begins with .*{reason}"):
        stock_transform(tokenizer, case["max_len"] - 1, dataset_dir=str(tmp_path))(turns(case))


def test_all_forty_five_are_held(tokenizer):
    assert len(SFT) == 45 and sum(case["name"] == CUT for case in SFT) == 1


def test_too_many_images_are_an_error(small, tmp_path):
    paths = [str(draw(tmp_path / f"{i}.png")) for i in range(3)]
    stock_transform(small, 160)(conversation(*paths))
    with pytest.raises(BadSampleError, match=r"begins with user: .*3 images, modal_content_padding_size is 2"):
        stock_transform(small, 160, modal_content_padding_size=2)(conversation(*paths))


@pytest.mark.parametrize("reason", ["too many", "cut"])
def test_skip_sample_leaves_a_sample_without_labels(small, tmp_path, warnings_of_host, reason):
    path = str(draw(tmp_path / "a.png"))
    bad = conversation(path, path, path)
    if reason == "cut":
        bad = np.array([["user", "x " * 150], ["assistant", f"<img>{path}</img>"]])
    transform = stock_transform(small, 100, modal_content_padding_size=2, image_overflow="skip_sample")
    for _ in range(3):
        input_ids, images, positions, labels = transform(bad)
        assert input_ids.shape == labels.shape == (101,) and images.shape == (2, 28, 28, 3)
        assert (labels == -100).all() and (positions[:, :, 1] == -1).all() and not images.any()
        assert not (input_ids == small.img_pad_id).any() and (input_ids != small.pad_token_id).sum() > 4
    warnings = warnings_of_host()
    assert len(warnings) == 1 and "left out of training" in warnings[0] and "begins with user" in warnings[0]
    labels = transform(conversation(path, path))[3]
    assert (labels != -100).any()


def _missing(tmp_path):
    return [("user", "<img>no.png</img>")], r"no\.png: no such file"


def _broken(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"nothing")
    return [("user", "<img>broken.png</img>")], r"broken\.png: not a readable image"


def _unclosed(tmp_path):
    return [("user", "q"), ("assistant", "<img>a.png")], r"turn 1 \(assistant\): .*unclosed"


def _role(tmp_path):
    return [("user", "q"), ("gpt", "r")], r"turn 1: .*'gpt'"


def _many(tmp_path):
    draw(tmp_path / "a.png")
    return [("user", "<img>a.png</img>" * 4)], "4 images"


@pytest.mark.parametrize("fault", [_missing, _broken, _unclosed, _role, _many])
def test_faults_name_file_sample_and_reason(small, tmp_path, fault):
    from mindformers_qwenvl.datasets.loader import QwenVLDataLoader

    bad, reason = fault(tmp_path)
    turns = [{"from": role, "value": text} for role, text in bad]
    (tmp_path / "data.json").write_text(json.dumps([{"id": "x", "conversations": turns}]))
    dataset = QwenVLDataLoader(tmp_path / "data.json", shuffle=False)
    transform = stock_transform(small, 160, dataset_dir=str(tmp_path))
    column = next(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True))[0]
    with pytest.raises(BadSampleError, match=rf"data\.json, sample 0, id 'x': .*{reason}"):
        transform(column)
    with pytest.raises(RuntimeError, match=rf"data\.json, sample 0, id 'x': .*{reason}"):  # as a training run sees it
        list(dataset.map(transform, ["conversations"], ["input_ids", "images", "image_context_pos", "labels"]))


def test_roles_and_prompts_of_the_yaml(small):
    plain = stock_transform(small, 60)(np.array([["user", "P q"], ["assistant", "A r"]]))
    named = stock_transform(
        small, 60, user_role_name="human", assistant_role_name="gpt", user_prompt="P ", assistant_prompt="A "
    )(np.array([["human", "q"], ["gpt", "r"]]))
    text = small.decode(named[0].tolist(), skip_special_tokens=False)
    assert "<|im_start|>human\nP q<|im_end|>\n<|im_start|>gpt\nA r<|im_end|>" in text
    assert "You are a helpful assistant." in text
    assert small.decode(plain[3][plain[3] >= 0].tolist()) == small.decode(named[3][named[3] >= 0].tolist())
    assert "Be brief." in small.decode(
        stock_transform(small, 60, system_message="Be brief.")(conversation())[0].tolist()
    )


def test_num_queries_sets_the_tokenizer(small):
    transform = stock_transform(small, 60, num_queries=4)
    assert small.image_slots == 4
    assert transform(conversation())[2].shape == (3, 4, 2)


@pytest.mark.parametrize(
    "bad",
    [
        {"mode": "test"},
        {"image_overflow": "ignore"},
        {"chat_format": "llama"},
        {"modal_content_padding_size": 0},
        {"output_columns": ["pixels"]},
        {"image_size": 0},
        {"num_queries": -1},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_bad_arguments_are_named(small, bad):
    with pytest.raises(ValueError, match=next(iter(bad)) if "num_queries" not in bad else "image_slots"):
        stock_transform(small, 60, **bad)


def test_pictures_are_not_left_out_of_the_columns(tmp_path):
    """`output_columns` without them would train and answer on empty slots."""
    from mindformers_qwenvl import QwenVLContentTransformTemplate, QwenVLProcessor, QwenVLTokenizer

    golden = golden_set("a56")
    tokenizer = QwenVLTokenizer(golden.vocab_file, image_slots=16)
    settings = {"tokenizer": tokenizer, "image_size": 56, "max_length": 100}
    train = QwenVLContentTransformTemplate(["input_ids", "labels"], mode="train", **settings)
    conversation = [["user", f"<img>{golden.image(0)}</img>?"], ["assistant", "r"]]
    with pytest.raises(ValueError, match="output_columns lacks images and image_context_pos, but there are pictures"):
        train.process_train_item(conversation, {})
    predict = QwenVLContentTransformTemplate(["input_ids", "image_context_pos"], **settings)
    processor = QwenVLProcessor(tokenizer=tokenizer, model_transform_template=predict)
    with pytest.raises(ValueError, match="output_columns lacks images, but"):
        processor([{"image": str(golden.image(0))}])
    assert list(processor("Hello")) == ["input_ids", "image_context_pos"]
