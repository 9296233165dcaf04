"""`QwenVLImageProcessor`: pictures to pixels, as part of a processor or alone."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from mindformers.models.image_processing_utils import BaseImageProcessor
from mindspore import Tensor
from PIL import Image

from mindformers_qwenvl.checks import arguments_of, refuse_unknown
from mindformers_qwenvl.config.keys import HUB
from mindformers_qwenvl.data.model_folder import PREPROCESSOR, followed_policy
from mindformers_qwenvl.pictures.images import CLIP_MEAN, CLIP_STD, ImagePolicy, ImageTransform

__all__ = ["QwenVLImageProcessor", "image_settings"]


def image_settings(image: ImageTransform) -> dict[str, Any]:
    """The arguments that make `image`, as plain values for a YAML or JSON."""
    return {
        "image_size": image.size,
        "interpolation": image.interpolation,
        "mean": list(image.mean),
        "std": list(image.std),
        "exif_rotation": image.exif_rotation,
        **({"image_policy": image.policy.to_dict()} if image.policy != ImagePolicy() else {}),
    }


class QwenVLImageProcessor(BaseImageProcessor):
    """Pictures to pixels: resize to a square, scale to 0..1, normalise.

    Args:
        image_size: side of the square.
        interpolation: see `images.INTERPOLATIONS`.
        mean, std: of the channels R, G, B; None: CLIP's.
        is_hwc: must be False; the network takes [3, H, W].
        exif_rotation: rotate pictures as their EXIF orientation says; the original does not.
        image_policy: an `ImagePolicy`, or its YAML section: where pictures may come from, how large they may be.
    """

    def __init__(
        self,
        image_size: int = 448,
        interpolation: str = "bicubic",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        is_hwc: bool = False,
        exif_rotation: bool = False,
        image_policy: ImagePolicy | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("QwenVLImageProcessor", kwargs, (*_ARGUMENTS, *HUB, *FILES))
        if is_hwc:
            raise ValueError(f"is_hwc must be False, because the network takes images as [3, H, W]; got {is_hwc!r}")
        super().__init__()
        mean, std = tuple(mean or CLIP_MEAN), tuple(std or CLIP_STD)
        policy = ImagePolicy.of(image_policy)
        self.image_transform = ImageTransform(image_size, interpolation, mean, std, exif_rotation, policy)

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the host's, which calls it with the content of a preprocessor_config.json. Its `image_policy` may tighten
        the default, not loosen it. The caller's arguments take precedence; unknown keywords are an error, or
        are returned with `return_unused_kwargs`."""
        settings = dict(image_processor_dict)
        if settings.get("image_policy"):
            settings["image_policy"] = followed_policy(PREPROCESSOR, settings["image_policy"])
        if not kwargs.get("return_unused_kwargs"):
            refuse_unknown("QwenVLImageProcessor.from_pretrained", kwargs, (*_ARGUMENTS, *HUB))
        settings = {name: value for name, value in settings.items() if name in (*_ARGUMENTS, *FILES)}
        settings |= {name: kwargs.pop(name) for name in kwargs.keys() & set(_ARGUMENTS)}
        return super().from_dict(settings, **kwargs)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments, as plain values; the host's `save_pretrained` writes them."""
        return image_settings(self.image_transform)

    def to_dict(self) -> dict[str, Any]:
        """`config`, with the name of the class, for `preprocessor_config.json`."""
        return {**self.config, "image_processor_type": type(self).__name__}

    def preprocess(self, images: Any, **kwargs: Any) -> Tensor:
        """float32 [N, 3, image_size, image_size] of one picture or several.

        Args:
            images: what `images.open_image` takes, a list of that, or an array or Tensor uint8 [N, H, W, 3].

        Raises:
            FileNotFoundError, ImageError: a picture cannot be used; the message names it and says why.
        """
        if isinstance(images, Tensor):
            images = images.asnumpy()
        one = isinstance(images, str | os.PathLike | bytes | bytearray | Image.Image) or getattr(images, "ndim", 4) < 4
        pixels = self.image_transform.stack([images] if one else list(images), root=kwargs.get("root"))
        return Tensor(self.image_transform.normalise(pixels))


_ARGUMENTS = arguments_of(QwenVLImageProcessor)
# Keys that a preprocessor_config.json or a YAML has besides the arguments.
FILES = ("image_processor_type", "feature_extractor_type", "processor_class", "processor", "type", "auto_register")
