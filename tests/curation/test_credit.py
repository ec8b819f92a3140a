"""Credit goes to the action that helped, and to none where none did."""

from __future__ import annotations

import numpy as np
import pytest

from curation.credit import (
    Credit,
    TrainingSet,
    _shown,
    action_sets,
    causes,
    credit_actions,
    credit_words,
    fit_head,
    predict_head,
)
from curation.errors import RecordError
from curation.records import Estimate


def drawn(seed: int, wrong: float = 0.0, rows: int = 600) -> TrainingSet:
    """Two classes that overlap a little, in 20 dimensions, with this share of labels exchanged, mostly one way."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(2, size=rows)
    features = rng.normal(size=(rows, 20)).astype(np.float32)
    features[:, 0] += 3 * labels - 1.5
    flips = (rng.random(rows) < wrong) & (labels == 1)
    return TrainingSet(features, np.where(flips, 0, labels).astype(np.int64))


def test_only_the_action_that_helped_is_named() -> None:
    noisy, clean, measured = drawn(0, wrong=0.9), drawn(0), drawn(1, rows=1000)
    credits = credit_actions(noisy, {"relabeling": clean, "exclusions": noisy}, measured, 2, minutes={"relabeling": 10})
    assert causes(credits) == ("relabeling",)
    relabeling, exclusions = credits
    assert relabeling.gain.value > 0.1
    assert relabeling.per_minute == pytest.approx(relabeling.gain.value / 10)
    assert (exclusions.gain.value, exclusions.shown, exclusions.per_minute) == (0.0, False, None)
    assert credit_words(credits).startswith("Relabeling helped: +")


def test_what_did_harm_is_no_cause() -> None:
    credits = credit_actions(drawn(0), {"relabeling": drawn(0, wrong=0.9)}, drawn(1, rows=1000), 2)
    assert credits[0].shown
    assert causes(credits) == ()


def test_all_actions_together_are_no_single_cause() -> None:
    assert causes((Credit("all", Estimate(0.1, (0.05, 0.15)), True),)) == ()


def test_more_actions_need_a_clearer_gain() -> None:
    """A gain at the edge of its own interval is shown for one action and not for five."""
    measured, before = drawn(1, rows=1000), drawn(0, wrong=0.42)
    for share in np.linspace(0.41, 0.2, 40):
        after = drawn(0, wrong=float(share))
        alone = credit_actions(before, {"a": after}, measured, 2)[0].shown
        if alone:
            crowd = credit_actions(before, dict.fromkeys("abcde", after), measured, 2)[0].shown
            assert not crowd
            return
    pytest.fail("no gain was ever shown")


def test_a_small_gain_beside_a_clear_one_needs_no_more_than_its_own_interval() -> None:
    """Holm's step-down procedure on rows gained and lost; beside what has no effect the same gain is not shown."""
    small, clear, none, harm = (30, 15), (200, 20), (11, 10), (20, 200)
    assert _shown({"small": small}, 1000) == {"small"}
    assert _shown({"small": small, "none": none}, 1000) == set()
    assert _shown({"small": small, "clear": clear}, 1000) == {"small", "clear"}
    assert _shown({"small": small, "clear": clear, "none": none}, 1000) == {"clear"}
    assert _shown({"small": small, "clear": clear, "harm": harm}, 1000) == {"small", "clear", "harm"}


def test_the_whole_iteration_counts_for_itself() -> None:
    measured, before = drawn(1, rows=1000), drawn(0, wrong=0.42)
    for share in np.linspace(0.41, 0.2, 40):
        after = drawn(0, wrong=float(share))
        if credit_actions(before, {"a": after}, measured, 2)[0].shown:
            three = credit_actions(before, {"a": before, "b": before, "all": after}, measured, 2)
            assert [c.shown for c in three] == [False, False, True]
            return
    pytest.fail("no gain was ever shown")


def test_head_learns_what_separates() -> None:
    head = fit_head(drawn(0), 2)
    measured = drawn(1)
    assert (predict_head(head, measured.features) == measured.labels).mean() > 0.9


def test_labels_must_fit_features() -> None:
    with pytest.raises(RecordError, match="training set"):
        TrainingSet(np.zeros((3, 2), dtype=np.float32), np.zeros(2, dtype=np.int64))


