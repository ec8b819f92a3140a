"""What commands share: options, progress, and how figures stand in a line of text."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from curation.errors import printable

if TYPE_CHECKING:
    from curation.project import Project

DIRECTORY = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
DEVICE = click.option("--device", help="auto, cpu, cuda or cuda:N, this time; the project's setting by default.")
WHO = click.option("--who", default=lambda: os.environ.get("USER", "user"), help="Who decides it.")


class ProgressLine:
    """Progress of long work on standard error, with the time left; one line that is rewritten on a terminal."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty()
        self._what = ""
        self._began = 0.0
        self._from = 0
        self._said = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show ``done`` of ``total``; called as often as the work likes."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._from = what, now, done
            self._said = 0.0 if self._tty else now
        finished = done >= total
        if not finished and now - self._said < (0.2 if self._tty else 10.0):
            return
        if not self._tty and finished and self._said == self._began:  # over before there was anything to say
            return
        self._said = now
        left = ""
        if not finished and done > self._from:
            left = f", {_duration((now - self._began) / (done - self._from) * (total - done))} left"
        line = f"{what}: {done:,} of {total:,}{left}"
        if self._tty:
            sys.stderr.write("\r\x1b[2K" + line + ("\n" if finished else ""))
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def say(sentence: str) -> None:
    """A sentence on standard error, beside what a script reads."""
    click.echo(printable(sentence), err=True)


def open_project(directory: Path, device: str | None = None) -> Project:
    """The project in a folder, which shows its progress and says its sentences on the terminal."""
    from curation.project import Project

    return Project(directory, progress=ProgressLine(), say=say, device=device)


def print_json(value: Any) -> None:
    """JSON on standard output."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def table_of(status: dict[str, Any]) -> str:
    """The iterations as a table of text, one line each, the baseline first; below it what can't be compared."""
    rows: list[tuple[str, ...]] = [
        (
            "iteration",
            "state",
            "reviewed",
            "changed",
            "still wrong",
            "accuracy (95 %)",
            "balanced (95 %)",
            "weakest slice",
        )
    ]
    before = [{**status["baseline"], "state": "as given"}] if status.get("baseline") else []
    for iteration in [*before, *status["iterations"]]:
        holdout = iteration["holdout"]
        rows.append(
            (
                str(iteration["number"]), iteration["state"], _count(iteration["labels_reviewed"]),
                _count(iteration["labels_changed"]), _count(iteration.get("still_wrong")),
                with_interval(holdout, "accuracy"), with_interval(holdout, "balanced_accuracy"),
                iteration.get("weakest_slice") or "-",
            )
        )  # fmt: skip
    if all(row[4] == "-" for row in rows[1:]):
        rows = [row[:4] + row[5:] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, *breaks_of(status)])


def breaks_of(status: dict[str, Any]) -> list[str]:
    """Where iterations of a status can't be compared, in sentences."""
    from reports.summary import breaks

    iterations = [*([status["baseline"]] if status.get("baseline") else []), *status["iterations"]]
    return breaks(
        (i["number"], (i.get("gain") or {}).get("otherwise", ()), i["holdout"].get("size")) for i in iterations
    )


def how_far(people: list[dict[str, Any]]) -> list[str]:
    """How far each person with a queue is, and where it is, a line each."""
    lines = []
    for row in people:
        lines.append(f"{row['person']}: {row['answered']:,} of {row['asked']:,} answered")
        lines += [f"  {stream}: {address}" for stream, address in row.get("addresses", {}).items()]
    return lines


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def with_interval(values: dict[str, Any], key: str) -> str:
    """A share with its interval, both of ``values``; a dash where it is not known."""
    if values.get(key) is None:
        return "-"
    low_high = values.get(f"{key}_ci")
    return f"{values[key]:.1%}" + (f" ({low_high[0]:.1%} to {low_high[1]:.1%})" if low_high else "")
