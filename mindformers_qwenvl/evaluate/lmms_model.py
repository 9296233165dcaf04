"""Qwen-VL on MindFormers as a model of lmms-eval, for its tasks: `lmms_eval --model qwen_vl_mindformers`.

Only lmms-eval imports this, through `lmms_entry`. Tested with lmms-eval 0.7.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore as ms
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from mindformers.generation import GenerationConfig
from tqdm import tqdm

from mindformers_qwenvl.chat.batches import Prepared, answer_questions, cache_blocks
from mindformers_qwenvl.chat.likelihood import option_tokens
from mindformers_qwenvl.chat.questions import Question
from mindformers_qwenvl.config import QwenVLConfig
from mindformers_qwenvl.data.processor import QwenVLProcessor
from mindformers_qwenvl.generation.prompt import Pictures, make_prompt
from mindformers_qwenvl.generation.settings import generation_config_of, settings_for
from mindformers_qwenvl.model.ops import can_compute_in
from mindformers_qwenvl.model.qwenvl import QwenVL
from mindformers_qwenvl.text.rows import Row

__all__ = ["QwenVLMindFormers"]

LONGEST = 1024  # new tokens if a task does not say, as in lmms-eval's own models


class QwenVLMindFormers(lmms):
    """Args (`--model_args model=DIR,chat_format=raw`):

    model: directory with config.json, weights and vocabulary, an original HuggingFace one or one of ours.
    chat_format: "chatml" or "raw"; default: what the model's generation_config.json says.
    adapter: directory of a LoRA adapter in peft's format.
    dtype: float32, float16 or bfloat16; default: that of the model, but on a CPU float32 instead of bfloat16.
    batch_size: samples at a time. Others that lmms-eval passes to every model, such as device, have no effect.
    """

    def __init__(
        self,
        model: str,
        chat_format: str | None = None,
        adapter: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: Any = None,
        device: Any = None,
    ) -> None:
        super().__init__()
        if not Path(model).is_dir():
            raise FileNotFoundError(f"--model_args model={model}: no such directory")
        ms.set_context(mode=ms.GRAPH_MODE)
        self.directory = str(model)
        self.batch_size = int(batch_size)
        self.model_config = QwenVLConfig.from_pretrained(self.directory)
        if dtype is None and not can_compute_in(self.model_config.compute_dtype):
            dtype = "float32"
        self.settings = {} if dtype is None else {"compute_dtype": dtype, "param_init_type": dtype}
        if adapter is not None:
            self.settings["adapter"] = str(adapter)
        template = QwenVLProcessor.from_pretrained(self.directory).template
        self.tokenizer, self.pictures = template.tokenizer, Pictures(template.image_transform)
        self.generation = generation_config_of(self.directory) or GenerationConfig.from_model_config(self.model_config)
        self.chat_format = chat_format or self._settings({}).chat_format
        self.network: Any = None
        self.blocks = 0

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The answers, in the order of the requests."""
        groups: dict[str, list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True, default=str)].append(number)
        answers: dict[int, str] = {}
        bar = tqdm(total=len(requests), desc="answering")
        for numbers in groups.values():
            kwargs = dict(requests[numbers[0]].args[1])
            until = kwargs.get("until") or ()
            until = [until] if isinstance(until, str) else list(until)
            prepared = []
            for number in numbers:
                context, _, to_visual, identity, task, split = requests[number].args
                row = self._prompt(context, to_visual(self.task_dict[task][split][identity]))
                prepared.append(Prepared(Question(number, context), row))
            config = self._settings(kwargs)
            network = self._network(prepared, config.max_new_tokens)
            batches = answer_questions(
                *(network, self.tokenizer, self.pictures, prepared, config),
                batch_size=self.batch_size,
                seed=0,
                skip_special_tokens=self.chat_format == "raw",
            )
            for batch in batches:
                for record in batch:
                    if "error" in record:
                        raise RuntimeError(f"request {record['id']}: {record['error']}")
                    answers[record["id"]] = _cut(record["answer"], until)
                bar.update(len(batch))
        bar.close()
        return [answers[number] for number in range(len(requests))]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """For each request the mean of -log p over the tokens of its continuation, and whether each is the likeliest.

        lmms-eval's multiple choice takes the smallest (api/task.py), so it is a loss here, as with its own Qwen-VL.
        The pair is in a `GenerationResult` because lmms-eval 0.7 turns a bare pair into a text (api/instance.py,
        `unwrap_generation_output`), which no task can score.
        """
        found: list[GenerationResult] = []
        network = self._network([], 1)
        for start in tqdm(range(0, len(requests), self.batch_size), desc="comparing"):
            rows, options = [], []
            for request in requests[start : start + self.batch_size]:
                context, to_target, to_visual, identity, task, split = request.args
                doc = self.task_dict[task][split][identity]
                rows.append(self._prompt(context, to_visual(doc)))
                target = to_target if isinstance(to_target, str) else to_target(doc)
                options.append([self.tokenizer.encode_with_images(target).ids])
            pictures = [self.pictures.of(row) for row in rows]
            tokens = option_tokens(network, rows, pictures, options)
            found += [GenerationResult((option.loss, option.greedy)) for [option] in tokens]
        return found

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("tasks of several rounds are not supported by qwen_vl_mindformers")

    def _prompt(self, context: str, visuals: Sequence[Any] | None) -> Row:
        """Pictures first, then the text, as the original writes a query in list form."""
        elements = [{"image": visual} for visual in visuals or ()]
        text = context.replace("<image>", "")
        return make_prompt(self.tokenizer, [*elements, {"text": text}], chat_format=self.chat_format)

    def _settings(self, kwargs: dict[str, Any]) -> Any:
        """A generation configuration; answers are greedy unless `do_sample` is set and the temperature is above 0."""
        network = SimpleNamespace(config=self.model_config, generation_config=self.generation)
        warm = kwargs.get("temperature") or 0
        return settings_for(
            network,
            max_new_tokens=int(kwargs.get("max_new_tokens") or LONGEST),
            do_sample=bool(kwargs.get("do_sample")) and warm > 0,
            temperature=float(warm) if warm else None,
            top_p=kwargs.get("top_p"),
            chat_format=getattr(self, "chat_format", None),
        )

    def _network(self, prepared: Sequence[Prepared], longest: int) -> Any:
        """The network, with a cache that is large enough for these prompts."""
        config = self.model_config
        blocks = cache_blocks(
            prepared,
            self.batch_size,
            seq_length=config.seq_length,
            max_new_tokens=longest,
            block_size=config.block_size,
        )
        if self.network is None or blocks > self.blocks:
            self.network, self.blocks = None, blocks  # one at a time in memory
            self.network = QwenVL.from_pretrained(
                self.directory, use_past=True, num_blocks=blocks, **self.settings
            ).set_train(False)
        return self.network


def _cut(answer: str, until: Sequence[str]) -> str:
    """The answer up to the first of `until`."""
    ends = [place for stop in until if stop and (place := answer.find(stop)) >= 0]
    return answer[: min(ends)].strip() if ends else answer
