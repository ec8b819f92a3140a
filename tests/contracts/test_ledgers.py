"""What a ledger promises, in SQLite and in PostgreSQL: it only grows, labels are a fold over it, tampering shows."""

from __future__ import annotations

import itertools
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests_postgres import Postgres

from curation import schema
from curation.errors import DataError, ProjectError, RecordError
from curation.ledger import Ledger, NewPath, NewSample, network_filesystem
from curation.records import Decision, QueueEntry, Remark, Verdict

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
A, B = "a" * 64, "b" * 64
V1 = Path(__file__).parent.parent / "curation" / "ledgers" / "v1.sql"
NewDatabase = Callable[[], str]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of our own, on its own port and folder."""
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.e2e)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Makes an empty database and tells its address."""
    made: list[str] = []

    def new() -> str:
        if request.param == "sqlite":
            made.append(f"sqlite:///{tmp_path / f'ledger{len(made)}.db'}")
        else:
            made.append(request.getfixturevalue("postgres").new_database())
        return made[-1]

    return new


@pytest.fixture
def url(database: NewDatabase) -> str:
    return database()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    made = Ledger(url)
    made.add_classes(["cat", "dog"], who="import")
    made.add_samples(
        [NewSample(A, "train", None, 4, 4), NewSample(B, "holdout", "g", 4, 4)],
        [NewPath(A, "a.png", "/images", "c1", {"light": 0.5}), NewPath(B, "b.png", "/images", "c2", {})],
        {A: "c1", B: "c2"},
        who="import",
        why="label as given",
    )
    yield made
    made.close()


def by_hand(url: str, *statements: str) -> None:
    """Do to the database what the ledger would never do; the guards of the tables are taken away first."""
    engine = schema.connect(url)
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        schema._let_change(connection)
        for statement in statements:
            connection.execute(sa.text(statement))
    engine.dispose()


def change(sample: str, to: str, *cites: int) -> Decision:
    return Decision(sample, "change", to, 0.9, cites, "people agree")


def verdict(answer: str, at: datetime = NOON, source: str = "s1", person: str = "ann") -> Verdict:
    return Verdict(A, answer, person, at, "key", source, "shown", 1, 2.5)


def test_a_decision_changes_the_label_and_the_past_stays_readable(ledger: Ledger) -> None:
    ledger.decide([change(A, "c2", 1)], who="consensus", iteration=1)
    assert ledger.labels()[A].class_id == "c2"
    assert ledger.labels(as_of=0)[A].class_id == "c1"
    assert [(e.kind, e.old, e.new) for e in ledger.label_events(A)] == [
        ("import", None, "c1"),
        ("decision", "c1", "c2"),
    ]


def test_undo_is_a_new_event_and_the_same_decision_does_not_come_back(ledger: Ledger) -> None:
    ledger.decide([change(A, "c2", 1)], who="consensus", iteration=1)
    undone = ledger.undo(A, who="eve", iteration=1)
    assert (undone.old, undone.new, undone.undoes) == ("c2", "c1", 3)
    assert ledger.decide([change(A, "c2", 1)], who="consensus", iteration=1) == []
    assert ledger.labels()[A].class_id == "c1"


def test_undo_brings_no_merged_class_back(ledger: Ledger) -> None:
    ledger.decide([change(A, "c2", 1)], who="consensus", iteration=1)
    ledger.add_classes(["fox"], who="eve")
    ledger.merge_class("c1", "c3", who="eve")
    assert ledger.undo(A, who="eve", iteration=1).new == "c3"


def test_a_decision_that_rests_on_no_verdict_is_made_again(ledger: Ledger) -> None:
    for class_id in ("c2", "c1", "c2"):
        assert len(ledger.decide([change(A, class_id)], who="eve", iteration=1)) == 1
    assert ledger.decide([change(A, "c2")], who="eve", iteration=1) == []


