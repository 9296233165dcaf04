"""The host's tables of tasks, names and wrappers, with Qwen-VL in them.

Host: mindformers/mindformer_book.py. Trainer and pipeline of multi_modal_to_text_generation ship, but no table names
the task. Seen in 1.6-2.1. Can go when the tables have the task, and take a name from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["add_pipeline", "table_entries"]


def table_entries(task: str, family: str, name: str, yamls: Mapping[str, Path]) -> Callable[[], None]:
    """What adds Qwen-VL to the tables. They are changed in place, for other modules hold them too.

    Args:
        task: the task, of the trainer and of the pipeline.
        family, name: the key of the model, and the name that `Trainer` and `pipeline` take for a path.
        yamls: its YAML for "finetune" and for "predict".

    Raises:
        ImportError, AttributeError, KeyError: the host has no such tables; nothing has been changed.
    """
    from mindformers.mindformer_book import MindFormerBook as Book
    from mindformers.trainer import trainer
    from mindformers.wrapper.build_wrapper import WRAPPERS_MINDFORMERS_DEFINED

    tasks = ((Book.get_trainer_support_task_list(), "finetune"), (Book.get_pipeline_support_task_list(), "predict"))
    common = [table["text_generation"]["common"] for table, _ in tasks]
    names = trainer.SUPPORT_MODEL_NAMES  # a copy of the trainer's own
    to_processor = Book.get_tokenizer_name_to_processor()
    support_lists = (
        Book.get_config_support_list(),
        Book.get_model_support_list(),
        Book.get_tokenizer_support_list(),
        Book.get_processor_support_list(),
    )

    def add() -> None:
        for (table, use), usual in zip(tasks, common, strict=True):
            of_task = table.setdefault(task, type(table)(common=usual))
            of_task[name] = of_task[family] = str(yamls[use])
        names.update((name, family))
        for support_list in support_lists:
            support_list[family] = [name]
        to_processor["QwenVLTokenizer"] = "QwenVLProcessor"
        if "QwenVLTrainOneStepCell" not in WRAPPERS_MINDFORMERS_DEFINED:
            WRAPPERS_MINDFORMERS_DEFINED.append("QwenVLTrainOneStepCell")

    return add


def add_pipeline(task: str, cls: type) -> None:
    """`pipeline(task, directory)`."""
    from mindformers.pipeline.registry_constant import PIPELINE_REGISTRY

    from mindformers_qwenvl.host.auto import PipelineModel

    if task not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(task, cls, ms_model=(PipelineModel,), task_type="multimodal")
