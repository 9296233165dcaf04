"""The network, in public MindSpore operators: vision tower, resampler, language model.

- `qwenvl`: the whole, what a YAML names; `answering`: its methods that answer.
- `image_merge`: image vectors into the text embeddings.
- `vision`, `resampler`: a picture to vectors.
- `language`: Qwen-7B; `angles`, `positions`: rotary angles and their arithmetic; `cache`: keys and values in blocks.
- `layers`: what vision tower and language model share; `base`: the base class of the networks that generate.
- `ops`: the operators that differ between devices.
"""
