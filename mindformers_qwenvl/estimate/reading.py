"""Reading a YAML into a `Job`: which key stands where, what is checked of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mindformers_qwenvl.estimate.job import Job, Language, Parallel, Part, Recompute, Vision
from mindformers_qwenvl.estimate.section import GB, Section, SettingsError, parse_memory, read_yaml, refuse_unknown
from mindformers_qwenvl.host.accumulation import check_accumulation
from mindformers_qwenvl.sizes import RESAMPLER_HEAD_DIM, VIT_MLP_RATIO
from mindformers_qwenvl.stages import check_layers_per_stage
from mindformers_qwenvl.weights.parts import rate_factors

__all__ = ["read_job"]

# MindFormers' optimizers whose state is two float32 moments for each number that learns.
OPTIMIZERS = ("AdamW", "QwenVLAdamW", "FP32StateAdamWeightDecay")
# Of MindFormers' parallel modes those that know parallel_config; in the others each card has everything.
MODES = {0: False, 1: True, 2: True, "semi": True, "auto": True, "data": False, "stand_alone": False, "hybrid": False}
MODES |= {"semi_auto_parallel": True, "auto_parallel": True, "data_parallel": False}


def read_job(path: Path, changes: Sequence[str] = ()) -> Job:
    """The job that the YAML at `path` describes; `changes`: see `read_yaml`.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        SettingsError: a key is missing, unknown in its value, or sizes do not fit together; or a change is of a key
            that is neither in the YAML nor read here.
    """
    top = read_yaml(path, changes)
    model = top.section("model", required=True).section("model_config", required=True)
    model.choice("type", "QwenVLConfig", ["QwenVLConfig"])
    llm = _language(model, model.section("llm_model").section("model_config"))
    vision = _vision(model, model.section("vision_model").section("model_config"), llm)
    parallel = _parallel(top)
    predict = top.choice("run_mode", None, ["train", "finetune", "predict"]) == "predict"
    runner, context = top.section("runner_config"), top.section("context")
    template = top.section("train_dataset").section("modal_to_text_transform")
    # In semi_auto_parallel MindFormers multiplies the batch by it, and parts of batch_size are under way at once.
    interleaved = top.number("micro_batch_interleave_num", 1)
    rows = llm.batch_size if predict else runner.number("batch_size") * (interleaved if parallel.sharded else 1)
    images = 1 if predict else template.section("model_transform_template").number("modal_content_padding_size", 1)
    optimizer = top.section("optimizer", required=not predict)
    if not predict:
        optimizer.choice("type", None, OPTIMIZERS)
        _check_vision_lr_decay(optimizer)
    fused = context.choice("device_target", "Ascend", ["Ascend", "CPU"]) == "Ascend"
    float32 = vision.param_init_type == llm.param_init_type == "float32"
    job = Job(
        name=path.stem,
        predict=predict,
        vision=vision,
        llm=llm,
        freeze_vision=model.switch("freeze_vision"),
        freeze_resampler=model.switch("freeze_resampler"),
        freeze_llm=model.switch("freeze_llm"),
        parallel=parallel,
        recompute=_recompute(top.section("recompute_config"), parallel.pipeline_stage),
        rows=rows,
        tokens=llm.seq_length if predict else template.number("max_length", llm.seq_length),
        images=rows * images,
        accumulation=runner.number("gradient_accumulation_steps", 1),
        accumulation_steps=top.section("runner_wrapper").number("accumulation_steps", 1),
        swapped=optimizer.switch("swap"),
        fused=fused,
        updated_in_place=optimizer.get("type") == "QwenVLAdamW" and float32 and not fused,
        layers_per_stage=_stages(model, parallel.pipeline_stage, vision.num_hidden_layers + llm.num_layers),
        device_memory=parse_memory(context.get("max_device_memory"), f"{context.where}.max_device_memory")
        if context.has("max_device_memory")
        else None,
    )
    refuse_unknown(top, changes)
    _check(job, path)
    return job


def _part(
    section: Section, defaults: type[Part], outer: Section, shared: Sequence[str], **values: Any
) -> dict[str, Any]:
    """The keys of a part; those in `shared` may stand in the outer section too, which goes first.

    Args:
        values: of keys that are not to be read here.
    """
    for field in fields(defaults):
        if field.name in values:
            continue
        given = outer if field.name in shared and outer.has(field.name) else section
        if field.name == "offset":
            values["offset"] = section.get("offset", 0)
        elif field.name.endswith(("_dtype", "_type")):
            values[field.name] = given.dtype(field.name, field.default)
        elif isinstance(field.default, bool):
            values[field.name] = given.switch(field.name, field.default)
        else:
            values[field.name] = given.number(field.name, field.default)
    return values


def _language(model: Section, part: Section) -> Language:
    part.choice("type", "QwenConfig", ["QwenConfig"])
    renamed = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}  # the original's names
    content = {**part.content, **{ours: part.get(name) for name, ours in renamed.items() if part.has(name)}}
    part = Section(content, part.where, part.known)
    shared = ("compute_dtype", "param_init_type", "softmax_compute_type")
    shared += ("batch_size", "seq_length", "use_past", "block_size", "num_blocks")
    values = _part(part, Language, model, shared)
    if values["num_heads"] * values["kv_channels"] != values["hidden_size"]:
        raise SettingsError(
            f"{part.where}: num_heads={values['num_heads']} times kv_channels={values['kv_channels']} must be "
            f"hidden_size={values['hidden_size']}"
        )
    return Language(**values)


def _vision(model: Section, part: Section, llm: Language) -> Vision:
    part.choice("type", "QwenVLVisionConfig", ["QwenVLVisionConfig"])
    shared = ("compute_dtype", "param_init_type", "softmax_compute_type")
    width = int(part.number("hidden_size", Vision.hidden_size) * VIT_MLP_RATIO)
    values = {
        "output_dim": model.number("proj_output_dim", llm.hidden_size),
        "num_queries": model.number("num_queries", 256),
        "intermediate_size": part.number("intermediate_size", width),
    }
    vision = Vision(**_part(part, Vision, model, shared, **values))
    for name, by in (("image_size", "patch_size"), ("hidden_size", "num_attention_heads")):
        if getattr(vision, name) % getattr(vision, by):
            raise SettingsError(
                f"{part.where}: {name}={getattr(vision, name)} must be divisible by {by}={getattr(vision, by)}"
            )
    _check_resampler(model, vision, llm)
    return vision


def _check_resampler(model: Section, vision: Vision, llm: Language) -> None:
    if math.isqrt(vision.num_queries) ** 2 != vision.num_queries:
        raise model.error("num_queries", "a square number (the queries stand on a square grid)")
    if vision.output_dim % RESAMPLER_HEAD_DIM:
        raise SettingsError(
            f"{model.where}: output_dim={vision.output_dim} (proj_output_dim, or else the language model's "
            f"hidden_size) must be divisible by {RESAMPLER_HEAD_DIM} (the head size of the resampler)"
        )
    if vision.output_dim != llm.hidden_size:
        raise SettingsError(
            f"{model.where}: proj_output_dim={vision.output_dim} must be the language model's "
            f"hidden_size={llm.hidden_size}; leave it out"
        )


def _check_vision_lr_decay(optimizer: Section) -> None:
    if optimizer.get("type") != "QwenVLAdamW":
        return
    absent = None if "vision_lr_decay" in optimizer.content else 1.0  # the optimizer takes no null
    try:
        rate_factors([], optimizer.get("vision_lr_decay", absent))
    except ValueError as error:
        raise SettingsError(f"{optimizer.where.removesuffix('optimizer')}{error}") from None


def _parallel(top: Section) -> Parallel:
    given, mode = top.section("parallel_config"), top.section("parallel")
    sharded = top.switch("use_parallel") & MODES[mode.choice("parallel_mode", 1, MODES)]
    for key in ("context_parallel", "expert_parallel"):
        if given.number(key, 1) > 1 and sharded:
            raise given.error(key, "1 (Qwen-VL knows no other)")
    cards = {key: given.number(key, 1) for key in ("data_parallel", "model_parallel", "pipeline_stage")}
    micro_batches = given.number("micro_batch_num", 1)
    optimizer = mode.section("parallel_optimizer_config")
    # Made in any case: a key that has no effect here is known all the same.
    parallel = Parallel(
        **cards,
        micro_batch_num=micro_batches if cards["pipeline_stage"] > 1 else 1,  # without stages MindFormers sets it to 1
        vocab_emb_dp=given.switch("vocab_emb_dp", True),
        gradient_aggregation_group=given.number("gradient_aggregation_group", 4),
        enable_parallel_optimizer=mode.switch("enable_parallel_optimizer"),
        gradient_accumulation_shard=optimizer.switch("gradient_accumulation_shard"),
        parallel_optimizer_threshold=optimizer.number("parallel_optimizer_threshold", 64, least=0),
        full_batch=mode.switch("full_batch"),
        sharded=True,
    )
    return parallel if sharded else Parallel()


def _recompute(given: Section, stages: int) -> Recompute:
    layers = given.get("recompute")
    if isinstance(layers, list):
        if len(layers) != stages or not all(isinstance(item, int) for item in layers):
            raise given.error("recompute", f"True, False or a list of {stages} numbers, one a pipeline stage,")
    else:
        layers = given.switch("recompute")
    select = given.get("select_recompute")
    if isinstance(select, (list, dict)):  # patterns of operators: of ours the default pattern alone is counted
        select = any(str(pattern).replace("\\", "") == "feed_forward.mul" for pattern in select)
    else:
        select = given.switch("select_recompute")
    return Recompute(
        layers=layers,
        select=select,
        slice_activation=given.switch("recompute_slice_activation"),
        communication=given.switch("parallel_optimizer_comm_recompute"),
    )


def _stages(model: Section, stages: int, layers: int) -> tuple[int, ...] | None:
    given = model.get("layers_per_stage")
    if given is None:
        return None
    try:
        check_layers_per_stage(given, stages, layers)
    except ValueError as error:
        raise SettingsError(f"{model.where}.{error}") from None
    return tuple(given)


def _check(job: Job, path: Path) -> None:
    parallel, vision, llm = job.parallel, job.vision, job.llm
    cuts = {
        "num_attention_heads": vision.num_attention_heads,
        "vision hidden_size": vision.hidden_size,
        "vision intermediate_size": vision.intermediate_size,
        "output_dim": vision.output_dim,
        "resampler heads": vision.output_dim // RESAMPLER_HEAD_DIM,
        "num_heads": llm.num_heads,
        "hidden_size": llm.hidden_size,
        "intermediate_size": llm.intermediate_size,
    }
    if not parallel.vocab_emb_dp:
        cuts["vocab_size"] = llm.vocab_size
    wrong = [f"{name}={size}" for name, size in cuts.items() if size % parallel.model_parallel]
    if wrong:
        raise SettingsError(
            f"{path}: parallel_config.model_parallel={parallel.model_parallel} cards cannot share {', '.join(wrong)}"
        )
    if parallel.micro_batch_num < parallel.pipeline_stage:
        raise SettingsError(
            f"{path}: parallel_config.micro_batch_num={parallel.micro_batch_num} must be at least "
            f"pipeline_stage={parallel.pipeline_stage}"
        )
    if not job.predict:
        _check_training(job, path)
    if job.device_memory is not None and job.device_memory < GB // 1024:
        raise SettingsError(f"{path}: context.max_device_memory is less than a megabyte; write it with its unit, 57GB")


def _check_training(job: Job, path: Path) -> None:
    if job.freeze_vision and job.freeze_resampler and job.freeze_llm:
        raise SettingsError(f"{path}: freeze_vision, freeze_resampler and freeze_llm are all True: nothing would learn")
    try:
        check_accumulation(
            sharded=job.parallel.sharded,
            pipeline_stages=job.parallel.pipeline_stage,
            gradient_accumulation_steps=job.accumulation,
            accumulation_steps=job.accumulation_steps,
            batch_size=job.rows,
        )
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
