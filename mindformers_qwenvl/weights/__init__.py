"""Weights: names, shapes, files of any format, conversion.

- `names`, `shapes`, `parts`, `sharding`: of every parameter, its name there and here, its shape, its part, its cards.
- `formats`: files, read lazily; `opening` takes any of them, also those of the port in MindFormers (`in_tree`).
- `load`, `hooks`, `finite`: weights into the network, by our call or by MindFormers', and whether they are finite.
- `convert`: `mindformers-qwenvl convert-weight`.
"""
