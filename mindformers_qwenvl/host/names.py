"""Work-arounds for faults of MindFormers in finding classes and YAMLs by their names."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mindformers.models.auto import AutoConfig
from mindformers.tools.register import MindFormerRegister

from mindformers_qwenvl.host.replacements import Replacements

__all__ = ["accept_old_auto_register", "find_config_by_name"]


def accept_old_auto_register(names: Collection[str]) -> None:
    """Let `auto_register: qwenvl_model.QwenVL` in an old YAML mean the registered class of that name.

    Host: mindformers/tools/register/register.py, MindFormerRegister.auto_register. It raises OSError without
    REGISTER_PATH even when the class is registered. A file of that name in REGISTER_PATH still takes precedence, and
    classes not in `names` are left to the host. Seen in 1.6-2.1. Can go when the host looks into its registry first.
    """

    def replacement(stock: Callable) -> Callable:
        def auto_register(cls, class_reference, *args, **kwargs):
            module, _, name = str(class_reference).rpartition(".")
            folder = os.getenv("REGISTER_PATH")
            if name in names and not (folder and Path(folder, f"{module}.py").is_file()):
                return None
            return stock(cls, class_reference, *args, **kwargs)

        return auto_register

    replacements = Replacements()
    replacements.add(MindFormerRegister, "auto_register", replacement)
    replacements.apply()


def find_config_by_name(yaml_files: Mapping[str, str]) -> None:
    """Let `AutoConfig.from_pretrained("qwenvl_9.6b")` read the YAML of that name.

    Host: mindformers/models/auto/configuration_auto.py, AutoConfig.get_config_origin_mode. It turns the name into an
    absolute path and then finds no such model (`glm4_9b` fails too). Seen in 1.7-2.1. Can go when the stock
    `AutoConfig.from_pretrained("glm4_9b")` works.
    """

    def replacement(stock: Callable) -> Callable:
        def get_config_origin_mode(cls, yaml_name_or_path, **kwargs):
            return stock(cls, yaml_files.get(yaml_name_or_path, yaml_name_or_path), **kwargs)

        return get_config_origin_mode

    replacements = Replacements()
    replacements.add(AutoConfig, "get_config_origin_mode", replacement)
    replacements.apply()
