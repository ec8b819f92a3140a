"""Figures with intervals, comparisons on the same rows, and that neither claims more than it shows."""

from __future__ import annotations

import tracemalloc
from math import comb

import numpy as np
import pytest

from curation.errors import RecordError
from curation.gain import (
    changed_settings,
    class_changes,
    compare,
    confusion,
    mcnemar,
    mean_with_interval,
    measure,
    needed_rows,
    paired_interval,
    reliability,
)
from curation.records import Classes, Predictions

CLASSES = Classes(("c1", "c2", "c3"), ("cat", "dog", "fox"))


def predictions_of(columns: np.ndarray, confidence: float = 0.8) -> Predictions:
    """One row a sample, ``confidence`` on the class of ``columns`` and the rest shared by the others."""
    count = len(columns)
    probabilities = np.full((count, 3), (1 - confidence) / 2)
    probabilities[np.arange(count), columns] = confidence
    return Predictions(tuple(f"s{n}" for n in range(count)), CLASSES.ids, probabilities, np.full(count, -1))


def labels_of(columns: np.ndarray) -> dict[str, str]:
    return {f"s{n}": CLASSES.ids[c] for n, c in enumerate(columns)}


def with_errors(truth: np.ndarray, rows: list[int] | np.ndarray) -> np.ndarray:
    found = truth.copy()
    found[rows] = (truth[rows] + 1) % 3
    return found


TRUTH = np.array([0] * 60 + [1] * 30 + [2] * 10)


