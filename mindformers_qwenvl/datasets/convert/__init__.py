"""Conversations and boxes of other projects, converted to Qwen-VL's JSON. Plain Python, record by record.

- `converter`: a whole file; `coco`: COCO's annotation files, which have to be joined.
- `conversations`, `boxes`: records of LLaVA, ShareGPT and ms-swift, and annotated boxes.
- `foreign`, `objects`: what such records hold besides; ms-swift's `objects`.
- `picture_finder`: the pictures of a dataset under one folder.
- `tally`: what was left out, and why.
"""
