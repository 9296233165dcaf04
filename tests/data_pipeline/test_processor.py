"""Queries to network inputs and ids back to text, as the stock pipeline and `build_processor` use them."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindformers_qwenvl.data.images import ImageError
from tests.data_pipeline.layouts import pads_in_images
from tests.data_pipeline.pictures import assert_golden_pixels, draw, golden_images
from tests.golden import SETS, golden_set

Q = 16  # slots of an image in a56


@pytest.fixture(scope="module", autouse=True)
def _registered():
    from mindformers.tools.register import MindFormerModuleType as Kind
    from mindformers.tools.register import MindFormerRegister

    from mindformers_qwenvl.data import processor, template, tokenizer

    MindFormerRegister.register_cls(tokenizer.QwenVLTokenizer, Kind.TOKENIZER)
    MindFormerRegister.register_cls(template.QwenVLContentTransformTemplate, Kind.TRANSFORMS)
    for cls in (processor.QwenVLProcessor, processor.QwenVLImageProcessor):
        MindFormerRegister.register_cls(cls, Kind.PROCESSOR)


@pytest.fixture
def tokenizer():
    from mindformers_qwenvl.data.tokenizer import QwenVLTokenizer

    return QwenVLTokenizer(golden_set("a56").vocab_file, image_slots=Q)


@pytest.fixture
def make(tokenizer):
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor, QwenVLProcessor

    return lambda **kwargs: QwenVLProcessor(
        image_processor=QwenVLImageProcessor(image_size=56), tokenizer=tokenizer, **kwargs
    )


def arrays(inputs):
    """(input_ids, images, image_context_pos), after checking their kinds."""
    from mindspore import Tensor

    assert list(inputs) == ["input_ids", "images", "image_context_pos"]
    assert isinstance(inputs["images"], Tensor) and isinstance(inputs["image_context_pos"], Tensor)
    input_ids, images, positions = (
        inputs["input_ids"],
        inputs["images"].asnumpy(),
        inputs["image_context_pos"].asnumpy(),
    )
    assert (input_ids.dtype, images.dtype, positions.dtype) == (np.int32, np.float32, np.int32)
    rows, count = len(input_ids), images.shape[1]
    assert images.shape[0] == rows and positions.shape == (rows, count, Q, 2)
    assert (positions[..., 0] == np.arange(rows)[:, None, None]).all()
    return input_ids, images, positions[..., 1]


# ---------------------------------------------------------------- images


@pytest.mark.parametrize("name", SETS)
def test_image_processor_gives_the_golden_pixels(name):
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor

    golden = golden_set(name)
    processor = QwenVLImageProcessor(image_size=golden.config["visual"]["image_size"])
    for index in golden_images(name):
        for picture in (str(golden.image(index)), [golden.image(index)], Image.open(golden.image(index))):
            pixels = processor(picture).asnumpy()
            assert len(pixels) == 1
            assert_golden_pixels(pixels[0], golden, index)


def test_image_processor_takes_batches(tmp_path):
    from mindspore import Tensor

    from mindformers_qwenvl.data.processor import QwenVLImageProcessor

    processor = QwenVLImageProcessor(image_size=28)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 10, 20, 3), dtype=np.uint8)
    want = processor([Image.fromarray(picture) for picture in pictures]).asnumpy()
    assert want.shape == (3, 3, 28, 28)
    for batch in (pictures, Tensor(pictures), list(pictures)):
        np.testing.assert_array_equal(processor(batch).asnumpy(), want)
    np.testing.assert_array_equal(processor(pictures[0]).asnumpy(), want[:1])
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        processor(["no.png"])
    with pytest.raises(ValueError, match="is_hwc"):
        QwenVLImageProcessor(is_hwc=True)


def test_image_processor_round_trip(tmp_path):
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor

    processor = QwenVLImageProcessor(image_size=28, mean=(0.1, 0.2, 0.3), exif_rotation=True)
    processor.save_pretrained(str(tmp_path))
    again = QwenVLImageProcessor.from_pretrained(str(tmp_path))
    assert again.config == processor.config and again.config["exif_rotation"] is True


# ---------------------------------------------------------------- queries


def golden_query(tokenizer, name, prompt):
    """(query in list form, golden ids with pads in the images) of a golden prompt with the pictures of its set."""
    golden = golden_set(name)
    ids = golden.arrays[f"ids.{prompt}"].tolist()
    text = re.sub(
        "<img>(.*?)</img>", lambda tag: f"<img>{golden.image(Path(tag[1]).stem)}</img>", tokenizer.decode(ids)
    )
    return [{"text": text}], pads_in_images(ids, tokenizer)


@pytest.mark.parametrize("prompt", ["text", "one_image", "two_images", "multi_turn", "raw_caption", "image_last"])
def test_golden_prompts(make, tokenizer, prompt):
    query, want = golden_query(tokenizer, "a56", prompt)
    input_ids, images, positions = arrays(make()(query))
    assert input_ids.tolist() == [want]
    slots = np.flatnonzero(np.array(want) == tokenizer.img_pad_id)
    if not len(slots):
        assert images.shape == (1, 1, 3, 56, 56) and (positions == -1).all()
        return
    np.testing.assert_array_equal(positions.ravel(), slots)
    shown = [int(Path(path).stem) for path in re.findall("<img>(.*?)</img>", query[0]["text"])]
    for index, image in zip(shown, images[0], strict=True):
        assert_golden_pixels(image, golden_set("a56"), index)


@pytest.mark.parametrize("prompt", ["text", "one_image"])
def test_chat_frame_gives_the_golden_chat_prompts(make, tokenizer, prompt):
    [element], want = golden_query(tokenizer, "a56", prompt)
    said = element["text"].split("<|im_start|>user\n")[1].split("<|im_end|>")[0]
    input_ids, *_ = arrays(make(chat_format="chatml")(said))
    assert input_ids.tolist() == [want]
    if prompt == "one_image":
        elements = [{"image": golden_set("a56").image(0)}, {"text": said.split("</img>\n")[1]}]
        assert arrays(make(chat_format="chatml")(elements))[0].tolist() == [want]


def test_batch_of_rows_with_different_image_counts(make, tokenizer, tmp_path):
    paths = [str(draw(tmp_path / f"{i}.png", seed=i)) for i in range(2)]
    queries = [
        [{"text": "hi"}],
        [{"image": paths[0]}, {"text": "a"}, {"image": paths[1]}, {"text": "b"}],
        [{"image": paths[1]}, {"box": [(1, 2, 3, 4)], "ref": "it"}],
    ]
    processor = make()
    input_ids, images, positions = arrays(processor(queries))
    assert images.shape == (3, 2, 3, 56, 56)
    lengths = []
    for row, query in enumerate(queries):
        alone_ids, alone_images, alone_positions = arrays(processor(query))
        length = alone_ids.shape[1]
        lengths.append(length)
        np.testing.assert_array_equal(input_ids[row, :length], alone_ids[0])
        assert (input_ids[row, length:] == tokenizer.pad_token_id).all()
        text = tokenizer.from_list_format(query)
        assert input_ids[row, :length].tolist() == tokenizer(text)["input_ids"]
        count = sum("image" in element for element in query)
        np.testing.assert_array_equal(positions[row, :count], alone_positions[0, :count])
        np.testing.assert_array_equal(images[row, :count], alone_images[0, :count])
        assert (positions[row, count:] == -1).all() and not images[row, count:].any()
    assert input_ids.shape[1] == max(lengths)
    assert arrays(make(max_length=200, padding="max_length")(queries))[0].shape == (3, 200)


def test_pictures_need_not_be_files(make, tokenizer, tmp_path):
    path = draw(tmp_path / "a.png")
    processor = make()
    want = arrays(processor([{"image": str(path)}, {"text": "?"}]))
    image = Image.open(path)
    for source in (path, path.read_bytes(), image, np.array(image)):
        got = arrays(processor([{"image": source}, {"text": "?"}]))
        for left, right in zip(got, want, strict=True):
            np.testing.assert_array_equal(left, right)
    array = np.array(image)
    both = arrays(processor([{"image": array}, {"text": f"<img>{path}</img>"}, {"image": array[::-1]}]))[1][0]
    np.testing.assert_array_equal(both[0], both[1])
    assert not np.array_equal(both[0], both[2])


def test_dataset_dir_joins_relative_paths(make, tmp_path):
    draw(tmp_path / "pictures" / "a.png")
    arrays(make(dataset_dir=str(tmp_path / "pictures"))([{"image": "a.png"}]))
    with pytest.raises(FileNotFoundError, match=r"a\.png"):
        make()([{"image": "a.png"}])


@pytest.mark.parametrize(
    ("query", "error", "reason"),
    [
        ([], ValueError, "expected a query"),
        ({"text": "a lone element"}, ValueError, "expected a query"),
        (None, ValueError, "expected a query"),
        ([[]], ValueError, "neither text nor images"),
        ([{"text": ""}], ValueError, "neither text nor images"),
        ([{"video": "a.mp4"}], ValueError, "element 0.*video"),
        ([{"text": "<img>a.png"}], ValueError, "unclosed"),
        ([{"image": 5}], ImageError, "<int>"),
        ([{"image": "no.png"}], FileNotFoundError, r"no\.png"),
        ([[{"text": "a"}], [{"text": "b " * 99}]], ValueError, "query 1 has .* tokens, max_length allows 64"),
    ],
)
def test_bad_queries_are_named(make, query, error, reason):
    with pytest.raises(error, match=reason):
        make(max_length=64)(query)


# ---------------------------------------------------------------- text


def test_post_process(make, tokenizer, tmp_path):
    path = str(draw(tmp_path / "a.png"))
    processor = make()
    query = [{"image": path}, {"text": "Where is the dog?"}]
    prompt = arrays(processor([query, [{"text": "hi"}]]))[0]
    answer = tokenizer("<ref>dog</ref><box>(1,2),(3,4)</box>")["input_ids"]
    output = [
        np.array([*prompt[0], *answer, tokenizer.eod_id]),
        [*processor.template.prompt([{"text": "hi"}]).input_ids, *answer],
    ]
    boxed = "<ref>dog</ref><box>(1,2),(3,4)</box>"
    shown = f"Picture 1: <img>{path}</img>\nWhere is the dog?{boxed}"
    assert processor.post_process(output) == [shown, f"hi{boxed}"]
    assert processor.post_process(output, skip_special_tokens=True)[1] == "hidog(1,2),(3,4)"
    processor("another query")
    unknown = f"Picture 1: <img></img>\nWhere is the dog?{boxed}"
    assert processor.post_process(output) == [unknown, f"hi{boxed}"]
    assert processor.post_process(output[:1], [query]) == [shown]


def test_post_process_of_a_chat_is_the_answer(make, tokenizer):
    processor = make(chat_format="chatml")
    prompt = arrays(processor("hi"))[0][0].tolist()
    ends = ([], [tokenizer.im_end_id], [tokenizer.eod_id], [tokenizer.im_end_id, *tokenizer("\nmore")["input_ids"]])
    for end in ends:
        assert processor.post_process([[*prompt, *tokenizer(" hello ")["input_ids"], *end]]) == ["hello"]


def test_post_process_survives_whatever_a_network_writes(make, tokenizer):
    processor = make()
    prompt = arrays(processor("hi"))[0][0].tolist()
    junk = [tokenizer.img_start_id, tokenizer.img_pad_id, 5000, tokenizer.vocab_size, 65, tokenizer.img_start_id]
    [text] = processor.post_process([[*prompt, *junk]])
    assert text == "hi" + tokenizer.decode([65])


# ---------------------------------------------------------------- YAML and files


VOCAB = str(golden_set("a56").vocab_file)
OLD = {
    "type": "QwenVLProcessor",
    "image_processor": {"type": "QwenVLImageProcessor", "image_size": 56},
    "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": VOCAB, "max_length": 32},
    "max_length": 300,
    "num_queries": 16,
}
NEW = {
    "type": "QwenVLProcessor",
    "model_transform_template": {
        "type": "QwenVLContentTransformTemplate",
        "output_columns": ["input_ids", "images", "image_context_pos", "labels"],
        "mode": "predict",
        "image_size": 56,
        "num_queries": 16,
    },
    "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": VOCAB},
    "max_length": 300,
}
SLOTS_AT_THE_TOKENIZER = {
    "type": "QwenVLProcessor",
    "image_processor": {"type": "QwenVLImageProcessor", "image_size": 56},
    "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": VOCAB, "image_slots": 16},
    "max_length": 300,
}


@pytest.mark.parametrize("section", [OLD, NEW, SLOTS_AT_THE_TOKENIZER], ids=["old", "new", "slots"])
def test_build_processor(tokenizer, section, tmp_path):
    from mindformers.models.build_processor import build_processor
    from mindformers.tools.register import MindFormerConfig

    from mindformers_qwenvl.data.processor import QwenVLProcessor

    path = tmp_path / "predict.yaml"
    path.write_text(json.dumps({"processor": section}))  # JSON is YAML
    query, want = golden_query(tokenizer, "a56", "one_image")
    built = [
        build_processor(copy.deepcopy(section)),
        build_processor(MindFormerConfig(str(path)).processor),
        QwenVLProcessor.from_pretrained(str(path)),
    ]
    for processor in built:
        assert isinstance(processor, QwenVLProcessor) and processor.max_length == 300
        assert processor.output_columns == ["input_ids", "images", "image_context_pos"]
        input_ids, images, _ = arrays(processor(query))
        assert input_ids.tolist() == [want]
        assert_golden_pixels(images[0, 0], golden_set("a56"), 0)


def test_stock_processor_takes_the_template(tokenizer, tmp_path):
    from mindformers.models.multi_modal import BaseXModalToTextProcessor

    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate

    stock = BaseXModalToTextProcessor(QwenVLContentTransformTemplate(tokenizer=tokenizer, image_size=56), tokenizer)
    query, want = golden_query(tokenizer, "a56", "two_images")
    input_ids, images, _ = arrays(stock([query, [{"text": "hi"}]]))
    assert input_ids[0].tolist() == want and images.shape[1] == 2
    assert stock.post_process([input_ids[1]]) == ["hi"]
    assert stock.modal_pad_ids() == [tokenizer.img_pad_id, None, None]


@pytest.fixture(params=["yaml", "beside a model"])
def saved(request, make, tmp_path):
    """A folder that a processor was saved in and that was moved then, as (folder, whether it has a config.json)."""
    folder = tmp_path / "first"
    folder.mkdir()
    if request.param == "beside a model":
        shutil.copy(golden_set("a56").directory / "config.json", folder)
    make(max_length=300, chat_format="chatml", system_message="Be brief.", padding="max_length").save_pretrained(
        str(folder)
    )
    return folder.rename(tmp_path / "moved"), request.param


def test_round_trip(saved, make):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    folder, kind = saved
    assert bool(list(folder.glob("*.yaml"))) == (kind == "yaml")  # a YAML would hide the config.json from AutoModel
    want = make(max_length=300, chat_format="chatml", system_message="Be brief.", padding="max_length")("hi")
    again = QwenVLProcessor.from_pretrained(str(folder))
    assert (again.max_length, again.padding, again.tokenizer.image_slots) == (300, "max_length", Q)
    np.testing.assert_array_equal(again("hi")["input_ids"], want["input_ids"])
    assert again("hi")["images"].shape == want["images"].shape
    again.save_pretrained(str(folder))
    twice = QwenVLProcessor.from_pretrained(str(folder))
    assert (
        twice.template.config == again.template.config and twice.image_processor.config == again.image_processor.config
    )


def test_auto_processor(make, tmp_path):
    from mindformers import AutoProcessor

    from mindformers_qwenvl.data.processor import QwenVLProcessor

    make(max_length=300).save_pretrained(str(tmp_path / "saved"))
    processor = AutoProcessor.from_pretrained(str(tmp_path / "saved"))
    assert isinstance(processor, QwenVLProcessor)
    np.testing.assert_array_equal(processor("hi")["input_ids"], make()("hi")["input_ids"])


@pytest.mark.parametrize("chat_format", ["chatml", "raw", None])
def test_original_directory(checkpoint_dir, tokenizer, tmp_path, chat_format):
    """The frame is what generation_config.json says, as published for the chat model and for the base model."""
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    folder = shutil.copytree(checkpoint_dir("a56"), tmp_path / "original")
    (folder / "generation_config.json").write_text(json.dumps({"chat_format": chat_format} if chat_format else {}))
    processor = QwenVLProcessor.from_pretrained(str(folder))
    query, want = golden_query(tokenizer, "a56", "one_image")
    if chat_format == "chatml":
        query = [{"image": str(golden_set("a56").image(0))}, {"text": "What is it?"}]
    input_ids, images, _ = arrays(processor(query))
    assert input_ids.tolist() == [want] and images.shape == (1, 1, 3, 56, 56)


def test_nothing_to_read_is_named(tmp_path):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    with pytest.raises(FileNotFoundError, match="no YAML with a section `processor`"):
        QwenVLProcessor.from_pretrained(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no\.yaml"):
        QwenVLProcessor.from_pretrained(str(tmp_path / "no.yaml"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"padding": "max_length"}, "padding"),
        ({"padding": "left"}, "padding"),
        ({"model_transform_template": {"type": "Other"}}, "'Other'"),
        ({"model_transform_template": {"image_size": 28}}, "they must agree"),
        ({"model_transform_template": 5}, "model_transform_template"),
        ({"chat_format": "llama"}, "chat_format"),
    ],
)
def test_bad_arguments_are_named(make, settings, reason):
    with pytest.raises(ValueError, match=reason):
        make(**settings)


def test_saved_json_names_no_path_of_this_machine(make, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    make().save_pretrained(str(tmp_path))
    content = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert content["image_size"] == 56 and str(golden_set("a56").directory) not in json.dumps(content)