class TestMeasure:
    def test_figures_of_a_small_case_worked_out_by_hand(self) -> None:
        """6 of 60 cats and 3 of 10 foxes are wrong: accuracy 91 %, recalls 0.9, 1 and 0.7."""
        found = measure(
            predictions_of(with_errors(TRUTH, [0, 1, 2, 3, 4, 5, 90, 91, 92])),
            labels_of(TRUTH),
            seed=0,
            classes=CLASSES,
        )
        assert found.size == 100
        assert found.accuracy.value == pytest.approx(0.91)
        assert found.accuracy.ci == pytest.approx((0.8377, 0.9519), abs=1e-4)  # Wilson
        assert found.balanced_accuracy.value == pytest.approx((0.9 + 1 + 0.7) / 3)
        assert found.log_loss.value == pytest.approx(-(91 * np.log(0.8) + 9 * np.log(0.1)) / 100)
        assert {name: estimate.value for name, estimate in found.per_class.items()} == {
            "cat": pytest.approx(0.9), "dog": 1.0, "fox": pytest.approx(0.7)
        }  # fmt: skip

    def test_intervals_hold_their_value_and_are_the_same_for_one_seed(self) -> None:
        rows = predictions_of(with_errors(TRUTH, [0, 1, 61, 91]))
        first, again = (measure(rows, labels_of(TRUTH), seed=0, classes=CLASSES) for _ in range(2))
        for estimate in (first.accuracy, first.balanced_accuracy, first.log_loss):
            assert estimate.ci is not None
            assert estimate.ci[0] <= estimate.value <= estimate.ci[1]
        assert first == again

    @pytest.mark.parametrize("sizes", [[1] * 100, [2] * 60, [3] * 40, [100, 2], [50, 50], [200, 20, 5, 1]])
    def test_balanced_accuracy_is_held_by_its_interval_though_classes_have_few_rows(self, sizes: list[int]) -> None:
        rng = np.random.default_rng(0)
        truth = np.repeat(np.arange(len(sizes)), sizes)
        names = tuple(f"c{n}" for n in range(len(sizes) + 1))
        held = []
        for _ in range(200):
            recalls = rng.beta(7, 3, len(sizes))
            wrong = np.flatnonzero(rng.random(len(truth)) > recalls[truth])
            predicted = truth.copy()
            predicted[wrong] = len(sizes)
            rows = Predictions(
                tuple(f"s{n}" for n in range(len(truth))), names, np.eye(len(names))[predicted], np.full(len(truth), -1)
            )
            labels = {f"s{n}": names[column] for n, column in enumerate(truth)}
            found = measure(rows, labels, seed=0, classes=Classes(names, names)).balanced_accuracy
            assert found.ci is not None
            held.append(found.ci[0] <= recalls.mean() <= found.ci[1])
        assert np.mean(held) >= 0.9

    def test_balanced_accuracy_is_held_where_the_rare_class_is_the_weak_one(self) -> None:
        """380 of 400 cats are right, and each of 5 dogs with a chance of 0.6: weighed by how often so many are."""
        truth, held = np.array([0] * 400 + [1] * 5), 0.0
        for wrong in range(6):
            rows = predictions_of(with_errors(truth, [*range(20), *range(400, 400 + wrong)]))
            low, high = measure(rows, labels_of(truth), seed=0, classes=CLASSES).balanced_accuracy.ci or (0, 0)
            held += comb(5, wrong) * 0.4**wrong * 0.6 ** (5 - wrong) * (low <= (0.95 + 0.6) / 2 <= high)
        assert held >= 0.9

    def test_a_change_of_classes_with_a_row_or_two_is_not_sure(self) -> None:
        truth = np.arange(30)
        names = tuple(f"c{n}" for n in range(31))

        def predicted(wrong: int) -> Predictions:
            columns = truth.copy()
            columns[:wrong] = 30
            return Predictions(tuple(f"s{n}" for n in range(30)), names, np.eye(31)[columns], np.full(30, -1))

        labels = {f"s{n}": names[n] for n in range(30)}
        change = compare(predicted(2), predicted(1), labels, seed=0).balanced_accuracy
        assert change.value == pytest.approx(1 / 30)
        assert change.ci is not None
        assert change.ci[0] < 0 < change.ci[1]

    def test_the_width_for_one_class_is_that_of_the_formula(self) -> None:
        """Of a single class of n rows balanced accuracy is a proportion: half width 1.96 sqrt(p (1 - p) / n)."""
        truth = np.zeros(400, dtype=np.int64)
        found = measure(predictions_of(with_errors(truth, np.arange(80))), labels_of(truth), seed=0, classes=CLASSES)
        low, high = found.balanced_accuracy.ci or (0, 0)
        assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(0.8 * 0.2 / 400), rel=0.07)

    def test_a_class_without_rows_counts_for_nothing(self) -> None:
        truth = np.array([0] * 10 + [1] * 10)
        found = measure(predictions_of(truth), labels_of(truth), seed=0, classes=CLASSES)
        assert found.balanced_accuracy.value == 1
        assert set(found.per_class) == {"cat", "dog"}

    def test_no_rows_and_rows_without_label_are_refused(self) -> None:
        empty = Predictions((), CLASSES.ids, np.zeros((0, 3)), np.zeros(0))
        with pytest.raises(RecordError, match="no holdout row"):
            measure(empty, {}, seed=0, classes=CLASSES)
        with pytest.raises(RecordError, match="sample 's1' has no label among the classes"):
            measure(predictions_of(TRUTH[:2]), {"s0": "c1", "s1": "c9"}, seed=0, classes=CLASSES)


