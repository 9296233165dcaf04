"""Benchmarks: tasks, data, metrics, and the runner that puts them together.

`metrics`, `tasks`, `data` and `scoring` are plain Python and numpy; `runner` and `lmms_model` compute with a network.

- `evaluation`: a whole evaluation; `remote`: one whose answers come from a server.
- `samples`, `prompts`: a sample, and what a network is asked.
- `report`, `sheet`: the files it leaves: scores.jsonl, summary.json, worst.png.
- `lmms_entry`, `lmms_model`: Qwen-VL as a model of lmms-eval.
"""
