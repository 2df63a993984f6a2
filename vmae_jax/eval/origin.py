"""How a run was started, as a section of the report: command line, commit, versions and devices."""

from collections.abc import Mapping
from typing import Any

from vmae_jax.eval.markup import moment, section, short, table
from vmae_jax.eval.records import Run

__all__ = ["facts", "starts"]

_STARTS = 50  # listed


def facts(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the entries of a row of `environment.jsonl`, with their titles."""
    named = {"Command": "command", "Commit": "commit", "Commit of the config": "config_commit", "Devices": "devices"}
    found = {name: short(row[key], 2000) for name, key in named.items() if row.get(key)}
    if isinstance(row.get("processes"), int) and row["processes"] > 1:
        found["Processes"] = str(row["processes"])
    if row.get("platform"):
        found["Platform"] = short(row["platform"])
    versions = row.get("versions")
    if isinstance(versions, Mapping):
        found["Versions"] = ", ".join(f"{name} {short(version, 40)}" for name, version in versions.items())
    return found


def starts(run: Run) -> str:
    """Return the newest start in full, and the others as a table."""
    if not run.environment:
        return ""
    newest, earlier = run.environment[-1], run.environment[:-1]
    content = table(("", ""), facts(newest).items(), kind="facts")
    if earlier:
        rows = [
            (
                short(row.get("step", "")),
                moment(row.get("time")),
                *(facts(row).get(k, "") for k in ("Commit", "Command")),
            )
            for row in earlier[-_STARTS:]
        ]
        head = ("From step", "Time (UTC)", "Commit", "Command")
        listed = table(head, rows, numbers=(0, 1))
        content += f"<details><summary>{len(earlier)} earlier starts</summary>{listed}</details>"
    when = f"Started from step {short(newest.get('step', 0))}, {moment(newest.get('time'))} UTC."
    return section("How it was started", content, name="start", intro=when)
