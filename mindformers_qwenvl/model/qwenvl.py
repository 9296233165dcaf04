"""Qwen-VL: images and text in, loss or logits out (original: QWenModel.forward and QWenLMHeadModel)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindformers.tools.logger import logger
from mindspore import Tensor, nn
from mindspore import ops as P
from mindspore.nn.utils import no_init_parameters

from mindformers_qwenvl.adapters.network import freeze_base
from mindformers_qwenvl.adapters.settings import CONFIG_FILE, from_pet_config
from mindformers_qwenvl.adapters.switch import AdapterSwitch, named, room_for
from mindformers_qwenvl.checks import arguments_of, refuse_unknown
from mindformers_qwenvl.config import QwenVLConfig
from mindformers_qwenvl.config.keys import HINTS, without_hub
from mindformers_qwenvl.config.original import is_original_directory, original_sizes
from mindformers_qwenvl.generation.settings import generation_config_of
from mindformers_qwenvl.generation.slots import check_covered, find_slots, opened_columns
from mindformers_qwenvl.model.answering import Answering
from mindformers_qwenvl.model.base import QwenPreTrainedModel
from mindformers_qwenvl.model.image_merge import ImageMerge
from mindformers_qwenvl.model.language import QwenForCausalLM
from mindformers_qwenvl.model.ops import LabelLoss, LabelTokens
from mindformers_qwenvl.model.vision import QwenVLVisionModel
from mindformers_qwenvl.pictures.images import ImageTransform
from mindformers_qwenvl.weights import hooks
from mindformers_qwenvl.weights.finite import FiniteCheck, checked
from mindformers_qwenvl.weights.in_tree import refuse_in_tree
from mindformers_qwenvl.weights.load import load_original
from mindformers_qwenvl.weights.parts import part_of, trained_parts
from mindformers_qwenvl.weights.shapes import original_shapes

__all__ = ["QwenVL"]


class QwenVL(AdapterSwitch, Answering, QwenPreTrainedModel):
    """The whole network.

    Inputs:
        input_ids: int32 [B, S], right-padded; in training [B, S + 1] with `labels` of the same shape.
        images: float [B, N, 3, H, W], normalised pixels; or [B, N, Q, H], their `image_vectors`. None: text only. But
            if the network is called directly, outside a graph, images in input_ids are opened by the paths in their
            slots, as `tokenizer(text)` writes them; an image without a path is an error.
        image_context_pos: int32 [B, N, Q, 2] of (row, position): the place of each of the Q vectors of an image; a
            negative position marks an image that only fills the batch.
        labels: int32 [B, S + 1], -100 where nothing is trained. If given, the loss is returned.
        prompt_length: int32 [B], chooses the rotary base (dynamic NTK). None: the length of each row.
        batch_valid_length: int32 [B], length of each row. If given, only the logits after its last token are computed.
        block_tables, slot_mapping: int32 [B, M] and [B * S], see cache.py. With them, keys and values are kept, and a
            single column (S = 1) is the newest token of each row.

    Outputs:
        loss, float32 scalar, averaged over the label tokens; or logits [B, S, V]; or, with `batch_valid_length`,
        logits [B, V].
    """

    config_class = QwenVLConfig
    base_model_prefix = "qwenvl"
    not_finite = ""  # the warning of `from_pretrained` about NaN and infinity among the weights

    def __init__(self, config: QwenVLConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.vision_encoder = QwenVLVisionModel(config.vision)
        self.llm_model = QwenForCausalLM(config.llm)
        self.merge = ImageMerge(config.parallel_config.data_parallel)
        self.label_tokens = LabelTokens(config.ignore_token_id)
        self.loss = LabelLoss(config)
        self.reshape = P.Reshape()
        self.slice = P.StridedSlice().shard(((config.parallel_config.data_parallel, 1),))
        self._freeze(config)
        if config.checkpoint_name_or_path:
            refuse_in_tree(config.checkpoint_name_or_path, "checkpoint_name_or_path")
        self.load_checkpoint(config)  # the host's method, which loads `checkpoint_name_or_path` if that is set

    def _freeze(self, config: QwenVLConfig) -> None:
        if config.pet_config:
            freeze_base(self, from_pet_config(config.pet_config))
            return
        trained = trained_parts(config)
        for parameter in self.trainable_params():
            if part_of(parameter.name) not in trained:
                parameter.requires_grad = False

    def construct(
        self,
        input_ids,
        images=None,
        image_context_pos=None,
        labels=None,
        prompt_length=None,
        batch_valid_length=None,
        block_tables=None,
        slot_mapping=None,
    ):
        if labels is not None:
            batch, length = input_ids.shape
            labels = self.slice(labels, (0, 1), (batch, length), (1, 1))
            input_ids = self.slice(input_ids, (0, 0), (batch, length - 1), (1, 1))
        x = self.llm_model.transformer.wte(input_ids)
        if images is not None:
            if len(images.shape) == 5:
                batch, count, channels, height, width = images.shape
                images = self.vision_encoder(self.reshape(images, (batch * count, channels, height, width)))
            x = self.merge(x, images, image_context_pos)
        if labels is None:
            return self.llm_model(input_ids, x, prompt_length, batch_valid_length, block_tables, slot_mapping)
        positions, labels = self.label_tokens(labels)
        return self.loss(self.llm_model(input_ids, x, prompt_length, positions=positions), labels)

    def image_vectors(self, pixels: Any) -> np.ndarray:
        """The vision tower's vectors float32 [N, Q, H] of pictures float32 [N, 3, H, W], normalised.

        `construct` also takes these vectors instead of pixels, so a picture that is asked about twice is encoded once.
        """
        vectors = self.vision_encoder(Tensor(np.ascontiguousarray(pixels), ms.float32))
        return vectors.astype(ms.float32).asnumpy()

    def reads_by_length(self, rows: int) -> bool:
        """Whether decoding `rows` rows reads only what a row has in the cache, not all that its table could hold."""
        return self.llm_model.reads_by_length(rows)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Called directly, outside a graph: without `images`, images in the ids are opened by the paths in their slots;
        one without a path is an error. `attention_mask` is accepted for ids that are padded on the right."""
        if "attention_mask" in kwargs:
            kwargs = self._without_mask(args, kwargs)
        input_ids = args[0] if args else kwargs.get("input_ids")
        images = args[1] if len(args) > 1 else kwargs.get("images")
        if images is not None or not self._may_have_slots(input_ids):
            return super().__call__(*args, **kwargs)
        ids = input_ids.asnumpy() if isinstance(input_ids, Tensor) else input_ids
        _, images, positions = self._with_pictures(ids, None, None)
        if images is None:
            return super().__call__(*args, **kwargs)
        given = dict(zip(arguments_of(self.construct), args, strict=False)) | kwargs
        return super().__call__(**{**given, "images": Tensor(images), "image_context_pos": Tensor(positions)})

    def _may_have_slots(self, input_ids: Any) -> bool:
        """Whether there may be an image in the ids: a single column, as in decoding, has none."""
        is_batch = isinstance(input_ids, Tensor | np.ndarray) and input_ids.ndim == 2
        return is_batch and input_ids.shape[1] >= self.config.num_queries + 2

    def _without_mask(self, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs = dict(kwargs)
        mask = np.array(kwargs.pop("attention_mask"))
        if mask.ndim != 2 or (mask[:, 0] == 0).any() or (np.diff(mask, axis=1) > 0).any():
            raise ValueError(
                "attention_mask: rows must be padded on the right (ones, then zeros); only generate() takes "
                "rows padded on the left"
            )
        return kwargs

    def _with_pictures(self, ids: np.ndarray, images: Any, positions: Any) -> tuple[Any, Any, Any]:
        found = find_slots(ids, self.config.image_start_id, self.config.num_queries)
        if images is None:
            if positions is not None:
                raise ValueError("image_context_pos is given without images")
            if not found:
                return ids, None, None
            transform = ImageTransform(self.config.vision.image_size)
            return ids, *opened_columns(found, len(ids), transform, self.config.pad_token_id)
        images = np.array(images)
        if images.ndim not in (4, 5) or len(images) != len(ids):
            raise ValueError(
                f"images must be [B, N, 3, H, W], or vectors [B, N, Q, H], with B={len(ids)}, the rows of input_ids, "
                f"got {list(images.shape)}"
            )
        if positions is None:
            raise ValueError("images are given without image_context_pos, their places in input_ids")
        positions = np.array(positions)
        check_covered(found, positions)
        return ids, images, positions

    def prepare_inputs_for_predict_layout(self, input_ids: Any, **kwargs: Any) -> tuple[Any, ...]:
        """See `GenerationInputs.layout_inputs`; with an image in each row, so that the vision tower is laid out too."""
        ids, *generation = self.layout_inputs(input_ids)
        vision, rows = self.config.vision, ids.shape[0]
        images = Tensor(np.zeros((rows, 1, 3, vision.image_size, vision.image_size), np.float32))
        positions = np.full((rows, 1, vision.num_queries, 2), -1, np.int32)
        positions[..., 0] = np.arange(rows).reshape(-1, 1, 1)
        return ids, images, Tensor(positions), None, *generation

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_dir: str, *args: Any, **kwargs: Any) -> QwenVL:
        """Build the network and load its weights, from an original Hugging Face directory or as MindFormers does.

        Args:
            pretrained_model_name_or_dir: directory with config.json and weight shards (original names or ours); or
                what MindFormers takes: a directory with a YAML and a .ckpt, or a registered name.
            adapter: directory of a LoRA adapter in peft's format; or a mapping of names to directories, of which the
                first one answers, see `AdapterSwitch`.
            **kwargs: keys that replace those of config.json, such as `compute_dtype="float32"`; or `config=`.

        Raises:
            FileNotFoundError, ValueError: there is nothing to load, or tensors are missing, unknown or of a wrong
                shape; all of them are listed. NaN and infinity among the weights are a warning, kept in `not_finite`.
        """
        directory = Path(kwargs.pop("pretrained_model_name_or_path", None) or pretrained_model_name_or_dir)
        adapter = kwargs.pop("adapter", None)
        if not (directory / "config.json").is_file():
            if (directory / CONFIG_FILE).is_file():
                raise ValueError(
                    f"{directory} is a LoRA adapter, not a model: call QwenVL.from_pretrained(BASE, "
                    f"adapter={str(directory)!r}) with the model that it was trained on"
                )
            if adapter is not None:
                raise ValueError(f"adapter={adapter!r}: expected a model directory with config.json, got {directory}")
            return super().from_pretrained(str(pretrained_model_name_or_dir), *args, **kwargs)
        config = kwargs.pop("config", None)
        if config is None:
            config = QwenVLConfig.from_pretrained(str(directory), **kwargs)
        else:
            refuse_unknown("QwenVL.from_pretrained with config=", without_hub(kwargs), (), HINTS)
        if adapter is not None:
            config.adapter = named(adapter)
            if not config.pet_config:
                room = room_for(adapter, original_shapes(original_sizes(config.vision, config.llm)))
                config.make_room({**room, "param_init_type": str(config.compute_dtype).lower()})
        if not is_original_directory(directory):
            # Not the original's config.json, but the one of `save_pretrained(directory, save_json=True)`.
            with no_init_parameters():  # drawing weights at random takes longer than reading them
                network = super().from_pretrained_experimental_mode(str(directory), *args, config=config)
            _init_the_rest(network)
            check = checked(network)
        else:
            weights = load_original(directory)
            with no_init_parameters():
                network = cls(config)
            parameters = {parameter.name: parameter for parameter in network.get_parameters()}
            check = FiniteCheck()
            for name, array in weights:
                check.look(name, array)
                parameters[name].set_data(Tensor(array, parameters[name].dtype))
            _init_the_rest(network)
        network.not_finite = check.sentence()
        if network.not_finite:
            logger.warning("%s: %s", directory, network.not_finite)
        network.generation_config = generation_config_of(directory) or network.generation_config
        network.load_configured_adapters()
        return network

    @classmethod
    def from_pretrained_experimental_mode(cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any) -> QwenVL:
        """`AutoModel.from_pretrained(directory)` calls this, with the configuration it has read."""
        if (Path(pretrained_model_name_or_path) / "config.json").is_file():
            given = {name: kwargs.pop(name) for name in ("config", "adapter") if name in kwargs}
            refuse_unknown("QwenVL.from_pretrained", without_hub(kwargs), ("config", "adapter"), HINTS)
            return cls.from_pretrained(pretrained_model_name_or_path, **given)
        return super().from_pretrained_experimental_mode(pretrained_model_name_or_path, *args, **kwargs)

    # MindFormers calls these for `load_checkpoint: <original directory>` with `load_ckpt_format: safetensors`.
    convert_name = staticmethod(hooks.convert_name)
    convert_weight_dict = staticmethod(hooks.convert_weight_dict)
    convert_map_dict = staticmethod(hooks.convert_map_dict)
    obtain_name_map = staticmethod(hooks.obtain_name_map)


def _init_the_rest(network: nn.Cell) -> None:
    """Initialise the parameters that no file has: the cache, and adapters, which are loaded later."""
    for parameter in network.get_parameters():
        if parameter.has_init:
            parameter.init_data()
