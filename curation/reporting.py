"""What people are told: figures, HTML report and FiftyOne recording of an iteration, and where a project stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.account import sample_table, summarize
from curation.config import Settings
from curation.errors import ConfigError, DatabaseError
from curation.figures import metrics_json, row_from_json
from curation.ledger import Ledger
from curation.parts import Account
from curation.plane import neighbour_plane, principal_plane
from curation.records import CurrentLabel, Iteration
from curation.reviews import count_causes, live_rows, standing
from curation.runs import ProjectPaths, finished, read_json, write_json
from curation.words import counted

if TYPE_CHECKING:
    import pandas as pd

    from reports.fiftyone_store import FiftyOneReporter
    from reports.overview import Overview
    from reports.summary import IterationSummary

Say = Callable[[str], None]
#: The App's plot of all images as points shows no more than so many in bearable time.
MOST_POINTS = 200_000


class AnswerKey:
    """True labels of train images, from a table with ``path,label``; in demos and benchmarks only."""

    def __init__(self, file: Path, ledger: Ledger) -> None:
        self._file = file
        self._ledger = ledger

    def still_wrong(self, labels: Mapping[str, CurrentLabel]) -> int:
        """How many train labels differ from the key."""
        key, merged = self._key, self._ledger.merged_classes()

        def differs(given: str, true: str) -> bool:
            return merged.get(given, given) != merged.get(true, true)

        return len([
            s for s, now in labels.items()
            if s in key and not now.excluded and now.class_id is not None and differs(now.class_id, key[s])
        ])  # fmt: skip

    @cached_property
    def _key(self) -> dict[str, str]:
        """Class ids by sample. Raises ConfigError for a file that is no such table."""
        import pandas as pd

        try:
            table = pd.read_csv(self._file, dtype=str)
            rows = list(zip(table["path"], table["label"], strict=True))
        except (OSError, KeyError, ValueError) as error:  # Pandas' own are ValueErrors
            raise ConfigError(
                f"setting 'answer_key' must name a CSV file with path and label; {self._file} is none ({error})"
            ) from error
        of_path = {p.path: s.id for s in self._ledger.samples() if s.split == "train" for p in s.paths}
        classes = self._ledger.classes()
        key = {path: label for path, label in rows if path in of_path}
        unknown = next((label for label in key.values() if classes.named(label) is None), None)
        if unknown is not None:
            raise ConfigError(
                f"setting 'answer_key', {self._file}: '{unknown}' is no class of this project; "
                f"there are {list(classes.names)}"
            )
        return {of_path[path]: classes.named(label) or "" for path, label in key.items()}


class Recording:
    """Records iterations in FiftyOne while the program goes on, one after the other.

    FiftyOne's dataset can be made again at any time, so that a fault there ends no run: it is said, and
    `curate review` records what is missing.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self._under_way: Future[Any] | None = None

    def start(self, recorder: FiftyOneReporter, summary: IterationSummary, table: pd.DataFrame) -> None:
        """Begin to record an iteration, when the one before is through."""
        self.finish()
        self._say("Recording the iteration in FiftyOne.")
        self._under_way = ThreadPoolExecutor(1).submit(recorder.record, summary, table)

    def finish(self, *, check: bool = False) -> None:
        """Wait for what is under way; a database's fault is said, or raised where ``check``; any other is raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            under_way.result()
        except DatabaseError as error:
            if check:
                raise
            self._say(f"{error} (the run goes on)")


@dataclass(frozen=True, eq=False)
class Reporting:
    """Writes ``metrics.json`` and the HTML report of an iteration, and begins to record it in FiftyOne, where wanted.

    ``backbone`` describes it in words; ``still_wrong`` counts labels that differ from an answer key, if there is one;
    ``links`` gives the addresses of what runs, by name.
    """

    paths: ProjectPaths
    settings: Settings
    ledger: Ledger
    backbone: str
    still_wrong: Callable[[Mapping[str, CurrentLabel]], int | None]
    recording: Recording
    fiftyone: FiftyOneReporter | None
    links: Callable[[], Mapping[str, str]] = dict

    def record(self, account: Account) -> dict[str, str]:
        """Do so, in place of what was there of the same iteration; returns what to tell the user of it.

        Seed and network are told as they were. Figures stay as they were measured where images are set aside since.
        """
        from reports.overview import write_overview
        from reports.page import HtmlReporter

        folder = self.paths.iteration
        summary = summarize(
            account,
            project=self.settings.name,
            backbone=_told_before(account.folder / "report" / "summary.json", "backbone") or self.backbone,
            seed=account.trained.get("seed", self.settings.seed),
            earlier=[row_from_json(read_json(folder(n) / "metrics.json")) for n in range(account.number)],
            queue=self.ledger.queue(account.number),
            settled=self._settled(account),
            links=self.links(),
            still_wrong=self.still_wrong(account.after),
            costs=self.settings.costs,
        )
        figures = account.folder / "metrics.json"
        measured = read_json(figures) if figures.exists() else None
        if measured is not None and (gone := images_gone(measured, summary)):
            summary = replace(
                summary, rows=(*summary.rows[:-1], row_from_json(measured)), advice=(gone, *summary.advice)
            )
        else:
            write_json(figures, metrics_json(summary))
        write_json(account.folder / "report" / "summary.json", in_full(summary))
        told = {"report": str(HtmlReporter().write(summary, account.folder / "report"))}
        write_overview(
            overview_of(self.paths, self.settings.name, self.ledger, self.links()), self.paths.home / "report"
        )
        if self.fiftyone:
            table = sample_table(account, self.ledger.verdicts(), live_rows(self.ledger))
            if account.features is not None and len(account.samples) <= MOST_POINTS:
                features = account.features()
                table[["x", "y"]] = principal_plane(features)
                if (placed := neighbour_plane(features, self.paths.cache / "planes")) is not None:
                    table[["umap_x", "umap_y"]] = placed
            self.recording.start(self.fiftyone, summary, table)
            told["dataset"] = self.fiftyone.open_dataset_name()
        return told

    def _settled(self, account: Account) -> set[str]:
        """What people had judged before this iteration, and what reviewers alone judged in it."""
        verdicts = self.ledger.verdicts()
        asked = {d["sample_id"] for d in account.review.get("decisions", [])}
        reviewed = {v.sample_id for v in standing(verdicts).values() if v.iteration == account.number}
        return {v.sample_id for v in verdicts if v.iteration < account.number} | (reviewed - asked)


def _told_before(file: Path, name: str) -> str:
    """What the report that was written last says of something; empty where there is none."""
    return str(read_json(file).get(name, "")) if file.exists() else ""


def images_gone(measured: Mapping[str, Any], summary: IterationSummary) -> str:
    """Says how many images an iteration's figures were ``measured`` with that its report now lacks; empty if none."""
    held = measured["holdout"].get("size", 0) - (summary.metrics.size if summary.metrics else 0)
    others = measured.get("counts", {}).get("samples", 0) - summary.counts["samples"] - max(held, 0)
    gone = max(held, 0) + max(others, 0)
    if not gone:
        return ""
    return (
        f"{counted(gone, 'image is', 'images are')} set aside that this iteration was measured with: its figures in "
        "`curate status` and the overview stay as they were, those here are of the others."
    )