class TestCompare:
    def test_a_clear_gain_is_shown(self) -> None:
        truth = np.arange(600) % 3
        before, after = with_errors(truth, np.arange(90)), with_errors(truth, np.arange(80, 110))
        found = compare(predictions_of(before), predictions_of(after), labels_of(truth), seed=0)
        assert found.accuracy.value == pytest.approx(0.1)
        assert found.balanced_accuracy.value == pytest.approx(0.1)
        assert found.shown
        assert found.p_value < 1e-6
        assert found.log_loss.value == pytest.approx(-0.1 * np.log(8))
        assert found.words.startswith("Better: +10.0 points of accuracy (+")
        assert found.words.endswith("on 600 images, 80 newly right and 20 newly wrong.")

    def test_what_other_settings_did_is_no_gain_of_the_labels(self) -> None:
        truth = np.arange(600) % 3
        before, after = predictions_of(with_errors(truth, np.arange(90))), predictions_of(truth)
        was, now = {"seed": 0, "backbone.size": 32}, {"seed": 0, "backbone.size": 128}
        found = compare(before, after, labels_of(truth), seed=0, otherwise=changed_settings(was, now))
        assert not found.shown
        assert found.words.startswith(
            "Trained otherwise than the iteration before (backbone.size 32, then 128), so that this is not what "
            "changed labels were worth: +15.0 points of accuracy (+"
        )

    def test_a_class_that_no_row_has_makes_no_model_worse_and_none_better(self) -> None:
        """Of 40 cats and 40 dogs, after a split all dogs are foxes, of which the rows know nothing."""
        truth = np.array([0] * 40 + [1] * 40)
        split = np.array([0] * 40 + [2] * 40)
        rows, after = predictions_of(truth), predictions_of(split)
        for found, sign in ((compare(rows, after, labels_of(truth), seed=0), "-"),
                            (compare(after, rows, labels_of(truth), seed=0), "+")):  # fmt: skip
            assert (found.shown, found.unjudged) == (False, ("c3",))
            assert found.words.startswith(f"No change shown: {sign}50.0 points")
            assert found.words.endswith("; it hangs on labels of a class that no holdout image has.")
        assert not any(change.shown for change in class_changes(rows, after, labels_of(truth)))
        known = compare(rows, predictions_of(np.zeros(80, dtype=np.int64)), labels_of(truth), seed=0, unjudged=["c3"])
        assert (known.shown, known.unjudged) == (False, ("c3",))

    def test_what_is_lost_among_classes_that_rows_have_is_shown_beside_a_class_that_none_has(self) -> None:
        truth = np.array([0] * 40 + [1] * 40)
        after = predictions_of(np.array([1] * 40 + [2] * 3 + [1] * 37))
        found = compare(predictions_of(truth), after, labels_of(truth), seed=0)
        assert (found.shown, found.unjudged) == (True, ())
        assert found.words.startswith("Worse: -53.8 points")
        assert found.words.endswith("43 newly wrong, 3 of these by a class that no holdout image has.")
        changes = class_changes(predictions_of(truth), after, labels_of(truth))
        assert [(c.class_id, c.shown) for c in changes] == [("c1", True), ("c2", False)]

    def test_only_settings_that_both_models_note_are_compared(self) -> None:
        assert changed_settings({}, {"seed": 1, "backbone.size": 32}) == ()
        assert changed_settings({"seed": 1, "gone": 2}, {"seed": 1, "new": 3}) == ()
        network = {"backbone.name": "a", "backbone.weights": "6f"}
        assert changed_settings(network, {"backbone.name": "b", "backbone.weights": "70"}) == (
            "backbone.name a, then b",
        )
        assert changed_settings(network, {**network, "backbone.weights": "70"}) == ("other backbone.weights",)

    def test_a_clear_loss_is_shown_as_worse(self) -> None:
        truth = np.arange(600) % 3
        found = compare(
            predictions_of(truth), predictions_of(with_errors(truth, np.arange(60))), labels_of(truth), seed=0
        )
        assert found.shown
        assert found.accuracy.value == pytest.approx(-0.1)
        assert found.words.startswith("Worse: -10.0 points")

    def test_classes_weigh_by_their_rows_but_equally_in_balanced_accuracy(self) -> None:
        """5 of 10 foxes are repaired: 5 rows of 100, and half of one class in three."""
        found = compare(
            predictions_of(with_errors(TRUTH, np.arange(90, 95))), predictions_of(TRUTH), labels_of(TRUTH), seed=0
        )
        assert found.accuracy.value == pytest.approx(0.05)
        assert found.balanced_accuracy.value == pytest.approx(0.5 / 3)
        assert found.log_loss.value == pytest.approx(-0.05 * np.log(8))

    def test_the_same_predictions_show_no_change(self) -> None:
        rows = predictions_of(with_errors(TRUTH, [3]))
        found = compare(rows, rows, labels_of(TRUTH), seed=0)
        assert not found.shown
        assert found.p_value == 1
        assert found.accuracy.value == 0
        assert found.words.startswith("No change shown: +0.0 points")
        assert found.words.endswith("the interval includes zero.")

    def test_four_rows_more_of_ten_are_not_enough(self) -> None:
        """A bootstrap of ten rows would call it shown; McNemar's exact p-value is 0.125."""
        truth = np.arange(10) % 3
        found = compare(
            predictions_of(with_errors(truth, np.arange(4))), predictions_of(truth), labels_of(truth), seed=0
        )
        assert found.p_value == pytest.approx(0.125)
        assert not found.shown

    def test_rows_are_paired_whatever_their_order(self) -> None:
        before, after = predictions_of(with_errors(TRUTH, [1, 2])), predictions_of(with_errors(TRUTH, [1]))
        turned = after.take(after.sample_ids[::-1])
        labels = labels_of(TRUTH)
        assert compare(before, turned, labels, seed=0) == compare(before, after, labels, seed=0)

    def test_pairing_makes_the_interval_narrower_than_two_single_ones(self) -> None:
        truth = np.arange(900) % 3
        before, after = with_errors(truth, np.arange(200)), with_errors(truth, np.arange(180))
        found = compare(predictions_of(before), predictions_of(after), labels_of(truth), seed=0)
        alone = measure(predictions_of(before), labels_of(truth), seed=0, classes=CLASSES).accuracy
        assert found.shown
        assert found.accuracy.ci is not None
        assert alone.ci is not None
        assert found.accuracy.ci[1] - found.accuracy.ci[0] < 0.5 * (alone.ci[1] - alone.ci[0])

    def test_rows_or_classes_that_differ_are_refused(self) -> None:
        rows = predictions_of(TRUTH)
        with pytest.raises(RecordError, match="sample 's99' is not in these predictions"):
            compare(rows, rows.take(rows.sample_ids[:99]), labels_of(TRUTH), seed=0)
        other = Predictions(rows.sample_ids, ("c1", "c2", "c4"), rows.probabilities, rows.folds)
        with pytest.raises(RecordError, match="the same classes"):
            compare(rows, other, labels_of(TRUTH), seed=0)


