"""What is concluded from people's decisions, and that the intervals hold what they promise."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given as drawn
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from curation.audit import (
    flagger_precision,
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


class TestPrecision:
    def test_nothing_is_known_without_decisions(self) -> None:
        assert flagger_precision([entry(1)], {}) is None
        assert flagger_precision([], {}) is None

    def test_it_is_how_many_flagged_labels_were_wrong(self) -> None:
        outcomes = ["change"] * 8 + ["keep"] * 2
        decisions = {f"s{n}": decision(n, outcome) for n, outcome in enumerate(outcomes)}
        found = flagger_precision([entry(n) for n in range(10)], decisions)
        assert found is not None
        assert (found.value, found.ci) == (0.8, wilson_interval(8, 10))

    def test_undecided_unlabeled_and_unflagged_images_count_for_nothing(self) -> None:
        outcomes = ["change", "contested", "ambiguous", "exclude", "keep", "change", "change"]
        decisions = {f"s{n}": decision(n, outcome) for n, outcome in enumerate(outcomes)}
        control, pool = entry(5, "control", reason=""), entry(6, "blind", given=None, reason="")
        found = flagger_precision([*(entry(n) for n in range(5)), control, pool], decisions)
        assert found is not None
        assert (found.value, found.ci) == (0.5, wilson_interval(1, 2))

    def test_a_contested_image_that_is_not_flagged_says_nothing_of_the_flagger(self) -> None:
        assert is_flagged(entry(1, "blind"))
        assert is_flagged(entry(1, "shown", reason=""))
        assert not is_flagged(entry(1, "blind", reason=""))
        assert not is_flagged(entry(1, "control", reason=""))


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
