"""A reviewer's verdicts decide at once, can be taken back, leave the holdout alone; causes are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from curation import schema
from curation.errors import DataError
from curation.history import history_rows
from curation.ledger import Ledger, NewPath, NewSample, _verdict_row
from curation.records import Decision, Remark, Verdict
from curation.reviews import (
    by_labelers,
    causes_offered,
    count_causes,
    count_outcomes,
    give_verdicts,
    last_given,
    live_rows,
    standing,
    take_back,
)

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
A, B, H, P = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
SPLITS = {A: "train", B: "train", H: "holdout", P: "pool"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.in_file(tmp_path / "ledger.db")
    made.add_classes(["cat", "dog"], who="import")
    made.add_samples(
        [NewSample(s, split, None, 4, 4) for s, split in SPLITS.items()],  # type: ignore[arg-type]
        [NewPath(s, f"{s[0]}.png", "/images", "c1", {}) for s in SPLITS],
        {A: "c1", B: "c1", H: "c1"},
        who="import",
        why="label as given",
    )
    return made


def judge(ledger: Ledger, answers: dict[str, str], minute: int = 0, person: str = "ann") -> list[str]:
    at = NOON + timedelta(minutes=minute)
    return list(give_verdicts(ledger, answers, SPLITS, person=person, iteration=1, at=at).changed)


def test_a_verdict_changes_the_label_at_once_and_is_cited(ledger: Ledger) -> None:
    assert judge(ledger, {A: "c2", B: "c1", P: "c2"}) == [A, P]
    labels = ledger.labels()
    assert [labels[s].class_id for s in (A, B, P)] == ["c2", "c1", "c2"]
    [verdict] = [v for v in ledger.verdicts() if v.sample_id == A]
    event = ledger.label_events(A)[-1]
    assert (event.who, event.cites, event.iteration, verdict.mode) == ("ann", (verdict.id,), 1, "review")
    assert [v.sample_id for v in ledger.verdicts()] == [A, B, P], "a right label is a verdict too"


def test_giving_the_same_verdict_twice_adds_nothing(ledger: Ledger) -> None:
    judge(ledger, {A: "c2"})
    assert judge(ledger, {A: "c2"}, minute=1) == []
    assert (len(ledger.verdicts(every=True)), len(ledger.label_events(A))) == (1, 2)


def test_holdout_labels_are_left_alone(ledger: Ledger) -> None:
    judged = give_verdicts(ledger, {A: "c2", H: "c2"}, SPLITS, person="ann", iteration=1)
    assert (judged.given, list(judged.left_alone or {})) == ((A,), [H])
    assert "two blind verdicts" in judged.words()
    assert (ledger.labels()[H].class_id, len(ledger.verdicts())) == ("c1", 1)


def test_bad_image_leaves_it_out_and_a_class_brings_it_back(ledger: Ledger) -> None:
    judge(ledger, {A: "bad image"})
    assert ledger.labels()[A].excluded
    judge(ledger, {A: "c1"}, minute=1)
    assert (ledger.labels()[A].class_id, ledger.labels()[A].excluded) == ("c1", False)


def test_nothing_is_recorded_where_one_answer_is_wrong(ledger: Ledger) -> None:
    with pytest.raises(DataError, match="'c9' is no answer"):
        judge(ledger, {A: "c2", B: "c9"})
    with pytest.raises(DataError, match="no sample has the id 'zz'"):
        judge(ledger, {A: "c2", "zz": "c1"})
    assert ledger.verdicts() == []


def test_taking_back_withdraws_the_verdict_and_its_change(ledger: Ledger) -> None:
    judge(ledger, {A: "c2", B: "c1"})
    taken = take_back(ledger, [A, B, H], person="ben", iteration=1)
    assert (taken.given, taken.changed, list(taken.left_alone or {})) == ((A, B), (A,), [H])
    assert ledger.labels()[A].class_id == "c1"
    assert standing(ledger.verdicts()) == {}
    assert [e.kind for e in ledger.label_events(A)] == ["import", "decision", "undo"]
    judge(ledger, {A: "c2"}, minute=2000 * 60 * 24)
    assert ledger.labels()[A].class_id == "c2", "what was taken back can be said again"


def test_taking_back_without_a_reviewers_verdict_undoes_the_consensus(ledger: Ledger) -> None:
    ledger.decide([Decision(A, "change", "c2", 1.0, (7,), "two say so")], who="consensus", iteration=1)
    assert take_back(ledger, [A], person="ann", iteration=1).changed == (A,)
    assert ledger.labels()[A].class_id == "c1"


def said_and_merged(ledger: Ledger, steps: str) -> None:
    """Each step a reviewer and what they say of A (``ann:c2``), or a class that is merged into another (``c2>c3``)."""
    for minute, step in enumerate(steps.split(", ")):
        if ">" in step:
            merged, into = step.split(">")
            ledger.merge_class(merged, into, who="ann")
            moved = [
                Decision(s, "change", into, 1.0, (), "") for s, n in ledger.labels().items() if n.class_id == merged
            ]
            ledger.decide(moved, who="ann", iteration=1)
        else:
            person, answer = step.split(":")
            judge(ledger, {A: answer}, minute, person)


def stands(ledger: Ledger) -> str:
    """The label of A and whose verdict is in force: ``c1 left out (ann)``."""
    now, verdict = ledger.labels()[A], standing(ledger.verdicts()).get(A)
    return f"{now.class_id}{' left out' if now.excluded else ''}{f' ({verdict.person})' if verdict else ''}"


@pytest.mark.parametrize(
    ("steps", "after"),
    [
        ("ann:c2, ben:c3", ["c2 (ann)", "c1"]),
        ("ann:c2, ben:c1, cid:c3", ["c1 (ben)", "c2 (ann)", "c1"]),
        ("ann:c2, ann:c1", ["c1"]),
        ("ann:c2, ann:c3", ["c1"]),
        ("ann:bad image, ann:c1", ["c1"]),
        ("ann:c2, c2>c3", ["c1"]),
        ("c1>c3, ann:c2, c2>c3", ["c3"]),
        ("ann:c2, c2>c3, ben:c1", ["c3 (ann)", "c1"]),
        ("ben:c2, ann:bad image, ben:c3", ["c1 left out (ann)", "c1"]),
        ("ben:c2, ann:ambiguous, ben:c3", ["c1 (ann)", "c1"]),
    ],
)
def test_what_is_taken_back_leaves_the_verdict_that_still_stands_or_the_label_before_reviewers(
    ledger: Ledger, steps: str, after: list[str]
) -> None:
    ledger.add_classes(["fox"], who="ann")
    said_and_merged(ledger, steps)
    was = stands(ledger)
    for expected in after:
        taken = take_back(ledger, [A], person="eve", iteration=1)
        assert stands(ledger) == expected
        assert (A in taken.changed) == (was.split(" (")[0] != expected.split(" (")[0])
        was = expected
    assert take_back(ledger, [A], person="eve", iteration=1).left_alone == {A: "has nothing to take back"}
    assert stands(ledger) == after[-1]
    judge(ledger, {A: "c3"}, minute=2000 * 60 * 24)
    take_back(ledger, [A], person="eve", iteration=1, at=NOON + timedelta(days=3000))
    assert stands(ledger) == after[-1], "what was taken back before does not come back"


def test_beneath_what_reviewers_took_back_the_consensus_is_taken_back_next(ledger: Ledger) -> None:
    ledger.decide([Decision(A, "change", "c2", 1.0, (77,), "two say so")], who="consensus", iteration=1)
    judge(ledger, {A: "bad image"})
    for expected in ("c2", "c1"):
        assert take_back(ledger, [A], person="eve", iteration=1).changed == (A,)
        assert stands(ledger) == expected


def test_the_last_reviewer_has_the_last_word_and_labelers_are_kept_apart(ledger: Ledger) -> None:
    judge(ledger, {A: "c2"}, person="ann")
    judge(ledger, {A: "c1"}, minute=1, person="ben")
    ledger.add_verdicts([Verdict(A, "c2", "lab", NOON + timedelta(hours=1), "k", "ls:1", "blind", 1)])
    assert standing(ledger.verdicts())[A].person == "ben"
    assert [v.person for v in by_labelers(ledger.verdicts())] == ["lab"]
    assert ledger.labels()[A].class_id == "c1"


def test_what_a_reviewer_says_last_counts_whatever_the_clock_says(ledger: Ledger) -> None:
    ledger.add_classes(["fox"], who="ann")
    judge(ledger, {A: "c2", B: "c2"}, minute=60, person="ann")
    judge(ledger, {A: "c3"}, person="ann")
    assert stands(ledger) == "c3 (ann)"
    assert last_given(ledger.verdicts(), "ann") == [A]
    judge(ledger, {A: "c2"}, minute=-60, person="ben")
    assert stands(ledger) == "c2 (ben)"
    for expected in ("c3 (ann)", "c1"):
        take_back(ledger, [A], person="eve", iteration=1, at=NOON - timedelta(days=1))
        assert stands(ledger) == expected
    told = [(row[2], row[4]) for row in history_rows(ledger) if row[1] == "a.png"]
    assert told == [
        ("import", "cat"),
        ("verdict", "dog"), ("decision", "dog"), ("verdict", "fox"), ("decision", "fox"), ("verdict", "dog"),
        ("decision", "dog"), ("verdict", "withdrawn"), ("undo", "fox"), ("verdict", "withdrawn"), ("undo", "cat"),
    ]  # fmt: skip


def test_a_verdict_and_its_change_are_recorded_together_or_not_at_all(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_args: object, **_named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as stop:
        stop.setattr(ledger, "decide", stopped)
        with pytest.raises(KeyboardInterrupt):
            judge(ledger, {A: "c2"})
    assert ledger.verdicts() == []
    judge(ledger, {A: "c2", B: "c2"})
    with monkeypatch.context() as stop:
        stop.setattr(ledger, "take_back", stopped)
        with pytest.raises(KeyboardInterrupt):
            take_back(ledger, [A], person="ann", iteration=1)
    assert stands(ledger) == "c2 (ann)"


def test_many_verdicts_are_taken_back_in_one_step(ledger: Ledger) -> None:
    judge(ledger, {A: "c2", B: "c2", P: "c2"})
    before, _ = ledger.head()
    assert take_back(ledger, [A, B, P], person="ann", iteration=1).changed == (A, B, P)
    assert ledger.head()[0] == before + 1
    assert ledger.faults() == []


def test_a_reviewers_name_can_be_erased_from_all_that_they_did(ledger: Ledger, tmp_path: Path) -> None:
    judge(ledger, {A: "c2"}, person="Zebedee Unmistakable")
    judge(ledger, {B: "c2"}, person="ben")
    take_back(ledger, [B], person="Zebedee Unmistakable", iteration=1, at=NOON + timedelta(minutes=1))
    assert [v.person for v in ledger.verdicts_of(B)] == ["ben", "Zebedee Unmistakable"]
    assert set(standing(ledger.verdicts())) == {A}
    judge(ledger, {A: "c1"}, 2, person="Zebedee Unmistakable")
    assert len([v for v in ledger.verdicts() if v.sample_id == A]) == 1, "the later one replaces the earlier one"
    ledger.erase_person("Zebedee Unmistakable")
    assert "Zebedee" not in "".join(ledger.dump())
    assert standing(ledger.verdicts())[A].person == "erased person 1"
    take_back(ledger, [A], person="ben", iteration=1, at=NOON + timedelta(minutes=3))
    assert standing(ledger.verdicts()) == {}


def test_verdicts_of_before_names_were_kept_apart_are_replaced_as_ever(ledger: Ledger) -> None:
    judge(ledger, {A: "c2"})
    with ledger._write() as writer:  # as it was written then
        old = {**_verdict_row(Verdict(B, "c2", "ann", NOON, "", "", "review", 1), writer), "source": f"review:ann:{B}"}
        writer.add(schema.verdicts, [old])
    judge(ledger, {B: "c1"}, 1)
    assert [(v.sample_id, v.answer) for v in ledger.verdicts()] == [(A, "c2"), (B, "c1")]
    ledger.erase_person("ann")
    take_back(ledger, [B], person="ben", iteration=1, at=NOON + timedelta(minutes=2))
    assert (set(standing(ledger.verdicts())), ledger.people()) == ({A}, ["erased person 1", "ben"])


def test_causes_are_counted_by_iteration_and_the_list_of_them_grows(ledger: Ledger) -> None:
    ledger.add_remarks([
        Remark(A, "error", "glare", "", "ann", NOON, 1), Remark(B, "error", "glare", "upper left", "ann", NOON, 1),
        Remark(A, "error", "rare kind", "", "ann", NOON, 2), Remark(A, "sent", "", "", "ann", NOON, 2),
    ])  # fmt: skip
    assert count_causes(ledger.remarks()) == {1: {"glare": 2}, 2: {"rare kind": 1}}
    assert causes_offered(ledger.remarks())[:2] == ["glare", "rare kind"]
    assert ledger.remarks(B)[0].note == "upper left"


def test_last_verdicts_are_those_given_at_once_and_still_standing(ledger: Ledger) -> None:
    judge(ledger, {A: "c2"})
    judge(ledger, {B: "c2", P: "c1"}, minute=1)
    assert last_given(ledger.verdicts(), "ann") == [B, P]
    assert last_given(ledger.verdicts(), "ben") == []
    take_back(ledger, [B, P], person="ann", iteration=1)
    assert last_given(ledger.verdicts(), "ann") == [A]


def test_live_rows_say_what_stands_now(ledger: Ledger) -> None:
    judge(ledger, {A: "c2", B: "bad image"})
    ledger.add_remarks([Remark(A, "error", "glare", "top", "ann", NOON, 1)])
    assert live_rows(ledger, [A, B, H]) == [
        {"sample_id": A, "current": "dog", "review": "dog (ann)", "cause": "glare", "note": "top"},
        {"sample_id": B, "current": "cat", "review": "bad image (ann)", "cause": "", "note": ""},
        {"sample_id": H, "current": "cat", "review": "", "cause": "", "note": ""},
    ]


def test_what_fits_none_of_the_classes_is_counted_apart_from_what_may_be_of_several() -> None:
    said = {"a": ("ambiguous", "c1"), "b": ("other", "c1", "other"), "c": ("other", "ambiguous"), "d": ("c1",)}
    pairs = [(sample, answer) for sample, answers in said.items() for answer in answers]
    verdicts = [
        Verdict(sample, answer, f"person {n}", NOON, f"k{sample}", f"{sample}{n}", "blind", 1, id=n)
        for n, (sample, answer) in enumerate(pairs)
    ]
    cites = {s: tuple(v.id for v in verdicts if v.sample_id == s) for s in said}
    decisions = [
        Decision(s, "ambiguous" if s in "abc" else "keep", "c1" if s == "d" else None, 1.0, cites[s], "") for s in said
    ]
    assert count_outcomes(decisions, verdicts) == {"ambiguous": 2, "other": 1, "keep": 1}
