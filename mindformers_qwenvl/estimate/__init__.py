"""Memory that a card needs for a YAML, by arithmetic: nothing is allocated, nor is MindSpore imported."""

from mindformers_qwenvl.estimate.job import Job, read_job
from mindformers_qwenvl.estimate.memory import Card, Estimate, estimate

__all__ = ["Card", "Estimate", "Job", "estimate", "read_job"]
