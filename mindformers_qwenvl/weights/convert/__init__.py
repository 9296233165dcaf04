"""Weights from one layout and format to another, streaming.

- `convert`, `plan`, `transfer`: the conversion, its plan, and moving the numbers.
- `destination`: whether it may write where it is told to.
- `writer`, `workfolder`: weight files; a folder of shards, of which an interruption costs one.
- `dtypes`, `report`: number formats and casts; what was done.
"""
