"""LoRA: adapters in peft's file format, merging them into weights, and their layers in the network.

- `settings`, `tensors`, `blocks`: adapter_config.json, names of tensors, factors of parts of a matrix.
- `reader`, `writer`: an adapter's directory.
- `layers`, `network`, `switch`: in the network: the layers, which of them get one, loading and switching.
- `merge`, `convert`: into a checkpoint, and MindFormers' own LoRA into peft's format.
- `handover`, `card`: what lies beside the weights of a model that is handed over.
"""
