"""Checks of the holdout: who is asked, what changes a label, and figures by the checked labels that keep their word."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from curation import holdout
from curation.audit import wilson_interval
from curation.errors import RecordError
from curation.records import AMBIGUOUS, SKIPPED, WITHDRAWN, CurrentLabel, LabelEvent, Mode, Verdict

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def said(sample: str, *answers: tuple[str, str], mode: Mode = "holdout") -> list[Verdict]:
    return [
        Verdict(sample, answer, person, NOON, f"k{sample}", f"{person}{sample}", mode, 1, 2.0, id=number)
        for number, (person, answer) in enumerate(answers, start=1)
    ]


def test_half_of_the_rows_are_flagged_and_the_rest_is_filled_up() -> None:
    flagged, others = [f"f{n}" for n in range(10)], [f"o{n}" for n in range(30)]
    drawn = holdout.draw_rows(flagged, others, 12, seed=1)
    assert (len(set(drawn)), len([s for s in drawn if s[0] == "f"])) == (12, 6)
    assert [len([s for s in holdout.draw_rows(flagged, others, 36, seed=1) if s[0] == kind]) for kind in "fo"] == [
        10,
        26,
    ]
    assert len(holdout.draw_rows(flagged, ["o"], 8, seed=1)) == 8
    assert len(holdout.draw_rows(flagged, others, 500, seed=1)) == 40
    assert holdout.draw_rows(flagged, others, 12, seed=1) != holdout.draw_rows(flagged, others, 12, seed=2)


@pytest.mark.parametrize(
    ("answers", "label"),
    [
        ([("ann", "c2"), ("bob", "c2")], "c2"),
        ([("ann", "c2"), ("bob", "c1")], None),
        ([("ann", "c2"), ("ann", "c2")], None),
        ([("ann", "c2"), ("bob", "c2"), ("eve", "c1"), ("dan", "c1")], None),
        ([("ann", "c2"), ("bob", "c2"), ("eve", "c1")], "c2"),
        ([("ann", AMBIGUOUS), ("bob", AMBIGUOUS)], None),
        ([("ann", "c2"), ("ann", "c1"), ("bob", "c2")], None),
        ([("ann", "c2"), ("ann", SKIPPED), ("bob", "c2")], "c2"),
    ],
)
def test_a_label_changes_only_where_two_people_name_the_same_class(
    answers: list[tuple[str, str]], label: str | None
) -> None:
    verdicts = said("s", *answers)
    assert {s: c for s, (c, _) in holdout.agreed(verdicts).items()} == ({"s": label} if label else {})
    assert [d.class_id for d in holdout.decisions(verdicts, {"s": "c1"})] == ([label] if label else [])
    assert holdout.decisions(verdicts, {"s": "c2"}) == []


def test_whoever_skips_has_not_answered() -> None:
    assert holdout.answered(
        [*said("a", ("ann", "c1"), ("bob", SKIPPED)), *said("b", ("ann", "c1"), ("bob", "c2"))]
    ) == {"b"}


def test_labels_as_given_are_those_before_the_check_and_no_other_change_is_taken_back() -> None:
    labels = {s: CurrentLabel(s, "c2", False, 9) for s in ("checked", "train")}
    events = [
        LabelEvent(1, "decision", "checked", "c1", "c2", False, "consensus", NOON, "agreed", 1, (7, 8)),
        LabelEvent(2, "decision", "train", "c1", "c2", False, "consensus", NOON, "agreed", 1, (5,)),
    ]
    verdicts = [Verdict("checked", "c2", "ann", NOON, "k", "1", "holdout", 1, None, id=7)]
    verdicts += [Verdict("train", "c2", "ann", NOON, "l", "2", "blind", 1, None, id=5)]
    found = holdout.as_given(labels, events, verdicts, {})
    assert {s: now.class_id for s, now in found.items()} == {"checked": "c1", "train": "c2"}
    assert holdout.as_given(labels, events, verdicts, {"c1": "c3"})["checked"].class_id == "c3"


def test_a_label_that_a_check_changed_counts_though_an_answer_is_taken_back_later() -> None:
    given = {s: CurrentLabel(s, "c1", False, 1) for s in "ab"}
    now = {**given, "a": CurrentLabel("a", "c2", False, 2)}
    verdicts = [*said("a", ("ann", "c2"), ("bob", WITHDRAWN)), *said("b", ("ann", "c1"), ("bob", "c1"))]
    check = holdout.check_rows(["a", "b"], set(), verdicts, given, now)
    assert (check.looked_others, check.changed_others) == (2, 1)


def test_what_two_people_agree_on_counts_before_it_is_decided_but_not_after_it_was_undone() -> None:
    labels = {s: CurrentLabel(s, "c1", False, 1) for s in ("a", "b")}
    verdicts = said("a", ("ann", "c2"), ("bob", "c2"))
    found = holdout.as_agreed(labels, verdicts, [])
    assert {s: now.class_id for s, now in found.items()} == {"a": "c2", "b": "c1"}
    events = [
        LabelEvent(1, "decision", "a", "c1", "c2", False, "consensus", NOON, "agreed", 1, (1, 2)),
        LabelEvent(2, "undo", "a", "c2", "c1", False, "rev", NOON, "undone", 1, (), 1),
    ]
    assert holdout.as_agreed(labels, verdicts, events) == labels


def test_nothing_is_said_of_a_kind_that_nobody_looked_at() -> None:
    flagged, looked = np.arange(20) < 5, np.arange(20) < 3
    check = holdout.check_of(flagged, looked, np.arange(20) < 2)
    assert check.wrong is None
    assert check.words.endswith(
        "wrong were 2 of 3 flagged and 0 of 0 others. Check some of both before anything is said of the rest."
    )
    whole = holdout.check_of(flagged, np.ones(20, dtype=bool), np.arange(20) < 2)
    assert whole.wrong is not None
    assert (whole.wrong.value, whole.wrong.ci) == (2, (2, 2))


def test_arrays_that_do_not_fit_are_refused() -> None:
    values, mask = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=bool)
    with pytest.raises(RecordError, match=r"must all have shape \(rows,\)"):
        holdout.corrected_mean(values, values[:2], mask, mask, (0, 1), (0, 1))
    with pytest.raises(RecordError, match="must be among those that were looked at"):
        holdout.corrected_mean(values, values + 1, mask, mask, (0, 1), (0, 1))


def world(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """600 rows, 8 % of the labels wrong, a model that is right on 85 % and mostly repeats the others' wrong labels."""
    wrong = rng.random(600) < 0.08
    right_truly = rng.random(600) < 0.85
    right_given = np.where(wrong, ~right_truly & (rng.random(600) < 0.8), right_truly)
    flagged = ~right_given
    looked = np.zeros(600, dtype=bool)
    for kind in (np.flatnonzero(flagged), np.flatnonzero(~flagged)):
        looked[rng.choice(kind, min(60, len(kind)), replace=False)] = True
    return {"wrong": wrong, "truly": right_truly, "given": right_given, "flagged": flagged, "looked": looked}


