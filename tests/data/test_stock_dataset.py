"""The template in MindFormers' dataset, driven by the YAML keys of the old version; and in several threads."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.golden import golden_set
from tests.support.pictures import assert_golden_pixels, draw
from tests.support.transforms import SLOTS, conversation, stock_transform

# ---------------------------------------------------------------- the whole stock pipeline, from YAML


YAML = """
data_loader:
  type: {loader}
  annotation_file: "{annotations}"
  shuffle: False
num_parallel_workers: 1
python_multiprocessing: False
drop_remainder: True
batch_size: {batch}
repeat: 1
numa_enable: False
prefetch_size: 1
seed: 2022
modal_to_text_transform:
  type: BaseXModalToTextTransform
  model_transform_template:
    type: QwenVLContentTransformTemplate
    output_columns: ["input_ids", "images", "image_context_pos", "labels"]
    mode: "train"
    dataset_dir: "{folder}"
    modal_content_padding_size: 2
    image_size: 56
    system_message: "You are a helpful assistant."
    user_role_name: user
    assistant_role_name: assistant
    user_prompt: ""
    assistant_prompt: ""
  max_length: 120
modal_content_input_columns: ["images"]
modal_content_output_columns: ["images"]
modal_content_transforms:
  - type: BatchToTensor
  - type: BatchNormalize
    mean: [0.48145466, 0.4578275, 0.40821073]
    std: [0.26862954, 0.26130258, 0.27577711]
    is_hwc: False
net_input_columns: ["input_ids", "images", "image_context_pos", "labels"]
tokenizer:
  type: QwenVLTokenizer
  vocab_file: "{vocab}"
  image_slots: 16
"""


@pytest.fixture(scope="module")
def _registered():
    from mindformers.tools.register import MindFormerModuleType as Kind
    from mindformers.tools.register import MindFormerRegister

    from mindformers_qwenvl.data import template, tokenizer
    from mindformers_qwenvl.datasets import loader
    from mindformers_qwenvl.host.threads import separate_threads

    separate_threads()
    MindFormerRegister.register_cls(tokenizer.QwenVLTokenizer, Kind.TOKENIZER)
    MindFormerRegister.register_cls(template.QwenVLContentTransformTemplate, Kind.TRANSFORMS)
    MindFormerRegister.register_cls(loader.QwenVLDataLoader, Kind.DATASET_LOADER)


def stock_dataset(tmp_path, loader="QwenVLDataLoader", batch=2, **settings):
    """MindFormers' dataset of the YAML above, over four samples with the pictures of a56."""
    from mindformers.dataset import build_dataset
    from mindformers.tools.register import MindFormerConfig

    golden = golden_set("a56")
    talks = [
        ("<img>0.png</img>\n<img>1.png</img>\nCompare", "same"),
        ("Hello", "hi"),
        ("Look: <img>2.png</img>", "grey"),
        ("q", "<img>3.png</img>"),
    ]
    records = [
        {"id": str(i), "conversations": [{"from": "user", "value": q}, {"from": "assistant", "value": a}]}
        for i, (q, a) in enumerate(talks)
    ]
    (tmp_path / "data.json").write_text(json.dumps(records))
    values = {"annotations": tmp_path / "data.json", "folder": golden.image(0).parent, "vocab": golden.vocab_file}
    (tmp_path / "data.yaml").write_text(YAML.format(loader=loader, batch=batch, **values))
    config = MindFormerConfig(str(tmp_path / "data.yaml"))
    config.data_loader.update(settings)
    task = {"type": "ModalToTextSFTDataset", "dataset_config": config}
    return build_dataset(MindFormerConfig(**task))


@pytest.mark.parametrize("loader", ["QwenVLDataLoader", "BaseMultiModalDataLoader"])
def test_stock_dataset(tmp_path, _registered, loader):
    dataset = stock_dataset(tmp_path, loader)
    assert dataset.get_dataset_size() == 2
    batches = list(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert list(batches[0]) == ["input_ids", "images", "image_context_pos", "labels"]
    shown = {0: [0, 1], 1: [], 2: [2], 3: [3]}
    for number, pictures in shown.items():
        batch, row = batches[number // 2], number % 2
        assert batch["input_ids"].shape == batch["labels"].shape == (2, 121)
        assert batch["images"].shape == (2, 2, 3, 56, 56) and batch["image_context_pos"].shape == (2, 2, SLOTS, 2)
        assert batch["images"].dtype == np.float32 and batch["image_context_pos"].dtype == np.int32
        positions = batch["image_context_pos"][row]
        assert (positions[:, :, 0] == row).all()  # the host's batch_add moves the row, and only the row
        pad = golden_set("a56").meta["special_ids"]["img_pad_id"]
        slots = np.flatnonzero(batch["input_ids"][row] == pad)
        np.testing.assert_array_equal(positions[: len(pictures), :, 1].ravel(), slots)
        assert (positions[len(pictures) :, :, 1] == -1).all()
        for place, picture in enumerate(pictures):
            assert_golden_pixels(batch["images"][row, place], golden_set("a56"), picture)
        assert np.isfinite(batch["images"]).all()


def test_train_dataset_dir_is_the_folder_of_the_pictures(tmp_path, _registered):
    for index in range(4):
        draw(tmp_path / "mine" / f"{index}.png", size=(56, 56), seed=index)
    batch = next(stock_dataset(tmp_path, dataset_dir=str(tmp_path / "mine")).create_dict_iterator(output_numpy=True))
    from mindformers_qwenvl.pictures.images import ImageTransform

    transform = ImageTransform(56)
    want = transform.normalise(transform.pixels(tmp_path / "mine" / "1.png"))
    np.testing.assert_allclose(batch["images"][0, 1], want, atol=1e-6)


# ---------------------------------------------------------------- threads


def in_two_threads(transform, samples):
    """What `transform` makes of each sample while another thread is in the middle of the other one."""
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    template, barrier = transform.model_transform_template, Barrier(2, timeout=300)
    step = template.build_labels

    def meet(*args, **kwargs):
        barrier.wait()
        return step(*args, **kwargs)

    template.build_labels = meet
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(transform, samples))


@pytest.fixture
def two_samples(small, tmp_path):
    samples = [conversation(str(draw(tmp_path / f"{i}.png", seed=i)), answer=f"answer {i}") for i in range(2)]
    return samples, [stock_transform(small, 160)(sample) for sample in samples]


def test_threads_do_not_mix_samples(small, two_samples, _registered):
    samples, alone = two_samples
    for _ in range(3):
        for got, want in zip(in_two_threads(stock_transform(small, 160), samples), alone, strict=True):
            for left, right in zip(got, want, strict=True):
                np.testing.assert_array_equal(left, right)


def test_stock_record_is_shared(small, two_samples, monkeypatch):
    """The fault that host/threads.py works around; when this fails, that file can go."""
    from mindformers.models.multi_modal import base_multi_modal_processor
    from mindformers.models.multi_modal.utils import DataRecord

    monkeypatch.setattr(base_multi_modal_processor, "DataRecord", DataRecord)
    samples, alone = two_samples
    mixed = in_two_threads(stock_transform(small, 160), samples)
    assert not all(np.array_equal(got[3], want[3]) for got, want in zip(mixed, alone, strict=True))
