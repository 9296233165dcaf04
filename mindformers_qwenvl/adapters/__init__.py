"""LoRA: adapters in peft's file format, merging them into weights, and their layers in the network.

- `settings`, `tensors`, `blocks`: adapter_config.json, names of tensors, factors of parts of a matrix.
- `targets`: which layers and parts an adapter is part of.
- `reader`, `writer`: an adapter's directory.
- `layers`, `network`, `switch`: in the network: the layers, which of them get an adapter, loading and switching.
- `merge`, `convert`: merging into a checkpoint, and converting MindFormers' own LoRA to peft's format.
- `handover`, `card`: the files beside the weights of a model that is handed over.
"""
