"""The process that records an iteration: the door by which samples, fields, evaluations and views go into FiftyOne.

``python -m reports.fiftyone_recording record --dataset NAME --input FOLDER --lock FILE``, in the environment of
``reports.fiftyone_store.environment``. The folder holds ``table.parquet`` and ``facts.json``; ``result.json`` comes
beside them. FiftyOne takes seconds to import and is of no use without its database, so it is imported where
something is written.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reports.fiftyone_plan import (
    DETAILED_ITERATIONS,
    LIVE,
    PANEL,
    PLACES,
    POINTS,
    REVIEWED,
    WORKSPACE,
    as_text,
    classification,
    detail_to_forget,
    field_names,
    is_missing,
    iteration_fields,
    macro_figures,
    make_way,
    plan_views,
    sample_rows,
    view_number,
)

if TYPE_CHECKING:
    import pandas as pd

_FIXED_FIELDS = (
    *("id", "filepath", "tags", "metadata", "uid", "path", "split", "group_name", "given", "current"),
    *LIVE,
)
_CHIP_COLORS = {"label": "#00796b", "pred": "#b3470f", "quality": "#3451b2"}


def record(dataset_name: str, folder: Path) -> dict[str, Any]:
    """Write the iteration that lies in the folder, in place of an earlier one with its number; what came of it.

    ``iteration``, ``samples``, ``added`` and ``views`` (saved views in order), as JSON values.
    """
    import fiftyone as fo
    import pandas as pd

    table = pd.read_parquet(folder / "table.parquet")
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    exists = fo.dataset_exists(dataset_name)
    dataset = fo.load_dataset(dataset_name) if exists else fo.Dataset(dataset_name, persistent=True)
    mark_iteration(dataset, facts, complete=False)
    before = dataset.count()
    known = prepare_samples(dataset, table)
    extra = field_names([c for c in table.columns if c.startswith(("meta_", "prop_"))], _FIXED_FIELDS)
    declare_fields(dataset, facts["key"], table, extra)
    write_fields(dataset, facts, table, extra, known)
    added = dataset.count() - before
    evaluate(dataset, facts["key"], facts["classes"])
    _set_points(dataset, table)
    views = _save_views(dataset, facts)
    _forget_detail(dataset)
    _arrange_app(dataset, facts["key"], sorted(extra.values()))
    # Last: no transaction spans this.
    mark_iteration(dataset, facts | {"views": views, "samples": len(table)}, complete=True)
    return {"iteration": facts["number"], "samples": len(table), "added": added, "views": [v["name"] for v in views]}


def mark_iteration(dataset: Any, facts: Mapping[str, Any], complete: bool) -> None:
    """Note in the dataset what an iteration says of itself, and whether it is there whole."""
    iterations = dict(dataset.info.get("iterations", {}))
    iterations[facts["key"]] = {**facts, "complete": complete, "recorded_at": datetime.now(UTC).isoformat()}
    dataset.info["iterations"] = dict(sorted(iterations.items(), key=lambda entry: entry[1]["number"]))
    dataset.info["project"] = facts["project"]
    dataset.save()


def prepare_samples(dataset: Any, table: pd.DataFrame) -> set[str]:
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


def declare_fields(dataset: Any, key: str, table: pd.DataFrame, extra: Mapping[str, str]) -> None:
    """Give the dataset every field of an iteration with its type; ``extra``: a field for each column of people's own.

    A field whose type has changed is emptied.
    """
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


def write_fields(
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
    for row in sample_rows(table):
        fields = iteration_fields(row, facts["key"]) | {"last_modified_at": now}
        fields |= {
            extra[column]: None if is_missing(row[column]) else make(row[column]) for column, make in makers.items()
        }
        if "now" in row:
            fields["current"] = classification(row["now"])
        elif facts["number"] == newest:
            fields["current"] = classification(row["current"])
        fields |= {name: as_text(row[name]) for name in LIVE if name in row}
        if row["sample_id"] in known:
            updates.append(UpdateOne({"uid": row["sample_id"]}, {"$set": fields}))
        else:
            updates.append(InsertOne({"_rand": dice.random(), "uid": row["sample_id"], **born, **fields}))
    if updates:
        get_db_conn()[dataset._sample_collection_name].bulk_write(updates, ordered=False)
    dataset.reload()


def evaluate(dataset: Any, key: str, classes: Sequence[str]) -> None:
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
            _save_view(dataset, plan.name, ordered, description=plan.words, color=plan.color)
            saved.append({"name": plan.name, "words": plan.words, "count": count})
    by_reviewers = dataset.match({"review": {"$ne": None}}).sort_by("last_modified_at", reverse=True)
    _save_view(dataset, REVIEWED, by_reviewers, description="What reviewers judged, last first")
    _newest_views_first(dataset)
    return saved


def _save_view(dataset: Any, name: str, view: Any, **about: str | None) -> None:
    """What a person made that has our view's address, and not its name, is renamed; FiftyOne would refuse ours."""
    for theirs, renamed in make_way(name, dataset.list_saved_views()).items():
        dataset.update_saved_view_info(theirs, {"name": renamed})
    dataset.save_view(name, view, overwrite=True, **about)


def _newest_views_first(dataset: Any) -> None:
    """The App lists saved views as stored: a person's own first, then ours, each iteration's in its order."""
    stored = dataset._doc.saved_views  # no public way to order them
    stored.sort(key=lambda view: -view_number(view.name))
    dataset._doc.save()


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
        paths = [f"{start}_{entry['key']}" for start in PLACES if f"{start}_{entry['key']}" in fields]
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The process of its own; its options are ours alone and may change."""
    parser = argparse.ArgumentParser(prog="python -m reports.fiftyone_recording")
    parser.add_argument("action", choices=["record"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--lock", type=Path, required=True)
    options = parser.parse_args(arguments)
    from filelock import FileLock

    with FileLock(options.lock):  # of two that record at once, one may have outlived the program that began it
        result = record(options.dataset, options.input)
    (options.input / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
