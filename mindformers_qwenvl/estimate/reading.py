"""Reading a YAML into a `Job`: where each key is, and what is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from mindformers_qwenvl.adapters.settings import AdapterSettings, from_pet_config
from mindformers_qwenvl.adapters.targets import touched_parts
from mindformers_qwenvl.checks import nearest
from mindformers_qwenvl.config.sizes import (
    BOTH_PARTS,
    LANGUAGE_MODEL,
    SPELLINGS,
    LanguageSettings,
    PartSettings,
    VisionSettings,
    check_language,
    check_layers_per_stage,
    check_parts,
    check_split,
    check_vision,
    language_split,
    vision_split,
    vit_mlp_width,
)
from mindformers_qwenvl.estimate.job import Job, Parallel, Recompute
from mindformers_qwenvl.estimate.units import DTYPE_BYTES, GB, memory_size
from mindformers_qwenvl.host.accumulation import check_accumulation
from mindformers_qwenvl.recipes import key_of
from mindformers_qwenvl.recipes.section import Section, SettingsError, read_yaml
from mindformers_qwenvl.weights.parts import PARTS, rate_factors, trained_parts

__all__ = ["read_job"]

# Optimizers whose state is two float32 moments for each trained number.
OPTIMIZERS = ("AdamW", "QwenVLAdamW", "FP32StateAdamWeightDecay")
# Whether a parallel mode of MindFormers uses parallel_config; in the others each card holds everything.
MODES = {0: False, 1: True, 2: True, "semi": True, "auto": True, "data": False, "stand_alone": False, "hybrid": False}
MODES |= {"semi_auto_parallel": True, "auto_parallel": True, "data_parallel": False}


def read_job(path: Path, changes: Sequence[str] = ()) -> Job:
    """The job that the YAML at `path` describes; `changes`: see `read_yaml`.

    Raises:
        FileNotFoundError, IsADirectoryError, PermissionError: the YAML or one of its bases cannot be opened.
        RecipeError: it is not a YAML with sections, or a change is malformed.
        SettingsError: a key is missing or has an unknown value, or sizes do not fit together; or a change names a key
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
    # In semi_auto_parallel MindFormers multiplies the batch by it.
    interleaved = top.number("micro_batch_interleave_num", 1)
    rows = llm.batch_size if predict else runner.number("batch_size") * (interleaved if parallel.sharded else 1)
    images = 1 if predict else template.section("model_transform_template").number("modal_content_padding_size", 1)
    optimizer = top.section("optimizer", required=not predict)
    if not predict:
        optimizer.choice("type", None, OPTIMIZERS)
        _check_vision_lr_decay(optimizer)
    fused = context.choice("device_target", "Ascend", ["Ascend", "CPU"]) == "Ascend"
    float32 = vision.param_init_type == llm.param_init_type == "float32"
    adapter = _adapter(model)
    frozen = {part: model.switch(f"freeze_{part}") for part in PARTS}
    if adapter is not None:  # only the adapter and what modules_to_save names are trained
        touched = touched_parts(adapter, vision, llm)
        frozen = {part: part not in touched for part in PARTS}
    job = Job(
        name=path.stem,
        predict=predict,
        vision=vision,
        llm=llm,
        **{f"freeze_{part}": frozen[part] for part in PARTS},
        adapter=adapter,
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
        device_memory=memory_size(context.name_of("max_device_memory"), context.get("max_device_memory"))
        if context.has("max_device_memory")
        else None,
    )
    _check_changes(top, changes)
    _check(job, path)
    return job


def _adapter(model: Section) -> AdapterSettings | None:
    section = model.section("pet_config")
    if not section.content:
        return None
    try:
        return from_pet_config({key: section.get(key) for key in section.content})
    except ValueError as error:
        raise SettingsError(f"{model.where}.{error}") from None


def _part(
    section: Section, defaults: type[PartSettings], outer: Section, shared: Sequence[str], **values: Any
) -> dict[str, Any]:
    """The keys of a part. Those in `shared` may also be in the outer section, which takes precedence.

    Args:
        values: values of keys that have been read already.
    """
    for field in fields(defaults):
        if field.name in values:
            continue
        given = outer if field.name in shared and outer.has(field.name) else section
        if field.name == "offset":
            values["offset"] = section.get("offset", 0)
        elif field.name.endswith(("_dtype", "_type")):
            values[field.name] = given.choice(field.name, field.default, DTYPE_BYTES)
        elif isinstance(field.default, bool):
            values[field.name] = given.switch(field.name, field.default)
        else:
            values[field.name] = given.number(field.name, field.default)
    return values


