"""A work-around for a fault of MindFormers' Auto classes: which class opens a directory."""

from __future__ import annotations

from collections.abc import Callable

from mindformers.models.auto import auto_factory, configuration_auto, processing_auto, tokenization_auto
from mindformers.tools.logger import logger

from mindformers_qwenvl.config.original import is_original_directory
from mindformers_qwenvl.host.replacements import Replacements

__all__ = ["prefer_this_package"]


def prefer_this_package() -> None:
    """Open the original's directories with this package, even with `trust_remote_code=True`, which its README asks for.

    Host: mindformers/models/auto/*.py, by way of resolve_trust_remote_code in mindformers/tools/hub/
    dynamic_module_utils.py. With that argument the Auto classes run the Python files beside the weights, which are
    PyTorch code, although a class is registered. Seen in 1.7-2.1. Can go when a registered class takes precedence over
    `auto_map` there.
    """
    replacements = Replacements()
    for module in (auto_factory, configuration_auto, processing_auto, tokenization_auto):
        replacements.add(module, "resolve_trust_remote_code", _preferring)
    replacements.apply()


def _preferring(stock: Callable) -> Callable:
    def resolve_trust_remote_code(trust_remote_code, model_name, has_local_code, has_remote_code):
        if trust_remote_code and has_local_code and has_remote_code and is_original_directory(model_name):
            logger.info("%s: opened by mindformers-qwenvl; the code beside the weights is for PyTorch", model_name)
            return False
        return stock(trust_remote_code, model_name, has_local_code, has_remote_code)

    return resolve_trust_remote_code
