"""MindFormers' transform with a template of ours, and conversations as it takes them."""

from __future__ import annotations

import numpy as np

SLOTS = 16  # of an image, with the tokenizer `small`


def stock_transform(tokenizer, max_length, **template):
    """MindFormers' transform as a dataset makes it, with a template of its YAML section."""
    from mindformers.models.multi_modal import BaseXModalToTextTransform

    from mindformers_qwenvl.data.template import QwenVLContentTransformTemplate

    template = {"mode": "train", "image_size": 28, "modal_content_padding_size": 3, **template}
    made = QwenVLContentTransformTemplate(**template, tokenizer=tokenizer, max_length=max_length)
    return BaseXModalToTextTransform(tokenizer, made, max_length=max_length)


def conversation(*images: str, text: str = "q", answer: str = "r") -> np.ndarray:
    """One exchange, as the stock loader gives it: an array of (role, text)."""
    tags = "".join(f"<img>{image}</img>" for image in images)
    return np.array([["user", tags + text], ["assistant", answer]])
