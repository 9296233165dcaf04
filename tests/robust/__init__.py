"""Mutated inputs, kills, full disks: long, seeded, rerunnable. `python -m tests.robust --help`."""
