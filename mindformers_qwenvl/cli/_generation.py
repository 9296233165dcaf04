"""What `predict` and `chat` share: options, and loading a model directory."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import io
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mindformers_qwenvl.checks import LAYOUT, printable
from mindformers_qwenvl.cli._inputs import check_model_folder
from mindformers_qwenvl.files import cache_folder, private_folder

DTYPES = {name: name for name in ("float32", "float16", "bfloat16")}
DTYPES |= {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def add_generation_arguments(
    parser: argparse.ArgumentParser, adapters: bool = False, model_required: bool = True
) -> None:
    """Add the options for model, dtype, pictures and sampling. adapters: take several adapters, each with a name."""
    parser.add_argument(
        "--model",
        required=model_required,
        type=Path,
        metavar="DIR",
        help="directory with config.json, weights and vocabulary: an original HuggingFace one, or one of ours",
    )
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        metavar="DTYPE",
        help="float32, float16 or bfloat16 (fp32, fp16, bf16); default: that of config.json, but float32 instead of "
        "bfloat16 on a CPU",
    )
    if adapters:
        parser.add_argument(
            "--adapter",
            action="append",
            type=_named_adapter,
            metavar="NAME=DIR",
            help="LoRA adapter in peft's format, which answers as the model NAME; may be repeated",
        )
    else:
        parser.add_argument(
            "--adapter",
            type=Path,
            metavar="DIR",
            help="LoRA adapter in peft's format, to use with the model",
        )
    parser.add_argument("--system", metavar="TEXT", help='system message (default: "You are a helpful assistant.")')
    pictures = parser.add_argument_group(
        "pictures from URLs", "By default any public host; hosts in private networks are refused."
    )
    pictures.add_argument(
        "--allow-host",
        action="append",
        metavar="HOST",
        help="fetch only from this host, or *.HOST for those below it; may be repeated",
    )
    pictures.add_argument(
        "--allow-private",
        action="append",
        metavar="NETWORK",
        help="also fetch from this address or network, such as 127.0.0.1 or 10.1.0.0/16; may be repeated",
    )
    group = parser.add_argument_group("sampling", "The defaults are those of the model's generation_config.json.")
    group.add_argument("--max-new-tokens", type=int, metavar="N", help="limit on the tokens of an answer")
    group.add_argument("--max-window-size", type=int, metavar="N", help="limit on the tokens of history kept")
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--greedy", dest="do_sample", action="store_false", default=None, help="always choose the likeliest token"
    )
    how.add_argument("--sample", dest="do_sample", action="store_true", default=None, help="draw tokens at random")
    group.add_argument(
        "--temperature", type=float, metavar="T", help="below 1 favours likely tokens, above 1 unlikely ones; 0: greedy"
    )
    group.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens; 0: from all")
    group.add_argument(
        "--top-p",
        type=float,
        metavar="P",
        help="draw from the likeliest tokens, up to a probability of P; 1: from all",
    )
    group.add_argument("--repetition-penalty", type=float, metavar="R", help="above 1: fewer repetitions")
    parser.set_defaults(usage=parser.error)


def _named_adapter(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"expected NAME=DIR, got {text!r}")
    return name, Path(path)


def changes(args: argparse.Namespace) -> dict[str, Any]:
    """The changes that the options make to the generation configuration."""
    names = ("max_new_tokens", "max_window_size", "do_sample", "temperature", "top_k", "top_p", "repetition_penalty")
    return {name: getattr(args, name) for name in names}


def apply_picture_options(args: argparse.Namespace, processor: Any) -> None:
    """Change the picture policy of `processor` as --allow-host and --allow-private say; bad ones exit with code 2."""
    template = processor.template
    policy = template.image_transform.policy
    try:
        if args.allow_host:
            policy = replace(policy, allow_hosts=(*(policy.allow_hosts or ()), *args.allow_host))
        if args.allow_private and policy.allow_private is not True:
            policy = replace(policy, allow_private=(*(policy.allow_private or ()), *args.allow_private))
    except ValueError as error:
        args.usage(str(error))
    for reader in (template, processor.image_processor):
        reader.image_transform = replace(reader.image_transform, policy=policy)


def _log_folder() -> Path:
    """A folder that nobody else can write into: in this user's cache, or else a temporary one, removed at exit."""
    try:
        return private_folder(cache_folder() / "logs")
    except OSError:
        folder = tempfile.mkdtemp(prefix="mindformers-qwenvl-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)


def import_host() -> None:
    """Import MindFormers without its messages on standard output, which is for answers, and without a folder ./output
    for its logs; errors go to standard error. Variables that the environment sets already take precedence."""
    os.environ.setdefault("GLOG_v", "3")  # MindSpore: errors
    if "LOCAL_DEFAULT_PATH" not in os.environ:
        os.environ["LOCAL_DEFAULT_PATH"] = str(_log_folder())
    spoken = io.StringIO()
    first = "mindformers" not in sys.modules
    gc.disable()  # the import makes half a million objects that stay
    try:
        with contextlib.redirect_stdout(spoken):
            import mindspore as ms
            from mindformers.tools.logger import LimitedRepeatHandler, get_logger
        if first:
            gc.freeze()  # MindSpore collects garbage twice for each graph it compiles: it need not scan these objects
    finally:
        gc.enable()
        # Leave out warnings of unrelated models, which ask for a package that is not on any index.
        sys.stderr.writelines(line for line in spoken.getvalue().splitlines(True) if "hyper_parallel" not in line)
    for handler in get_logger().handlers:
        if type(handler) is LimitedRepeatHandler:
            handler.setLevel(logging.ERROR)
            if handler.stream is spoken:
                handler.setStream(sys.stderr)
    ms.set_context(mode=ms.GRAPH_MODE)


@contextlib.contextmanager
def _told(say: Callable[[str], None]) -> Iterator[None]:
    """Say, a line each, which settings of a model's folder are not followed."""
    from mindformers_qwenvl.config.folder import FolderWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FolderWarning)
        yield
    for line in dict.fromkeys(str(one.message) for one in caught if one.category is FolderWarning):
        say(line)