def in_full(summary: IterationSummary) -> dict[str, Any]:
    """Everything that an iteration's report shows, as JSON values; the words that it begins with under ``words``."""
    from reports.page import audit_lines
    from reports.summary import gain_badge, plain_values, what_changed, what_is_weak

    words = {
        "changed": what_changed(summary),
        "real": gain_badge(summary.gain),
        "weak": what_is_weak(summary),
        "audit": dict(audit_lines(summary)),
    }
    return {"words": words, **plain_values(summary)}


def overview_of(paths: ProjectPaths, project: str, ledger: Ledger, links: Mapping[str, str]) -> Overview:
    """All iterations that have figures, for the page over all of them; its place is ``.curation/report``."""
    from reports.overview import Overview

    files = sorted(paths.iterations.glob("*/metrics.json"))
    iterations = [read_json(file) for file in files]
    pages = {
        metrics["number"]: f"../iterations/{file.parent.name}/report/index.html"
        for metrics, file in zip(iterations, files, strict=True)
        if (file.parent / "report" / "index.html").exists()
    }
    releases = [release.__dict__ for release in ledger.releases()]
    return Overview(project, iterations, pages, count_causes(ledger.remarks()), releases, links)


def status_of(
    paths: ProjectPaths, project: str, ledger: Ledger, queues: Callable[[], list[dict[str, Any]]]
) -> dict[str, Any]:
    """Where a project stands; the JSON of ``curate status --json``. ``queues``: how far people are."""
    counts = ledger.counts()
    iterations = []
    for iteration in ledger.iterations():
        iterations.append(_iteration_status(paths, ledger, queues, iteration))
    baseline = paths.iteration(0) / "metrics.json"
    return {
        "project": project,
        "classes": list(ledger.classes().names),
        "samples": sum(counts["splits"].values()),
        **counts,
        "baseline": read_json(baseline) if baseline.exists() else None,
        "iterations": iterations,
    }


def _iteration_status(
    paths: ProjectPaths, ledger: Ledger, queues: Callable[[], list[dict[str, Any]]], iteration: Iteration
) -> dict[str, Any]:
    number, state = iteration.number, iteration.state
    file = paths.iteration(number) / "metrics.json"
    if file.exists():
        return {**read_json(file), "state": state}
    review = finished(paths.iteration(number), "review") or {}
    nothing = {"accuracy": None, "accuracy_ci": None, "balanced_accuracy": None, "log_loss": None}
    unknown = {"labels_wrong": None, "labels_wrong_ci": None, "flagger_precision": None, "flagger_recall": None}
    entries = ledger.queue(number)
    return {
        "number": number,
        "state": state,
        "message": iteration.message,
        "labels_reviewed": review.get("reviewed"),
        "labels_changed": review.get("changed"),
        "queued": len(entries),
        "answered": len({v.sample_id for v in ledger.verdicts(iteration=number)}),
        "people": [{k: row[k] for k in ("person", "answered", "asked")} for row in queues()],
        "holdout": nothing,
        "slices": [],
        "audit": unknown,
    }
