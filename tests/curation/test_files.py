"""Files that are gone or changed since import are told from those that are as they were."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests_stand_ins import content_id

from curation.files import check_files, note, read_notes, write_notes
from curation.records import Sample


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    made = []
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(f"content of {name}")
        made.append(Sample(content_id(tmp_path / name), name, tmp_path / name, "train"))
    return made


def noted(samples: list[Sample]) -> dict[str, tuple[int, int]]:
    return {s.id: found for s in samples if (found := note(s.file)) is not None}


def test_files_as_they_were_are_usable_and_their_notes_come_back(samples: list[Sample], tmp_path: Path) -> None:
    write_notes(tmp_path / "cache" / "files.parquet", noted(samples))
    notes = read_notes(tmp_path / "cache" / "files.parquet")
    assert notes == noted(samples)
    assert check_files(samples, notes) == (samples, [])
    assert read_notes(tmp_path / "nowhere") == {}


def test_gone_changed_and_touched_files(samples: list[Sample]) -> None:
    notes = noted(samples)
    samples[0].file.unlink()
    samples[1].file.write_text("something else")
    os.utime(samples[2].file, ns=(1, 1))  # touched, not changed
    usable, aside = check_files(samples, notes)
    assert usable == [samples[2]]
    assert [(a.path, a.reason.split("; ")[0].removeprefix(str(samples[0].file.parent))) for a in aside] == [
        ("a", "/a is gone"), ("b", "/b has changed since it was imported"),
    ]  # fmt: skip
    assert notes[samples[2].id] == note(samples[2].file)
    replaced = check_files(samples, notes, replaced={samples[1].id, samples[2].id})
    assert ([s.path for s in replaced[0]], [a.path for a in replaced[1]]) == (["c"], ["a"])


def test_a_change_that_kept_size_and_time_is_found_by_reading_and_stays_found(samples: list[Sample]) -> None:
    notes = noted(samples)
    before = samples[0].file.stat()
    samples[0].file.write_text("CONTENT OF A")
    os.utime(samples[0].file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert check_files(samples, notes)[1] == []
    assert [a.path for a in check_files(samples, notes, thorough=True)[1]] == ["a"]
    assert [a.path for a in check_files(samples, notes)[1]] == ["a"]
    samples[0].file.write_text("content of a")
    assert check_files(samples, notes)[0] == samples


def test_files_without_a_note_are_read_once_and_noted_so_that_a_change_is_seen(samples: list[Sample]) -> None:
    notes: dict[str, tuple[int, int]] = {}  # as after a restore, or where the cache was deleted
    samples[1].file.write_text("something else")
    usable, aside = check_files(samples, notes)
    assert (usable, [a.path for a in aside]) == ([samples[0], samples[2]], ["b"])
    assert {s.id: notes[s.id] for s in usable} == noted(usable)
    samples[0].file.write_text("black")
    assert [a.path for a in check_files(samples, notes)[1]] == ["a", "b"]