def test_what_is_written_at_once_is_there_as_a_whole_or_not_at_all(ledger: Ledger, url: str) -> None:
    before, other = ledger.head()[0], Ledger(url)
    with suppress(KeyboardInterrupt), ledger.at_once():
        ledger.add_verdicts([verdict("c2")])
        raise KeyboardInterrupt
    assert (ledger.verdicts(), ledger.head()[0]) == ([], before)
    with ledger.at_once():
        ledger.add_verdicts([verdict("c2")])
        ledger.decide([change(A, "c2", ledger.verdicts()[0].id)], who="eve", iteration=1)
        assert (other.verdicts(), other.labels()[A].class_id) == ([], "c1")
    assert (len(other.verdicts()), other.labels()[A].class_id, other.head()[0]) == (1, "c2", before + 1)
    assert ledger.faults() == []
    with ledger.at_once():
        ledger.add_verdicts([verdict("c1", source="s2")])
        with pytest.raises(ValueError, match="verdicts got rows before in this transaction"):
            ledger.add_verdicts([verdict("c1", source="s3")])
    other.close()


def test_undo_without_a_change_says_so(ledger: Ledger) -> None:
    with pytest.raises(ProjectError, match="no change to undo"):
        ledger.undo(A, who="eve", iteration=0)


def test_excluding_keeps_the_label_and_undo_brings_the_sample_back(ledger: Ledger) -> None:
    ledger.decide([Decision(A, "exclude", None, 1.0, (1,), "bad image")], who="consensus", iteration=1)
    assert (ledger.labels()[A].class_id, ledger.labels()[A].excluded) == ("c1", True)
    ledger.undo(A, who="eve", iteration=1)
    assert not ledger.labels()[A].excluded


def test_a_verdict_recorded_twice_is_there_once_and_an_edit_replaces_it(ledger: Ledger) -> None:
    assert ledger.add_verdicts([verdict("c1")]) == 1
    assert ledger.add_verdicts([verdict("c1")]) == 0
    assert ledger.add_verdicts([verdict("c2", NOON.replace(hour=13))]) == 1
    assert [v.answer for v in ledger.verdicts()] == ["c2"]
    assert [v.answer for v in ledger.verdicts(every=True)] == ["c1", "c2"]


def test_a_verdict_that_arrives_late_does_not_replace_a_newer_one(ledger: Ledger) -> None:
    ledger.add_verdicts([verdict("c2", NOON.replace(hour=13))])
    ledger.add_verdicts([verdict("c1", NOON)])
    assert [v.answer for v in ledger.verdicts()] == ["c2"]


@pytest.mark.parametrize("source", ["file:k:ann", "replay:k:ann"])
def test_of_answers_in_files_those_brought_in_last_count_whatever_the_dates_of_the_files(
    ledger: Ledger, source: str
) -> None:
    first = verdict("c2", NOON.replace(hour=13), source)
    assert ledger.add_verdicts([first]) == ledger.add_verdicts([verdict("c1", NOON, source)]) == 1
    assert [v.answer for v in ledger.verdicts()] == ["c1"]
    assert ledger.add_verdicts([first]) == 0, "a file that is brought in again says nothing new"


def test_adding_samples_again_changes_nothing(ledger: Ledger) -> None:
    again = ledger.add_samples(
        [NewSample(A, "holdout", None, 4, 4)], [NewPath(A, "a.png", "/images", "c2", {})], {A: "c2"},
        who="import", why="again",
    )  # fmt: skip
    assert again == 0
    assert ledger.labels()[A].class_id == "c1"
    assert [s.split for s in ledger.samples()] == ["train", "holdout"]


def test_of_a_path_that_comes_twice_the_first_row_counts(ledger: Ledger) -> None:
    twice = [NewPath("c" * 64, path, "/images", given, {}) for path, given in (("c.png", "c1"), ("d.png", None))]
    again = NewPath("c" * 64, "c.png", "/images", "c2", {})
    ledger.add_samples([NewSample("c" * 64, "train", None, 4, 4)], [*twice, again], {}, who="import", why="given")
    (sample,) = ledger.find_samples("c.png")
    assert sample.paths == tuple(twice)


