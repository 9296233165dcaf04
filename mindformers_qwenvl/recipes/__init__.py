"""The YAMLs for `run_mindformer.py`: where they are, and how MindFormers reads them.

`read(path, changes)` gives the values that MindFormers would see, as plain dicts and lists. It follows `base_config:`
and needs neither MindFormers nor MindSpore.

- `shipped`: the YAMLs that come with this package.
- `yaml_file`, `base_config`: one file, and the bases that it names.
- `changes`: changes such as `parallel_config.data_parallel=16`.
- `section`: single keys of a YAML, read by type.
"""

from __future__ import annotations

from mindformers_qwenvl.recipes.base_config import chain, read
from mindformers_qwenvl.recipes.changes import apply_changes, has_key, key_of
from mindformers_qwenvl.recipes.shipped import find, shipped, yaml_dir
from mindformers_qwenvl.recipes.yaml_file import RecipeError, dump

__all__ = ["RecipeError", "apply_changes", "chain", "dump", "find", "has_key", "key_of", "read", "shipped", "yaml_dir"]
