"""A release reads the same whatever came after it, and says so where the ledger was altered."""

from __future__ import annotations

import hashlib
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation.errors import DataError, ProjectError
from curation.ledger import Ledger, NewPath, NewSample
from curation.records import Decision, Release
from curation.releases import checksum, label_rows, make_release, released_rows

A, B = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.in_file(tmp_path / "ledger.db")
    made.add_classes(["cat", "dog"], who="import")
    add(made, A, "a.png")
    return made


def add(ledger: Ledger, sample: str, path: str, *, root: str = "/images", iteration: int = 0) -> None:
    ledger.add_samples(
        [NewSample(sample, "train", None, 4, 4)], [NewPath(sample, path, root, "c1", {})], {sample: "c1"},
        who="import", why="label as given", iteration=iteration,
    )  # fmt: skip


def test_a_release_stays_as_it_was(ledger: Ledger) -> None:
    release = make_release(ledger, "v1.0", who="ann", note="for the line")
    ledger.decide([Decision(A, "change", "c2", 1.0, (), "x")], who="consensus", iteration=1)
    add(ledger, B, "b.png")
    add(ledger, A, "again.png")
    ledger.add_classes(["bird"], who="import")
    assert released_rows(ledger, "v1.0") == [("a.png", "cat", "train", False, "", A)]
    assert [row[:2] for row in label_rows(ledger)] == [("a.png", "dog"), ("again.png", "dog"), ("b.png", "cat")]
    assert (release.rows, release.who, ledger.releases()) == (1, "ann", [release])
    line = f'["a.png","cat","train",false,"","{A}"]\n'
    assert release.checksum == hashlib.sha256(line.encode()).hexdigest()


def test_of_images_that_had_the_same_place_the_last_one_is_exported(ledger: Ledger) -> None:
    ledger.decide([Decision(A, "change", "c2", 1.0, (), "x")], who="consensus", iteration=1)
    add(ledger, A, "copy.png")
    add(ledger, B, "a.png", iteration=2)  # the file was overwritten, and brought in
    assert [(row[0], row[1], row[5]) for row in label_rows(ledger)] == [("copy.png", "dog", A), ("a.png", "cat", B)]
    assert [(row[0], row[1], row[5]) for row in label_rows(ledger, as_of=1)] == [
        ("a.png", "dog", A), ("copy.png", "dog", A), ("a.png", "", B),
    ]  # fmt: skip
    assert ledger.replaced() == set()
    add(ledger, "c" * 64, "copy.png")
    assert ledger.replaced() == {A}


def test_a_folder_that_was_moved_gives_each_path_once(ledger: Ledger) -> None:
    add(ledger, B, "b.png")
    add(ledger, A, "a.png", root="/moved")
    add(ledger, B, "b.png", root="/moved")
    assert [row[0] for row in label_rows(ledger)] == ["a.png", "b.png"]
    add(ledger, "c" * 64, "a.png", root="/moved")  # overwritten in its new place
    assert [(row[0], row[5][0]) for row in label_rows(ledger)] == [("b.png", "b"), ("a.png", "c")]


def test_a_release_of_before_holds_every_path_as_it_did(ledger: Ledger) -> None:
    add(ledger, A, "a.png", root="/moved")
    add(ledger, B, "a.png")
    every = label_rows(ledger, every=True)
    assert [row[0] for row in every] == ["a.png", "a.png", "a.png"]
    head = ledger.heads()
    old = Release("v0", datetime(2026, 1, 1, tzinfo=UTC), "ann", "", *head, rows=3, checksum=checksum(every))
    ledger.add_release(old)
    assert released_rows(ledger, "v0") == every


def test_a_name_is_taken_once_and_must_be_plain(ledger: Ledger) -> None:
    make_release(ledger, "v1", who="ann")
    with pytest.raises(DataError, match="a release 'v1' already"):
        make_release(ledger, "v1", who="ben")
    with pytest.raises(DataError, match=r"can't be called '\.\./x'"):
        make_release(ledger, "../x", who="ann")
    with pytest.raises(DataError, match=r"no release 'v2'; there are \['v1'\]"):
        released_rows(ledger, "v2")


def test_an_altered_ledger_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    make_release(ledger, "v1", who="ann")
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DROP TRIGGER label_events_no_update")
        connection.execute("UPDATE label_events SET new = 'c2'")
    with pytest.raises(ProjectError, match="release 'v1' reads otherwise"):
        released_rows(ledger, "v1")


def test_a_ledger_from_before_releases_and_remarks_gets_their_tables(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript((Path(__file__).parent / "ledgers" / "v1.sql").read_text(encoding="utf-8"))
    ledger = Ledger.in_file(tmp_path / "old.db")
    assert (ledger.releases(), ledger.remarks()) == ([], [])
    make_release(ledger, "v1", who="ann")
    with pytest.raises(sa.exc.DatabaseError, match="only grows"), ledger._engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM releases"))