def test_a_queue_entry_comes_back_whole_and_once(ledger: Ledger) -> None:
    entry = QueueEntry("k1", A, 1, 0, "shown", "c1", "c2", "looks like a dog", (B,), 2)
    ledger.add_queue([entry])
    ledger.add_queue([entry])
    assert ledger.queue(1) == [entry]


def test_states_of_an_iteration_are_kept_in_order(ledger: Ledger) -> None:
    ledger.set_state(1, "preparing", at=NOON)
    ledger.set_state(1, "done", at=NOON.replace(hour=13))
    only = ledger.iterations()[0]
    assert (only.state, only.started_at, only.ended_at) == ("done", NOON, NOON.replace(hour=13))


def test_an_answer_of_labelers_is_refused_as_a_class_name(ledger: Ledger) -> None:
    with pytest.raises(DataError, match="'ambiguous' can't be a class name"):
        ledger.add_classes(["ambiguous"], who="import")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE label_events SET new = 'c2'", "DELETE FROM verdicts", "DELETE FROM samples",
        "UPDATE blocks SET hash = ''", "DELETE FROM people",
    ],
)  # fmt: skip
def test_the_database_itself_refuses_to_change_the_past(ledger: Ledger, url: str, statement: str) -> None:
    ledger.add_verdicts([verdict("c1")])
    engine = schema.connect(url)
    with pytest.raises(sa.exc.DatabaseError, match="only grows"), engine.begin() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


@pytest.mark.parametrize("version", ["99", "many"])
def test_a_ledger_of_a_newer_release_is_refused(url: str, version: str) -> None:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT)"))
        connection.execute(sa.text("INSERT INTO about VALUES ('schema', :version)"), {"version": version})
    engine.dispose()
    with pytest.raises(ProjectError, match=f"schema version {version if version == '99' else 0}, this release reads"):
        Ledger(url)


def test_keeping_the_label_of_an_excluded_image_brings_it_back(ledger: Ledger) -> None:
    ledger.decide([Decision(A, "exclude", None, 1.0, (1,), "bad image")], who="consensus", iteration=1)
    (event,) = ledger.decide([Decision(A, "keep", "c1", 1.0, (2,), "1 of 1 say 'cat'")], who="consensus", iteration=2)
    assert (event.new, event.excluded) == ("c1", False)
    again = Decision(A, "keep", "c1", 1.0, (3,), "1 of 1 say 'cat'")
    assert ledger.decide([again], who="consensus", iteration=2) == []


# --- the chain


def test_an_untouched_ledger_has_no_faults(ledger: Ledger) -> None:
    noted = {"after import": ledger.head()}
    ledger.add_queue([QueueEntry(f"k{n}", A, 1, n, "shown", "c1", "c2", "wie ein Hund: 犬") for n in (2, 0, 1)])
    ledger.add_verdicts([verdict("c2"), verdict("c1", source="s2", person="bob")])
    ledger.decide([change(A, "c2", 1)], who="consensus", iteration=1)
    ledger.undo(A, who="eve", iteration=1)
    ledger.add_remarks([Remark(A, "error", "glare", "", "eve", NOON, 1)])
    ledger.set_state(1, "done", at=NOON)
    assert ledger.faults(noted | {"now": ledger.head()}) == []
    assert ledger.head()[0] == 8  # classes, samples, queue, verdicts, decision, undo, remark, state


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE label_events SET new = 'c2' WHERE id = 1",
        "UPDATE label_events SET at = '2020-01-01T00:00:00.000000+00:00' WHERE id = 2",
        "UPDATE samples SET split = 'train' WHERE number = 2",
        "UPDATE paths SET metadata = '{}' WHERE number = 1",
        "DELETE FROM verdicts WHERE id = 1",
        "UPDATE verdicts SET seconds = 2.4",
        "UPDATE queue SET position = 7",
        "UPDATE class_events SET name = 'cow' WHERE id = 1",
        "UPDATE blocks SET hash = 'x' WHERE number = 2",
        "DELETE FROM blocks WHERE number = 2",
        "INSERT INTO iteration_events (id, number, state, at, message, block) VALUES (9, 9, 'done', 'x', '', 99)",
        "INSERT INTO iteration_events (id, number, state, at, message, block) VALUES (9, 9, 'done', 'x', '', 2)",
    ],
)
def test_tampering_is_found(ledger: Ledger, url: str, tampering: str) -> None:
    ledger.add_queue([QueueEntry("k1", A, 1, 0, "shown", "c1", "c2", "looks like a dog")])
    ledger.add_verdicts([verdict("c2")])
    assert ledger.faults() == []
    by_hand(url, tampering)
    assert len(ledger.faults()) >= 1


