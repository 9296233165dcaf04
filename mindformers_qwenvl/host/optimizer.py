"""The AdamW step of one weight, which MindFormers keeps private."""

from __future__ import annotations

from mindformers.core.optim import adamw

__all__ = ["adamw_step"]

# Host: mindformers/core/optim/adamw.py. AdamW.construct applies it to all weights at one rate. There is no other way to
# have a rate for each weight: with MindSpore's groups of rates, 9.6B takes 20 GB more to compile. Seen in 1.7-2.1. Can
# go when AdamW takes a factor of the rate for each weight.
adamw_step = adamw._adamw_opt
