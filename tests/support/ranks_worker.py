"""`mindformers-qwenvl serve` that also writes down what each step of the network gave, of this rank:

msrun ... ranks_worker.py FOLDER serve --model DIR ...
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from pathlib import Path


def main() -> int:
    from mindformers_qwenvl.cli import main as run

    folder = Path(sys.argv[1]) / f"rank_{os.environ['RANK_ID']}"
    sys.argv = ["mindformers-qwenvl", *sys.argv[2:]]
    if os.environ.get("MS_ROLE") == "MS_SCHED":
        return run()
    watch(folder)
    code = run()
    (folder / "code").write_text(str(code))
    return code


def watch(folder: Path) -> None:
    """Write to `folder` the process id (pid), of each step its name and a digest of its result (steps), and the code of
    an end at once (code)."""
    from mindformers_qwenvl.cli._generation import import_host

    folder.mkdir(parents=True)
    (folder / "pid").write_text(str(os.getpid()))
    import_host()
    end = os._exit

    def noted(code: int) -> None:
        (folder / "code").write_text(str(code))
        end(code)

    os._exit = noted
    from mindformers_qwenvl.chat.steps import Steps

    for name in ("vectors", "prefill", "decode", "set_adapter"):
        setattr(Steps, name, watched(getattr(Steps, name), folder / "steps"))


def watched(step, file: Path):
    @functools.wraps(step)
    def call(*args):
        result = step(*args)
        digest = str(args[1]) if result is None else hashlib.sha256(result.tobytes()).hexdigest()
        with file.open("a") as opened:
            opened.write(f"{step.__name__} {digest}\n")
        return result

    return call


if __name__ == "__main__":
    sys.exit(main())
