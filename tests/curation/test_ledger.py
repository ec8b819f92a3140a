"""The ledger only grows, and labels are a fold over it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from curation.errors import DataError, ProjectError
from curation.ledger import Ledger, NewPath, NewSample
from curation.records import Decision, QueueEntry, Verdict

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
A, B = "a" * 64, "b" * 64


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.in_file(tmp_path / "ledger.db")
    made.add_classes(["cat", "dog"], who="import")
    made.add_samples(
        [NewSample(A, "train", None, 4, 4), NewSample(B, "holdout", "g", 4, 4)],
        [NewPath(A, "a.png", "/images", "c1", {"light": 0.5}), NewPath(B, "b.png", "/images", "c2", {})],
        {A: "c1", B: "c2"},
        who="import",
        why="label as given",
    )
    return made


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


def test_adding_samples_again_changes_nothing(ledger: Ledger) -> None:
    again = ledger.add_samples(
        [NewSample(A, "holdout", None, 4, 4)], [NewPath(A, "a.png", "/images", "c2", {})], {A: "c2"},
        who="import", why="again",
    )  # fmt: skip
    assert again == 0
    assert ledger.labels()[A].class_id == "c1"
    assert [s.split for s in ledger.samples()] == ["train", "holdout"]


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
    "statement", ["UPDATE label_events SET new = 'c2'", "DELETE FROM verdicts", "DELETE FROM samples"]
)
def test_the_database_itself_refuses_to_change_the_past(ledger: Ledger, tmp_path: Path, statement: str) -> None:
    ledger.add_verdicts([verdict("c1")])
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    with pytest.raises(sa.exc.IntegrityError, match="only grows"), engine.begin() as connection:
        connection.execute(sa.text(statement))


def test_a_ledger_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    engine = sa.create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT)"))
        connection.execute(sa.text("INSERT INTO about VALUES ('schema', '99')"))
    with pytest.raises(ProjectError, match="schema version 99"):
        Ledger.in_file(file)


def test_keeping_the_label_of_an_excluded_image_brings_it_back(ledger: Ledger) -> None:
    ledger.decide([Decision(A, "exclude", None, 1.0, (1,), "bad image")], who="consensus", iteration=1)
    (event,) = ledger.decide([Decision(A, "keep", "c1", 1.0, (2,), "1 of 1 say 'cat'")], who="consensus", iteration=2)
    assert (event.new, event.excluded) == ("c1", False)
    again = Decision(A, "keep", "c1", 1.0, (3,), "1 of 1 say 'cat'")
    assert ledger.decide([again], who="consensus", iteration=2) == []
