"""A network with the weights of a run's configuration, for evaluation. The host has this inside `predict_process`."""

from __future__ import annotations

import copy
from typing import Any

from mindspore.dataset.engine.datasets import TakeDataset

from mindformers_qwenvl.host.moved import load_path, set_load_path

__all__ = ["every_batch", "network_and_processor", "take_checkpoint"]


def take_checkpoint(config: Any) -> None:
    """Load the checkpoint that a call names.

    Host: mindformers/trainer/trainer.py, Trainer.evaluate, puts `eval_checkpoint` into `load_checkpoint`, but since 1.9
    the weights come from `checkpoint.load_path`, which was copied from it earlier. Seen in 1.9. Can go when
    `Trainer.evaluate(eval_checkpoint=...)` loads that checkpoint.
    """
    named = config.get("load_checkpoint")
    if named and isinstance(named, str) and config.get("checkpoint") is not None:
        config.checkpoint.load_path = named


def every_batch(dataset: Any) -> Any:
    """The dataset with its last batch, too.

    Host: mindformers/dataset/modal_to_text_sft_dataset.py takes `samples // batch_size` batches if `full_batch` is off,
    whatever `drop_remainder` says, and so leaves out the last samples. Seen in 1.7-2.1. Can go when
    `drop_remainder: False` keeps them.
    """
    node = dataset
    while node.children:
        if isinstance(node, TakeDataset):
            node.count = -1  # all of them
        node.dataset_size = None  # a size that it has kept from an earlier call
        (node,) = node.children
    return dataset


def network_and_processor(trainer: Any, config: Any, network: Any = None) -> tuple[Any, Any]:
    """What `predict` would build: the network of a YAML with the weights of `load_checkpoint`, and its processor.

    Host: mindformers/trainer/base_trainer.py, predict_process, builds both and passes them straight to a pipeline. Seen
    in 1.9. Can go when the host has a public method that returns them.

    Raises:
        ValueError: the YAML has no section `processor`.
    """
    from mindformers.models.build_processor import build_processor
    from mindformers.trainer import base_trainer
    from mindspore.train import Model

    if not config.get("processor"):
        raise ValueError("eval_task needs the section processor, such as that of predict_qwenvl_9.6b.yaml")
    processor = build_processor(copy.deepcopy(config.processor))
    if network is None:
        sections = {"parallel_config": config.parallel_config, "moe_config": config.moe_config}
        network = trainer.create_network(default_args=sections)
        trainer.set_network(network, is_train=False)
        set_load_path(config, base_trainer.get_load_path_after_hf_convert(config, network))
        if load_path(config):
            base_trainer.transform_and_load_checkpoint(config, Model(network), network, None, do_predict=True)
    return network.set_train(False), processor
