"""Talk with a model in the terminal, also about pictures."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mindformers_qwenvl.cli._generation import (
    ModelDirectory,
    add_generation_arguments,
    on_screen,
    say,
    server_of,
)
from mindformers_qwenvl.cli._inputs import in_options
from mindformers_qwenvl.cli._interrupt import Interrupts

COMMANDS = """/image PATH   add a picture to the next message: a path or a URL; may be repeated
/reset        start a new conversation
/help         show this help
/exit         leave (as does the end of input)
//...         send a message that begins with a slash
Ctrl-C        stops an answer; at the prompt, leaves"""

EPILOG = f"""in the conversation:
  {COMMANDS.replace(chr(10), chr(10) + "  ")}

examples:
  mindformers-qwenvl chat --model Qwen-VL-Chat
  mindformers-qwenvl chat --url http://127.0.0.1:8000/v1
  printf '/image cat.png\\nWhat is it?\\nBox it.\\n' | mindformers-qwenvl chat --model Qwen-VL-Chat --greedy
"""

PICTURES = 32  # how many decoded pictures to keep

HOLDS_INTERRUPTS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_generation_arguments(parser, model_required=False)
    parser.add_argument(
        "--url",
        metavar="URL",
        help="talk to a server with OpenAI's interface, such as http://127.0.0.1:8000/v1; --model is then the name of "
        "one of its models (default: the first). A key is taken from the environment variable OPENAI_API_KEY",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed for sampling (default: a new one each time)")


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends. Returns 0; 130 after Ctrl-C at the prompt; or 1 if a message could not be answered and
    the input is not a terminal."""
    terminal = sys.stdin.isatty()
    if args.model is None and args.url is None:
        args.usage("give --model DIR, or --url URL of a server")
    interrupts = args.interrupts if terminal else None
    if args.url is not None:
        session, greeting = _remote(args, interrupts)
    else:
        session, greeting = _local(args, interrupts)
    if not terminal:
        return 1 if _converse(session, input) else 0

    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401 - gives input() a history

    def ask() -> str:
        with interrupts.allowed():
            return input("> ")

    print(f"{greeting}; /help lists the commands.")
    try:
        _converse(session, ask)
    except KeyboardInterrupt:  # at the prompt
        print()
        return 130
    print()
    return 0


def _local(args: argparse.Namespace, interrupts: Interrupts | None) -> tuple[Session, str]:
    """A conversation with a model on this machine."""
    from mindformers_qwenvl.versions import require_host

    require_host()
    directory = ModelDirectory(args)
    settings = directory.settings(seed=args.seed, chat_format="chatml")
    from mindformers_qwenvl.chat.answer import Chat
    from mindformers_qwenvl.text.layout import SYSTEM_MESSAGE

    config = directory.config
    network = directory.network(-(-config.seq_length // config.block_size), say)
    talk = Chat(network, directory.processor, settings, keep_pictures=PICTURES)
    system = SYSTEM_MESSAGE if args.system is None else args.system
    session = Session(talk, system, sys.stdout.write, interrupts)
    return session, f"{args.model.resolve().name}, answers of at most {settings.max_new_tokens} tokens"


def _remote(args: argparse.Namespace, interrupts: Interrupts | None) -> tuple[Session, str]:
    """A conversation with a model on a server; needs neither MindFormers nor a model on this machine."""
    from mindformers_qwenvl.chat.remote_chat import RemoteChat

    for name in ("adapter", "dtype", "max_window_size", "allow_host", "allow_private"):
        if getattr(args, name) is not None:
            args.usage(f"--{name.replace('_', '-')} is for a model on this machine; the server at --url has its own")
    remote, model = server_of(args, "--url", args.url)
    names = {"max_new_tokens": "max_tokens", "seed": "seed"}
    names |= {name: name for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    settings = {field: getattr(args, name) for name, field in names.items() if getattr(args, name) is not None}
    if args.do_sample is False:
        settings["temperature"] = 0
    session = Session(RemoteChat(remote, model, settings), args.system, sys.stdout.write, interrupts)
    return session, f"{model} at {remote.url}"


def _converse(session: Session, ask: Callable[[], str]) -> int:
    """Carry out lines until the input ends; returns how many failed."""
    failed = 0
    while True:
        try:
            line = ask()
        except EOFError:
            return failed
        try:
            if not session.take(line):
                return failed
        except Exception as error:  # a message that fails leaves the conversation as it was
            failed += 1
            say(f"{type(error).__name__}: {in_options(str(error))}")
        sys.stdout.flush()


class Session:
    """A conversation: what was said, and the pictures of the next message.

    Args:
        talk: a `Chat` or a `RemoteChat`.
        system: the system message.
        write: called with pieces of text for the user.
        interrupts: tells whether the user wants to stop an answer.
    """

    def __init__(
        self, talk: Any, system: str | None, write: Callable[[str], Any], interrupts: Interrupts | None = None
    ):
        self.talk = talk
        self.system = system
        self.write = write
        self.interrupts = interrupts
        self.history: list[tuple[Any, str]] = []
        self.images: list[str] = []

    def take(self, line: str) -> bool:
        """Carry out one line of input; returns False if it ends the conversation.

        Raises:
            FileNotFoundError, ValueError: the picture cannot be used, or the message cannot be answered; the
                conversation stays as it was.
        """
        line = line.strip()
        word, _, rest = line.partition(" ")
        if word in ("/exit", "/quit"):
            return False
        if word == "/reset":
            self.history.clear()
            self.images.clear()
            self.write("(new conversation)\n")
        elif word == "/help":
            self.write(COMMANDS + "\n")
        elif word == "/image":
            self._image(rest.strip().strip("'\""))
        elif line.startswith("/") and not line.startswith("//"):
            self.write(f"unknown command {word}; /help lists the commands\n")
        elif line or self.images:
            self._say(line.removeprefix("/") if line.startswith("//") else line)
        return True

    def _image(self, source: str) -> None:
        if not source:
            self.write("which picture? /image PATH\n")
            return
        if "://" not in source and not source.startswith("data:"):
            source = str(Path(source).expanduser())
        self.talk.pictures.pixels(source)  # raises now, while it is clear which picture is meant
        self.images.append(source)
        self.write(f"(picture {len(self.images)} of the next message)\n")

    def _say(self, text: str) -> None:
        query = [*({"image": image} for image in self.images), {"text": text}] if self.images else text
        shown = ""

        def show(whole: str) -> None:
            nonlocal shown
            self.write(on_screen(whole[len(shown) :]))
            sys.stdout.flush()
            shown = whole

        prompt = self.talk.prompt(query, self.history, self.system)
        if self.interrupts is None:
            answer = self.talk.answer(prompt, show)
        else:
            self.interrupts.clear()
            with self.interrupts.noted():
                answer = self.talk.answer(prompt, show, cancelled=self.interrupts)
        self.write("\n")
        if self.interrupts is not None and self.interrupts.is_set():
            self.write("(interrupted; left out of the conversation)\n")
            return
        self.history.append((query, answer))
        self.images.clear()
