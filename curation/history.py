"""What the ledger has of images, in the order it happened: label events, verdicts, remarks; as rows."""

from __future__ import annotations

from typing import Any

from curation.ledger import Ledger
from curation.records import Sample

HISTORY = ("at", "path", "what", "old", "new", "who", "why", "iteration", "cites", "id")


def history_rows(ledger: Ledger, one: Sample | None = None) -> list[tuple[Any, ...]]:
    """Rows with the columns ``HISTORY``, of one image or of all, oldest first.

    Labelers' answers stand where they were given, all else where it was recorded, also where a clock was set back.
    """
    classes = ledger.classes()
    only = one.id if one else None
    paths = {one.id: one.path} if one else {s.id: s.paths[0].path for s in ledger.samples() if s.paths}
    verdicts = ledger.verdicts_of(only) if only else ledger.verdicts(every=True)
    rows: list[tuple[Any, ...]] = [
        (v.at, paths.get(v.sample_id, ""), "verdict", "", classes.name(v.answer), v.person, v.note or v.mode,
         v.iteration, "", f"verdict {v.id}")
        for v in verdicts
    ]  # fmt: skip
    rows += [
        (e.at, paths.get(e.sample_id, ""), e.kind, classes.name(e.old),
         "left out" if e.excluded else classes.name(e.new), e.who, e.why, e.iteration,
         ", ".join(map(str, e.cites)), f"event {e.id}")
        for e in ledger.label_events(only)
    ]  # fmt: skip
    rows += [
        (r.at, paths.get(r.sample_id, ""), "remark" if r.kind == "error" else "sent", "", r.cause or "to labelers",
         r.who, r.note, r.iteration, "", f"remark {r.id}")
        for r in ledger.remarks(only)
    ]  # fmt: skip
    elsewhere, recorded = {f"verdict {v.id}" for v in verdicts if v.mode != "review"}, ledger.recorded(only)

    def moment(row: tuple[Any, ...]) -> tuple[Any, int]:
        at, row_id = row[0], row[-1]
        block, after, until = recorded[row_id]
        return at if row_id in elsewhere else min(max(at, after), until), block

    return sorted(rows, key=moment)
