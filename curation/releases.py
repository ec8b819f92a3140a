"""Labels frozen under a name: what a release holds, and the sum by which it is known to be unchanged.

A release names the last events that it holds and copies nothing; it is read from the ledger, which only grows, so it
can be exported at any time, as it was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from curation.errors import DataError, ProjectError
from curation.ledger import Ledger
from curation.records import Release

#: One row a path: path, label, split, excluded, group, sample id.
Row = tuple[str, str, str, bool, str, str]


def label_rows(
    ledger: Ledger, *, as_of: int | None = None, release: Release | None = None, every: bool = False
) -> list[Row]:
    """The labels now, as of the end of an iteration, or as a release froze them; in the order of import.

    A path of a sample is there once, though it was brought in from several folders, and not at all where another sample
    has its place since (as of an iteration: where that has a label by then). With ``every`` all are there.
    """
    up_to = release.label_event if release else None
    labels = ledger.labels(as_of=as_of, up_to=up_to)
    classes = ledger.classes(up_to=release.class_event if release else None)
    names = dict(zip(classes.ids, classes.names, strict=True))
    rows: list[Row] = []
    last: dict[tuple[str, str], Row | None] = {}
    for path, sample_id, split, group, other in ledger.path_rows(up_to=release.path if release else None):
        now = labels.get(sample_id)
        name = names[now.class_id] if now and now.class_id else ""
        row = (path, name, split, bool(now and now.excluded), group or "", sample_id)
        replaced = other is not None and (as_of is None or other in labels)
        last[sample_id, path] = None if replaced else row
        rows.append(row)
    return rows if every else [row for row in last.values() if row is not None]


def checksum(rows: Sequence[Row]) -> str:
    """SHA-256 over the rows, each a JSON array on a line of its own, in UTF-8; 64 hex digits.

    >>> checksum([("a.png", "cat", "train", False, "", "00")])[:12]
    '94fd8698119d'
    """
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


def make_release(ledger: Ledger, name: str, *, who: str, note: str = "", at: datetime | None = None) -> Release:
    """Freeze the labels as they are now; raises DataError for a name that is taken or no plain name."""
    if not re.fullmatch(r"[\w][\w.+-]{0,63}", name):
        raise DataError(
            f"a release can't be called '{name}': use up to 64 letters, digits, '.', '-', '_', such as 2026-11"
        )
    label_event, class_event, path = ledger.heads()
    draft = Release(name, at or datetime.now(UTC), who, note, label_event, class_event, path, 0, "")
    rows = label_rows(ledger, release=draft)
    release = Release(
        name, draft.at, who, note, label_event, class_event, path, rows=len(rows), checksum=checksum(rows)
    )
    ledger.add_release(release)
    return release


def find_release(ledger: Ledger, name: str) -> Release:
    """The release with this name; raises DataError where there is none."""
    known = {release.name: release for release in ledger.releases()}
    if name not in known:
        raise DataError(f"there is no release '{name}'; there are {list(known) or 'none yet'}")
    return known[name]


def released_rows(ledger: Ledger, name: str) -> list[Row]:
    """The labels as the release froze them; raises ProjectError where they are not what they were."""
    release = find_release(ledger, name)
    rows = label_rows(ledger, release=release)
    found = checksum(rows)
    if found != release.checksum:  # it may hold every path
        every = label_rows(ledger, release=release, every=True)
        if checksum(every) == release.checksum:
            return every
    if found != release.checksum:
        raise ProjectError(
            f"release '{name}' reads otherwise than when it was made (checksum {found[:12]}, not "
            f"{release.checksum[:12]}): the ledger was altered; restore it from a backup"
        )
    return rows
