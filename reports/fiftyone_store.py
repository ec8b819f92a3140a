"""FiftyOne as the rest of the house sees it: an iteration is recorded for reviewers to explore in the App.

One persistent dataset a project, one FiftyOne sample a sample (field ``uid``). An iteration adds its own fields
(``pred_it03``, ``quality_it03``, ...), an evaluation, and saved views in the order that a reviewer works; recording
it again replaces it. The dataset is a view of the ledger: it can be dropped and written again.

FiftyOne reads the database's address once a process and takes seconds to import, so a process of its own writes an
iteration (``reports.fiftyone_recording``). It hands over through a folder: ``table.parquet``, ``facts.json``,
``result.json``. What reviewers change is written here, by the database's driver alone. This module's import loads
neither FiftyOne nor pandas.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import DatabaseError, RecordError
from curation.processes import birth
from curation.runs import write_json
from reports.fiftyone_plan import LIVE, as_text, dataset_name, iteration_facts, live_fields
from reports.mongo import Mongo
from reports.summary import IterationSummary

if TYPE_CHECKING:
    import pandas as pd

_HANDOVER = "handover-"
PLUGINS_FOLDER = Path(__file__).resolve().parent / "fiftyone_plugin"
_COLUMNS = (
    *("sample_id", "path", "file", "split", "group", "width", "height", "current", "given", "prediction"),
    *("confidence", "label_quality", "issue", "issue_kinds", "reason", "suggested", "verdict", "changed"),
    *("fold", "slices"),
)


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
        with _handover(self.mongo.home) as folder:
            table.reset_index(drop=True).to_parquet(folder / "table.parquet")
            (folder / "facts.json").write_text(json.dumps(iteration_facts(summary)), encoding="utf-8")
            _write_apart(uri, self._dataset, folder, self.mongo.home / "record.lock")
            result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
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


@contextmanager
def _handover(home: Path) -> Iterator[Path]:
    """The folder by which an iteration is handed over, gone afterwards; clears those of programs that were killed."""
    home.mkdir(parents=True, exist_ok=True)
    for left in home.glob(f"{_HANDOVER}*"):
        process = left.name.removeprefix(_HANDOVER).partition("-")[0]
        if process.isdigit() and birth(int(process)) is None:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_HANDOVER}{os.getpid()}-", dir=home) as folder:
        yield Path(folder)


def _check(table: pd.DataFrame) -> None:
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        raise RecordError(f"the table for FiftyOne lacks the columns {missing}; each of {list(_COLUMNS)} is needed")
    repeated = table["sample_id"][table["sample_id"].duplicated()]
    if len(repeated):
        raise RecordError(f"the table for FiftyOne must hold each sample once, but '{repeated.iloc[0]}' is repeated")


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
    said = [(row, (as_text(row["current"]), *(as_text(row[name]) for name in LIVE))) for row in rows]
    return [row for row, values in said if stored.get(row["sample_id"], values) != values]


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
    command = [sys.executable, "-m", "reports.fiftyone_recording", "record"]
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
