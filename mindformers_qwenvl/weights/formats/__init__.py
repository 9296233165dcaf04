"""Files of weights, read lazily.

- `reader`, `readable`: opening any checkpoint, and what every opened one offers.
- `weight_file`: one file of any format; `torch_file`, `ckpt_file`: PyTorch's and MindSpore's, without these.
- `gptq`, `gptq_packed`, `gptq_pairs`: matrices of GPTQ, as numbers.
- `ranks`, `rank_folders`, `strategy`: checkpoints of distributed trainings, and how they were cut.
"""

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of their names
