"""A release reads the same whatever came after it, and says so where the ledger was altered."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation.errors import DataError, ProjectError
from curation.ledger import Ledger, NewPath, NewSample
from curation.records import Decision
from curation.releases import label_rows, make_release, released_rows

A, B = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.in_file(tmp_path / "ledger.db")
    made.add_classes(["cat", "dog"], who="import")
    add(made, A, "a.png")
    return made


def add(ledger: Ledger, sample: str, path: str) -> None:
    ledger.add_samples(
        [NewSample(sample, "train", None, 4, 4)], [NewPath(sample, path, "/images", "c1", {})], {sample: "c1"},
        who="import", why="label as given",
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
