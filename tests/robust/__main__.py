"""`python -m tests.robust --inputs 200000 --kills 50`: prints the tables of docs/robustness.md."""

from __future__ import annotations

import argparse
import os
import sys
import time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robust", description=__doc__)
    parser.add_argument("--inputs", type=int, default=0, metavar="N", help="mutated inputs, shared by all readers")
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="kills of each command")
    parser.add_argument("--worst", action="store_true", help="time and memory of the worst inputs known")
    parser.add_argument(
        "--disk", action="store_true", help="a disk that is full in mid-write (needs root, for a tmpfs)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="readers or commands whose name contains TEXT")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    args = parser.parse_args()
    began, bad = time.monotonic(), 0
    if args.inputs:
        from tests.robust.mutated import feed

        print("| reader | inputs | read | refused in words | longest, s | most memory, MB | faults |")
        print("|---|---|---|---|---|---|---|", flush=True)
        total = 0
        for found in feed(args.inputs, args.seed, args.only):
            total += found.inputs
            bad += len(found.faults)
            print(found.row(), flush=True)
            for fault in found.faults[:3]:
                print(fault, file=sys.stderr)
        print(f"\n{total:,} inputs, seed {args.seed}\n", flush=True)
    if args.kills:
        from tests.robust.killed import HEADER
        from tests.robust.kills import COMMANDS

        print(HEADER)
        print("|---" * HEADER.count(" | ") + "|---|", flush=True)
        for name, command in COMMANDS.items():
            if args.only == name or (args.only in name and args.only not in COMMANDS):
                found = command(args.kills, args.seed)
                bad += len(found.faults)
                print(found.row(), flush=True)
                for fault in found.faults[:3]:
                    print(fault, file=sys.stderr)
        print(flush=True)
    for wanted, module in ((args.worst, "worst"), (args.disk, "disk")):
        if wanted:
            found = __import__(f"tests.robust.{module}", fromlist=["run"]).run(args.only)
            bad += found
    print(f"{time.monotonic() - began:.0f} s, {os.cpu_count()} processors; {bad} faults")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
