"""Files of conversations: read, checked, converted, fed to training.

- `annotations`: the format; `json_stream`, `record_index`: files of any size.
- `loader`, `order`, `ahead`: for training: the samples, their order, preparing them ahead.
- `check`, `convert`, `split`: behind `mindformers-qwenvl check-data` and `convert-data`.
"""
