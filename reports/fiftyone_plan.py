"""What is recorded in FiftyOne: plain values in, plain values out, without FiftyOne and without a server (pure).

Names of the dataset, its fields and saved views; what an iteration says of itself; what a sample's document holds, as
MongoDB keeps it. ``reports.fiftyone_recording`` writes it, ``reports.fiftyone_store`` brings it up to date. This
module's import loads neither FiftyOne nor pandas.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curation.credit import credit_words
from curation.issues import LABEL_KINDS
from curation.records import Estimate
from reports.page import audit_lines
from reports.summary import IterationSummary, estimate_words, interval_words, percent, worst_pair

if TYPE_CHECKING:
    import pandas as pd

#: The arrangement in which the App opens, and the panel in it.
WORKSPACE = "curation"
PANEL = "curation_panel"
#: Plots of all images as points: what FiftyOne calls them, and the columns of the table that hold them.
POINTS = {"pictures": ("x", "y"), "pictures_umap": ("umap_x", "umap_y")}
#: How many iterations keep all their fields; of older ones the labels, predictions and evaluation stay.
DETAILED_ITERATIONS = 5
#: What an iteration's fields start with, in the order of the App's sidebar.
PLACES = (
    *("label", "pred", "quality", "issue", "reason", "suggested", "kinds", "verdict", "changed", "disputed"),
    *("slices", "fold", "eval", "holdout"),
)
#: What reviewers change, seen at once whatever iteration is looked at; optional columns of the table.
LIVE = ("review", "cause", "note")
#: The saved view of what reviewers judged.
REVIEWED = "reviewed"
#: What the names of an iteration's saved views begin with, but for those of slices; ``contested`` in older datasets.
VIEWS = (
    *("issues", "changed", "disputed", "confused", "new_errors", "fixed_errors", "holdout_errors"),
    *("holdout_suspects", "conflicts", "duplicates", "contested"),
)
#: A holdout label that the model contradicts with this much confidence is to be looked at.
_SUSPECT = 0.95
_CONFLICTS = ("label_conflict",)
_DUPLICATES = ("near_duplicate", "leak")


def dataset_name(project_name: str, project_id: str) -> str:
    """The dataset's name: readable, safe in an address, and the project's own.

    >>> dataset_name("Solar cells, line 2 <b>", "9f8e7d6c5b4a")
    'solar-cells-line-2-b-9f8e7d6c'
    """
    return f"{_slug(project_name)[:60].strip('-') or 'project'}-{_slug(project_id)[:8]}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def iteration_key(number: int) -> str:
    """What an iteration's fields and views end in.

    >>> iteration_key(3)
    'it03'
    """
    return f"it{number:02d}"


def iteration_facts(summary: IterationSummary) -> dict[str, Any]:
    """What the dataset and its panel say about an iteration, as JSON values in words for people."""
    row = next((row for row in summary.rows if row.number == summary.number), None)
    pair = worst_pair(summary)
    return {
        "number": summary.number,
        "key": iteration_key(summary.number),
        "project": summary.project,
        "classes": list(summary.classes),
        "accuracy": estimate_words(summary.metrics.accuracy if summary.metrics else None),
        "gain": " ".join(
            words
            for words in (
                summary.gain.words if summary.gain else "",
                credit_words(summary.credits) if summary.credits else "",
            )
            if words
        ),
        "reviewed": summary.labels_reviewed,
        "changed": summary.labels_changed,
        "contested": summary.contested,
        "still_wrong": row.still_wrong if row else None,
        "issues": dict(summary.issues),
        "point": _point(summary.metrics.accuracy if summary.metrics else None),
        "audit": [list(line) for line in audit_lines(summary)],
        "advice": list(summary.advice),
        "confused": list(pair) if pair else None,
        "slices": [
            {
                "name": card.slice.name,
                "words": card.words,
                "size": card.slice.size,
                "error": percent(card.slice.error_rate),
                "interval": interval_words(card.slice.ci),
                "rest": percent(card.slice.rest_error_rate),
                "status": card.slice.status,
                "recipe": card.recipe_words or card.slice.recipe or "",
                "preview": card.preview is not None,
                "before": estimate_words(card.before, ""),
                "after": estimate_words(card.after, ""),
            }
            for card in summary.slices
        ],
    }


def _point(estimate: Estimate | None) -> list[float] | None:
    """A figure with its interval, for a curve: value, low, high."""
    return None if estimate is None else [estimate.value, *(estimate.ci or (estimate.value, estimate.value))]


def field_names(columns: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A FiftyOne field for each metadata or property column; awkward characters become ``_``, none is shared.

    >>> field_names(["meta_Type (mm)", "meta_Type [mm]"])
    {'meta_Type (mm)': 'meta_Type_mm', 'meta_Type [mm]': 'meta_Type_mm_2'}
    """
    used, names = set(taken), {}
    for column in columns:
        base = re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_") or "field"
        name, count = base, 2
        while name in used:
            name, count = f"{base}_{count}", count + 1
        used.add(name)
        names[column] = name
    return names


