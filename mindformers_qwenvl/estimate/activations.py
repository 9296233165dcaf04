"""What the forward pass keeps for the backward pass, term by term, in bytes on one card.

After Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4, for these
networks: SwiGLU instead of the 4 h MLP, RMSNorm, rotary positions, no dropout; a ViT with exact GELU; a
resampler. A term is (bytes of its type in the YAML) x (number of elements). Every card of
model_parallel has the whole residual stream; what is between the two products of a pair is split over the cards.

A product y = x W^T keeps x only for the gradient of W: a frozen part does not keep x.
"""

from __future__ import annotations

from dataclasses import dataclass

from mindformers_qwenvl.adapters.settings import matches
from mindformers_qwenvl.config.sizes import RESAMPLER_HEAD_DIM
from mindformers_qwenvl.estimate.job import Job
from mindformers_qwenvl.estimate.units import DTYPE_BYTES

__all__ = ["Layer", "head_and_loss", "inputs", "language_layer", "resampler", "vision_layer"]

# FlashAttentionScore keeps the maximum and the sum of each row of scores, as 8 float32 each.
FLASH_ROW = 2 * 8 * 4
# Float32 arrays of the size of the logits that exist at once in MindFormers' CrossEntropyLoss (core/loss/loss.py): the
# log softmax, the labels as one-hot rows, their product, its negation.
LOSS_ARRAYS = 4


@dataclass(frozen=True)
class Layer:
    """kept: for the backward pass. boundary: only the input, from which the rest can be recomputed. work: gradients
    inside the layer that exist at once. selected: the part of `kept` that select_recompute recomputes."""

    kept: int
    boundary: int
    work: int
    selected: int = 0


def language_layer(job: Job) -> Layer:
    """A decoder layer on `rows` x `tokens` positions."""
    llm, cards = job.llm, job.parallel.model_parallel
    positions = job.rows * job.tokens
    stream, middle = positions * llm.hidden_size, positions * llm.intermediate_size
    compute, norm = DTYPE_BYTES[llm.compute_dtype], DTYPE_BYTES[llm.layernorm_compute_type]
    whole, of_wo, of_w2, low = _inputs(job)
    kept = _norms(stream, positions, compute, norm, job.fused)
    kept += whole * compute * stream  # inputs of q, k, v and of the MLP's two branches
    kept += of_wo * compute * stream // cards  # input of wo
    kept += low * compute * positions  # between A and B of adapters
    attention, work = _attention(
        positions * llm.hidden_size, positions * llm.hidden_size, job.rows * llm.num_heads * job.tokens, job.tokens,
        llm, job.fused,
    )  # fmt: skip
    kept += attention // cards
    # w1(x), w3(x), its sigmoid, their product; the input of w2.
    kept += (4 + of_w2) * compute * middle // cards
    work = max(work, 3 * compute * middle) // cards
    return Layer(
        kept=kept,
        boundary=compute * stream,
        work=work + compute * stream,
        # The two products of the MLP: the gate, and the input of w2.
        selected=(1 + of_w2) * compute * middle // cards,
    )


def _inputs(job: Job) -> tuple[int, int, int, int]:
    """What a decoder layer keeps for the gradients of its weights: inputs of q, k, v and of the MLP's branches; that of
    wo; that of w2; and ranks of adapters. An adapter's A needs the layer's input; with dropout, each A has its own."""
    if job.adapter is None:
        return (0, 0, 0, 0) if job.freeze_llm else (2, 1, 1, 0)
    modules = [f"transformer.h.0.{end}" for end in ("attn.c_attn", "mlp.w1", "mlp.w2", "attn.c_proj", "mlp.c_proj")]
    *read, wo, w2 = (int(matches(module, job.adapter.targets)) for module in modules)
    streams = sum(read) if job.adapter.dropout else read[0] + max(read[1:])
    ranks = sum(job.adapter.rank_of(module) for module in modules if matches(module, job.adapter.targets))
    return streams, wo, w2, ranks


