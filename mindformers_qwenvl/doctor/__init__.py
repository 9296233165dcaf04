"""`mindformers-qwenvl doctor`: whether this machine can run Qwen-VL, and what is missing.

`machine` looks at the machine without importing the host; `plugin`, `trial` and `operators` each run in a separate
process (`process`), because a wrong driver may end one without a word. `findings` is the report.

- `examine`: the whole examination.
- `kernels`: whether decoding on this CPU has operators of its own.
- `yaml_check`: a YAML of the user.
"""
