"""`mindformers-qwenvl doctor`: whether this machine can run Qwen-VL, and what is missing.

`machine` looks round without importing the host; `plugin`, `trial` and `operators` each run in a process of their own
(`process`), for a wrong driver ends a process without a word. `findings` is the report.
"""
