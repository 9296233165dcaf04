"""The host matrix: every supported pair of MindFormers and MindSpore, and every Python, in environments of their own.

    python -m tests.matrix            # make what is missing, run all rows, write docs/hosts.json and the tables
    python -m tests.matrix --rows 1.8,2.1 --checks logits,doors
    python -m tests.matrix --jobs 2          # two rows at a time: each takes one core
    python -m tests.matrix --use 1.8=DIR     # an environment that has the host and the packages of the tests
    python -m tests.matrix --write           # run nothing: write the tables again from docs/hosts.json

An environment is made once, in --environments (default: ~/.cache/mindformers-qwenvl-matrix), about 3.5 GB each. For a
run this package is installed, as a wheel of this checkout, into a folder of links to it: environments stay as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.matrix.rows import CHECKS, ROWS, Row
from tests.matrix.running import Result, environment, run
from tests.matrix.tables import RECORD, add, read_record, write


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindformers-qwenvl-matrix"
    parser.add_argument("--environments", type=Path, default=cache, metavar="DIR", help=f"(default: {cache})")
    parser.add_argument("--use", action="append", default=[], metavar="ROW=DIR", help="take this environment for a row")
    parser.add_argument("--rows", default=",".join(row.name for row in ROWS), help="comma list (default: all)")
    parser.add_argument("--checks", default=",".join(CHECKS), help="comma list (default: all)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="rows at a time (default: 1)")
    parser.add_argument("--logs", type=Path, default=Path(tempfile.gettempdir()) / "mindformers-qwenvl-matrix-logs")
    parser.add_argument("--record", type=Path, default=RECORD, metavar="FILE", help=f"(default: {RECORD})")
    parser.add_argument("--write", action="store_true", help="run nothing, write the tables from the record")
    args = parser.parse_args(argv)
    record = read_record(args.record)
    given = dict(item.split("=", 1) for item in args.use)
    rows, checks = [_named(ROWS, name) for name in args.rows.split(",")], _checks(args.checks)

    def one(row: Row) -> tuple[Row, Result | None]:
        try:
            base = Path(given[row.name]) if row.name in given else environment(row, args.environments)
            return row, run(row, base, checks, args.logs)
        except (LookupError, subprocess.CalledProcessError) as error:
            print(f"{row.name}: not run: {error}", flush=True)
            return row, None

    missing = False
    with ThreadPoolExecutor(max(1, args.jobs)) as pool:
        for done in as_completed([pool.submit(one, row) for row in rows] if not args.write else []):
            row, result = done.result()
            missing |= result is None
            if result is not None:
                show(row, result)
                add(record, row, result)
                write(record, args.record)
    if args.write:
        write(record, args.record)
        return 0
    failed = any(one["failed"] for row in record["rows"].values() for one in row["checks"].values())
    print(f"logs: {args.logs}")
    return int(failed or missing)


def show(row: Row, result: Result) -> None:
    for check, found in result.checks.items():
        said = "ok" if found["passed"] and not found["failed"] else "FAILED"
        print(f"{row.name:7} {check:18} {said:6} {found['passed']} passed, {found['failed']} failed, "
              f"{found['skipped']} skipped, {found['seconds']} s", flush=True)  # fmt: skip
        for test in found["failures"]:
            print(f"{'':27}{test}", flush=True)


def _named(rows: tuple[Row, ...], name: str) -> Row:
    found = [row for row in rows if row.name == name.strip()]
    if not found:
        raise SystemExit(f"no row {name!r}; there are {', '.join(row.name for row in rows)}")
    return found[0]


def _checks(names: str) -> list[str]:
    found = [name.strip() for name in names.split(",")]
    unknown = [name for name in found if name not in CHECKS]
    if unknown:
        raise SystemExit(f"no check {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return found


if __name__ == "__main__":
    sys.exit(main())
