"""Every parameter of the network: shape, bytes, whether it learns, and what of it a card holds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from mindformers_qwenvl.estimate.job import Job
from mindformers_qwenvl.estimate.section import DTYPE_BYTES
from mindformers_qwenvl.weights.shapes import our_shapes

__all__ = ["Weight", "original_config", "weights_of"]

# The axis that model_parallel cuts, by the end of the name. What is not here is whole on every card.
_ROWS, _COLUMNS = 0, 1
_CUT = (
    (r"(wte\.embedding_weight|lm_head\.weight)$", _ROWS),  # with vocab_emb_dp: not at all
    (r"\.w[qkv]\.(weight|bias)$", _ROWS),
    (r"\.(w1|w3|in_proj|c_fc)\.(weight|bias)$", _ROWS),
    (r"(conv1|kv_proj)\.weight$", _ROWS),
    (r"\.(wo|w2|out_proj|c_proj)\.weight$", _COLUMNS),
    (r"^vision_encoder\.proj$", _COLUMNS),
)
_NORM = re.compile(r"(norm|ln_f)\.weight$|\.(gamma|beta)$")  # kept in layernorm_compute_type
# `parallel_optimizer=False` stands beside these, in model/ and in MindFormers' Linear and LayerNorm.
_NEVER_SHARDED = re.compile(
    r"(norm|ln_f)\.weight$|\.(gamma|beta|bias)$|positional_embedding$|attn_pool\.(query|pos_embed)$"
)
_BLOCK = re.compile(r"^(vision_encoder\.transformer\.resblocks|llm_model\.transformer\.layers)\.(\d+)\.")


@dataclass(frozen=True)
class Weight:
    """`cuts`: pieces that model_parallel makes of it; `copies`: cards of the optimizer that share a piece of it."""

    name: str
    part: str  # vision, resampler or llm
    layer: int | None  # of a block of the vision tower or of the language model
    shape: tuple[int, ...]
    item: int  # bytes of a number
    compute_item: int  # bytes of a number where it is used; a norm's is used as it is
    learns: bool
    cuts: int
    copies: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def whole(self) -> int:
        """Numbers that a card needs at hand to compute."""
        return self.size // self.cuts

    @property
    def held(self) -> int:
        """Numbers that a card holds between two steps."""
        return self.whole // self.copies

    @property
    def copied(self) -> int:
        """Bytes of the form that is computed with, where it is another one than that which is held; 0 otherwise."""
        changes = self.copies > 1 or self.item != self.compute_item
        return self.whole * self.compute_item if changes else 0


def original_config(job: Job) -> dict:
    """The sizes as the original's config.json names them, for weights/shapes.py."""
    vision, llm = job.vision, job.llm
    return {
        "hidden_size": llm.hidden_size,
        "vocab_size": llm.vocab_size,
        "kv_channels": llm.kv_channels,
        "num_attention_heads": llm.num_heads,
        "intermediate_size": 2 * llm.intermediate_size,
        "num_hidden_layers": llm.num_layers,
        "visual": {
            "width": vision.hidden_size,
            "output_dim": vision.output_dim,
            "patch_size": vision.patch_size,
            "layers": vision.num_hidden_layers,
            "mlp_ratio": Fraction(vision.intermediate_size, vision.hidden_size),
            "n_queries": vision.num_queries,
        },
    }


def weights_of(job: Job) -> Iterator[Weight]:
    """All parameters, without the optimizer's and without the cache of prediction."""
    frozen = {"vision": job.freeze_vision, "resampler": job.freeze_resampler, "llm": job.freeze_llm}
    for name, shape in our_shapes(original_config(job)).items():
        settings = job.llm if name.startswith("llm_model.") else job.vision
        part = "llm" if settings is job.llm else "resampler" if ".attn_pool." in name else "vision"
        block = _BLOCK.match(name)
        norm = _NORM.search(name) is not None
        item = DTYPE_BYTES[settings.layernorm_compute_type if norm else settings.param_init_type]
        cuts = _cuts(name, job)
        # The embedding is looked up first and cast then.
        as_it_is = norm or name.endswith("embedding_weight")
        yield Weight(
            name=name,
            part=part,
            layer=int(block[2]) if block else None,
            shape=shape,
            item=item,
            compute_item=item if as_it_is else DTYPE_BYTES[settings.compute_dtype],
            # The sine/cosine table never learns.
            learns=not (job.predict or frozen[part] or name.endswith("attn_pool.pos_embed")),
            cuts=cuts,
            copies=_copies(name, shape, item, cuts, job),
        )


def _cuts(name: str, job: Job) -> int:
    parallel = job.parallel
    if name.endswith(("wte.embedding_weight", "lm_head.weight")) and parallel.vocab_emb_dp:
        return 1
    return parallel.model_parallel if any(re.search(pattern, name) for pattern, _ in _CUT) else 1


def _copies(name: str, shape: tuple[int, ...], item: int, cuts: int, job: Job) -> int:
    """The cards that hold the same piece share it out by its first axis, if that divides and it is not too small."""
    parallel = job.parallel
    if not parallel.enable_parallel_optimizer or _NEVER_SHARDED.search(name):
        return 1
    alike = parallel.data_parallel * parallel.model_parallel // cuts
    by_rows = any(axis == _ROWS and re.search(pattern, name) for pattern, axis in _CUT)
    rows = shape[0] // (cuts if by_rows else 1)
    small = math.prod(shape) // cuts * item < parallel.parallel_optimizer_threshold * 1024
    return 1 if small or rows % alike else alike