def vision_layer(job: Job) -> Layer:
    """A block of the ViT on `images` x patches."""
    vision, cards = job.vision, job.parallel.model_parallel
    patches = job.images * vision.num_patches
    stream, middle = patches * vision.hidden_size, patches * vision.intermediate_size
    compute, norm = DTYPE_BYTES[vision.compute_dtype], DTYPE_BYTES[vision.layernorm_compute_type]
    gelu = DTYPE_BYTES[vision.gelu_dtype]
    weights_learn = 0 if job.freeze_vision else 1
    kept = 2 * norm * stream  # what the two LayerNorms read, in their type
    kept += weights_learn * 2 * compute * stream  # inputs of in_proj and c_fc
    kept += weights_learn * compute * stream // cards  # input of out_proj
    attention, work = _attention(
        stream, stream, patches * vision.num_attention_heads, vision.num_patches, vision, job.fused
    )
    kept += attention // cards
    kept += 3 * gelu * middle // cards  # GELU: x / sqrt(2) for erf, 1 + erf and x / 2 for their product
    kept += weights_learn * compute * middle // cards  # input of c_proj
    work = max(work, 3 * gelu * middle) // cards
    return Layer(kept=kept, boundary=compute * stream, work=work + compute * stream)


def resampler(job: Job) -> Layer:
    """Patch embedding, resampler and what follows it, none of which is ever recomputed."""
    vision, cards = job.vision, job.parallel.model_parallel
    compute, norm = DTYPE_BYTES[vision.compute_dtype], DTYPE_BYTES[vision.layernorm_compute_type]
    patches, queries = job.images * vision.num_patches, job.images * vision.num_queries
    keys, slots = patches * vision.output_dim, queries * vision.output_dim
    kept = 0
    if not job.freeze_vision:
        kept += compute * patches * 3 * vision.patch_size**2  # pixels of each patch, the input of conv1
        kept += norm * patches * vision.hidden_size  # ln_pre
        kept += compute * slots  # input of proj
    if job.freeze_vision and job.freeze_resampler:
        return Layer(0, 0, 0)  # nothing before the language model is trained
    kept += norm * keys  # ln_kv
    kept += norm * slots  # ln_post
    if not job.freeze_resampler:
        kept += compute * patches * vision.hidden_size  # input of kv_proj
        kept += 2 * compute * keys  # inputs of wk (with the table) and wv
        kept += compute * slots  # input of wq
        kept += compute * slots // cards  # input of wo
    heads = queries * vision.output_dim // RESAMPLER_HEAD_DIM
    attention, work = _attention(slots, keys, heads, vision.num_patches, vision, job.fused)
    return Layer(kept + attention // cards, 0, work // cards)


def head_and_loss(job: Job) -> tuple[int, int]:
    """What the last norm, the head and the loss keep, and the most they need at once on top of that."""
    llm = job.llm
    positions = job.rows * job.tokens
    compute, norm = DTYPE_BYTES[llm.compute_dtype], DTYPE_BYTES[llm.layernorm_compute_type]
    stream = positions * llm.hidden_size
    kept = norm * stream + (0 if job.freeze_llm else compute * stream)  # ln_f; the input of lm_head
    kept += compute * positions * job.images // job.rows * job.vision.num_queries  # the matrix that places pictures
    kept += 2 * 4 * positions * llm.kv_channels  # cos and sin, float32, shared by all layers
    logits = positions * llm.vocab_size // (1 if job.parallel.vocab_emb_dp else job.parallel.model_parallel)
    return kept, LOSS_ARRAYS * 4 * logits


def inputs(job: Job) -> int:
    """The batch: float32 pixels, ids and labels. With full_batch, each card reads the batches of all cards."""
    copies = job.parallel.data_parallel if job.parallel.full_batch else 1
    pixels = 4 * job.images * 3 * job.vision.image_size**2
    return copies * job.parallel.micro_batch_num * (pixels + 2 * 4 * job.rows * (job.tokens + 1))


def _norms(stream: int, positions: int, compute: int, norm: int, fused: bool) -> int:
    """Two RMSNorms: their inputs, in their type, and 1 / rms of each position; the plain form keeps x / rms, too."""
    return 2 * ((1 if fused else 2) * norm * stream + 4 * positions)


def _attention(queries: int, keys: int, rows: int, columns: int, settings, fused: bool) -> tuple[int, int]:
    """Bytes kept, and bytes of gradients at once. `queries`, `keys`: their elements; scores are rows x columns."""
    compute, softmax = DTYPE_BYTES[settings.compute_dtype], DTYPE_BYTES[settings.softmax_compute_type]
    kept = compute * (queries + 2 * keys)  # q, k, v
    if settings.use_flash_attention and fused:
        return kept + compute * queries + FLASH_ROW * rows, compute * (queries + 2 * keys)  # its result; no scores
    scores = rows * columns
    kept += softmax * scores  # the softmax
    kept += compute * scores if softmax != compute else 0  # and as the product with v reads it
    return kept, 2 * softmax * scores