@pytest.mark.parametrize("seconds", [float("nan"), float("inf")])
def test_a_number_that_databases_do_not_keep_is_refused_and_breaks_no_chain(ledger: Ledger, seconds: float) -> None:
    head = ledger.head()
    with pytest.raises(RecordError, match=f"'seconds' of a row for verdicts must be a finite number, got {seconds}"):
        ledger.add_verdicts([verdict("c2"), replace(verdict("c1", source="s2"), seconds=seconds)])
    assert (ledger.head(), ledger.faults(), ledger.verdicts()) == (head, [], [])


def test_a_ledger_cut_short_is_found_by_the_head_that_was_noted(ledger: Ledger, url: str) -> None:
    ledger.set_state(1, "done", at=NOON)
    noted = {"iterations/001/review.json": ledger.head()}
    last = ledger.head()[0]
    by_hand(url, f"DELETE FROM iteration_events WHERE block = {last}", f"DELETE FROM blocks WHERE number = {last}")
    assert ledger.faults() == []  # what is left is a whole chain
    assert ledger.faults(noted) == [
        f"iterations/001/review.json notes block {last}, and it is gone: the ledger was cut short"
    ]


def test_a_chain_made_anew_after_tampering_is_found_by_the_head_that_was_noted(ledger: Ledger, url: str) -> None:
    noted = {"here": ledger.head()}
    by_hand(url, "UPDATE label_events SET new = 'c2' WHERE id = 1")
    engine = schema.connect(url)
    with engine.connect() as connection:
        digests, _ = schema._digests(connection)
    engine.dispose()
    before, updates = schema.BEGINNING, []
    for number in sorted(digests):
        before = schema.seal(before, digests[number])
        updates.append(f"UPDATE blocks SET hash = '{before}' WHERE number = {number}")
    by_hand(url, *updates)
    assert ledger.faults() == []
    assert ledger.faults(noted) == [f"here notes block {noted['here'][0]}, and its hash is another one"]


def test_a_sample_is_replaced_where_others_have_all_of_its_places(ledger: Ledger) -> None:
    places = {s.id: s.paths[0] for s in ledger.samples()}
    assert ledger.replaced() == set()
    ledger.add_samples([], [replace(places[A], sample_id=B)], {}, who="import", why="overwritten")
    assert ledger.replaced() == {A}
    rows = [(path, sample, other) for path, sample, _, _, other in ledger.path_rows()]
    assert rows[0] == (places[A].path, A, B)
    assert {other for _, _, other in rows[1:]} == {None}
    before = ledger.heads()[2] - 1
    assert {row[4] for row in ledger.path_rows(up_to=before)} == {None}


# --- people


def test_a_person_can_be_erased_and_the_chain_stays_whole(ledger: Ledger) -> None:
    ledger.add_verdicts([verdict("c2", person="Ann Example", source="replay:k1:Ann Example")])
    ledger.decide([change(A, "c2", 1)], who="consensus", iteration=1)
    ledger.undo(A, who="Ann Example", iteration=1)
    noted = {"here": ledger.head()}
    assert (ledger.people(), ledger.verdicts()[0].source) == (["Ann Example"], "replay:k1:Ann Example")
    assert ledger.erase_person("Ann Example") == "erased person 1"
    assert (ledger.people(), ledger.verdicts()[0].person) == (["erased person 1"], "erased person 1")
    assert "Ann" not in "".join(ledger.dump())
    assert ledger.faults(noted) == []
    with pytest.raises(DataError, match="nobody called 'Ann Example'"):
        ledger.erase_person("Ann Example")