@pytest.mark.parametrize(("rows", "gain", "loss"), [(40, 0.1, 0.1), (200, 0.06, 0.02), (1500, 0.03, 0.02)])
def test_the_paired_interval_holds_the_truth_nineteen_times_in_twenty(rows: int, gain: float, loss: float) -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(rows, [gain, loss, 1 - gain - loss], size=3000)
    intervals = np.array([paired_interval(int(up), int(down), rows) for up, down, _ in draws])
    held = ((intervals[:, 0] <= gain - loss) & (gain - loss <= intervals[:, 1])).mean()
    assert 0.94 <= held <= 0.98


def test_without_a_change_one_comparison_in_twenty_is_shown_at_most() -> None:
    rng = np.random.default_rng(1)
    shown = 0
    truth = np.arange(300) % 3
    for seed in range(200):
        before = with_errors(truth, np.flatnonzero(rng.random(300) < 0.1))
        after = with_errors(truth, np.flatnonzero(rng.random(300) < 0.1))
        gained, lost = (
            int(((after == truth) & (before != truth)).sum()),
            int(((after != truth) & (before == truth)).sum()),
        )
        low, high = paired_interval(gained, lost, 300)
        shown += not low <= 0 <= high
        if seed == 0:
            found = compare(predictions_of(before), predictions_of(after), labels_of(truth), seed=0)
            assert found.accuracy.ci == (low, high)
    assert shown <= 17


