"""The memory that a card needs for a YAML, by arithmetic: nothing is allocated, and MindSpore is not imported."""

from mindformers_qwenvl.estimate.job import Job
from mindformers_qwenvl.estimate.memory import Card, Estimate, estimate
from mindformers_qwenvl.estimate.reading import read_job

__all__ = ["Card", "Estimate", "Job", "estimate", "read_job"]
