"""The host matrix, behind docs/hosts.md. `python -m tests.matrix --help`."""
