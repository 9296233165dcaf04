"""What the doctor found: a list of findings, as text and as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["FAILED", "NOT_CHECKED", "OK", "WARNING", "Finding", "as_dict", "failed", "render"]

OK, WARNING, FAILED, NOT_CHECKED = "ok", "warning", "failed", "not checked"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        section: the heading above it.
        name: what was looked at.
        state: OK, WARNING (something is left out or unusual), FAILED (it will not work) or NOT_CHECKED.
        detail: what was found, and what to do.
        data: numbers for programs.
    """

    section: str
    name: str
    state: str
    detail: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def failed(findings: list[Finding]) -> bool:
    """Whether anything is wrong."""
    return any(finding.state == FAILED for finding in findings)


def as_dict(version: str, findings: list[Finding]) -> dict[str, Any]:
    """For `--json`."""
    return {"version": version, "passed": not failed(findings), "findings": [asdict(finding) for finding in findings]}


def render(version: str, findings: list[Finding]) -> str:
    """The report, with a heading for each section; faults are repeated at the end."""
    lines = [f"mindformers-qwenvl {version}"]
    section, width = "", 0
    for finding in findings:
        if finding.section != section:
            section = finding.section
            width = max(len(other.name) for other in findings if other.section == section)
            lines += ["", section]
        lines.append(f"  {finding.state:11}  {finding.name:{width}}  {finding.detail}".rstrip())
    wrong = [finding for finding in findings if finding.state == FAILED]
    lines += ["", f"{len(wrong)} wrong: {', '.join(finding.name for finding in wrong)}" if wrong else "nothing wrong"]
    return "\n".join(lines)
