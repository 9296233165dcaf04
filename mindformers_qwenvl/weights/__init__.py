"""Weights: names, shapes, files of any format, conversion.

- `names`, `shapes`, `parts`, `sharding`: of every parameter, its name in the original and here, its shape, the part of
  the network it belongs to, and how many cards share it.
- `formats`: files, read lazily; `opening` opens any of them, also those of the port in MindFormers (`in_tree`).
- `load`, `hooks`, `finite`: loading weights, by our call or by MindFormers', and checking that they are finite.
- `convert`: `mindformers-qwenvl convert-weight`.
"""
