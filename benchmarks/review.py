"""How long it takes to record an iteration for reviewers and to open it again: ours, and FiftyOne's own methods.

Both write the same fields of the same drawn table into a MongoDB of their own, in one process, one after the other:
samples with the fields of a first iteration, then the fields of a second one. FiftyOne's way is ``add_samples`` and a
``set_values`` a field. What both wrote is compared before any time is told. Evaluation, saved views and the start of
FiftyOne (seven seconds a process) are left out. Opening is a new process that loads the dataset and reads the first
hundred of the saved view "labels that look wrong, worst first".

    python benchmarks/review.py --json review.json      # 10,000 and 50,000 samples: ten minutes
    python benchmarks/review.py --quick                 # 10,000: two minutes
    python benchmarks/review.py --samples 50000         # one size

Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np

from benchmarks.claims import conclude
from reports.fiftyone_plan import iteration_key, percent_chip
from reports.fiftyone_recording import declare_fields, mark_iteration, prepare_samples, write_fields
from reports.fiftyone_store import environment
from reports.mongo import Mongo

if TYPE_CHECKING:
    import pandas as pd

CLASSES = tuple(f"class {n}" for n in range(10))
#: At least so many times as fast as FiftyOne's own setters, for the fields of an iteration.
BARS = {10_000: 3.0, 50_000: 2.0}
_TEXTS = ("reason", "suggested", "verdict")
_FLAGS = ("issue", "changed", "disputed")


@dataclass(frozen=True)
class Figures:
    """Seconds: samples with a first iteration's fields, a second iteration's fields, opening."""

    samples: int
    first_ours: float
    first_theirs: float
    fields_ours: float
    fields_theirs: float
    open_ours: float
    open_theirs: float


def drawn(samples: int, iteration: int) -> pd.DataFrame:
    """A table as a run hands it over; a tenth of the labels are issues."""
    import pandas as pd

    rng = np.random.default_rng(iteration)
    labels, predicted = (np.array(CLASSES)[rng.integers(10, size=samples)] for _ in range(2))
    issue = rng.random(samples) < 0.1
    return pd.DataFrame(
        {
            "sample_id": [hashlib.sha256(str(n).encode()).hexdigest() for n in range(samples)],
            "path": [f"{n // 1000:03d}/{n:06d}.jpg" for n in range(samples)],
            "file": [f"/images/{n // 1000:03d}/{n:06d}.jpg" for n in range(samples)],
            "split": np.where(rng.random(samples) < 0.2, "holdout", "train"),
            "group": [f"g{n // 5}" for n in range(samples)],
            "width": 224, "height": 224, "current": labels, "given": labels, "prediction": predicted,
            "confidence": rng.random(samples), "label_quality": rng.random(samples), "issue": issue,
            "issue_kinds": np.where(issue, "label", ""), "reason": np.where(issue, "looks like another class", ""),
            "suggested": np.where(issue, predicted, ""), "verdict": "", "changed": rng.random(samples) < 0.05,
            "disputed": rng.random(samples) < 0.01, "fold": rng.integers(5, size=samples),
            "slices": [["dark"] if dark else [] for dark in rng.random(samples) < 0.1],
        }
    )  # fmt: skip


def facts(iteration: int) -> dict[str, Any]:
    """What the recording needs to know of an iteration besides its table."""
    key = iteration_key(iteration)
    return {"number": iteration, "key": key, "project": "benchmark", "classes": list(CLASSES), "slices": []}


def ours(name: str, table: pd.DataFrame, iteration: int) -> None:
    """Our way: as ``curate run`` records, without evaluation and views."""
    import fiftyone as fo

    dataset = fo.load_dataset(name) if fo.dataset_exists(name) else fo.Dataset(name, persistent=True)
    told = facts(iteration)
    mark_iteration(dataset, told, complete=False)
    known = prepare_samples(dataset, table)
    declare_fields(dataset, told["key"], table, {})
    write_fields(dataset, told, table, {}, known)


def theirs(name: str, table: pd.DataFrame, iteration: int) -> None:
    """FiftyOne's way: ``add_samples``, then ``set_values`` field by field; fields are declared as ours are."""
    import fiftyone as fo

    key = iteration_key(iteration)
    exists = fo.dataset_exists(name)
    dataset = fo.load_dataset(name) if exists else fo.Dataset(name, persistent=True)
    if not exists:
        pairs = zip(table["file"], table["sample_id"], strict=True)
        dataset.add_samples([fo.Sample(filepath=file, uid=uid) for file, uid in pairs], dynamic=False, progress=False)
    size = fo.ImageMetadata(width=224, height=224)
    values: dict[str, list[Any]] = {
        "path": table["path"].tolist(), "split": table["split"].tolist(), "group_name": table["group"].tolist(),
        "metadata": [size.copy() for _ in range(len(table))],
        "given": labels(table["given"]), "current": labels(table["current"]), f"label_{key}": labels(table["current"]),
        f"pred_{key}": labels(table["prediction"], table["confidence"]),
        f"quality_{key}": [percent_chip(quality) for quality in table["label_quality"].tolist()],
        f"kinds_{key}": [[kinds] if kinds else [] for kinds in table["issue_kinds"].tolist()],
        f"fold_{key}": table["fold"].tolist(), f"slices_{key}": table["slices"].tolist(),
        **{f"{text}_{key}": [value or None for value in table[text].tolist()] for text in _TEXTS},
        **{f"{flag}_{key}": table[flag].tolist() for flag in _FLAGS},
    }  # fmt: skip
    declare_fields(dataset, key, table, {})  # a column of empty values alone does not tell its type
    for field, column in values.items():
        dataset.set_values(field, column, progress=False)


