"""What an iteration says in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from curation.records import Estimate
from reports.summary import (
    Gain,
    IterationSummary,
    estimate_words,
    gain_badge,
    interval_words,
    percent,
    what_changed,
    what_is_weak,
    worst_pair,
)
from tests.reports.cases import CLASSES, SLICE, make_summary


@pytest.fixture
def summary() -> IterationSummary:
    return make_summary([Path(f"{n}.png") for n in range(24)], 1)


def test_percent_and_intervals_read_like_words() -> None:
    assert percent(0.123) == "12.3 %"
    assert interval_words((0.1, 0.25)) == "10.0 to 25.0 %"
    assert interval_words(None) == ""
    assert estimate_words(Estimate(0.2)) == "20.0 %"
    assert estimate_words(None) == "not known yet"


def test_worst_pair_is_the_largest_error_and_none_without_errors(summary: IterationSummary) -> None:
    assert worst_pair(summary) == (CLASSES[0], CLASSES[1], 3)
    assert worst_pair(replace(summary, confusion=((3, 0), (0, 4)))) is None
    assert worst_pair(replace(summary, confusion=())) is None


def test_first_of_equal_pairs_is_named(summary: IterationSummary) -> None:
    assert worst_pair(replace(summary, confusion=((0, 2, 2), (2, 0, 0), (0, 0, 0)))) == (CLASSES[0], CLASSES[1], 2)


@pytest.mark.parametrize(
    ("value", "shown", "badge"),
    [(0.02, True, "Better"), (-0.02, True, "Worse"), (0.02, False, "No change shown")],
)
def test_only_a_shown_gain_is_called_better_or_worse(value: float, shown: bool, badge: str) -> None:
    assert gain_badge(Gain(Estimate(value), Estimate(value), Estimate(0), 0.5, shown, "")) == badge


def test_what_changed_counts_in_singular_and_plural(summary: IterationSummary) -> None:
    one = replace(summary, labels_reviewed=1, labels_changed=1, labels_excluded=1, contested=1, ambiguous=0)
    assert what_changed(one) == (
        "1 label was reviewed and 1 changed; 1 image was left out of training. On 1 image people disagree."
    )
    two = replace(summary, labels_reviewed=9, labels_changed=0, ambiguous=2)
    assert what_changed(two) == "9 labels were reviewed and 0 changed. 2 fit no class clearly."
    three = replace(summary, labels_reviewed=9, labels_changed=0, contested=3, ambiguous=1, other=1)
    assert what_changed(three) == (
        "9 labels were reviewed and 0 changed. "
        "On 3 images people disagree, 1 fits no class clearly and 1 is of none of the classes."
    )


def test_first_iteration_says_that_nothing_changed_yet(summary: IterationSummary) -> None:
    assert what_changed(replace(summary, number=0, labels_reviewed=0)).startswith("Nothing yet")


def test_what_is_weak_names_slice_and_pair_and_skips_fixed_slices(summary: IterationSummary) -> None:
    assert what_is_weak(summary).startswith(f"{SLICE}: 40.0 % wrong (25.0 to 58.0 %), elsewhere 10.0 %.")
    fixed = tuple(replace(card, slice=replace(card.slice, status="fixed")) for card in summary.slices)
    assert "No group of images stands out" in what_is_weak(replace(summary, slices=fixed))


def test_what_is_weak_names_the_first_open_slice_as_the_table_and_the_advice_do(summary: IterationSummary) -> None:
    small = replace(summary.slices[0], slice=replace(summary.slices[0].slice, name="a few images", error_rate=0.9))
    assert what_is_weak(replace(summary, slices=(*summary.slices, small))).startswith(f"{SLICE}: 40.0 % wrong")
