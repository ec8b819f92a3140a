"""All iterations on one page, and a project in a notebook: made from the figures that each iteration left (pure).

Input are the values of ``metrics.json``, iteration 0 first; names and paths in them come from users and are escaped by
the template engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from curation.records import Estimate
from curation.runs import write_whole
from reports import plots
from reports.page import is_safe_link, issue_words, render
from reports.summary import breaks, estimate_words, interval_words, percent


@dataclass(frozen=True)
class Overview:
    """A project over all of its iterations.

    ``iterations`` are their ``metrics.json``; ``pages`` where each one's report is, by number; ``causes`` how many
    images have each cause of error, by iteration; ``releases`` have ``name, at, who, rows, checksum``; ``links`` lead
    to what runs.
    """

    project: str
    iterations: Sequence[Mapping[str, Any]]
    pages: Mapping[int, str] = field(default_factory=dict)
    causes: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    releases: Sequence[Mapping[str, Any]] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def write_overview(overview: Overview, folder: Path) -> Path:
    """Write ``index.html`` into the folder, whole or not at all; returns its path."""
    page = folder / "index.html"
    write_whole(page, render("overview.html", **overview_facts(overview)))
    return page


def notebook_html(overview: Overview) -> str:
    """The same in short, as a piece of HTML for a notebook; it brings no style of its own."""
    return render("notebook.html", **overview_facts(overview))


def overview_facts(overview: Overview) -> dict[str, Any]:
    """Everything that the templates show, as plain values, words and charts."""
    iterations = overview.iterations
    rows = [_row(metrics, overview.pages) for metrics in iterations]
    numbers = [metrics["number"] for metrics in iterations]
    return {
        "project": overview.project,
        "rows": rows,
        "last": rows[-1] if rows else None,
        "advice": list(iterations[-1].get("advice", ())) if iterations else [],
        "charts": [chart for chart in (_curve(iterations, *what) for what in _CURVES) if chart],
        "breaks": breaks(
            (m["number"], (m.get("gain") or {}).get("otherwise", ()), m["holdout"].get("size")) for m in iterations
        ),
        "has_key": any(row["still_wrong"] is not None for row in rows),
        "slices": slice_history(iterations),
        "causes": cause_table(overview.causes),
        "issues": issue_table(iterations),
        "numbers": numbers,
        "releases": list(overview.releases),
        "links": {name: url for name, url in overview.links.items() if is_safe_link(url)},
        "totals": {
            "reviewed": sum(metrics["labels_reviewed"] for metrics in iterations),
            "changed": sum(metrics["labels_changed"] for metrics in iterations),
            "excluded": sum(metrics.get("labels_excluded", 0) for metrics in iterations),
        },
    }


def _row(metrics: Mapping[str, Any], pages: Mapping[int, str]) -> dict[str, Any]:
    holdout, audit, gain = metrics["holdout"], metrics["audit"], metrics.get("gain")
    return {
        "number": metrics["number"],
        "page": pages.get(metrics["number"], ""),
        "reviewed": metrics["labels_reviewed"],
        "changed": metrics["labels_changed"],
        "excluded": metrics.get("labels_excluded", 0),
        "still_wrong": metrics.get("still_wrong"),
        "accuracy": estimate_words(_estimate(holdout, "accuracy"), "-"),
        "balanced": estimate_words(_estimate(holdout, "balanced_accuracy"), "-"),
        "gain": "Starting point" if gain is None else gain["words"],
        "precision": estimate_words(_estimate(audit, "flagger_precision"), "-"),
        "wrong": _count_words(audit),
        "weakest": metrics.get("weakest_slice") or "-",
    }


def _estimate(values: Mapping[str, Any], key: str) -> Estimate | None:
    if values.get(key) is None:
        return None
    low_high = values.get(f"{key}_ci")
    return Estimate(values[key], tuple(low_high) if low_high else None)


def _count_words(audit: Mapping[str, Any]) -> str:
    found = _estimate(audit, "labels_wrong")
    if found is None:
        return "-"
    return f"about {found.value:.0f}" + (f" ({found.ci[0]:.0f} to {found.ci[1]:.0f})" if found.ci else "")


_CURVES = (
    ("holdout", "accuracy", "Holdout accuracy", "Accuracy, %"),
    ("holdout", "balanced_accuracy", "Balanced holdout accuracy", "Balanced accuracy, %"),
    ("audit", "flagger_precision", "Flagged labels that were really wrong", "Really wrong, %"),
)


def _curve(iterations: Sequence[Mapping[str, Any]], part: str, key: str, title: str, axis: str) -> Any:
    found = [(metrics["number"], _estimate(metrics[part], key)) for metrics in iterations]
    known = [(number, estimate) for number, estimate in found if estimate is not None]
    if len(known) < 2:
        return None
    points = [plots.Point(number, estimate.value, estimate.ci) for number, estimate in known]
    told = "; ".join(f"iteration {number}: {estimate_words(estimate)}" for number, estimate in known)
    words = f"{title} over the iterations, with 95 % intervals"
    return {"title": title, "plot": plots.curve(points, f"curve-{key}", words, told, "Iteration", axis)}


def slice_history(iterations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each weak slice that ever was, by name: its error rate in every iteration ('' where it was none), its status."""
    names = list(dict.fromkeys(weak["name"] for metrics in reversed(iterations) for weak in metrics["slices"]))
    history = []
    for name in names:
        by_iteration = [next((s for s in metrics["slices"] if s["name"] == name), None) for metrics in iterations]
        last = [weak for weak in by_iteration if weak is not None][-1]
        rates = [f"{percent(w['error_rate'])} ({interval_words(tuple(w['ci']))})" if w else "" for w in by_iteration]
        history.append({"name": name, "rates": rates, "status": last["status"], "recipe": last["recipe"] or ""})
    return history


def cause_table(causes: Mapping[int, Mapping[str, int]]) -> dict[str, Any]:
    """Causes of errors against iterations: ``numbers`` and ``rows`` of (cause, counts), the most frequent first.

    >>> cause_table({1: {"glare": 2}, 2: {"rare": 5}})
    {'numbers': [1, 2], 'rows': [('rare', [0, 5]), ('glare', [2, 0])]}
    """
    numbers = sorted(causes)
    names = {name for counts in causes.values() for name in counts}
    rows = [(name, [causes[number].get(name, 0) for number in numbers]) for name in names]
    return {"numbers": numbers, "rows": sorted(rows, key=lambda row: (-sum(row[1]), row[0]))}


def issue_table(iterations: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[int]]]:
    """Kinds of issues in words, with their number in every iteration, the most frequent first."""
    kinds = {kind for metrics in iterations for kind, count in metrics.get("issues", {}).items() if count}
    words = {kind: issue_words({kind: 1})[0][0] for kind in kinds}
    rows = [(words[kind], [metrics.get("issues", {}).get(kind, 0) for metrics in iterations]) for kind in kinds]
    return sorted(rows, key=lambda row: (-sum(row[1]), row[0]))