def say(text: object) -> None:
    """Print a line on standard error; data in it cannot fake another line."""
    print(printable(text), file=sys.stderr, flush=True)


def on_screen(text: str) -> str:
    """An answer, made safe for a terminal, which its control characters could command; unchanged for a file."""
    return printable(text, keep=LAYOUT) if sys.stdout.isatty() else text


def server_of(args: argparse.Namespace, option: str, url: str) -> tuple[Any, str]:
    """A `Remote` at the address that `option` gives, with the API key from the environment; and the model to ask:
    --model, or the first one of the server."""
    from mindformers_qwenvl.chat.remote import Remote

    try:
        remote = Remote(url, os.environ.get("OPENAI_API_KEY"))
    except ValueError as error:
        args.usage(f"{option}: {error}")
        raise
    return remote, str(args.model) if args.model is not None else remote.models()[0]


class ModelDirectory:
    """The folder that --model names: configuration and processor now; the network later, when all else is checked."""

    def __init__(self, args: argparse.Namespace, say: Callable[[str], None] = say):
        given = getattr(args, "adapter", None)
        self.adapters = dict(given) if isinstance(given, list) else {} if given is None else {"default": given}
        if isinstance(given, list) and len(self.adapters) < len(given):
            raise ValueError(f"--adapter: two adapters have the same name, got {', '.join(name for name, _ in given)}")
        check_model_folder(args.model, *self.adapters.values())
        import_host()
        from mindformers.generation import GenerationConfig

        from mindformers_qwenvl.config import QwenVLConfig
        from mindformers_qwenvl.data.processor import QwenVLProcessor
        from mindformers_qwenvl.generation.settings import generation_config_of
        from mindformers_qwenvl.text.vocabulary_file import check_model

        self.args = args
        with _told(say):
            self.config = QwenVLConfig.from_pretrained(str(args.model))
            self.processor = QwenVLProcessor.from_pretrained(str(args.model))
        tokenizer = self.processor.tokenizer
        check_model(tokenizer.eod_id, tokenizer.vocab_file, self.config.image_start_id)
        apply_picture_options(args, self.processor)
        self.generation = generation_config_of(args.model) or GenerationConfig.from_model_config(self.config)

    def settings(self, **more: Any) -> Any:
        """The generation configuration that model and options give; bad options exit with code 2."""
        from mindformers_qwenvl.generation.settings import settings_for

        network = SimpleNamespace(config=self.config, generation_config=self.generation)
        try:
            return settings_for(network, **changes(self.args), **more)
        except ValueError as error:
            self.args.usage(str(error))
            raise

    def network(self, num_blocks: int, say: Callable[[str], None], **more: Any) -> Any:
        """Load the network, with a cache of `num_blocks` blocks. more: keys that replace those of config.json."""
        from mindformers_qwenvl.model.ops import can_compute_in
        from mindformers_qwenvl.model.qwenvl import QwenVL

        dtype = DTYPES.get(self.args.dtype)
        if dtype is None and not can_compute_in(self.config.compute_dtype):
            say("the weights are bfloat16, which a CPU cannot compute with: using float32")
            dtype = "float32"
        types = {**more} if dtype is None else {**more, "compute_dtype": dtype, "param_init_type": dtype}
        if self.adapters:
            types["adapter"] = {name: str(path) for name, path in self.adapters.items()}
        network = QwenVL.from_pretrained(str(self.args.model), use_past=True, num_blocks=num_blocks, **types)
        if network.not_finite:
            say(f"warning: {network.not_finite}")
        return network.set_train(False)