def test_an_erased_name_is_in_no_file_of_the_database(tmp_path: Path) -> None:
    ledger = Ledger.in_file(tmp_path / "ledger.db")
    ledger.add_classes(["cat"], who="Zebedee Unmistakable")
    assert any(b"Zebedee" in file.read_bytes() for file in tmp_path.iterdir())
    ledger.erase_person("Zebedee Unmistakable")
    assert not any(b"Zebedee" in file.read_bytes() for file in tmp_path.iterdir())


# --- a disk without room


@contextmanager
def no_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file may grow, as on a full disk: there is no room for the index of SQLite's log."""
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _where: (100, 100, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, allowed[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, allowed)


def test_a_ledger_on_a_full_disk_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a ledger?.db"
    made = Ledger.in_file(file)
    made.add_classes(["cat", "dog"], who="import")
    made.close()
    with no_room(monkeypatch):
        ledger = Ledger.in_file(file)
        assert (ledger.classes().names, ledger.faults()) == (("cat", "dog"), [])
        assert len(list(ledger.dump())) == 5
        with pytest.raises(ProjectError, match=r"the ledger could not be written .* check disk space and rights"):
            ledger.add_classes(["fox"], who="import")
    assert Ledger.in_file(file).add_classes(["fox"], who="import").names == ("cat", "dog", "fox")


def test_what_only_the_log_holds_is_not_passed_over_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ledger.in_file(tmp_path / "ledger.db").close()
    (tmp_path / "ledger.db-wal").write_bytes(b"somebody was stopped while writing")
    with no_room(monkeypatch), pytest.raises(ProjectError, match="the disk is full; make room on it"):
        Ledger.in_file(tmp_path / "ledger.db")


# --- older releases


def test_a_ledger_of_the_first_release_is_brought_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(V1.read_text(encoding="utf-8"))
    ledger = Ledger.in_file(file)
    assert ledger.about() == {"schema": str(schema.SCHEMA_VERSION), "id": "0" * 32}
    assert ledger.labels()[A].class_id == "c1"
    assert [(e.kind, e.who) for e in ledger.label_events(A)] == [
        ("import", "import"), ("decision", "consensus"), ("undo", "eve"),
    ]  # fmt: skip
    assert [(v.person, v.source, v.seconds) for v in ledger.verdicts()] == [
        ("Ann Example", "replay:k1:Ann Example", 2.5), ("bob@example.org", "17", 3.5),
    ]  # fmt: skip
    assert [e.key for e in ledger.queue(1)] == ["k1"]
    assert ledger.faults({"now": ledger.head()}) == []
    ledger.undo(A, who="eve", iteration=1)
    assert ledger.faults() == []
    engine = schema.connect(f"sqlite:///{file}")
    with pytest.raises(sa.exc.DatabaseError, match="only grows"), engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM label_events"))
    with sqlite3.connect(tmp_path / "ledger.db.v1") as kept:
        assert kept.execute("SELECT value FROM about WHERE key = 'schema'").fetchone() == ("1",)


def test_a_ledger_of_the_second_version_gets_its_indexes_and_keeps_its_chain(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    with sqlite3.connect(file) as connection:
        connection.executescript(V1.with_name("v2.sql").read_text(encoding="utf-8"))
    ledger = Ledger.in_file(file)
    assert ledger.about()["schema"] == str(schema.SCHEMA_VERSION)
    assert ledger.faults({"now": ledger.head()}) == []
    ledger.undo(A, who="eve", iteration=1)
    assert (ledger.labels()[A].class_id, ledger.faults()) == ("c2", [])
    assert ledger.counts()["labeled"] == len([now for now in ledger.labels().values() if now.class_id])
    backup = ['{"ledger": 2}\n', *itertools.islice(ledger.dump(), 1, None)]
    other = Ledger.in_file(tmp_path / "other.db")
    other.load(backup)
    assert (other.head(), other.labels()) == (ledger.head(), ledger.labels())


def test_counting_goes_by_the_kinds_of_events_and_by_splits(tmp_path: Path) -> None:
    """With a million samples anything else takes seconds."""
    ledger = Ledger.in_file(tmp_path / "ledger.db")
    asked: list[tuple[str, Any]] = []
    engine = ledger._engine
    sa.event.listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    ledger.counts()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        plans = [
            [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
            for statement, values in asked
            if statement.startswith("SELECT")
        ]
    steps = [step for plan in plans for step in plan if step.startswith(("SCAN", "SEARCH"))]
    assert len(steps) == 4
    known = ("ix_samples_split", "ix_label_events_kind", "ix_label_events_sample_id (sample_id=?)")
    assert [step for step in steps if not any(name in step for name in known)] == []


@pytest.mark.e2e
def test_a_ledger_of_the_first_release_in_postgresql_is_brought_up_to_date(postgres: Postgres) -> None:
    url = postgres.new_database()
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        text = V1.read_text(encoding="utf-8").replace("BOOLEAN NOT NULL", "INTEGER NOT NULL")
        for statement in text.replace(", \n\tFOREIGN KEY(sample_id) REFERENCES samples (id)", "").split(";\n"):
            if statement.strip() and not statement.startswith(("BEGIN", "COMMIT", "CREATE TRIGGER")):
                connection.exec_driver_sql(statement)
        connection.exec_driver_sql("ALTER TABLE label_events ALTER excluded TYPE BOOLEAN USING excluded = 1")
        connection.execute(sa.text(schema._append_only("postgresql", "about", ("update", "delete"))[0]))
        for table in ("about", "label_events", "verdicts"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION ledger_only_grows()"
            )
    engine.dispose()
    ledger = Ledger(url)
    assert [v.person for v in ledger.verdicts()] == ["Ann Example", "bob@example.org"]
    ledger.undo(A, who="eve", iteration=1)
    assert (ledger.labels()[A].class_id, ledger.faults()) == ("c2", [])
    ledger.close()


# --- out and in


def test_a_dump_made_while_others_write_restores_into_the_other_database(
    ledger: Ledger, database: NewDatabase, tmp_path: Path
) -> None:
    ledger.add_verdicts([verdict("c2", person="ann")])
    head = ledger.head()
    lines = ledger.dump()
    first = next(lines)
    ledger.set_state(1, "done", at=NOON)  # while the dump is under way
    whole = [first, *lines]
    for target in (database(), f"sqlite:///{tmp_path / 'elsewhere.db'}"):
        restored = Ledger(target)
        restored.load(whole)
        assert restored.head() in (head, ledger.head())
        assert restored.faults({"before": head}) == []
        assert (restored.verdicts(), restored.samples()) == (ledger.verdicts(), ledger.samples())
        restored.decide([change(A, "c2", 1)], who="consensus", iteration=2)
        assert restored.faults({"before": head}) == []
        with pytest.raises(ProjectError, match="holds a ledger already"):
            restored.load(whole)
        restored.close()


@pytest.mark.parametrize("line", ["", "{}", '["nowhere", 1]', '["about", 1]', "[]", "7", '["samples"]', "\x00"])
def test_a_broken_dump_is_named_by_its_line_and_leaves_nothing(database: NewDatabase, line: str) -> None:
    empty = Ledger(database())
    with pytest.raises(ProjectError, match="line 2 of the backup"):
        empty.load(['{"ledger": 2}', line])
    assert (empty.about(), empty.people()) == ({"schema": str(schema.SCHEMA_VERSION)}, [])
    empty.close()


# --- several at once


def test_people_who_write_at_once_lose_nothing_and_the_chain_stays_whole(ledger: Ledger, url: str) -> None:
    def write(person: str) -> None:
        own = Ledger(url)
        for number in range(10):
            own.add_verdicts([verdict("c1", NOON.replace(minute=number), f"{person}:{number}", person)])
        own.close()

    threads = [threading.Thread(target=write, args=(name,)) for name in ("ann", "bob", "eve")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.verdicts()) == 30
    assert sorted(ledger.people()) == ["ann", "bob", "eve"]
    assert ledger.faults() == []


def test_a_reader_does_not_wait_for_a_writer(ledger: Ledger) -> None:
    began = time.monotonic()
    with ledger._write() as writer:
        writer.add(schema.iteration_events, [{"number": 1, "state": "done", "at": "x", "message": ""}])
        found: list[object] = []
        reader = threading.Thread(target=lambda: found.append((len(ledger.samples()), ledger.iterations())))
        reader.start()
        reader.join(5)
        assert found == [(2, [])]
    assert time.monotonic() - began < 5


def test_several_that_make_a_ledger_at_once_all_have_it(url: str) -> None:
    failed: list[Exception] = []
    ready = threading.Barrier(4)

    def make() -> None:
        ready.wait()
        try:
            own = Ledger(url)
            own.add_classes(["cat"], who="import")
            own.close()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    ledger = Ledger(url)
    assert (ledger.classes().names, ledger.faults()) == (("cat",), [])
    ledger.close()


def test_a_ledger_waits_for_who_makes_its_file(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.5, other.execute, ["COMMIT"])
    end.start()
    own = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    own.close()
    end.join()
    other.close()


# --- questions that must not load everything


def test_counts_tell_what_there_is(ledger: Ledger) -> None:
    assert ledger.counts() == {"splits": {"train": 1, "holdout": 1}, "labeled": 2, "excluded": 0}
    ledger.decide([Decision(A, "exclude", None, 1.0, (1,), "bad image")], who="consensus", iteration=1)
    assert ledger.counts() == {"splits": {"train": 1, "holdout": 1}, "labeled": 2, "excluded": 1}
    ledger.add_samples([NewSample("c" * 64, "pool", None, 4, 4)], [], {}, who="import", why="pool")
    ledger.decide([change("c" * 64, "c1", 2)], who="consensus", iteration=1)
    ledger.undo(A, who="eve", iteration=1)
    assert ledger.counts() == {"splits": {"train": 1, "holdout": 1, "pool": 1}, "labeled": 3, "excluded": 0}


@pytest.mark.parametrize("name", ["a.png", "/images/a.png", A[:6], A, "A" * 12])
def test_a_sample_is_found_by_path_and_by_the_beginning_of_its_id(ledger: Ledger, name: str) -> None:
    assert [s.id for s in ledger.find_samples(name)] == [A]


@pytest.mark.parametrize("name", ["", "a", "c.png", "/elsewhere/a.png", "/", "aaaaa", "zzzzzz", "a' OR 1=1 --", "%"])
def test_nothing_is_found_by_other_names(ledger: Ledger, name: str) -> None:
    assert ledger.find_samples(name) == []


# --- where it lies

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 22 0:31 / /home rw - nfs4 server:/home rw
31 30 8:2 / /home/local\\040disk rw - xfs /dev/sdb1 rw
32 22 0:32 / /mnt/share rw - cifs //server/share rw
broken line
"""


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/data/p/ledger.db", ""), ("/home/ann/p/ledger.db", "nfs4"), ("/home/local disk/p/ledger.db", ""),
        ("/mnt/share/ledger.db", "cifs"), ("/homes/ledger.db", ""),
    ],
)  # fmt: skip
def test_a_networks_file_system_is_told_from_a_local_one(file: str, kind: str) -> None:
    assert network_filesystem(Path(file), MOUNTS) == kind


def test_a_ledger_on_a_networks_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation.ledger.network_filesystem", lambda _: "nfs4")
    with pytest.raises(ProjectError, match=r"network file system \(nfs4\).*PostgreSQL"):
        Ledger.in_file(tmp_path / "ledger.db")


@pytest.mark.parametrize(
    "url",
    ["nonsense", "mysql+nothing://x/y", "mysql://x/y", "postgresql://localhost:1/none", "sqlite:////nowhere/x"],
)
def test_a_database_that_can_not_be_used_is_one_sentence(url: str) -> None:
    with pytest.raises(ProjectError) as caught:
        Ledger(url)
    assert "\n" not in str(caught.value)
    assert ("must be an address of PostgreSQL or SQLite, got mysql" in str(caught.value)) == url.startswith("mysql")
