"""What ran is kept in docs/hosts.json and said in the docs and README.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mindformers_qwenvl import __version__
from tests.matrix.rows import CHECKS, ROWS, Row
from tests.matrix.running import ROOT, Result

RECORD = ROOT / "docs" / "hosts.json"
DOCUMENTS = (ROOT / "docs" / "hosts.md", ROOT / "docs" / "zh" / "hosts.md")
# Page -> link to the table, in its row of this version.
READMES = {
    ROOT / "README.md": "[what ran](docs/hosts.md#what-ran)",
    ROOT / "README_CN.md": "[运行记录](docs/zh/hosts.md)",
}
BEGIN, END = "<!-- matrix: written by tests/matrix -->", "<!-- /matrix -->"


def read_record(file: Path = RECORD) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": {}}


def add(record: dict[str, Any], row: Row, result: Result) -> None:
    """Put what ran into the record; checks that did not run this time stay, if the versions do."""
    before = record["rows"].get(row.name, {})
    kept = before.get("checks", {}) if before.get("versions") == result.versions else {}
    record["rows"][row.name] = {"versions": result.versions, "checks": {**kept, **result.checks}}


def cell(counted: dict[str, Any] | None) -> str:
    if counted is None:
        return "–"
    tests = counted["passed"] + counted["failed"]
    return f"{counted['passed']}" if not counted["failed"] else f"**{counted['passed']} of {tests}**"


def table(record: dict[str, Any]) -> str:
    """The table of docs/hosts.md: tests that passed, of each check; a row that was not run says so."""
    lines = [f"| MindFormers | MindSpore | Python | {' | '.join(CHECKS)} | minutes |", "|---" * (len(CHECKS) + 4) + "|"]
    for row in ROWS:
        found = record["rows"].get(row.name)
        if found is None:
            cells = [row.mindformers, row.mindspore, row.python, *(cell(None) for _ in CHECKS), "not run yet"]
            lines.append(f"| {' | '.join(cells)} |")
            continue
        versions, checks = found["versions"], found["checks"]
        cells = [cell(checks.get(check)) for check in CHECKS]
        minutes = sum(counted["seconds"] for counted in checks.values()) / 60
        pair = [versions["mindformers"], versions["mindspore"], versions["python"]]
        lines.append(f"| {' | '.join([*pair, *cells, f'{minutes:.0f}'])} |")
    return "\n".join(lines)


def readme_row(page: Path) -> str:
    """The line of the table of versions with the version of this package."""
    version = ".".join(__version__.split(".")[:2])
    return next(line for line in page.read_text(encoding="utf-8").split("\n") if line.startswith(f"| {version} |"))


def seen(record: dict[str, Any]) -> str:
    """What was run, in a few words for README.md."""
    ran = [found["versions"] for found in record["rows"].values()]
    hosts = sorted({one["mindformers"] for one in ran})
    pythons = sorted({one["python"].rpartition(".")[0] for one in ran}, key=lambda python: int(python.split(".")[1]))
    return f"CPU: MindFormers {', '.join(hosts)}; Python {', '.join(pythons)}"


def write(record: dict[str, Any], file: Path = RECORD) -> None:
    """The record, and what the docs and README.md say of it, if it is theirs."""
    record["rows"] = {row.name: record["rows"][row.name] for row in ROWS if row.name in record["rows"]}
    file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if file != RECORD:
        return
    for page, link in READMES.items() if record["rows"] else ():
        lines = page.read_text(encoding="utf-8").split("\n")
        at = lines.index(readme_row(page))
        lines[at] = f"{lines[at].rpartition(' | ')[0]} | {seen(record)} ({link}) |"
        page.write_text("\n".join(lines), encoding="utf-8")
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        document.write_text(f"{before}{BEGIN}\n{table(record)}\n{END}{after}", encoding="utf-8")
