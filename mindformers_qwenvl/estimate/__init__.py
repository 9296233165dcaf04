"""The memory that a card needs for a YAML, by arithmetic: nothing is allocated, and MindSpore is not imported.

- `job`, `reading`: what a YAML asks of the cards, read and checked.
- `weights`, `stage_weights`: every parameter, what a card holds of it, which stage its layer is on.
- `activations`: what the forward pass keeps for the backward pass.
- `memory`, `table`: a card's memory, all the time and at its peak, and the table to read; `units`: bytes of each type.
"""

from mindformers_qwenvl.estimate.job import Job
from mindformers_qwenvl.estimate.memory import Card, Estimate, estimate
from mindformers_qwenvl.estimate.reading import read_job

__all__ = ["Card", "Estimate", "Job", "estimate", "read_job"]
