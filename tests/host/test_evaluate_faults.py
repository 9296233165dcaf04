"""What the stock trainer lacks for evaluation; a test that fails says that a row of the index can go."""

from __future__ import annotations

import inspect

import pytest
from mindformers.dataset import modal_to_text_sft_dataset
from mindformers.trainer import MultiModalToTextGenerationTrainer
from mindformers.trainer.base_trainer import BaseTrainer


def test_stock_trainer_does_not_evaluate():
    trainer = MultiModalToTextGenerationTrainer.__new__(MultiModalToTextGenerationTrainer)
    with pytest.raises(NotImplementedError, match="does not support evaluate"):
        MultiModalToTextGenerationTrainer.evaluate(trainer)


def test_stock_trainer_gives_no_network():
    public = [name for name, _ in inspect.getmembers(BaseTrainer, inspect.isfunction) if not name.startswith("_")]
    assert "predict_process" in public
    loads = [
        name for name in public if "transform_and_load_checkpoint" in inspect.getsource(getattr(BaseTrainer, name))
    ]
    assert set(loads) == {"training_process", "evaluate_process", "predict_process"}


def test_stock_data_set_takes_whole_batches():
    source = inspect.getsource(modal_to_text_sft_dataset)
    assert "take_num = src_dataset_size // (dataset_config.batch_size * num_shards)" in source
    assert "dataset.take(take_num)" in source
