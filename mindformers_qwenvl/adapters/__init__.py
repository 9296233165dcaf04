"""LoRA: adapters in peft's file format, merging them into weights, and their layers in the network."""