def sample_rows(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The table's rows in order, each as plain values by column."""
    columns = list(table.columns)
    for values in zip(*(table[column].tolist() for column in columns), strict=True):
        yield dict(zip(columns, values, strict=True))


def iteration_fields(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """What a sample's document says of the image and of an iteration: field to value, as MongoDB keeps it."""
    quality = _number(row["label_quality"])
    return {
        "filepath": str(row["file"]),
        "path": str(row["path"]),
        "split": str(row["split"]),
        "group_name": as_text(row["group"]),
        "metadata": {"_cls": "ImageMetadata", "width": int(row["width"]), "height": int(row["height"])},
        "given": classification(row["given"]),
        f"label_{key}": classification(row["current"]),
        f"pred_{key}": classification(row["prediction"], _number(row["confidence"])),
        f"quality_{key}": None if quality is None else percent_chip(quality),
        f"issue_{key}": _flag(row["issue"]),
        f"kinds_{key}": [kind.strip() for kind in (as_text(row["issue_kinds"]) or "").split(",") if kind.strip()],
        f"reason_{key}": as_text(row["reason"]),
        f"suggested_{key}": as_text(row["suggested"]),
        f"verdict_{key}": as_text(row["verdict"]),
        f"changed_{key}": _flag(row["changed"]),
        f"disputed_{key}": _flag(row.get("disputed")),
        f"fold_{key}": None if is_missing(row["fold"]) else int(row["fold"]),
        f"slices_{key}": [str(name) for name in row["slices"]] if row["slices"] is not None else [],
    }


def live_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a sample's document says of reviewers: ``current`` (class name), ``review``, ``cause``, ``note``."""
    return {"current": classification(row["current"]), **{name: as_text(row[name]) for name in LIVE}}


def percent_chip(quality: float) -> float:
    """Label quality in percent for the App, never a bare 0, which would read as "nothing known".

    >>> percent_chip(0.98765), percent_chip(0.00001)
    (98.77, 0.01)
    """
    return max(round(100 * quality, 2), 0.01)


def classification(name: Any, confidence: float | None = None) -> dict[str, Any] | None:
    """A class by name as FiftyOne keeps a label; ``None`` where there is no class."""
    from bson import ObjectId

    if is_missing(name) or name == "":
        return None
    known = {} if confidence is None else {"confidence": confidence}
    return {"_id": ObjectId(), "_cls": "Classification", "tags": [], "label": str(name), **known}


def is_missing(value: Any) -> bool:
    """Whether a cell of a table holds nothing: ``None``, pandas' own, or no finite number."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float) and not math.isfinite(value)
    )  # fmt: skip


def as_text(value: Any) -> str | None:
    """A cell of a table as text; ``None`` where it holds nothing or is empty."""
    return None if is_missing(value) or value == "" else str(value)


def _number(value: Any) -> float | None:
    return None if is_missing(value) else float(value)


def _flag(value: Any) -> bool:
    return not is_missing(value) and bool(value)


@dataclass(frozen=True)
class ViewPlan:
    """A saved view to make: its name, what it shows in words, a MongoDB match, and the order."""

    name: str
    words: str
    match: Mapping[str, Any]
    order: str = ""
    descending: bool = False
    always: bool = False
    color: str | None = None


def plan_views(facts: Mapping[str, Any]) -> list[ViewPlan]:
    """The saved views of an iteration in the order that a reviewer works: issues, changes, slices, errors.

    >>> [plan.name for plan in plan_views({"key": "it01", "number": 1, "slices": [{"name": "wafer = poly"}]})]
    ... # doctest: +NORMALIZE_WHITESPACE
    ['issues_it01', 'changed_it01', 'disputed_it01', 'slice_it01_1: wafer = poly', 'new_errors_it01',
     'fixed_errors_it01', 'holdout_errors_it01', 'holdout_suspects_it01', 'conflicts_it01', 'duplicates_it01']
    """
    key, number = facts["key"], facts["number"]
    right, was_right = f"eval_{key}", f"eval_{iteration_key(number - 1)}"
    quality, pred, confidence = f"quality_{key}", f"pred_{key}", f"pred_{key}.confidence"
    plans = [
        ViewPlan(f"issues_{key}", f"Iteration {number}: labels that look wrong, worst first",
                 {f"issue_{key}": True, f"changed_{key}": {"$ne": True}, "review": None}, quality, always=True,
                 color="#d1495b"),
        ViewPlan(f"changed_{key}", f"Iteration {number}: labels that people changed",
                 {f"changed_{key}": True}, quality, always=True, color="#2e8b57"),
        ViewPlan(f"disputed_{key}", f"Iteration {number}: images on which people disagree",
                 {f"disputed_{key}": True, "review": None}, quality, color="#2e8b57"),
    ]  # fmt: skip
    plans += [
        ViewPlan(slice_view_name(key, position, weak["name"]), f"Iteration {number}: weak slice, {weak['name']}",
                 {f"slices_{key}": weak["name"]}, quality, color="#e08e1b")
        for position, weak in enumerate(facts["slices"], start=1)
    ]  # fmt: skip
    if facts.get("confused"):
        labeled, predicted, _ = facts["confused"]
        plans.append(
            ViewPlan(f"confused_{key}", f"Iteration {number}: labeled {labeled}, predicted {predicted}",
                     {f"label_{key}.label": labeled, f"{pred}.label": predicted}, confidence, descending=True,
                     color="#3d6fb6")
        )  # fmt: skip
    suspect = [{f"kinds_{key}": {"$in": ["leak", *LABEL_KINDS]}}, {right: False, confidence: {"$gte": _SUSPECT}}]
    plans += [
        ViewPlan(f"new_errors_{key}", f"Iteration {number}: right before, wrong now",
                 {right: False, was_right: True}, confidence, descending=True, color="#3d6fb6"),
        ViewPlan(f"fixed_errors_{key}", f"Iteration {number}: wrong before, right now",
                 {right: True, was_right: False}, confidence, descending=True, color="#3d6fb6"),
        ViewPlan(f"holdout_errors_{key}", f"Iteration {number}: errors on the holdout, most confident first",
                 {"split": "holdout", right: False}, confidence, descending=True, color="#3d6fb6"),
        ViewPlan(f"holdout_suspects_{key}", f"Iteration {number}: holdout labels to doubt",
                 {"split": "holdout", "$or": suspect}, confidence, descending=True, color="#3d6fb6"),
        ViewPlan(f"conflicts_{key}", f"Iteration {number}: the same picture with different labels",
                 {f"kinds_{key}": {"$in": list(_CONFLICTS)}}, quality, color="#7b5ea7"),
        ViewPlan(f"duplicates_{key}", f"Iteration {number}: the same or nearly the same picture twice",
                 {f"kinds_{key}": {"$in": list(_DUPLICATES)}}, quality, color="#7b5ea7"),
    ]  # fmt: skip
    return plans


def slice_view_name(key: str, position: int, name: str) -> str:
    """The name of a slice's saved view: unique by its number, readable by its name."""
    words = re.sub(r"\s+", " ", name).strip()
    return f"slice_{key}_{position}: {words}"[:80].strip()


def view_number(name: str) -> float:
    """The iteration that a saved view of ours belongs to; infinite for a view that a person made.

    >>> view_number("slice_it12_1: x"), view_number("to_discuss_it12")
    (12.0, inf)
    """
    ours = re.search(rf"^(?:(?:{'|'.join(VIEWS)})_it(\d+)|slice_it(\d+)_\d+:.*)$", name, re.DOTALL)
    return float(ours[1] or ours[2]) if ours else math.inf


def view_slug(name: str) -> str:
    """What stands for a saved view in the App's addresses; FiftyOne takes no two of one dataset that share it.

    >>> view_slug("Issues  it04 (mine?)")
    'issues-it04-mine'
    """
    kept = re.sub(r"[^a-z0-9\s+_.-]", "", name.lower())
    return re.sub(r"[\s+_.-]+", "-", kept).strip("-")


def make_way(wanted: str, there: Sequence[str]) -> dict[str, str]:
    """New names for views that stand in the way of one called ``wanted``: their own, and "own" with a number.

    >>> make_way("issues_it04", ["Issues it04", "Issues it04 own 1", "mine"])
    {'Issues it04': 'Issues it04 own 2'}
    """
    taken = {view_slug(name) for name in there}
    found = {}
    for name in there:
        if name != wanted and view_slug(name) == view_slug(wanted):
            numbered = (f"{name} own {number}" for number in itertools.count(1))
            found[name] = next(other for other in numbered if view_slug(other) not in taken)
            taken.add(view_slug(found[name]))
    return found


def detail_to_forget(fields: Iterable[str], numbers: Iterable[int], keep: int = DETAILED_ITERATIONS) -> list[str]:
    """Fields of iterations older than the newest ``keep``; labels, predictions and evaluations stay.

    >>> detail_to_forget(["pred_it00", "quality_it00", "quality_it01"], [0, 1], keep=1)
    ['quality_it00']
    """
    old = [iteration_key(number) for number in sorted(numbers)[:-keep]]
    forgotten = {
        f"{start}_{key}" for key in old for start in PLACES if start not in ("label", "pred", "eval", "holdout")
    }
    return [field for field in fields if field in forgotten]


def macro_figures(labels: Sequence[str], predictions: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Figures in which every class that occurs among the labels counts alike, as the Model Evaluation panel takes them.

    FiftyOne's own precision, recall and F1 are over all images together, and so the same figure as the accuracy.

    >>> [told["value"] for told in macro_figures(["a", "a", "a", "b"], ["a", "a", "b", "b"]).values()]
    [0.8333333333333333, 0.7333333333333334]
    """
    has, says = Counter(labels), Counter(predictions)
    right = Counter(label for label, said in zip(labels, predictions, strict=True) if label == said)
    recalls = [right[name] / has[name] for name in has]
    f1s = [2 * right[name] / (has[name] + says[name]) for name in has]
    means = {"balanced_accuracy": ("Balanced accuracy", recalls), "macro_f1": ("Macro F1-score", f1s)}
    return {
        f"@curation-toolkit/curation/{key}": {
            "key": key, "label": words, "value": sum(each) / len(each), "lower_is_better": False,
        }
        for key, (words, each) in means.items()
    }  # fmt: skip