def labels(names: pd.Series[Any], confidences: pd.Series[Any] | None = None) -> list[Any]:
    """FiftyOne's labels for a column of class names."""
    import fiftyone as fo

    if confidences is None:
        return [fo.Classification(label=name) for name in names.tolist()]
    pairs = zip(names.tolist(), confidences.tolist(), strict=True)
    return [fo.Classification(label=name, confidence=confidence) for name, confidence in pairs]


def check_alike(one: str, other: str) -> None:
    """Both ways must have written the same, or comparing their time says nothing."""
    import fiftyone as fo

    fields = [f"{start}_it02" for start in ("quality", "kinds", "fold", "slices", *_TEXTS, *_FLAGS)]
    fields += ["uid", "filepath", "path", "split", "group_name", "label_it02.label", "pred_it02.label", "given.label"]
    fields += ["pred_it02.confidence", "metadata.width", "label_it01.label"]
    for field in fields:
        rows = [
            dict(zip(*fo.load_dataset(name).values(["uid", field]), strict=True)) for name in (one, other)
        ]  # fmt: skip
        if rows[0] != rows[1]:
            sys.exit(f"the two ways wrote different values of {field}: their times can't be compared")


def timed(work: Callable[[], None]) -> float:
    """Seconds of the work."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


OPEN = """
import sys, time
import fiftyone as fo
began = time.perf_counter()
dataset = fo.load_dataset(sys.argv[1])
view = dataset.load_saved_view("issues") if dataset.has_saved_view("issues") else None
assert len(view.limit(100).values(["filepath", "quality_it02"])[0]) == 100
view.count()
print(time.perf_counter() - began)
"""


def seconds_to_open(name: str, uri: str) -> float:
    """Load the dataset in a new process and read the first hundred of its view; FiftyOne's import is not counted."""
    import fiftyone as fo

    dataset = fo.load_dataset(name)
    dataset.save_view("issues", dataset.match({"issue_it02": True}).sort_by("quality_it02"), overwrite=True)
    command = [sys.executable, "-c", OPEN, name]
    answer = subprocess.run(command, env=environment(uri), capture_output=True, text=True, check=True)
    return float(answer.stdout.split()[-1])


def run(samples: int, uri: str) -> Figures:
    """Both ways, two iterations each; which is first takes turns."""
    import fiftyone as fo

    first, second = drawn(samples, 1), drawn(samples, 2)
    names = f"ours-{samples}", f"theirs-{samples}"
    seconds = [
        timed(lambda: ours(names[0], first, 1)), timed(lambda: theirs(names[1], first, 1)),
        timed(lambda: theirs(names[1], second, 2)), timed(lambda: ours(names[0], second, 2)),
    ]  # fmt: skip
    check_alike(*names)
    opened = [seconds_to_open(name, uri) for name in names]
    for name in names:
        fo.delete_dataset(name)
    return Figures(samples, seconds[0], seconds[1], seconds[3], seconds[2], *opened)


def claims_of(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """What must hold."""
    claims: list[dict[str, Any]] = [
        {
            "name": f"{figures.samples:,} samples: an iteration's fields, times as fast as FiftyOne's own setters",
            "value": figures.fields_theirs / figures.fields_ours,
            "bar": BARS[figures.samples],
        }
        for figures in found
    ]
    return [{**claim, "holds": claim["value"] >= claim["bar"]} for claim in claims]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every size; 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 samples only")
    parser.add_argument("--samples", type=int, choices=sorted(BARS), help="this many only")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    options = parser.parse_args(arguments)
    sizes = [options.samples] if options.samples else [10_000] if options.quick else [10_000, 50_000]
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        mongo = Mongo(Path(temporary), {})
        uri = mongo.start()
        os.environ.update(environment(uri))
        print(f"{'samples':>8}{'':>10}{'first, s':>10}{'fields, s':>11}{'open, s':>9}")
        try:
            for samples in sizes:
                found.append(row := run(samples, uri))
                for who, *figures in (
                    ("ours", row.first_ours, row.fields_ours, row.open_ours),
                    ("FiftyOne", row.first_theirs, row.fields_theirs, row.open_theirs),
                ):
                    first, fields, opened = figures
                    print(f"{samples:>8,}{who:>10}{first:>10.1f}{fields:>11.1f}{opened:>9.2f}", flush=True)
        finally:
            mongo.stop()
    return conclude(claims_of(found), {"figures": [asdict(row) for row in found]}, options.json)


if __name__ == "__main__":
    sys.exit(main())
