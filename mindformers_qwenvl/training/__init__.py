"""The train step, the optimizer, and the record of a run.

- `step`, `optimizer`: one update.
- `trainer`, `validation`: the trainer that YAMLs name, and the loss over held-out samples.
- `monitor`, `steps_file`, `flops`, `curves`: the record of a run, and its plot.
- `adapters`: the adapter of a training, read and written.
"""
