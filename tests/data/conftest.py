"""Warnings of the host's logger."""

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
