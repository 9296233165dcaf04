"""What MindFormers' `generate()` is given.

- `prompt`: what was asked, to tokens and pictures; how much history fits.
- `settings`: generation_config.json, its defaults, and what a call changes.
- `sampling`: how tokens are chosen (temperature, top-k, top-p, repetition penalty, seeds).
- `stopping`: where an answer ends (stop tokens, stop sequences, cancelling).
- `inputs`: the arrays of each step.
"""
