"""The table of flags: every labeled file, worst first, with what was found about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from curation.ledger import StoredSample
from curation.records import Classes, CurrentLabel, Issue

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("path", "label", "label_quality", "suggested_label", "issue", "reason")


def flag_table(
    samples: Sequence[StoredSample],
    labels: Mapping[str, CurrentLabel],
    quality: Mapping[str, float],
    issues: Sequence[Issue],
    classes: Classes,
) -> pd.DataFrame:
    """One row a path of every sample that ``quality`` has, in columns ``COLUMNS``; worst first, ties by path."""
    import pandas as pd

    about_label = {i.sample_id: i for i in issues if i.kind == "label"}
    others: dict[str, list[Issue]] = {}
    for other in issues:
        if other.kind != "label":
            others.setdefault(other.sample_id, []).append(other)
    rows: list[tuple[str, str, float, str, str, str]] = []
    for stored in samples:
        if stored.id not in quality:
            continue
        issue, beside = about_label.get(stored.id), others.get(stored.id, [])
        conflict = next((i for i in beside if i.kind == "label_conflict"), None)
        suggested = next((i.suggested for i in (issue, conflict) if i and i.suggested), None)
        told = (
            classes.name(labels[stored.id].class_id),
            float(quality[stored.id]),
            classes.name(suggested) if suggested else "",
            "true" if issue or conflict else "false",
            "; ".join(i.reason for i in (issue, *beside) if i is not None),
        )
        rows += [(path, *told) for path in dict.fromkeys(p.path for p in stored.paths)]
    rows.sort(key=lambda row: (row[2], row[0]))
    return pd.DataFrame(rows, columns=list(COLUMNS))
