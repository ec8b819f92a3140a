"""What is concluded from people's decisions, and that the intervals hold what they promise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from curation.audit import (
    AuditFigures,
    estimate_audit,
    is_flagged,
    precision_by_class,
    precision_by_rank,
    sway,
    wilson_interval,
)
from curation.records import Decision, QueueEntry, Verdict


def entry(number: int, mode: Any = "shown", given: str | None = "c1", reason: str = "looks wrong") -> QueueEntry:
    return QueueEntry(f"k{number}", f"s{number}", 1, number, mode, given, "c2" if reason else None, reason)


def decision(number: int, outcome: Any) -> Decision:
    return Decision(f"s{number}", outcome, "c2", 1.0, (), "")


def audited(
    flagged: list[str], controls: list[str], n_unflagged: int = 1000, n_flagged: int = 100, **settled: int
) -> AuditFigures:
    entries = [entry(n) for n in range(len(flagged))]
    entries += [entry(500 + n, "control", reason="") for n in range(len(controls))]
    decisions = {e.sample_id: decision(e.position, o) for e, o in zip(entries, flagged + controls, strict=True)}
    return estimate_audit(entries, decisions, n_unflagged, n_flagged, **settled)


class TestWilson:
    def test_matches_published_values(self) -> None:
        """Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
        published = {
            (81, 263): (0.2553, 0.3662),
            (15, 148): (0.0624, 0.1605),
            (0, 20): (0, 0.1611),
            (1, 29): (0.0061, 0.1718),
        }
        for (count, size), interval in published.items():
            assert wilson_interval(count, size) == pytest.approx(interval, abs=5e-5)

    @drawn(st.integers(0, 500), st.integers(1, 500))
    @hypothesis_settings(max_examples=50, deadline=None)
    def test_holds_the_share(self, count: int, size: int) -> None:
        count = min(count, size)
        low, high = wilson_interval(count, size)
        assert 0 <= low <= count / size <= high <= 1

    @pytest.mark.parametrize(("successes", "total"), [(0, 0), (0, 5), (5, 5), (1, 2)])
    def test_bounds_stay_between_zero_and_one(self, successes: int, total: int) -> None:
        low, high = wilson_interval(successes, total)
        assert 0 <= low < high <= 1

    def test_a_higher_level_is_wider(self) -> None:
        assert wilson_interval(5, 20, 0.99)[1] > wilson_interval(5, 20)[1]


class TestFigures:
    def test_nothing_is_known_without_decisions(self) -> None:
        assert estimate_audit([entry(1)], {}, 100, 10) == AuditFigures()
        assert estimate_audit([], {}, 0, 0) == AuditFigures()

    def test_precision_is_how_many_flagged_labels_were_wrong(self) -> None:
        figures = audited(["change"] * 8 + ["keep"] * 2, [])
        assert figures.flagger_precision is not None
        assert figures.flagger_precision.value == 0.8
        assert figures.flagger_precision.ci == wilson_interval(8, 10)
        assert figures.flagger_recall is None
        assert figures.labels_wrong is None

    def test_undecided_and_unlabeled_images_count_for_nothing(self) -> None:
        with_others = audited(["change", "contested", "ambiguous", "exclude", "keep"], [])
        assert with_others.flagger_precision == audited(["change", "keep"], []).flagger_precision
        pool = entry(9, "blind", given=None, reason="")
        assert estimate_audit([pool], {"s9": decision(9, "change")}, 10, 10) == AuditFigures()

    def test_labels_wrong_adds_what_controls_and_unseen_flags_hold(self) -> None:
        """1 of 20 controls wrong: 1/20 of 980; of the flagged half are, first as last: half of the 80 that are left."""
        figures = audited(["change", "keep", "keep", "change"] * 5, ["change"] + ["keep"] * 19)
        assert figures.labels_wrong is not None
        assert figures.labels_wrong.value == pytest.approx(980 / 20 + 80 / 2)
        low, high = figures.labels_wrong.ci or (0, 0)
        assert low < figures.labels_wrong.value < high
        assert high < 400

    def test_flags_further_down_are_taken_to_be_wrong_less_often_but_never_more_often(self) -> None:
        def left(flagged: list[str]) -> float:
            figures = audited(flagged, ["keep"] * 20, n_unflagged=20)
            assert figures.labels_wrong is not None
            return figures.labels_wrong.value

        falling, flat, rising = (
            ["change"] * 20 + ["keep"] * 20,
            ["change", "keep"] * 20,
            ["keep"] * 20 + ["change"] * 20,
        )
        assert left(falling) < 3
        assert left(flat) == pytest.approx(30, abs=5)
        assert left(rising) == pytest.approx(30)

    def test_what_was_settled_before_is_not_counted_again(self) -> None:
        figures = audited(
            ["change"] * 10 + ["change", "keep"] * 5, ["change"] + ["keep"] * 19, settled_flagged=80,
            settled_unflagged=500,
        )  # fmt: skip
        assert figures.labels_wrong is not None
        assert figures.labels_wrong.value == pytest.approx(480 / 20)

    def test_recall_is_the_flagged_share_of_all_wrong_labels(self) -> None:
        """All 10 flagged are seen, 6 wrong; 2 of 50 controls are wrong, so 40 of 1,000 unflagged labels."""
        figures = audited(["change"] * 6 + ["keep"] * 4, ["change"] * 2 + ["keep"] * 48, n_flagged=10)
        assert figures.flagger_recall is not None
        assert figures.flagger_recall.value == pytest.approx(6 / (6 + 40))
        low, high = figures.flagger_recall.ci or (0, 0)
        assert low < figures.flagger_recall.value < high < 0.7

    def test_right_controls_leave_zero_possible_but_not_certain(self) -> None:
        figures = audited(["keep"] * 10, ["keep"] * 30, n_flagged=10)
        assert figures.labels_wrong is not None
        assert figures.labels_wrong.value == 0
        low, high = figures.labels_wrong.ci or (9, 0)
        assert low == 0
        assert 30 < high < 150
        assert figures.flagger_recall is None  # no wrong label was seen at all

    def test_seen_through_and_right_is_zero(self) -> None:
        figures = audited(["keep"] * 3, ["keep"] * 4, n_unflagged=4, n_flagged=3)
        assert figures.labels_wrong is not None
        assert (figures.labels_wrong.value, figures.labels_wrong.ci) == (0, (0, 0))

    def test_flags_that_nobody_looked_at_leave_the_rest_unknown(self) -> None:
        assert audited([], ["keep"] * 10).labels_wrong is None
        assert audited([], ["keep"] * 10, n_flagged=0).labels_wrong is not None

    def test_a_contested_image_that_is_not_flagged_says_nothing_of_the_flagger(self) -> None:
        assert is_flagged(entry(1, "blind"))
        assert is_flagged(entry(1, "shown", reason=""))
        assert not is_flagged(entry(1, "blind", reason=""))
        assert not is_flagged(entry(1, "control", reason=""))


