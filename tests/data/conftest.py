"""Warnings of the host's logger; processors over the vocabulary of a56, in MindFormers' register."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def warnings_of_host(caplog):
    """Returns the warnings of MindFormers' logger so far; it does not pass them on by itself."""
    from mindformers.tools.logger import get_logger

    get_logger().addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    get_logger().removeHandler(caplog.handler)


@pytest.fixture(scope="module")
def registered():
    from mindformers.tools.register import MindFormerModuleType as Kind
    from mindformers.tools.register import MindFormerRegister

    from mindformers_qwenvl.data import processor, template, tokenizer

    MindFormerRegister.register_cls(tokenizer.QwenVLTokenizer, Kind.TOKENIZER)
    MindFormerRegister.register_cls(template.QwenVLContentTransformTemplate, Kind.TRANSFORMS)
    for cls in (processor.QwenVLProcessor, processor.QwenVLImageProcessor):
        MindFormerRegister.register_cls(cls, Kind.PROCESSOR)


@pytest.fixture
def tokenizer(small):
    return small


@pytest.fixture
def make(tokenizer):
    from mindformers_qwenvl.data.processor import QwenVLImageProcessor, QwenVLProcessor

    return lambda **kwargs: QwenVLProcessor(
        image_processor=QwenVLImageProcessor(image_size=56), tokenizer=tokenizer, **kwargs
    )