def test_each_action_is_taken_by_itself() -> None:
    """Row 0 is relabeled, row 1 kept and copied, row 2 excluded, row 3 new; an excluded row takes its copy along."""
    features = np.arange(4, dtype=np.float32)[:, None]
    before, after = np.array([0, 1, 1, -1]), np.array([1, 1, -1, 0])
    copies, copied = np.array([[10.0], [20.0]], dtype=np.float32), np.array([0, 2])
    base, actions = action_sets(features, before, after, copies, copied)
    assert base.labels.tolist() == [0, 1, 1]
    held = {name: (train.features[:, 0].tolist(), train.labels.tolist()) for name, train in actions.items()}
    assert held == {
        "relabeling": ([0, 1, 2], [1, 1, 1]),
        "exclusions": ([0, 1], [0, 1]),
        "new labels": ([0, 1, 2, 3], [0, 1, 1, 0]),
        "augmentation": ([0, 1, 2, 10, 20], [0, 1, 1, 0, 1]),
        "all": ([0, 1, 3, 10], [1, 1, 0, 1]),
    }


def test_copies_count_in_the_credit_what_they_count_in_training() -> None:
    clean, measured = drawn(0), drawn(1)
    rows = np.arange(len(clean.labels))
    base, whole = action_sets(clean.features, clean.labels, clean.labels, -clean.features, rows)
    assert np.abs(fit_head(whole["augmentation"], 2)[:-1]).max() < 1e-6, "as many copies that say the opposite"
    _, part = action_sets(clean.features, clean.labels, clean.labels, -clean.features, rows, np.full(len(rows), 0.25))
    told = [predict_head(fit_head(train, 2), measured.features) for train in (base, part["augmentation"])]
    assert (told[0] == told[1]).mean() > 0.98
    thrice = TrainingSet(clean.features, clean.labels, np.full(len(rows), 3.0))
    repeated = TrainingSet(np.tile(clean.features, (3, 1)), np.tile(clean.labels, 3))
    assert np.allclose(fit_head(thrice, 2), fit_head(repeated, 2), atol=1e-5)


def test_a_network_that_augmentation_taught_takes_the_place_of_copies() -> None:
    """It sees what told the classes apart for the others turned round, of all rows alike; and something more."""
    train, measured = drawn(0), drawn(1)
    rng = np.random.default_rng(2)
    hint = [2 * rng.normal(1, 0.1, (len(s.labels), 1)) * (2 * s.labels[:, None] - 1) for s in (train, measured)]
    taught = tuple(np.concatenate([-s.features, h], axis=1).astype(np.float32)
                   for s, h in zip((train, measured), hint, strict=True))  # fmt: skip
    after = np.where(np.arange(len(train.labels)) < 2, 1 - train.labels, train.labels)
    base, actions = action_sets(
        train.features, train.labels, after, train.features, np.arange(len(after)), taught=(taught[0], taught[1])
    )
    assert actions["augmentation"].features.shape == taught[0].shape, "no copies beside it"
    assert base.measured is None
    found = {c.action: c for c in credit_actions(base, actions, measured, 2)}
    assert found["augmentation"].shown
    assert found["augmentation"].gain.value > 0
    assert found["all"].gain.value == pytest.approx(found["augmentation"].gain.value, abs=0.02)
    assert abs(found["relabeling"].gain.value) < 0.02


def test_nothing_done_gets_no_credit() -> None:
    base, actions = action_sets(np.zeros((2, 1), dtype=np.float32), np.array([0, 1]), np.array([0, 1]))
    assert actions == {}
    assert credit_actions(base, actions, base, 2) == ()


def test_labels_of_a_class_that_no_measured_row_has_are_said_to_harm_nothing() -> None:
    """Half of one class becomes a third one in training; the rows measured on still call it the second."""
    places = np.repeat([-3.0, 3.0, 9.0], 40)
    features = np.stack([places, places**2], axis=1).astype(np.float32)
    as_given, split = np.repeat([0, 1, 1], 40), np.repeat([0, 1, 2], 40)
    measured = TrainingSet(features, as_given)
    before = TrainingSet(features, as_given)
    (credit,) = credit_actions(before, {"relabeling": TrainingSet(features, split)}, measured, 3)
    assert credit.gain.value < -0.3
    assert (credit.shown, credit.unjudged) == (False, 40)
    assert credit_words((credit,)).endswith("40 images of it by a class that no holdout image has.")