def _language(model: Section, part: Section) -> LanguageSettings:
    part.choice("type", "QwenConfig", ["QwenConfig"])
    content = {**part.content, **{ours: part.get(name) for name, ours in SPELLINGS.items() if part.has(name)}}
    part = Section(content, part.where, part.known)
    llm = LanguageSettings(**_part(part, LanguageSettings, model, (*BOTH_PARTS, *LANGUAGE_MODEL)))
    with _named(part.where):
        check_language(llm)
    return llm


def _vision(model: Section, part: Section, llm: LanguageSettings) -> VisionSettings:
    part.choice("type", "QwenVLVisionConfig", ["QwenVLVisionConfig"])
    width = part.number("hidden_size", VisionSettings.hidden_size)
    values = {
        "output_dim": model.number("proj_output_dim", llm.hidden_size),
        "num_queries": model.number("num_queries", VisionSettings.num_queries),
        "intermediate_size": part.number("intermediate_size", vit_mlp_width(width)),
    }
    vision = VisionSettings(**_part(part, VisionSettings, model, BOTH_PARTS, **values))
    with _named(part.where):
        check_vision(vision)
        check_parts(vision, llm)
    return vision


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Let errors of the checks in config/sizes.py say where in the YAML the values are."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"{where}: {error}") from None


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
            raise given.error(key, "1 (Qwen-VL does not support more)")
    cards = {key: given.number(key, 1) for key in ("data_parallel", "model_parallel", "pipeline_stage")}
    micro_batches = given.number("micro_batch_num", 1)
    optimizer = mode.section("parallel_optimizer_config")
    # Read in any case, so that keys without effect in this mode count as known.
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
    if isinstance(select, (list, dict)):  # patterns of operators: only the default one is counted
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
    with _named(model.where):
        check_layers_per_stage(given, stages, layers)
    return tuple(given)


def _check_changes(top: Section, changes: Sequence[str]) -> None:
    """Call this when everything has been read. A change of a key that was not read has no effect: it may be misspelt.

    Raises:
        SettingsError: a change names a key that the YAML does not have and the estimate did not read.
    """
    own = set(map(key_of, changes))
    for key, change in zip(map(key_of, changes), changes, strict=True):
        if top.name_of(key) not in top.known:
            known = {*_keys(top.content), *(name.removeprefix(top.name_of("")) for name in top.known)} - own
            raise SettingsError(
                f"--set {change}: {key} is neither a key of {top.where} nor one that the estimate depends on; check "
                f"its spelling and its sections{nearest(key, known)}"
            )


def _keys(content: Mapping[str, Any]) -> Iterator[str]:
    """All keys of a YAML, as `--set` writes them."""
    for key, value in content.items():
        yield str(key)
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in _keys(value))


def _check(job: Job, path: Path) -> None:
    parallel = job.parallel
    with _named(f"{path}: llm_model"):
        check_split(language_split(job.llm, parallel.vocab_emb_dp), parallel.model_parallel)
    with _named(f"{path}: vision_model"):
        check_split(vision_split(job.vision), parallel.model_parallel)
    if parallel.micro_batch_num < parallel.pipeline_stage:
        raise SettingsError(
            f"{path}: parallel_config.micro_batch_num={parallel.micro_batch_num} must be at least "
            f"pipeline_stage={parallel.pipeline_stage}"
        )
    if not job.predict:
        _check_training(job, path)
    if job.device_memory is not None and job.device_memory < GB // 1024:
        raise SettingsError(
            f"{path}: context.max_device_memory is less than a megabyte; write it with a unit, such as 57GB"
        )


def _check_training(job: Job, path: Path) -> None:
    if not trained_parts(job) and job.adapter is None:
        raise SettingsError(f"{path}: freeze_vision, freeze_resampler and freeze_llm are all True: nothing is trained")
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