def test_intervals_by_checked_labels_hold_the_truth_and_repairing_the_disputed_alone_flatters() -> None:
    rng = np.random.default_rng(0)
    held, wrong_held, flattery, corrected = 0, 0, [], []
    for number in range(200):
        w = world(rng)
        given = w["given"].astype(np.int64)
        now = np.where(w["looked"], w["truly"], w["given"]).astype(np.int64)
        sampled = wilson_interval(now.sum(), 600)
        found = holdout.corrected_mean(given, now, w["flagged"], w["looked"], (-1, 0, 1), sampled, seed=number)
        assert found is not None
        assert found.ci is not None
        held += found.ci[0] <= 0.85 <= found.ci[1]
        corrected.append(found.value - 0.85)
        flattery.append(np.where(w["flagged"], w["truly"], w["given"]).mean() - 0.85)
        check = holdout.check_of(w["flagged"], w["looked"], w["wrong"] & w["looked"], seed=number)
        assert check.wrong is not None
        assert check.wrong.ci is not None
        wrong_held += check.wrong.ci[0] <= w["wrong"].sum() <= check.wrong.ci[1]
    assert held >= 184  # 95 % of 200, less three standard errors
    assert wrong_held >= 184
    assert abs(np.mean(corrected)) < 0.005
    assert np.mean(flattery) > np.mean(corrected) + 0.005