@pytest.mark.parametrize(("miss_rate", "controls"), [(0.05, 60), (0.15, 40), (0.01, 100)])
def test_the_interval_holds_the_truth_nineteen_times_in_twenty(miss_rate: float, controls: int) -> None:
    """Flagged labels become less often wrong with rank, which the estimate must survive on the safe side."""
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(150):
        flagged = rng.random(150) < np.linspace(0.9, 0.3, 150)
        others = rng.random(2000) < miss_rate
        drawn = rng.permutation(2000)[:controls]
        figures = audited(
            ["change" if w else "keep" for w in flagged[:100]],
            ["change" if w else "keep" for w in others[drawn]], n_unflagged=2000, n_flagged=150,
        )  # fmt: skip
        left = flagged[100:].sum() + others.sum() - others[drawn].sum()
        assert figures.labels_wrong is not None
        low, high = figures.labels_wrong.ci or (0, 0)
        held += low <= left <= high
    assert held >= 0.91 * 150


class TestWhereTheFlaggerIsRight:
    def test_precision_falls_with_rank(self) -> None:
        entries = [entry(n) for n in range(20)]
        decisions = {e.sample_id: decision(e.position, "change" if e.position < 8 else "keep") for e in entries}
        found = precision_by_rank(entries, decisions)
        assert [name for name, _ in found] == ["1 to 5", "6 to 10", "11 to 15", "16 to 20"]
        assert [share.value for _, share in found] == [1.0, 0.6, 0.0, 0.0]
        assert found[1][1].ci == wilson_interval(3, 5)

    def test_few_decisions_make_few_parts(self) -> None:
        entries = [entry(n) for n in range(7)]
        decisions = {e.sample_id: decision(e.position, "keep") for e in entries}
        assert [name for name, _ in precision_by_rank(entries, decisions)] == ["1 to 7"]
        assert precision_by_rank(entries[:3], decisions) == ()

    def test_classes_come_the_most_often_wrong_first_and_controls_do_not_count(self) -> None:
        entries = [entry(n, given="c1" if n < 4 else "c2") for n in range(8)]
        entries.append(entry(8, "control", given="c1", reason=""))
        outcomes = ["keep", "keep", "keep", "change", "change", "change", "keep", "keep", "change"]
        decisions = {e.sample_id: decision(e.position, o) for e, o in zip(entries, outcomes, strict=True)}
        found = precision_by_class(entries, decisions)
        assert [(name, share.value) for name, share in found] == [("c2", 0.5), ("c1", 0.25)]


class TestSway:
    def verdicts(self, entries: list[QueueEntry], named: int) -> list[Verdict]:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return [
            Verdict(e.sample_id, "c2" if n < named else "c1", "ann", at, e.key, f"s{e.key}", e.mode, 1)
            for n, e in enumerate(entries)
        ]

    def test_is_the_difference_between_shown_and_blind(self) -> None:
        """Newcombe 1998, table II, case (a): 56 of 70 less 48 of 80 is 0.2, from 0.0524 to 0.3339."""
        shown = [entry(n) for n in range(70)]
        blind = [entry(100 + n, "blind") for n in range(80)]
        found = sway([*shown, *blind], [*self.verdicts(shown, 56), *self.verdicts(blind, 48)])
        assert found is not None
        assert found.value == pytest.approx(0.2)
        assert found.ci == pytest.approx((0.0524, 0.3339), abs=5e-5)

    def test_is_not_known_from_few_answers(self) -> None:
        shown, blind = [entry(n) for n in range(70)], [entry(100 + n, "blind") for n in range(9)]
        assert sway([*shown, *blind], [*self.verdicts(shown, 56), *self.verdicts(blind, 4)]) is None
