"""Records as tables on disk (Parquet), and back; the one place that knows the columns."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curation.records import Condition, Issue, Predictions, Slice
from curation.runs import write_whole

if TYPE_CHECKING:
    import pandas as pd


def write_frame(file: Path, frame: pd.DataFrame) -> None:
    """Write a frame as Parquet, whole or absent."""
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False)
    write_whole(file, buffer.getvalue())


def read_frame(file: Path) -> pd.DataFrame:
    """Read a Parquet file."""
    import pandas as pd  # loads slowly; only commands that need tables pay for it

    return pd.read_parquet(file)


def csv_text(frame: pd.DataFrame) -> str:
    """A frame as CSV in which no cell is a formula to a spreadsheet program.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line break, and is no number, gets an apostrophe before
    it (OWASP, "CSV Injection"), and so does text that begins so after apostrophes; ``plain_cell`` takes it off again.

    >>> import pandas as pd
    >>> csv_text(pd.DataFrame({"path": ["=1+1.png", "-5", "a.png"]}))
    "path\\n'=1+1.png\\n-5\\na.png\\n"
    """
    safe = frame.copy()
    for name in safe.columns:
        if safe[name].dtype.kind not in "biuf":
            safe[name] = [_safe_cell(value) for value in safe[name]]
    safe.columns = [_safe_cell(name) for name in safe.columns]
    return str(safe.to_csv(index=False))


def _safe_cell(value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip("'").startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def plain_cell(text: str) -> str:
    """A cell as it was before ``csv_text``.

    >>> plain_cell("'=1+1.png"), plain_cell("'quoted'")
    ('=1+1.png', "'quoted'")
    """
    return text[1:] if text[:1] == "'" and text.lstrip("'").startswith(_FORMULA) else text


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def predictions_to_frame(predictions: Predictions) -> pd.DataFrame:
    """Columns ``sample_id``, ``fold`` and one probability a class id, in row order."""
    import pandas as pd

    columns: dict[str, Any] = {"sample_id": list(predictions.sample_ids), "fold": predictions.folds}
    for number, class_id in enumerate(predictions.class_ids):
        columns[class_id] = predictions.probabilities[:, number]
    return pd.DataFrame(columns)


def predictions_from_frame(frame: pd.DataFrame) -> Predictions:
    """The inverse of ``predictions_to_frame``."""
    class_ids = tuple(c for c in frame.columns if c not in ("sample_id", "fold"))
    probabilities = frame[list(class_ids)].to_numpy(dtype=np.float64) if class_ids else np.zeros((len(frame), 0))
    return Predictions(tuple(frame["sample_id"]), class_ids, probabilities, frame["fold"].to_numpy(dtype=np.int64))


def issues_to_frame(issues: Sequence[Issue]) -> pd.DataFrame:
    """One row an issue, in order."""
    import pandas as pd

    columns = ("sample_id", "kind", "score", "reason", "given", "suggested", "related")
    rows = [[*(getattr(i, c) for c in columns[:-1]), json.dumps(i.related)] for i in issues]
    return pd.DataFrame(rows, columns=list(columns))


def issues_from_frame(frame: pd.DataFrame) -> list[Issue]:
    """The inverse of ``issues_to_frame``."""
    return [
        Issue(r["sample_id"], r["kind"], float(r["score"]), r["reason"], _none(r["given"]), _none(r["suggested"]),
              tuple(json.loads(r["related"])))
        for r in frame.to_dict(orient="records")
    ]  # fmt: skip


def slices_to_frame(slices: Sequence[Slice]) -> pd.DataFrame:
    """One row a slice, in order; ``record`` holds it whole as JSON, the other columns are for reading."""
    import pandas as pd

    return pd.DataFrame(
        {
            "name": [s.name for s in slices],
            "size": [s.size for s in slices],
            "error_rate": [s.error_rate for s in slices],
            "status": [s.status for s in slices],
            "recipe": [s.recipe or "" for s in slices],
            "record": [json.dumps(asdict(s)) for s in slices],
        }
    )


def slices_from_frame(frame: pd.DataFrame) -> list[Slice]:
    """The inverse of ``slices_to_frame``."""
    return [_slice(json.loads(text)) for text in frame["record"]]


def _slice(values: dict[str, Any]) -> Slice:
    values["conditions"] = tuple(Condition(**c) for c in values["conditions"])
    values["sample_ids"] = tuple(values["sample_ids"])
    values["typical"] = tuple(values.get("typical", ()))
    values["history"] = tuple((int(n), int(size), float(rate)) for n, size, rate in values.get("history", ()))
    for key in ("ci", "holdout_ci"):
        values[key] = tuple(values[key]) if values[key] is not None else None
    return Slice(**values)


def _none(value: Any) -> str | None:
    return value if isinstance(value, str) else None
