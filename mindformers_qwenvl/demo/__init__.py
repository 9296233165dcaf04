"""`mindformers-qwenvl demo`: a tiny Qwen-VL learns coloured shapes, through MindFormers' own Trainer.

- `demonstration`: the demo from end to end.
- `shapes`: pictures of coloured shapes with questions; `score`: whether the answers are right.
- `pictures`: the loss curve, and a sheet of held-out pictures with the answers.
- `adapter`, `served`: `demo --lora` and `demo --serve`.
"""
