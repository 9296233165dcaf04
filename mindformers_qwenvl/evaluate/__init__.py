"""Benchmarks: tasks, data, metrics, and the runner that puts them together.

`metrics`, `tasks`, `data` and `scoring` are plain Python and numpy; only `runner` computes with a network.
"""
