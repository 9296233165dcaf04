"""Where pictures may come from, through the processor and the training data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mindformers_qwenvl.config.folder import FolderWarning
from mindformers_qwenvl.pictures.policy import ImagePolicy
from tests.support.pictures import draw
from tests.support.web import data_uri, site

LOCAL = {"allow_private": ["127.0.0.1"]}


def build(tokenizer, **settings):
    from mindformers_qwenvl.data.processor import QwenVLProcessor

    return QwenVLProcessor(tokenizer=tokenizer, **settings)


def test_every_source_in_one_batch(tokenizer, tmp_path):
    path = draw(tmp_path / "a.png")
    array = np.array(Image.open(path))
    with site() as web:
        url = web.page("/a.png", path.read_bytes())
        uri = data_uri(path.read_bytes())
        sources = [str(path), path, path.as_uri(), url, uri, path.read_bytes(), Image.open(path), array]
        processor = build(tokenizer, image_policy=LOCAL)
        queries = [[{"image": source}, {"text": "What is it?"}] for source in sources]
        images = processor([*queries, [{"text": "no image"}]])["images"].asnumpy()
    for picture_ in images[1:-1]:
        np.testing.assert_array_equal(picture_, images[0])
    assert images[0].any() and not images[-1].any()
    rows = [[*query.input_ids.tolist(), 0] for query in processor._prompts]
    texts = processor.post_process(rows)
    assert texts[0].startswith(f"Picture 1: <img>{path}</img>") and texts[3].startswith(f"Picture 1: <img>{url}</img>")
    assert texts[4].startswith("Picture 1: <img>memory:1</img>")


def test_where_a_processor_takes_its_policy_from(tokenizer):
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor
    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate

    policy = ImagePolicy.of(LOCAL)
    made = QwenVLContentTransformTemplate(tokenizer=tokenizer, image_policy=LOCAL)
    for settings in (
        {"image_policy": LOCAL},
        {"image_policy": policy, "model_transform_template": {"image_policy": {"max_bytes": 7}}},
        {"image_policy": LOCAL, "image_processor": QwenVLImageProcessor()},
        {"model_transform_template": {"image_policy": LOCAL}},
        {"model_transform_template": {"image_policy": LOCAL}, "image_processor": QwenVLImageProcessor()},
        {"image_processor": QwenVLImageProcessor(image_policy=LOCAL)},
        {"model_transform_template": made},
        {"model_transform_template": made, "image_policy": LOCAL},
    ):
        processor = build(tokenizer, **settings)
        assert processor.template.image_transform.policy == policy
        assert processor.image_processor.image_transform.policy == policy
    assert made.config["image_policy"] == LOCAL and processor.image_processor.config["image_policy"] == LOCAL
    with pytest.raises(ValueError, match="image_policy differs from that of the model_transform_template"):
        build(tokenizer, model_transform_template=made, image_policy={"max_bytes": 7})


def test_the_policy_in_a_yaml(tokenizer, tmp_path):
    from mindformers.tools.register import MindFormerModuleType as Kind
    from mindformers.tools.register import MindFormerRegister

    from mindformers_qwenvl.data import processor
    from mindformers_qwenvl.data import tokenizer as tokenizers

    MindFormerRegister.register_cls(tokenizers.QwenVLTokenizer, Kind.TOKENIZER)
    MindFormerRegister.register_cls(processor.QwenVLProcessor, Kind.PROCESSOR)
    MindFormerRegister.register_cls(processor.QwenVLImageProcessor, Kind.PROCESSOR)
    section = {"type": "QwenVLProcessor", "tokenizer": {"type": "QwenVLTokenizer", "vocab_file": tokenizer.vocab_file}}
    template = {"type": "QwenVLContentTransformTemplate", "image_policy": LOCAL}
    for number, place in enumerate(({"image_policy": LOCAL}, {"model_transform_template": template})):
        file = tmp_path / f"{number}.yaml"
        file.write_text(json.dumps({"processor": {**section, **place}}))  # JSON is YAML
        made = processor.QwenVLProcessor.from_pretrained(file)
        made.save_pretrained(str(tmp_path / f"saved{number}"))
        saved = tmp_path / f"saved{number}"
        again = processor.QwenVLProcessor.from_pretrained(saved / "mindspore_model.yaml")  # named by the user
        for one in (made, again):
            assert one.template.image_transform.policy == ImagePolicy.of(LOCAL)
        with pytest.warns(FolderWarning, match="allow_private is left out"):
            found = processor.QwenVLProcessor.from_pretrained(saved)
        assert found.template.image_transform.policy == ImagePolicy()


def transform(tokenizer, **template):
    from mindformers.models.multi_modal import BaseXModalToTextTransform

    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate

    made = QwenVLContentTransformTemplate(mode="train", image_size=28, max_length=100, tokenizer=tokenizer, **template)
    return BaseXModalToTextTransform(tokenizer, made, max_length=100)


def conversation(image) -> np.ndarray:
    return np.array([["user", f"<img>{image}</img>q"], ["assistant", "r"]])


def test_training_samples_follow_the_policy(tokenizer, tmp_path):
    from mindformers_qwenvl.text.layout import BadSampleError

    path = draw(tmp_path / "train" / "a.png")
    outside = draw(tmp_path / "b.png")
    with site() as web:
        url = web.page("/a.png", path.read_bytes())
        with pytest.raises(BadSampleError, match=r"begins with user: .*rule allow_private"):
            transform(tokenizer)(conversation(url))
        images = transform(tokenizer, image_policy=LOCAL, dataset_dir=str(path.parent))(conversation(url))[1]
    np.testing.assert_array_equal(images, transform(tokenizer)(conversation(path))[1])
    with pytest.raises(BadSampleError, match=r"outside dataset_dir"):
        transform(tokenizer, dataset_dir=str(path.parent))(conversation("../b.png"))
    allowed = {"allow_folders": [str(tmp_path)]}
    transform(tokenizer, dataset_dir=str(path.parent), image_policy=allowed)(conversation(outside))


def test_a_picture_that_vanishes_while_training_runs_is_named(tokenizer, tmp_path):
    """And the other samples are as they were; when it is back, so is its sample."""
    from mindformers_qwenvl.text.layout import BadSampleError

    one, other = draw(tmp_path / "one.png"), draw(tmp_path / "other.png")
    made = transform(tokenizer)
    before = made(conversation(one))[1]
    content = one.read_bytes()
    one.unlink()
    with pytest.raises(BadSampleError, match=r"begins with user: .*one\.png: no such file"):
        made(conversation(one))
    assert made(conversation(other))[1].any()
    one.write_bytes(content)
    np.testing.assert_array_equal(made(conversation(one))[1], before)


@pytest.mark.parametrize("own_folder", [True, False])
def test_a_loader_that_was_given_the_file_alone_confines_nothing(tokenizer, tmp_path, own_folder):
    from mindformers_qwenvl.datasets.loader import QwenVLDataLoader
    from mindformers_qwenvl.text.layout import BadSampleError

    outside = draw(tmp_path / "pictures" / "b.png")
    draw(tmp_path / "json" / "a.png")
    file = tmp_path / "json" / "data.json"
    turns = [[{"from": "user", "value": f"<img>{image}</img>"}] for image in ("a.png", outside)]
    file.write_text(json.dumps([{"conversations": turn} for turn in turns]))
    dataset = QwenVLDataLoader(file, shuffle=False, dataset_dir=file.parent if own_folder else file)
    made = transform(tokenizer)
    near, far = [row[0] for row in dataset.create_tuple_iterator(output_numpy=True, num_epochs=1)]
    assert made(near)[1].any()
    if own_folder:
        with pytest.raises(BadSampleError, match=r"data\.json, sample 1: .*outside dataset_dir"):
            made(far)
    else:
        assert made(far)[1].any()


def test_paths_of_any_length(tokenizer, tmp_path):
    path = draw(tmp_path / ("directory-" * 20) / ("folder-" * 25) / "图.png")
    assert len(str(path).encode()) > 400
    images = transform(tokenizer)(conversation(path))[1]
    assert images.any()
    processor = build(tokenizer)
    batch = processor([{"image": str(path)}, {"text": "What is it?"}])
    assert batch["images"].asnumpy().any() and (batch["input_ids"] == tokenizer.img_pad_id).sum() == 16
    text = f"<img>{path}</img>"
    assert tokenizer.encode_with_images(text).images == (str(path),)
    with pytest.raises(ValueError, match=r"the limit is 256: .*max_path_bytes=None removes"):
        tokenizer(text)  # as the original does
    free = type(tokenizer)(tokenizer.vocab_file, image_slots=16, max_path_bytes=None)
    assert len(free(text)["input_ids"]) == len(tokenizer.encode_with_images(text).ids)
    free.save_pretrained(tmp_path / "saved")
    assert type(free).from_pretrained(tmp_path / "saved").max_path_bytes is None
