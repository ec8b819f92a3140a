"""The one door to FiftyOne: record an iteration in the project's dataset, for reviewers to explore in the App.

One persistent dataset a project, one FiftyOne sample a sample (field ``uid``). An iteration adds its own fields
(``pred_it03``, ``quality_it03``, ...), an evaluation, and saved views in the order that a reviewer works; recording
it again replaces it. The dataset is a view of the ledger: it can be dropped and written again.

FiftyOne reads the database's address once a process and takes seconds to import, so the writing runs in a process of
its own (``python -m reports.fiftyone_store record ...``). It hands over through a folder: ``table.parquet``,
``facts.json``, ``result.json``. This module's import loads neither FiftyOne nor pandas.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.credit import credit_words
from curation.errors import DatabaseError, RecordError
from curation.issues import LABEL_KINDS
from curation.records import Estimate
from curation.runs import write_json
from reports.mongo import Mongo
from reports.page import audit_lines
from reports.summary import IterationSummary, estimate_words, interval_words, percent, worst_pair

if TYPE_CHECKING:
    import pandas as pd

PLUGINS_FOLDER = Path(__file__).resolve().parent / "fiftyone_plugin"
WORKSPACE = "curation"
PANEL = "curation_panel"
#: Plots of all images as points: what FiftyOne calls them, and the columns of the table that hold them.
POINTS = {"pictures": ("x", "y"), "pictures_umap": ("umap_x", "umap_y")}
#: How many iterations keep all their fields; of older ones the labels, predictions and evaluation stay.
DETAILED_ITERATIONS = 5

_COLUMNS = (
    *("sample_id", "path", "file", "split", "group", "width", "height", "current", "given", "prediction"),
    *("confidence", "label_quality", "issue", "issue_kinds", "reason", "suggested", "verdict", "changed"),
    *("fold", "slices"),
)
#: What an iteration's fields start with, in the order of the App's sidebar.
_PLACES = (
    *("label", "pred", "quality", "issue", "reason", "suggested", "kinds", "verdict", "changed", "disputed"),
    *("slices", "fold", "eval", "holdout"),
)
#: What reviewers change, seen at once whatever iteration is looked at; optional columns of the table.
LIVE = ("review", "cause", "note")
REVIEWED = "reviewed"
#: A holdout label that the model contradicts with this much confidence is to be looked at.
_SUSPECT = 0.95
_CONFLICTS = ("label_conflict",)
_DUPLICATES = ("exact_duplicate", "near_duplicate", "leak")


class FiftyOneReporter:
    """Records iterations in FiftyOne. ``home`` is the folder of the project's MongoDB (``reports.mongo.Mongo``)."""

    def __init__(self, home: Path, project_name: str, project_id: str) -> None:
        self.mongo = Mongo(home)
        self._dataset = dataset_name(project_name, project_id)

    def open_dataset_name(self) -> str:
        """The name of the project's dataset, as the App shows it."""
        return self._dataset

    def record(self, summary: IterationSummary, table: pd.DataFrame) -> dict[str, Any]:
        """Write one iteration, in place of an earlier one with its number; starts the database if need be.

        ``table`` has a row a sample: ``sample_id, path, file, split, group, width, height, current, given,
        prediction, confidence, label_quality, issue, issue_kinds, reason, suggested, verdict, changed, fold, slices``
        (classes by name; ``label_quality`` in [0, 1] or missing; ``issue_kinds`` comma separated; ``slices`` a list
        of names), any ``meta_*`` and ``prop_*`` columns, and optionally ``disputed`` (people disagree), ``now`` (the
        label at this moment), what reviewers said (``review, cause, note``) and points ``x, y``, ``umap_x,
        umap_y``. Returns ``dataset``, ``iteration``, ``samples``, ``added``, ``views`` (saved views in order) and
        ``seconds``.

        Raises RecordError for a missing column or a repeated sample, DatabaseError where the writing fails.
        """
        _check(table)
        started = time.monotonic()
        uri = self.mongo.start()
        self._note(self.recorded() - {summary.number})
        with tempfile.TemporaryDirectory(prefix="curation-fiftyone-") as folder:
            table.reset_index(drop=True).to_parquet(Path(folder, "table.parquet"))
            Path(folder, "facts.json").write_text(json.dumps(iteration_facts(summary)), encoding="utf-8")
            _write_apart(uri, self._dataset, Path(folder), self.mongo.home / "record.lock")
            result: dict[str, Any] = json.loads(Path(folder, "result.json").read_text(encoding="utf-8"))
        self._note(self.recorded() | {summary.number})
        return {"dataset": self._dataset, **result, "seconds": time.monotonic() - started}

    def refresh(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Bring what reviewers change up to the ledger, as ``live_fields`` takes it; the database must be running.

        It takes no FiftyOne, so it is done in a second. Nothing happens where nothing is recorded yet.
        """
        with self._opened() as (_, samples):
            if samples is not None:
                write_live(samples, changed_live(samples, rows))

    def whole(self) -> frozenset[int]:
        """Which iterations the database really holds whole, asked of it in a second; it is started if need be.

        Less than ``recorded`` where files of the database were lost, or samples are gone from the dataset.
        """
        with self._opened() as (stored, samples):
            told = self.recorded()
            if samples is None:
                return frozenset()
            entries = [e for e in stored.get("info", {}).get("iterations", {}).values() if e.get("complete")]
            there = samples.count_documents({})
            return frozenset(e["number"] for e in entries if e["number"] in told and e.get("samples", 0) <= there)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """The dataset's document and its collection of samples, by the driver alone; ``None`` where it is not there."""
        from pymongo import MongoClient
        from pymongo.errors import PyMongoError

        client: MongoClient[Any]
        try:
            with MongoClient(self.mongo.start()) as client:
                database: Any = client[os.environ.get("FIFTYONE_DATABASE_NAME", "fiftyone")]
                stored = database["datasets"].find_one(
                    {"name": self._dataset}, {"sample_collection_name": 1, "info": 1}
                )
                yield stored or {}, database[stored["sample_collection_name"]] if stored else None
        except PyMongoError as error:
            gist = str(error).partition(", Timeout:")[0]
            raise DatabaseError(
                f"FiftyOne's database does not answer: {gist}; look whether it runs, or unset FIFTYONE_DATABASE_URI "
                "to use the project's own"
            ) from error

    def recorded(self) -> frozenset[int]:
        """Which iterations this database holds whole; one whose writing was cut short is not among them."""
        file = self.mongo.notes_file()
        try:
            return frozenset(json.loads(file.read_text(encoding="utf-8"))[self._dataset]) if file else frozenset()
        except (OSError, ValueError, KeyError, TypeError):
            return frozenset()  # what is not known to be there is written again

    def _note(self, numbers: Iterable[int]) -> None:
        file = self.mongo.notes_file()
        if file:
            write_json(file, {self._dataset: sorted(numbers)})

    def stop(self) -> None:
        """End the project's database, where it is ours."""
        self.mongo.stop()


def _check(table: pd.DataFrame) -> None:
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise RecordError(f"the table for FiftyOne lacks the columns {missing}; each of {list(_COLUMNS)} is needed")
    repeated = table["sample_id"][table["sample_id"].duplicated()]
    if len(repeated):
        raise RecordError(f"the table for FiftyOne must hold each sample once, but '{repeated.iloc[0]}' is repeated")


def environment(uri: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a FiftyOne process of ours: which database, which plugins, no tracking, no bars.

    The database's address is handed over here and never on a command line, which every user of the machine can read.
    """
    own = dict(os.environ if environ is None else environ)
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *(path for path in own.get("PYTHONPATH", "").split(os.pathsep) if path and path != root)]
    return own | {
        "FIFTYONE_DATABASE_URI": uri,
        "FIFTYONE_DATABASE_VALIDATION": "false",
        "FIFTYONE_DO_NOT_TRACK": "1",
        "FIFTYONE_PLUGINS_DIR": str(PLUGINS_FOLDER),
        "FIFTYONE_PLUGINS_CACHE_ENABLED": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _write_apart(uri: str, dataset: str, folder: Path, lock: Path) -> None:
    command = [sys.executable, "-m", "reports.fiftyone_store", "record"]
    answer = subprocess.run(
        [*command, "--dataset", dataset, "--input", str(folder), "--lock", str(lock)],
        env=environment(uri),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if answer.returncode:
        gist = error_gist(answer.stderr)
        raise DatabaseError(
            f"FiftyOne did not take the iteration into dataset '{dataset}': {gist}; "
            "`curate review` records what is missing; or set report.fiftyone = false in curation.toml"
        )


def error_gist(stderr: str) -> str:
    """The one line of a failed process that says why: the last of its traceback.

    >>> error_gist("Traceback (most recent call last):\\n  File ...\\nValueError: no such field\\n")
    'ValueError: no such field'
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Timeout|Interrupt)\b", line)]
    return (told or lines or ["it said nothing"])[-1][:500]


# --- What to record: plain values in, plain values out -----------------------------------------------------------


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


def live_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a sample's document says of reviewers: ``current`` (class name), ``review``, ``cause``, ``note``."""
    return {"current": _classification(row["current"]), **{name: _text(row[name]) for name in LIVE}}


def write_live(collection: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write what reviewers changed into a MongoDB collection of samples; each row has ``sample_id`` besides."""
    from pymongo import UpdateOne

    now = datetime.now(UTC)
    updates = [
        UpdateOne({"uid": row["sample_id"]}, {"$set": live_fields(row) | {"last_modified_at": now}}) for row in rows
    ]
    if updates:
        collection.bulk_write(updates, ordered=False)


def changed_live(collection: Any, rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those rows, as ``write_live`` takes them, of which the collection says something else."""
    asked = {"_id": 0, "uid": 1, "current.label": 1, **dict.fromkeys(LIVE, 1)}
    stored = {
        told["uid"]: ((told.get("current") or {}).get("label"), *(told.get(name) for name in LIVE))
        for told in collection.find({}, asked)
    }
    said = [(row, (_text(row["current"]), *(_text(row[name]) for name in LIVE))) for row in rows]
    return [row for row, values in said if stored.get(row["sample_id"], values) != values]


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
                 {f"issue_{key}": True, "review": None}, quality, always=True, color="#d1495b"),
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


def detail_to_forget(fields: Iterable[str], numbers: Iterable[int], keep: int = DETAILED_ITERATIONS) -> list[str]:
    """Fields of iterations older than the newest ``keep``; labels, predictions and evaluations stay.

    >>> detail_to_forget(["pred_it00", "quality_it00", "quality_it01"], [0, 1], keep=1)
    ['quality_it00']
    """
    old = [iteration_key(number) for number in sorted(numbers)[:-keep]]
    forgotten = {
        f"{start}_{key}" for key in old for start in _PLACES if start not in ("label", "pred", "eval", "holdout")
    }
    return [field for field in fields if field in forgotten]


# --- Inside the process of its own: FiftyOne is imported from here on --------------------------------------------


def _record(dataset_name: str, folder: Path) -> dict[str, Any]:
    import fiftyone as fo
    import pandas as pd

    table = pd.read_parquet(folder / "table.parquet")
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    exists = fo.dataset_exists(dataset_name)
    dataset = fo.load_dataset(dataset_name) if exists else fo.Dataset(dataset_name, persistent=True)
    _mark(dataset, facts, complete=False)
    before = dataset.count()
    known = _prepare_samples(dataset, table)
    extra = field_names([c for c in table.columns if c.startswith(("meta_", "prop_"))], _FIXED_FIELDS)
    _declare_fields(dataset, facts["key"], table, extra)
    _write_fields(dataset, facts, table, extra, known)
    added = dataset.count() - before
    _evaluate(dataset, facts["key"], facts["classes"])
    _set_points(dataset, table)
    views = _save_views(dataset, facts)
    _forget_detail(dataset)
    _arrange_app(dataset, facts["key"], sorted(extra.values()))
    _mark(dataset, facts | {"views": views, "samples": len(table)}, complete=True)  # last: no transaction spans this
    return {"iteration": facts["number"], "samples": len(table), "added": added, "views": [v["name"] for v in views]}


_FIXED_FIELDS = (
    *("id", "filepath", "tags", "metadata", "uid", "path", "split", "group_name", "given", "current"),
    *LIVE,
)


def _mark(dataset: Any, facts: Mapping[str, Any], complete: bool) -> None:
    iterations = dict(dataset.info.get("iterations", {}))
    iterations[facts["key"]] = {**facts, "complete": complete, "recorded_at": datetime.now(UTC).isoformat()}
    dataset.info["iterations"] = dict(sorted(iterations.items(), key=lambda entry: entry[1]["number"]))
    dataset.info["project"] = facts["project"]
    dataset.save()


def _prepare_samples(dataset: Any, table: pd.DataFrame) -> set[str]:
    """Make sure that samples can be written by their id; the ids of those that are there. The first comes in here.

    FiftyOne's own way of adding samples takes four times as long as a bulk write, but it has to see one of them.
    """
    import fiftyone as fo

    if not dataset.has_sample_field("uid"):
        dataset.add_sample_field("uid", fo.StringField)
    if "uid" not in dataset.list_indexes():
        dataset.create_index("uid", unique=True)
    known = set(dataset.values("uid"))
    if not known and len(table):
        first = table.iloc[0]
        dataset.add_samples([fo.Sample(filepath=first["file"], uid=first["sample_id"])], validate=False, progress=False)
        known.add(first["sample_id"])
    return known


def _declare_fields(dataset: Any, key: str, table: pd.DataFrame, extra: Mapping[str, str]) -> None:
    import fiftyone as fo

    plain: dict[str, Any] = {}
    label = (fo.EmbeddedDocumentField, {"embedded_doc_type": fo.Classification})
    text, number, flag = (fo.StringField, plain), (fo.FloatField, plain), (fo.BooleanField, plain)
    texts, whole = (fo.ListField, {"subfield": fo.StringField}), (fo.IntField, plain)
    wanted: dict[str, tuple[Any, dict[str, Any]]] = {
        **dict.fromkeys(("path", "split", "group_name", *LIVE), text),
        **dict.fromkeys(("current", "given", f"label_{key}", f"pred_{key}"), label),
        f"quality_{key}": number,
        **dict.fromkeys((f"issue_{key}", f"changed_{key}", f"disputed_{key}"), flag),
        **dict.fromkeys((f"reason_{key}", f"suggested_{key}", f"verdict_{key}"), text),
        **dict.fromkeys((f"kinds_{key}", f"slices_{key}"), texts),
        f"fold_{key}": whole,
    }
    kinds = {"text": text, "number": number, "flag": flag, "whole": whole}
    wanted |= {name: kinds[_kind(table[column])] for column, name in extra.items()}
    schema = dataset.get_field_schema()
    for name, (kind, options) in wanted.items():
        if name in schema and not isinstance(schema[name], kind):
            dataset.delete_sample_field(name)  # a metadata column whose type has changed; all its values come anew
            del schema[name]
        if name not in schema:
            dataset.add_sample_field(name, kind, **options)


def _kind(column: pd.Series[Any]) -> str:
    from pandas.api import types

    if types.is_bool_dtype(column):
        return "flag"
    if types.is_integer_dtype(column):
        return "whole"
    return "number" if types.is_numeric_dtype(column) else "text"


def _write_fields(
    dataset: Any, facts: Mapping[str, Any], table: pd.DataFrame, extra: Mapping[str, str], known: Collection[str]
) -> None:
    """One bulk write for everything, new samples too: several times faster than FiftyOne's own setters."""
    from fiftyone.core.odm import get_db_conn
    from pymongo import InsertOne, UpdateOne

    newest = max(entry["number"] for entry in dataset.info["iterations"].values())
    casts: dict[str, Callable[[Any], Any]] = {"flag": bool, "whole": int, "number": float, "text": str}
    makers = {column: casts[_kind(table[column])] for column in extra}
    now, dice = datetime.now(UTC), random.Random(facts["key"])
    born = {"_media_type": "image", "_dataset_id": dataset._doc.id, "tags": [], "created_at": now}
    updates: list[Any] = []
    for row in _rows(table):
        fields = _iteration_fields(row, facts["key"]) | {"last_modified_at": now}
        fields |= {
            extra[column]: None if _missing(row[column]) else make(row[column]) for column, make in makers.items()
        }
        if "now" in row:
            fields["current"] = _classification(row["now"])
        elif facts["number"] == newest:
            fields["current"] = _classification(row["current"])
        fields |= {name: _text(row[name]) for name in LIVE if name in row}
        if row["sample_id"] in known:
            updates.append(UpdateOne({"uid": row["sample_id"]}, {"$set": fields}))
        else:
            updates.append(InsertOne({"_rand": dice.random(), "uid": row["sample_id"], **born, **fields}))
    if updates:
        get_db_conn()[dataset._sample_collection_name].bulk_write(updates, ordered=False)
    dataset.reload()


def _rows(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    columns = list(table.columns)
    for values in zip(*(table[column].tolist() for column in columns), strict=True):
        yield dict(zip(columns, values, strict=True))


def _iteration_fields(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    quality = _number(row["label_quality"])
    return {
        "filepath": str(row["file"]),
        "path": str(row["path"]),
        "split": str(row["split"]),
        "group_name": _text(row["group"]),
        "metadata": {"_cls": "ImageMetadata", "width": int(row["width"]), "height": int(row["height"])},
        "given": _classification(row["given"]),
        f"label_{key}": _classification(row["current"]),
        f"pred_{key}": _classification(row["prediction"], _number(row["confidence"])),
        f"quality_{key}": None if quality is None else percent_chip(quality),
        f"issue_{key}": _flag(row["issue"]),
        f"kinds_{key}": [kind.strip() for kind in (_text(row["issue_kinds"]) or "").split(",") if kind.strip()],
        f"reason_{key}": _text(row["reason"]),
        f"suggested_{key}": _text(row["suggested"]),
        f"verdict_{key}": _text(row["verdict"]),
        f"changed_{key}": _flag(row["changed"]),
        f"disputed_{key}": _flag(row.get("disputed")),
        f"fold_{key}": None if _missing(row["fold"]) else int(row["fold"]),
        f"slices_{key}": [str(name) for name in row["slices"]] if row["slices"] is not None else [],
    }


def percent_chip(quality: float) -> float:
    """Label quality in percent for the App, never a bare 0, which would read as "nothing known".

    >>> percent_chip(0.98765), percent_chip(0.00001)
    (98.77, 0.01)
    """
    return max(round(100 * quality, 2), 0.01)


def _classification(name: Any, confidence: float | None = None) -> dict[str, Any] | None:
    from bson import ObjectId

    if _missing(name) or name == "":
        return None
    known = {} if confidence is None else {"confidence": confidence}
    return {"_id": ObjectId(), "_cls": "Classification", "tags": [], "label": str(name), **known}


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (
        isinstance(value, float) and not math.isfinite(value)
    )  # fmt: skip


def _text(value: Any) -> str | None:
    return None if _missing(value) or value == "" else str(value)


def _number(value: Any) -> float | None:
    return None if _missing(value) else float(value)


def _flag(value: Any) -> bool:
    return not _missing(value) and bool(value)


def _evaluate(dataset: Any, key: str, classes: Sequence[str]) -> None:
    """Two evaluations: of all judged images, and of the holdout alone, whose rows are the same in every iteration."""
    judged = dataset.exists(f"label_{key}").exists(f"pred_{key}")
    for name, view in ((f"eval_{key}", judged), (f"holdout_{key}", judged.match({"split": "holdout"}))):
        if name in dataset.list_evaluations():
            dataset.delete_evaluation(name)
        if view.count():
            results = view.evaluate_classifications(
                f"pred_{key}", gt_field=f"label_{key}", eval_key=name, classes=list(classes), progress=False
            )
            results.custom_metrics = macro_figures(results.ytrue, results.ypred)
            results.save()


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


def _set_points(dataset: Any, table: pd.DataFrame) -> None:
    """The images as points, in every way that the table has columns for."""
    import fiftyone.brain as fob

    for name, (x, y) in POINTS.items():
        if not {x, y} <= set(table.columns):
            continue
        placed = table[table[[x, y]].notna().all(axis=1)].set_index("sample_id")[[x, y]]
        if dataset.has_brain_run(name):
            dataset.delete_brain_run(name)
        if len(placed):
            view = dataset.match({"uid": {"$in": list(placed.index)}})
            points = placed.loc[view.values("uid")].to_numpy(dtype=float)
            fob.compute_visualization(view, points=points, brain_key=name, method="manual", progress=False)


def _save_views(dataset: Any, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the iteration's views anew, so that they stand in working order; those with nothing to show are left out."""
    for name in dataset.list_saved_views():
        if view_number(name) == facts["number"]:
            dataset.delete_saved_view(name)
    schema = dataset.get_field_schema()
    saved = []
    for plan in plan_views(facts):
        if not all(name.split(".")[0] in schema for name in plan.match if not name.startswith("$")):
            continue
        view = dataset.match(dict(plan.match))
        count = view.count()
        if count or plan.always:
            ordered = view.sort_by(plan.order, reverse=plan.descending) if plan.order else view
            dataset.save_view(plan.name, ordered, description=plan.words, color=plan.color)
            saved.append({"name": plan.name, "words": plan.words, "count": count})
    by_reviewers = dataset.match({"review": {"$ne": None}}).sort_by("last_modified_at", reverse=True)
    dataset.save_view(REVIEWED, by_reviewers, description="What reviewers judged, last first", overwrite=True)
    _newest_views_first(dataset)
    return saved


def _newest_views_first(dataset: Any) -> None:
    """The App lists saved views as stored: a person's own first, then ours, each iteration's in its order."""
    stored = dataset._doc.saved_views  # no public way to order them
    stored.sort(key=lambda view: -view_number(view.name))
    dataset._doc.save()


def view_number(name: str) -> float:
    """The iteration that a saved view of ours belongs to; infinite for a view that a person made.

    >>> view_number("slice_it12_1: x"), view_number("my_it12_view")
    (12.0, inf)
    """
    ours = re.search(r"^[a-z_]+_it(\d+)(_\d+:.*)?$", name, re.DOTALL)
    return float(ours[1]) if ours else math.inf


def _forget_detail(dataset: Any) -> None:
    numbers = [entry["number"] for entry in dataset.info["iterations"].values()]
    forget = detail_to_forget(dataset.get_field_schema(), numbers, DETAILED_ITERATIONS)
    if not forget:
        return
    dataset.delete_sample_fields(forget)
    gone = {name.rpartition("_")[2] for name in forget}
    forgotten = {float(key.removeprefix("it")) for key in gone}
    for view in dataset.list_saved_views():
        if view_number(view) in forgotten:
            dataset.delete_saved_view(view)
    iterations = dict(dataset.info["iterations"])
    for key in gone & set(iterations):
        iterations[key] = {**iterations[key], "views": []}
    dataset.info["iterations"] = iterations


def _arrange_app(dataset: Any, key: str, extra: Sequence[str]) -> None:
    """Three chips a picture, this iteration's fields on top, older iterations folded; opens on pictures + panel."""
    import fiftyone as fo

    fields = list(dataset.get_field_schema())
    newest = max(dataset.info["iterations"].values(), key=lambda entry: entry["number"])["key"]
    shown = [name for name in (f"label_{newest}", f"pred_{newest}", f"quality_{newest}") if name in fields]
    groups = [fo.SidebarGroupDocument(name="tags", paths=[], expanded=False)]
    for entry in reversed(list(dataset.info["iterations"].values())):
        paths = [f"{start}_{entry['key']}" for start in _PLACES if f"{start}_{entry['key']}" in fields]
        title, is_newest = f"iteration {entry['number']}", entry["key"] == newest
        groups.append(fo.SidebarGroupDocument(name=title, paths=paths, expanded=is_newest))
    rest = [name for name in ("current", *LIVE, "given", "split", "group_name", "path") if name in fields]
    groups.append(fo.SidebarGroupDocument(name="image", paths=rest, expanded=True))
    for title, start in (("your columns", "meta_"), ("measured", "prop_")):
        if own := [name for name in extra if name.startswith(start)]:
            groups.append(fo.SidebarGroupDocument(name=title, paths=own, expanded=False))
    sizes = ["metadata.width", "metadata.height", "metadata.size_bytes", "metadata.mime_type", "metadata.num_channels"]
    groups.append(fo.SidebarGroupDocument(name="metadata", paths=sizes, expanded=False))
    own_to_fiftyone = ["id", "uid", "filepath", "created_at", "last_modified_at"]
    groups.append(fo.SidebarGroupDocument(name="primitives", paths=own_to_fiftyone, expanded=False))
    dataset.app_config.sidebar_groups = groups
    dataset.app_config.color_scheme = fo.ColorScheme(
        fields=[{"path": f"{start}_{newest}", "fieldColor": color} for start, color in _CHIP_COLORS.items()]
    )
    dataset.app_config.active_fields = fo.ActiveFields(paths=shown)
    dataset.save()
    pictures, panel = fo.Panel(type="Samples", pinned=True), fo.Panel(type=PANEL)
    halves = [fo.Space(children=[part], active_child=part.component_id) for part in (pictures, panel)]
    dataset.save_workspace(
        WORKSPACE,
        fo.Space(orientation="horizontal", children=halves, sizes=[0.6, 0.4]),
        description="Pictures, and the Curation panel beside them",
        overwrite=True,
    )


_CHIP_COLORS = {"label": "#00796b", "pred": "#b3470f", "quality": "#3451b2"}


def main(arguments: Sequence[str] | None = None) -> int:
    """The process of its own; its options are ours alone and may change."""
    parser = argparse.ArgumentParser(prog="python -m reports.fiftyone_store")
    parser.add_argument("action", choices=["record"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    options = parser.parse_args(arguments)
    from filelock import FileLock

    with FileLock(options.lock):  # of two that record at once, one may have outlived the program that began it
        result = _record(options.dataset, options.input)
    (options.input / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