class TestLookingCloser:
    def test_confusion_counts_labels_by_prediction(self) -> None:
        truth, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0])
        assert confusion(predictions_of(predicted), labels_of(truth)) == ((1, 1, 0), (0, 1, 0), (1, 0, 0))

    def test_reliability_bins_hold_confidence_accuracy_and_count(self) -> None:
        truth = np.array([0, 1, 2, 0])
        sure, unsure = predictions_of(np.array([0, 1]), 0.95), predictions_of(np.array([2, 1]), 0.55)
        both = Predictions(
            ("s0", "s1", "s2", "s3"), CLASSES.ids, np.concatenate([sure.probabilities, unsure.probabilities]),
            np.full(4, -1),
        )  # fmt: skip
        bins = reliability(both, labels_of(truth))
        assert [(round(c, 2), a, n) for c, a, n in bins] == [(0.55, 0.5, 2), (0.95, 1.0, 2)]

    def test_full_confidence_falls_into_the_last_bin(self) -> None:
        assert reliability(predictions_of(np.array([0]), 1.0), labels_of(np.array([0]))) == ((1.0, 1.0, 1),)

    def test_mcnemar_is_the_binomial_test_of_rows_that_differ(self) -> None:
        assert mcnemar(0, 0) == 1
        assert mcnemar(5, 0) == pytest.approx(2 / 2**5)

    def test_needed_rows_show_one_point(self) -> None:
        """With that many rows and one point gained, the interval just leaves zero out."""
        rows = needed_rows(0.05, 10**6)
        gained = round(0.03 * rows)
        low, high = paired_interval(gained, gained - round(0.01 * rows), rows)
        assert abs(low) < 0.002
        assert high > 0

    def test_few_rows_on_which_models_agree_need_more(self) -> None:
        """24 rows say no more than that fewer than one in ten differ: by paired_interval two of 26 do."""
        assert needed_rows(0.0, 24) == needed_rows(2 / 26, 10**9) > 24


class TestClasses:
    def drawn(self, right: list[list[bool]]) -> tuple[Predictions, dict[str, str]]:
        """Rows of class c1, c2, ... in turn, each predicted right or as the next class."""
        ids, rows, labels = [], [], {}
        for column, own in enumerate(right):
            for number, hit in enumerate(own):
                ids.append(f"{column}-{number}")
                labels[ids[-1]] = f"c{column + 1}"
                rows.append(np.eye(len(right))[column if hit else (column + 1) % len(right)])
        class_ids = tuple(f"c{n + 1}" for n in range(len(right)))
        return Predictions(tuple(ids), class_ids, np.array(rows), np.full(len(ids), -1)), labels

    def test_the_class_that_fell_comes_first_and_only_clear_changes_are_shown(self) -> None:
        """c1 loses 12 of 40, c2 gains 1 of 40, c3 stays."""
        before, labels = self.drawn([[True] * 40, [True] * 20 + [False] * 20, [True] * 40])
        after, _ = self.drawn([[True] * 28 + [False] * 12, [True] * 21 + [False] * 19, [True] * 40])
        found = class_changes(before, after, labels)
        assert [(c.class_id, c.shown) for c in found] == [("c1", True), ("c3", False), ("c2", False)]
        assert found[0].recall.value == pytest.approx(-0.3)
        assert found[0].rows == 40

    def test_what_would_be_shown_alone_is_not_among_ten(self) -> None:
        """7 of 7 changed rows lost: p = 0.016, enough for one of two classes, not for one of ten."""
        two_before, labels = self.drawn([[True] * 40] * 2)
        two_after, _ = self.drawn([[True] * 33 + [False] * 7, [True] * 40])
        assert class_changes(two_before, two_after, labels)[0].shown
        ten_before, labels = self.drawn([[True] * 40] * 10)
        ten_after, _ = self.drawn([[True] * 33 + [False] * 7, *[[True] * 40] * 9])
        assert not class_changes(ten_before, ten_after, labels)[0].shown


class TestMeanWithInterval:
    def test_many_rows_are_drawn_in_parts_and_the_interval_is_the_same(self) -> None:
        values = np.random.default_rng(1).normal(size=30_001)
        drawn = np.random.default_rng(5).integers(len(values), size=(200, len(values)))
        ci = tuple(np.percentile(values[drawn].mean(axis=1), [2.5, 97.5]))
        assert mean_with_interval(values, resamples=200, seed=5).ci == ci

    def test_memory_is_bounded(self) -> None:
        values = np.random.default_rng(1).normal(size=30_000)
        tracemalloc.start()
        mean_with_interval(values, resamples=300)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 40e6
