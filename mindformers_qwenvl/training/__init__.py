"""The train step, the optimizer, and the record of a run."""
