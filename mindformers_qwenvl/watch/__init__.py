"""Watching a training run: the file of its steps, what a step costs, curves. Nothing here needs MindSpore."""
