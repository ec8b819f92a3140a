"""An iteration's summary and table for the tests of reports: small, made by hand, with awkward names in it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from curation.figures import metrics_json
from curation.records import Condition, Estimate, Metrics, Slice
from reports.overview import Overview
from reports.summary import Audit, Card, Gain, IterationSummary, Row, SliceCard

PROJECT = "Cells <script>alert('p')</script> & co"
CLASSES = ("cat <img src=x onerror=alert(1)>", 'dog & "co"', "it's {{ 7 * 7 }}")
SLICE = "light = <b>dim</b> and brightness < 0.3"
PER_CLASS = 8


def make_images(folder: Path, count: int = 24) -> list[Path]:
    """Small pictures, no two alike, under a folder with a name that needs escaping."""
    folder = folder / "a & <b>"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        file = folder / f"{number:02d}.png"
        Image.fromarray(pixels).save(file)
        files.append(file)
    return files


def make_table(files: list[Path], number: int) -> pd.DataFrame:
    """Three classes in turn; pictures 0, 5, 10, ... are holdout, 23 is pool; 1, 2, 3 are issues, worst first."""
    rows: list[dict[str, Any]] = []
    for index, file in enumerate(files):
        label = None if index == 23 else CLASSES[index % 3]
        issue = index in (1, 2, 3)
        changed = number > 0 and index == 4
        wrong = issue or index == 5
        rows.append(
            {
                "sample_id": hashlib.sha256(file.read_bytes()).hexdigest(), "path": f"a & <b>/{file.name}",
                "file": str(file), "split": "pool" if label is None else "train" if index % 5 else "holdout",
                "group": None if index % 2 else f"g{index // 4}", "width": 40, "height": 32,
                "current": CLASSES[(index + 1) % 3] if changed else label, "given": label,
                "prediction": CLASSES[(index + 1) % 3] if wrong else CLASSES[index % 3],
                "confidence": 0.5 + index / 100, "label_quality": float("nan") if label is None else index / 100,
                "issue": issue, "issue_kinds": "label,near_duplicate" if index == 2 else "label" if issue else "",
                "reason": "looks like <i>another</i>" if issue else "", "suggested": CLASSES[0] if issue else None,
                "verdict": "changed (Ann)" if changed else "", "changed": changed, "fold": index % 5 - 1,
                "slices": [SLICE] if index in (6, 7, 8) else [], "meta_Light (lx)": "dim" if index % 2 else "bright",
                "prop_brightness": index / 24, "x": float(index), "y": -float(index),
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


#: What each saved view of iteration 1 of ``make_every_view_table`` holds, in its order, by the pictures' numbers.
EVERY_VIEW = {
    "issues_it01": [1, 2, 3],
    "changed_it01": [4],
    "disputed_it01": [7, 9],
    "slice_it01_1": [6, 7, 8],
    "confused_it01": [3],
    "new_errors_it01": [10, 11, 4],
    "fixed_errors_it01": [12],
    "holdout_errors_it01": [10, 5],
    "holdout_suspects_it01": [10, 15],
    "conflicts_it01": [13],
    "duplicates_it01": [2, 15],
}


def make_every_view_table(files: list[Path], number: int) -> pd.DataFrame:
    """As ``make_table``, and with something in every saved view of iteration 1."""
    table = make_table(files, number)
    table["disputed"] = [number == 1 and index in (7, 9) for index in range(len(files))]
    for index, kinds in ((13, "label_conflict"), (15, "leak")):
        table.loc[index, "issue_kinds"] = kinds
    for index in (12,) if number == 0 else (10, 11):
        table.loc[index, "prediction"] = CLASSES[(index + 1) % 3]
    if number:
        table.loc[10, "confidence"] = 0.97
        table.loc[4, "issue"] = True  # flagged, and changed
    table[["umap_x", "umap_y"]] = [[float(index % 7), float(index % 5)] for index in range(len(files))]
    return table


def make_card(file: Path, label: str = CLASSES[0], suggested: str = CLASSES[1]) -> Card:
    """One picture with something to say in every field."""
    return Card(
        sample_id="0" * 64,
        path=f"a & <b>/{file.name}",
        file=file,
        given=label,
        current=label,
        predicted=suggested,
        suggested=suggested,
        label_quality=0.004,
        reason="looks like <i>another</i>",
    )


def make_metrics(accuracy: float) -> Metrics:
    """Figures with intervals five points to each side."""
    near = Estimate(accuracy, (accuracy - 0.05, accuracy + 0.05))
    return Metrics(40, near, near, Estimate(0.5, (0.4, 0.6)), dict.fromkeys(CLASSES, near))


def make_summary(files: list[Path], number: int) -> IterationSummary:
    """Iteration ``number``: 75 % at first, two points more each time, shown from iteration 2 on."""
    accuracy = 0.75 + 0.02 * number
    gain = Gain(
        Estimate(0.02, (0.005 if number > 1 else -0.01, 0.05)), Estimate(0.02), Estimate(-0.1), 0.04, number > 1,
        "Accuracy rose by 2.0 points." if number > 1 else "The interval includes zero.",
    )  # fmt: skip
    weak = Slice(
        SLICE, (Condition("light", "=", "<b>dim</b>"),), ("a",), 30, 12, 0.4, (0.25, 0.58), 0.1, 0.001, "dark", 10,
        0.3, (0.1, 0.6), "open", "dark",
    )  # fmt: skip
    return IterationSummary(
        project=PROJECT,
        number=number,
        classes=CLASSES,
        backbone="tf_efficientnet_lite0",
        device="cpu",
        seed=0,
        counts={"train": 18, "holdout": 5, "pool": 1},
        labels_reviewed=20 * number,
        labels_changed=number,
        labels_excluded=0,
        contested=0,
        ambiguous=0,
        metrics=make_metrics(accuracy),
        before=make_metrics(0.75) if number else None,
        gain=gain if number else None,
        audit=Audit(Estimate(0.7, (0.5, 0.85)), None, Estimate(12, (4, 31)), (4, 31)) if number else Audit(),
        issues={"label": 3, "near_duplicate": 1},
        worst=tuple(make_card(file) for file in files[1:4]),
        changed=(make_card(files[4]),) if number else (),
        slices=(SliceCard(weak, "Dim pictures", tuple(make_card(file) for file in files[6:9]), "lighter copies"),),
        confusion=((10, 3, 0), (1, 12, 0), (0, 0, 14)),
        reliability=((0.55, 0.5, 10), (0.9, 0.85, 30), (0.0, 0.0, 0)),
        rows=tuple(
            Row(n, 20 * n, n, make_metrics(0.75 + 0.02 * n).accuracy, None, SLICE) for n in range(number + 1)
        ),
        advice=("Review <u>twenty</u> more.",),
        links={"Labels": "http://127.0.0.1:8080/", "trap": "javascript:alert(1)"},
    )  # fmt: skip


def make_overview(files: list[Path]) -> Overview:
    """Iterations 0 to 2 with causes of errors and a release."""
    iterations = [metrics_json(make_summary(files, number)) for number in range(3)]
    release = {"name": "v<1>", "at": datetime(2026, 11, 1, tzinfo=UTC), "who": "Ann & Ben", "rows": 24, "checksum": "0"}
    return Overview(
        PROJECT,
        iterations,
        pages={2: "../iterations/002/report/index.html"},
        causes={1: {"<b>glare</b>": 2}, 2: {"<b>glare</b>": 1, "rare": 4}},
        releases=[release],
        links={"Label Studio": "http://127.0.0.1:8080/", "trap": "javascript:alert(1)"},
    )
