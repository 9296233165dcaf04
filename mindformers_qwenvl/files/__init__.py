"""Files and folders: read with a limit, written whole or not at all, locked, private. Plain Python.

- `reading`: whole files of unknown content, and inputs that must not change meanwhile.
- `writing`: files that are complete or not there at all.
- `locks`, `folders`: file locks, private folders, the cache folder.
"""

from mindformers_qwenvl.files.folders import cache_folder, check_private, private_folder
from mindformers_qwenvl.files.locks import lock_file, locked
from mindformers_qwenvl.files.reading import Inputs, open_regular, parse_json, read_bytes, read_json, read_text
from mindformers_qwenvl.files.writing import check_output, copy_file, remove_leftovers, replacing, write_json

__all__ = [
    "Inputs",
    "cache_folder",
    "check_output",
    "check_private",
    "copy_file",
    "lock_file",
    "locked",
    "open_regular",
    "parse_json",
    "private_folder",
    "read_bytes",
    "read_json",
    "read_text",
    "remove_leftovers",
    "replacing",
    "write_json",
]
