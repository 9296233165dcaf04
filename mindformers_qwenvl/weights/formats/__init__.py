"""Files of weights, read lazily."""

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of their names
