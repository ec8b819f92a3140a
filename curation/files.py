"""Image files after import: noted as they were, and set aside where they are gone or changed since."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from curation.config import Settings
from curation.dataset import SetAside
from curation.images import CHANGED, FilesAsSeen
from curation.records import Sample
from curation.runs import ProjectPaths
from curation.tables import read_frame, write_frame

#: Size in bytes and time of the last change in nanoseconds, by sample id.
Noted = dict[str, tuple[int, int]]


def read_notes(cache: Path) -> Noted:
    """What ``write_notes`` wrote; nothing where that is gone, for it can be made again."""
    try:
        frame = read_frame(cache)
        return dict(
            zip(frame["sample_id"], zip(frame["size"].tolist(), frame["changed"].tolist(), strict=True), strict=True)
        )
    except (OSError, ValueError, KeyError):
        return {}


def write_notes(cache: Path, notes: Mapping[str, tuple[int, int]]) -> None:
    """Keep what files were like when their content was known to be the sample's."""
    import pandas as pd

    columns = {
        "sample_id": list(notes),
        "size": [n[0] for n in notes.values()],
        "changed": [n[1] for n in notes.values()],
    }
    write_frame(cache, pd.DataFrame(columns))


def note(file: Path) -> tuple[int, int] | None:
    """Size and time of the last change, ``None`` where there is no such file."""
    try:
        found = file.stat()
    except (OSError, ValueError):
        return None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def check_files(
    samples: Sequence[Sample], notes: Noted, *, thorough: bool = False, replaced: Collection[str] = ()
) -> tuple[list[Sample], list[SetAside]]:
    """Samples whose files are as they were at import, in their order, and the others with what is wrong.

    A file that has no note, or looks otherwise than in ``notes``, is read, and noted where its content is still the
    sample's; every file is, where ``thorough``. Nothing is said of samples in whose place others were brought in since
    (``replaced``, by id).
    """
    usable, aside = [], []
    for sample in samples:
        why = _wrong_with(sample, notes, thorough)
        if why and sample.id not in replaced:
            aside.append(SetAside(sample.path, sample.path, f"{sample.file} {why}"))
        elif not why:
            usable.append(sample)
    return usable, aside


def _wrong_with(sample: Sample, notes: Noted, thorough: bool) -> str:
    now = note(sample.file)
    if now is None:
        return "is gone; put it back, or bring it in from its new place with `curate add`"
    if not os.access(sample.file, os.R_OK):
        return "may not be read; see to its rights"
    if not thorough and notes.get(sample.id) == now:
        return ""
    try:
        with sample.file.open("rb") as content:
            same = hashlib.file_digest(content, "sha256").hexdigest() == sample.id
    except OSError as error:
        return f"can't be read ({error.strerror or error}); see to its disk"
    if not same:
        notes[sample.id] = (-1, -1)  # to be read again next time, however old it looks
        return CHANGED
    notes[sample.id] = now
    return ""


def for_people(samples: Sequence[Sample], settings: Settings, paths: ProjectPaths) -> Mapping[str, Path]:
    """Where the images are that labelers see, by sample id: as the model is given them.

    Where the settings name a storage, the samples' own files: they are read from there as they are.
    """
    if settings.review.images_url:
        return {s.id: s.file for s in samples}
    return FilesAsSeen(samples, paths.cache / "seen")
