"""What MindFormers' `generate()` is given.

- `arguments`: the arguments of `generate()`, checked.
- `prompt`: from a query to tokens and pictures; how much history fits.
- `slots`: pictures of prompts that are given as token ids.
- `settings`: generation_config.json, its defaults, and what a call changes.
- `sampling`: how tokens are chosen (temperature, top-k, top-p, repetition penalty, seeds).
- `stopping`: where an answer ends (stop tokens, stop sequences, cancelling).
- `inputs`: the arrays of each step.
"""
