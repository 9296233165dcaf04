"""Everything that works around faults of MindFormers, or reaches into it: this is the index.

A row says what is wrong in which file of the host, where this package deals with it, in which versions of MindFormers
it was seen, and which tests show the fault: one of them fails when the host has been mended, and the row can go.
tests/host/test_index.py holds the index complete. `register()` puts the rows into effect, each for itself; `states()`
says what became of them. Importing this module costs nothing.
"""

from __future__ import annotations

from typing import Any

from mindformers_qwenvl.host.work_around import ACTIVE, IDLE, NOT_AVAILABLE, NOT_NEEDED, Kind, State, WorkAround
from mindformers_qwenvl.host.work_around import install as _install

__all__ = [
    "ACTIVE",
    "IDLE",
    "NOT_AVAILABLE",
    "NOT_NEEDED",
    "WORK_AROUNDS",
    "Kind",
    "State",
    "WorkAround",
    "install",
    "states",
]

_FAULTS = "tests/host/test_faults.py::"
_RESUME = "tests/host/test_resume_faults.py::"

WORK_AROUNDS = (
    # ---- names and directories
    WorkAround(
        name="auto_register keys of old YAMLs",
        kind=Kind.PATCH,
        where="host.names:accept_old_auto_register",
        host=("mindformers/tools/register/register.py",),
        reason="auto_register raises without REGISTER_PATH, even for a class that is registered",
        seen="1.6-2.1",
        tests=(f"{_FAULTS}test_stock_auto_register_wants_a_path",),
        touches=("mindformers.tools.register:MindFormerRegister.auto_register",),
    ),
    WorkAround(
        name="configuration by name",
        kind=Kind.PATCH,
        where="host.names:find_config_by_name",
        host=("mindformers/models/auto/configuration_auto.py",),
        reason="AutoConfig.from_pretrained takes a registered name for a path",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_config_by_name",),
        touches=("mindformers.models.auto:AutoConfig.get_config_origin_mode",),
    ),
    WorkAround(
        name="this package before remote code",
        kind=Kind.PATCH,
        where="host.lookup:prefer_this_package",
        host=("mindformers/models/auto/auto_factory.py", "mindformers/tools/hub/dynamic_module_utils.py"),
        reason="with trust_remote_code=True the original's PyTorch files run, although a class is registered",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_runs_the_code_beside_the_weights",),
        touches=(
            "mindformers.models.auto.auto_factory:resolve_trust_remote_code",
            "mindformers.models.auto.configuration_auto:resolve_trust_remote_code",
            "mindformers.models.auto.processing_auto:resolve_trust_remote_code",
            "mindformers.models.auto.tokenization_auto:resolve_trust_remote_code",
        ),
    ),
    WorkAround(
        name="the original's directories",
        kind=Kind.CLASS,
        where="host.auto",
        host=("mindformers/models/auto/configuration_auto.py", "mindformers/models/auto/tokenization_auto.py"),
        reason="model_type qwen and tokenizer_class QWenTokenizer of the original are not known",
        seen="1.6-2.1",
        tests=(f"{_FAULTS}test_stock_does_not_know_the_original",),
    ),
    WorkAround(
        name="names of old YAMLs",
        kind=Kind.CLASS,
        where="host.old_names",
        host=("mindformers/core/optim/__init__.py", "mindformers/core/callback/callback.py"),
        reason="FP32StateAdamWeightDecay, ObsMonitor and ImageToTextGenerationTrainer are gone",
        seen="1.6-2.1",
        tests=(f"{_FAULTS}test_stock_lacks_names_of_old_yamls",),
    ),
    WorkAround(
        name="the task in the host's tables",
        kind=Kind.CLASS,
        where="registration:register",
        host=("mindformers/mindformer_book.py",),
        reason="trainer and pipeline of multi_modal_to_text_generation ship, but no table names the task",
        seen="1.6-2.1",
        tests=(f"{_FAULTS}test_stock_tables_lack_the_task",),
        touches=(
            "mindformers.mindformer_book:MindFormerBook.get_trainer_support_task_list",
            "mindformers.mindformer_book:MindFormerBook.get_pipeline_support_task_list",
        ),
    ),
    # ---- trainer
    WorkAround(
        name="prediction from the full YAML",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer.set_config",
        host=("mindformers/trainer/multi_modal_to_text_generation/multi_modal_to_text_generation.py",),
        reason="predict drops is_full_config and merges a default YAML into the user's",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_prediction_merges_the_default_yaml",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer.set_config",),
    ),
    WorkAround(
        name="a processor from the YAML, once",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer.predict",
        host=("mindformers/trainer/base_trainer.py",),
        reason="predict builds the YAML's processor in place and then again, from the objects",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_processor_section_is_built_once",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer.predict",),
    ),
    WorkAround(
        name="top_k of the YAML in prediction",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer.predict",
        host=("mindformers/trainer/base_trainer.py",),
        reason="predict_process looks in the outer section alone and else hands on top_k=1, which is greedy",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_prediction_hands_on_a_top_k_of_its_own",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer.predict_process",),
    ),
    WorkAround(
        name="accumulation that would be dropped",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer._check_grad_accumulation_steps",
        host=("mindformers/trainer/base_trainer.py",),
        reason="gradient_accumulation_steps becomes 1 outside semi_auto_parallel, and training goes on",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_trainer_does_not_accumulate_and_trains_on",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer._check_grad_accumulation_steps",),
    ),
    WorkAround(
        name="epochs with sink_mode on a CPU",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer.set_config",
        host=("mindformers/trainer/base_trainer.py", "mindspore/train/model.py"),
        reason="the epochs are multiplied by their steps, and a CPU, which sinks nothing, runs that many whole epochs",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_sinks_nothing_on_a_cpu",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer.set_config",),
    ),
    WorkAround(
        name="the format of a checkpoint's file",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer.set_config",
        host=("mindformers/utils/load_checkpoint_utils.py", "mindformers/trainer/utils.py"),
        reason="load_ckpt_format decides how a file is read, whatever its name ends with",
        seen="1.7-2.1",
        tests=(f"{_RESUME}test_stock_reads_a_file_as_the_yaml_says",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer.set_config",),
    ),
    WorkAround(
        name="a data set without a batch",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer.set_train_dataset",
        host=("mindformers/trainer/base_trainer.py",),
        reason="an empty data set is an error only after the network has been built",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_takes_a_data_set_without_a_batch",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer.set_train_dataset",),
    ),
    WorkAround(
        name="a network that learns nothing",
        kind=Kind.CLASS,
        where="host.trainer:FullConfigTrainer.create_optimizer_scheduler",
        host=("mindformers/trainer/base_trainer.py",),
        reason="with all parameters frozen the optimizer's error does not say so",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_optimizer_without_parameters",),
        touches=("mindformers.trainer:MultiModalToTextGenerationTrainer.create_optimizer_scheduler",),
    ),
    WorkAround(
        name="overflow check off Ascend",
        kind=Kind.CLASS,
        where="training.step:QwenVLTrainOneStepCell",
        host=("mindformers/wrapper/wrapper.py", "mindspore/nn/wrap/loss_scale.py"),
        reason="the train step reads Ascend's status register, for which a CPU has no operator",
        seen="1.6-2.1",
        tests=(f"{_FAULTS}test_stock_overflow_check",),
        touches=(
            "mindformers.wrapper:MFTrainOneStepCell.get_overflow_status",
            "mindformers.wrapper:MFTrainOneStepCell.grads_for_legacy",
        ),
    ),
    WorkAround(
        name="AdamW with a rate for each weight",
        kind=Kind.CLASS,
        where="training.optimizer:QwenVLAdamW",
        host=("mindformers/core/optim/adamw.py",),
        reason="the step of one weight is private, and AdamW maps it at one rate over all of them",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_adamw_keeps_its_step_to_itself",),
        touches=("mindformers.core.optim.adamw:_adamw_opt",),
    ),
    WorkAround(
        name="steps of a resumed run, parts of a loss",
        kind=Kind.CLASS,
        where="host.callbacks:steps_before",
        host=("mindformers/core/callback/callback.py", "mindformers/trainer/base_trainer.py"),
        reason="the first step of a resumed run is told to MindFormers' own callbacks alone",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_tells_its_own_callbacks_alone",),
    ),
    WorkAround(
        name="evaluation",
        kind=Kind.CLASS,
        where="training.trainer:QwenVLTrainer",
        host=("mindformers/trainer/multi_modal_to_text_generation/multi_modal_to_text_generation.py",),
        reason="evaluate raises NotImplementedError, and do_eval averages over batches, whatever is in them",
        seen="1.7-2.1",
        tests=("tests/host/test_evaluate_faults.py::test_stock_trainer_does_not_evaluate",),
        touches=(
            "mindformers.trainer:MultiModalToTextGenerationTrainer.evaluate",
            "mindformers.trainer:MultiModalToTextGenerationTrainer.evaluate_process",
            "mindformers.trainer:MultiModalToTextGenerationTrainer.create_eval_dataset",
            "mindformers.trainer:MultiModalToTextGenerationTrainer.sort_callbacks",
        ),
    ),
    WorkAround(
        name="network and processor of a YAML",
        kind=Kind.INSIDE,
        where="host.evaluate:network_and_processor",
        host=("mindformers/trainer/base_trainer.py",),
        reason="only predict_process builds both, and hands them to a pipeline at once",
        seen="1.9-2.1",
        tests=("tests/host/test_evaluate_faults.py::test_stock_trainer_gives_no_network",),
        touches=(
            "mindformers.trainer.base_trainer:transform_and_load_checkpoint",
            "mindformers.trainer.base_trainer:get_load_path_after_hf_convert",
        ),
    ),
    WorkAround(
        name="the step of a checkpoint",
        kind=Kind.CLASS,
        where="host.callbacks:saved_checkpoint",
        host=("mindformers/core/callback/callback.py",),
        reason="no callback is told that a checkpoint has been saved",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_tells_no_callback_of_a_checkpoint",),
    ),
    WorkAround(
        name="adapters of the network's own",
        kind=Kind.PATCH,
        where="host.adapters:use_own_adapters",
        host=("mindformers/models/build_model.py", "mindformers/pet/pet_model.py"),
        reason="pet_config wraps any network in a LoRA that matches local cell names and writes a format of its own",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_adapters_are_of_local_names",),
        touches=("mindformers.pet:get_pet_model",),
    ),
    # ---- resuming
    WorkAround(
        name="processes that wait for each other on a CPU",
        kind=Kind.PATCH,
        where="host.barrier:wait_on_cpu",
        host=("mindformers/utils/parallel_utils.py", "mindspore/communication/comm_func.py"),
        reason="Barrier has no CPU operator",
        seen="1.7-2.1",
        tests=(f"{_RESUME}test_stock_processes_cannot_wait_for_each_other_on_a_cpu",),
        touches=("mindspore.communication.comm_func:barrier|mindspore.mint.distributed:barrier",),
    ),
    WorkAround(
        name="resume in data parallel",
        kind=Kind.PATCH,
        where="host.resume:resume_in_any_number_of_processes",
        host=(
            "mindformers/tools/resume_ckpt.py",
            "mindformers/trainer/utils.py",
            "mindformers/utils/load_checkpoint_utils.py",
        ),
        reason="each process wants a file of its own rank, and one process refuses the folder it has saved to",
        seen="1.7-2.1",
        tests=(
            f"{_RESUME}test_stock_takes_the_file_of_one_process_for_that_of_several",
            f"{_RESUME}test_stock_processes_want_a_file_each",
        ),
        touches=(
            "mindformers.trainer:Trainer._check_config_rules",
            "mindformers.utils.load_checkpoint_utils:_get_checkpoint_mode",
            "mindformers.utils.load_checkpoint_utils:_get_src_file",
        ),
    ),
    WorkAround(
        name="resume from files without redundancy in data parallel",
        kind=Kind.PATCH,
        where="host.redundancy:load_parts_in_data_parallel",
        host=("mindspore/train/serialization.py", "mindformers/utils/load_checkpoint_utils.py"),
        reason="parts of the parameters are fetched from other processes for a compiled network only",
        seen="1.7-2.1",
        tests=(f"{_RESUME}test_stock_parts_want_a_compiled_network",),
        touches=(
            "mindformers.utils.load_checkpoint_utils:load_safetensors_checkpoint",
            "mindspore:load_param_into_net",
        ),
    ),
    WorkAround(
        name="the section `checkpoint:` in data parallel",
        kind=Kind.PATCH,
        where="host.new_format:save_new_format_as_one_process",
        host=("mindformers/checkpoint/sharded_tensor.py", "mindformers/checkpoint/checkpoint.py"),
        reason="the newer format saves and loads how weights are sharded, and in data parallel they are not",
        seen="1.8-2.1",
        tests=(f"{_RESUME}test_stock_newer_section_wants_sharding",),
        touches=(
            "mindformers.checkpoint.checkpoint:ms_save_checkpoint",
            "mindformers.checkpoint.checkpoint:get_real_group_size|mindformers.checkpoint.checkpoint:get_group_size",
            "mindformers.core.callback.callback:get_all_sharded_tensor"
            "|mindformers.core.callback.callback:get_all_sharded_tensor_on_rank0"
            "|mindspore.parallel.strategy:get_strategy_metadata",  # 1.7, where it may be None
        ),
    ),
    # ---- data
    WorkAround(
        name="records of several threads",
        kind=Kind.PATCH,
        where="host.threads:separate_threads",
        host=("mindformers/models/multi_modal/base_multi_modal_processor.py",),
        reason="one record, emptied for each sample, serves all threads of dataset.map",
        seen="1.7-2.1",
        tests=("tests/data/test_stock_dataset.py::test_stock_record_is_shared",),
        touches=("mindformers.models.multi_modal.base_multi_modal_processor:DataRecord",),
    ),
    WorkAround(
        name="shards of a data set of equal size",
        kind=Kind.INSIDE,
        where="datasets.order:OrderedDataset",
        host=("mindformers/dataset/modal_to_text_sft_dataset.py",),
        reason="the DistributedSampler fills up the last shards with samples that come twice in an epoch",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_sampler_fills_up_shards",),
        touches=("mindspore.dataset:DistributedSampler",),
    ),
    # ---- networks
    WorkAround(
        name="save_pretrained with weights",
        kind=Kind.BASE,
        where="host.network:SaveParameters",
        host=("mindformers/models/modeling_utils.py",),
        reason="save_json=True hands bare tensors to mindspore.save_checkpoint: UnboundLocalError",
        seen="1.9-2.1",
        tests=(f"{_FAULTS}test_stock_save_pretrained",),
        touches=("mindformers.models.modeling_utils:PreTrainedModel.save_pretrained",),
    ),
    WorkAround(
        name="generation_config.json",
        kind=Kind.BASE,
        where="host.network:OwnGenerationConfig",
        host=("mindformers/generation/text_generator.py", "mindformers/models/modeling_utils.py"),
        reason="generate() makes settings of its own from the network's configuration, and the file is not read",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_generate_makes_settings_of_its_own",),
        touches=("mindformers.models.modeling_utils:PreTrainedModel.from_pretrained_experimental_mode",),
    ),
    WorkAround(
        name="a graph for each shape",
        kind=Kind.BASE,
        where="host.network:PhasePerShape",
        host=("mindformers/generation/text_generator.py", "mindspore/nn/cell.py"),
        reason="a compiled graph is called by the name of its phase, whatever the shape",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_generates_by_the_name_of_a_phase",),
        touches=("mindformers.models.modeling_utils:PreTrainedModel._set_network_phase",),
    ),
    WorkAround(
        name="blocks of an answer that is broken off",
        kind=Kind.BASE,
        where="host.network:FreeBlocks",
        host=("mindformers/generation/text_generator.py",),
        reason="generate() frees the blocks of the key/value cache at its regular end only",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_generate_keeps_the_blocks_of_a_broken_answer",),
    ),
    WorkAround(
        name="the phase of a call, told once",
        kind=Kind.BASE,
        where="host.network:PhaseToldOnce",
        host=("mindspore/nn/cell.py", "mindspore/graph/api.py"),
        reason="each call of a compiled network writes its phase into every cell, 2,000 of them for each token",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_cells_are_told_of_every_call",),
        touches=("mindspore.nn:Cell.compile_phase",),
    ),
    WorkAround(
        name="sampling in numpy, as the original does it",
        kind=Kind.BASE,
        where="generation.sampling:Sampling",
        host=("mindformers/generation/logits_process.py",),
        reason="top-k and top-p have no CPU operator, and top-p drops the token that crosses the threshold",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_top_p_drops_the_token_that_crosses_it",),
        touches=(
            "mindformers.models.modeling_utils:PreTrainedModel.get_logits_processor",
            "mindformers.models.modeling_utils:PreTrainedModel.get_logits_warper",
        ),
    ),
    WorkAround(
        name="greedy search on a CPU",
        kind=Kind.INSIDE,
        where="model.ops:greedy_argmax",
        host=("mindformers/generation/text_generator.py",),
        reason="mint.argmax has no CPU operator",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_argmax_has_no_cpu_operator",),
    ),
    WorkAround(
        name="slots of the key/value cache on several cards",
        kind=Kind.INSIDE,
        where="model.cache:PagedCache",
        host=("mindformers/modules/paged_attention_mgr.py",),
        reason="keys are split by rows and slot_mapping is not, which does not compile with data_parallel above 1",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_cache_splits_keys_but_not_slots",),
        touches=("mindformers.modules.paged_attention_mgr:PagedAttentionMgr.shard",),
    ),
    WorkAround(
        name="an original checkpoint that lacks tensors",
        kind=Kind.INSIDE,
        where="weights.hooks:refuse_incomplete",
        host=("mindformers/utils/load_checkpoint_utils.py", "mindspore/train/serialization.py"),
        reason="tensors that the files lack keep their random start, and training goes on",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_trains_on_without_missing_tensors",),
    ),
    # ---- pipeline
    WorkAround(
        name="a pipeline that finds its processor",
        kind=Kind.CLASS,
        where="host.pipeline:ProcessorPipeline",
        host=("mindformers/pipeline/multi_modal_to_text_generation_pipeline.py", "mindformers/pipeline/pipeline.py"),
        reason="pipeline() hands on tokenizer and image processor, and the pipeline wants a processor",
        seen="1.6-2.1",
        tests=(f"{_FAULTS}test_stock_pipeline_wants_a_processor",),
    ),
    WorkAround(
        name="settings of a pipeline's call",
        kind=Kind.CLASS,
        where="host.pipeline:ProcessorPipeline._sanitize_parameters",
        host=("mindformers/pipeline/multi_modal_to_text_generation_pipeline.py",),
        reason="what a call says about the answer, such as max_new_tokens, is dropped",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_pipeline_drops_settings_of_a_call",),
        touches=("mindformers.pipeline:MultiModalToTextPipeline._sanitize_parameters",),
    ),
    WorkAround(
        name="a pipeline that saves what it reads",
        kind=Kind.CLASS,
        where="host.pipeline:ProcessorPipeline.save_pretrained",
        host=("mindformers/pipeline/base_pipeline.py",),
        reason="save_pretrained writes a YAML, which pipeline(task, directory) does not read, and no processor",
        seen="1.7-2.1",
        tests=(f"{_FAULTS}test_stock_pipeline_saves_a_yaml_and_no_processor",),
        touches=("mindformers.pipeline:MultiModalToTextPipeline.save_pretrained",),
    ),
)

_states: dict[str, State] = {}


def install(work_around: WorkAround, *arguments: Any) -> State:
    """Put one row into effect and remember what became of it; never raises. `arguments`: for the function `where`."""
    _states[work_around.name] = state = _install(work_around, *arguments)
    return state


def states() -> list[State]:
    """What became of each row, in the order of the index; IDLE before `register()`, and with plugins switched off."""
    return [_states.get(row.name, State(row, IDLE)) for row in WORK_AROUNDS]
