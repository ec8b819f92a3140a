"""Probabilities that have not seen the label they judge, and label quality."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from curation import regression
from curation.errors import InputError, RecordError
from curation.regression import (
    Inputs,
    LeaveOutKernel,
    apply_temperature,
    choose_regressions,
    fold_numbers,
    leave_out_logistic,
    leave_out_ridge,
    log_loss,
    softmax,
    temperature,
)
from curation.scaling import LENGTH, nuisance_directions, principal_components, scale
from curation.scoring import OutOfSample, corrected_labels, label_quality, score_out_of_sample

METHODS = ("auto", "folds", "loo", "kernel")


def blobs(
    samples: int = 240, classes: int = 3, dimensions: int = 12, seed: int = 0, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre a class, and their true labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % classes
    centres = rng.normal(size=(classes, dimensions)) * 2
    features = centres[labels] + spread * rng.normal(size=(samples, dimensions))
    return features.astype(np.float32), labels.astype(np.int64)


def alone(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def flipped(labels: np.ndarray, classes: int, share: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(len(labels))[: int(share * len(labels))]
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return noisy


class TestOutOfSample:
    @pytest.mark.parametrize("method", METHODS)
    def test_wrong_labels_get_low_quality(self, method: regression.Method) -> None:
        features, truth = blobs()
        labels = flipped(truth, 3, 0.1)
        out = score_out_of_sample(features, labels, 3, groups=alone(240), seed=0, method=method)
        quality = label_quality(out.probabilities, labels)
        assert quality[labels != truth].max() < np.quantile(quality[labels == truth], 0.1)

    @pytest.mark.parametrize("method", METHODS)
    def test_rows_are_distributions_and_the_same_again(self, method: regression.Method) -> None:
        features, labels = blobs(90)
        first = score_out_of_sample(features, labels, 3, groups=alone(90), seed=3, method=method)
        again = score_out_of_sample(features, labels, 3, groups=alone(90), seed=3, method=method)
        assert first.probabilities.shape == (90, 3)
        np.testing.assert_allclose(first.probabilities.sum(axis=1), 1)
        assert (first.probabilities == again.probabilities).all()
        assert first.settings == again.settings
        assert first.seconds > 0

    @pytest.mark.parametrize("method", METHODS)
    def test_random_labels_can_not_be_told(self, method: regression.Method) -> None:
        """A model that had seen the labels would find them far more often than one time in three."""
        features, _ = blobs(300, spread=3)
        labels = np.random.default_rng(5).integers(0, 3, 300)
        out = score_out_of_sample(features, labels, 3, groups=alone(300), seed=0, method=method)
        assert (out.probabilities.argmax(axis=1) == labels).mean() < 0.43

    @pytest.mark.parametrize("method", METHODS)
    def test_a_twin_does_not_give_the_label_away(self, method: regression.Method) -> None:
        """Each picture comes twice with the same random label; in one group, the twin must not help."""
        features, _ = blobs(150, dimensions=60, spread=3)
        labels = np.random.default_rng(5).integers(0, 3, 150)
        features, labels = np.concatenate([features, features]), np.concatenate([labels, labels])
        apart = score_out_of_sample(features, labels, 3, groups=alone(300), seed=0, method=method)
        together = score_out_of_sample(features, labels, 3, groups=alone(300) % 150, seed=0, method=method)
        assert (apart.probabilities.argmax(axis=1) == labels).mean() > 0.52
        assert (together.probabilities.argmax(axis=1) == labels).mean() < 0.45

    def test_a_large_group_is_left_out_by_folds(self) -> None:
        features, labels = blobs(200)
        groups = np.where(np.arange(200) < 50, 0, np.arange(200))
        out = score_out_of_sample(features, labels, 3, groups=groups, seed=0, method="loo")
        assert len(set(out.folds[:50].tolist())) == 1
        assert out.folds[0] >= 0
        assert set(out.folds[50:].tolist()) == {-1}
        assert (out.probabilities.argmax(axis=1) == labels).mean() > 0.95

    @pytest.mark.parametrize("method", METHODS)
    def test_a_class_may_have_one_sample_or_none(self, method: regression.Method) -> None:
        features, labels = blobs(60, classes=2)
        labels[0] = 2
        out = score_out_of_sample(features, labels, 5, groups=alone(60), seed=0, method=method)
        assert out.probabilities.shape == (60, 5)
        assert np.isfinite(out.probabilities).all()
        assert out.probabilities[:, 3:].max() < 0.05
        assert (out.probabilities.argmax(axis=1) == labels)[1:].mean() > 0.95

    def test_leaving_one_of_two_samples_of_a_class_out_leaves_the_other(self) -> None:
        features, labels = blobs(62, classes=2, spread=0.3)
        features[:2] = -features[2:4] + 9
        labels[:2] = 2
        out = score_out_of_sample(features, labels, 3, groups=alone(62), seed=0, method="kernel")
        assert out.probabilities[:2].argmax(axis=1).tolist() == [2, 2]

    @pytest.mark.parametrize("method", METHODS)
    def test_constant_features_give_about_the_shares_of_the_classes(self, method: regression.Method) -> None:
        labels = np.array([0] * 30 + [1] * 10)
        out = score_out_of_sample(
            np.ones((40, 4), dtype=np.float32), labels, 2, groups=alone(40), seed=0, method=method
        )
        assert np.isfinite(out.probabilities).all()
        assert out.probabilities[:, 0].mean() == pytest.approx(0.75, abs=0.1)

    def test_a_thousand_classes_take_seconds(self) -> None:
        rng = np.random.default_rng(0)
        labels = np.arange(3000) % 1000
        features = (rng.normal(size=(1000, 64))[labels] + 0.3 * rng.normal(size=(3000, 64))).astype(np.float32)
        out = score_out_of_sample(features, labels, 1000, groups=alone(3000), seed=0, method="kernel")
        assert (out.probabilities.argmax(axis=1) == labels).mean() > 0.9
        assert out.seconds < 60

    def test_sixty_classes_of_few_samples_are_judged_without_their_own_labels(self) -> None:
        """Logistic regression that one step takes a label out of still knows the label."""
        rng = np.random.default_rng(0)
        truth = np.arange(900) % 60
        labels = flipped(truth, 60, 0.1)
        turned = np.linalg.qr(rng.normal(size=(256, 256)))[
            0
        ]  # noise is larger in some directions, none of them an axis
        noise = 2 * np.arange(1, 257) ** -0.25 * rng.normal(size=(900, 256)) @ turned
        features = (0.2 * rng.normal(size=(60, 256))[truth] + noise).astype(np.float32)
        out = score_out_of_sample(features, labels, 60, groups=alone(900), seed=0)
        assert average_precision_score(labels != truth, -label_quality(out.probabilities, labels)) > 0.9

    def test_three_samples_are_enough_to_answer(self) -> None:
        features = np.array([[0, 1], [0, 1.1], [5, 0]], dtype=np.float32)
        out = score_out_of_sample(features, np.array([0, 0, 1]), 2, groups=alone(3), seed=0)
        assert np.isfinite(out.probabilities).all()

    def test_features_that_are_not_numbers_are_refused_with_their_row(self) -> None:
        features, labels = blobs(20)
        features[7, 3] = np.nan
        with pytest.raises(RecordError, match=r"those of 1 samples are not, first in row 7"):
            score_out_of_sample(features, labels, 3, groups=alone(20), seed=0)

    def test_labels_of_one_class_are_refused(self) -> None:
        features, _ = blobs(20)
        with pytest.raises(InputError, match="all of one class"):
            score_out_of_sample(features, np.zeros(20, dtype=np.int64), 3, groups=alone(20), seed=0)

    def test_one_group_for_everything_is_refused(self) -> None:
        features, labels = blobs(20)
        with pytest.raises(InputError, match="all of one group"):
            score_out_of_sample(features, labels, 3, groups=np.zeros(20, dtype=np.int64), seed=0)

    def test_arrays_that_do_not_fit_are_refused(self) -> None:
        features, labels = blobs(20)
        with pytest.raises(RecordError, match=r"got \(20, 12\), \(19,\) and \(20,\)"):
            score_out_of_sample(features, labels[1:], 3, groups=alone(20), seed=0)
        with pytest.raises(RecordError, match="columns 0 to 1, got 0 to 2"):
            score_out_of_sample(features, labels, 2, groups=alone(20), seed=0)


class TestParts:
    def test_a_wide_part_does_not_drown_a_narrow_one(self) -> None:
        """Four dimensions tell the classes, four hundred tell nothing."""
        features, truth = blobs(300)
        rng = np.random.default_rng(1)
        labels = flipped(truth, 3, 0.2)
        both = np.concatenate([features, rng.normal(size=(300, 400))], axis=1).astype(np.float32)

        def found(widths: tuple[int, ...]) -> float:
            out = score_out_of_sample(both, labels, 3, groups=alone(300), seed=0, widths=widths)
            return float((out.probabilities.argmax(axis=1) == truth).mean())

        assert found((features.shape[1], 400)) > found(()) + 0.02

    @pytest.mark.parametrize(("widths", "share"), [((), 1 / 2), ((10,), 1 / 2), ((4, 6), 2 / 3)])
    def test_the_kernel_counts_twice_where_there_are_several(self, widths: tuple[int, ...], share: float) -> None:
        features, labels = blobs(90)
        chosen = choose_regressions(Inputs(features[:, :10], 3, alone(90), seed=0, widths=widths), labels)
        assert chosen.logistic is not None
        assert chosen.kernel is not None
        of_both = chosen.logistic.probabilities(labels, labels), chosen.kernel.probabilities(labels, labels)
        assert not np.allclose(*of_both, atol=0.01)
        expected = (1 - share) * of_both[0] + share * of_both[1]
        assert np.allclose(chosen.probabilities(labels, labels), expected)

    def test_parts_that_are_more_or_less_than_the_dimensions_are_told(self) -> None:
        features, truth = blobs(60)
        with pytest.raises(RecordError, match="dimensions, but their parts 99"):
            score_out_of_sample(features, truth, 3, groups=alone(60), seed=0, widths=(90, 9))


class TestClosedForms:
    def test_images_nearly_all_alike_are_judged_too(self) -> None:
        """Four hundred shots of one thing: their distances are rounding, from which no kernel can be made as it is."""
        rng = np.random.default_rng(0)
        centre = rng.normal(size=64)
        inputs = (10 * (centre + 1e-4 * rng.normal(size=(400, 64))) / np.linalg.norm(centre)).astype(np.float32)
        inputs[:20] = 10 * rng.normal(size=(20, 64)) / 8
        found = LeaveOutKernel(inputs, 2, np.arange(400), 0)
        labels = np.arange(400) % 2
        found.choose(labels)
        assert np.isfinite(found.probabilities(labels, labels)).all()

    def test_kernel_regression_equals_refitting_without_each_group(self) -> None:
        """Against the formula written out: ridge regression with the chosen noise on all other groups."""
        features, truth = blobs(60)
        labels, inputs = flipped(truth, 3, 0.2), scale(features)
        groups = alone(60) // 3
        rooted = regression._Kernel(inputs, 0).rooted.astype(np.float64)
        kernel = rooted @ rooted.T
        targets = np.eye(3)[labels] - 1 / 3
        expected = np.zeros((60, 3))
        ridge = LeaveOutKernel(inputs, 3, groups, 0)
        noise = ridge.choose(labels)
        for group in range(20):
            held = groups == group
            own = kernel[np.ix_(~held, ~held)]
            expected[held] = kernel[np.ix_(held, ~held)] @ np.linalg.solve(own + noise * np.eye(57), targets[~held])
        found = ridge.probabilities(labels, labels)
        np.testing.assert_allclose(found, apply_temperature(expected, temperature(expected, labels)), atol=2e-3)

    def test_a_large_group_is_left_out_to_the_same_end_in_less_memory(self) -> None:
        """Of 4,000 rows 3,000 are one group: what has as many rows and columns takes 72 MB each time it is made."""
        rng = np.random.default_rng(0)
        half = np.linalg.qr(rng.normal(size=(4000, 20)))[0].astype(np.float32) * np.float32(0.9)
        targets = np.eye(3, dtype=np.float32)[rng.integers(3, size=4000)] - np.float32(1 / 3)
        groups = np.r_[np.zeros(3000, dtype=np.int64), np.arange(1, 1001)]
        fitted = half @ (half.T @ targets)
        tracemalloc.start()
        found = leave_out_ridge(half, fitted, targets, groups)
        taken = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert taken < 20e6
        held = half[:3000].astype(np.float64)
        without = np.linalg.solve(1.0001 * np.eye(20) - held.T @ held, half[3000:].T @ targets[3000:])
        assert np.allclose(found[:3000], held @ without, atol=1e-4)

    @pytest.mark.parametrize("classes", [2, 3])
    @pytest.mark.parametrize("size", [1, 2])
    def test_one_step_comes_near_refitting_without_each_group(self, classes: int, size: int) -> None:
        features, truth = blobs(120, classes, spread=2)
        labels, inputs = flipped(truth, classes, 0.15), scale(features)
        groups = alone(120) // size
        stepped = leave_out_logistic(inputs, labels, classes, groups, strength=0.1)
        fitted = LogisticRegression(C=0.1, max_iter=1000).fit(inputs, labels).predict_proba(inputs)
        exact = np.zeros((120, classes))
        for group in np.unique(groups):
            held = groups == group
            model = LogisticRegression(C=0.1, max_iter=1000).fit(inputs[~held], labels[~held])
            exact[held] = model.predict_proba(inputs[held])
        assert abs(stepped - exact).mean() < (0.25 if classes == 2 else 0.5) * abs(fitted - exact).mean()
        assert log_loss(exact, labels) < 1.02 * log_loss(stepped, labels)  # the step is rather too careful
        assert log_loss(stepped, labels) < 1.15 * log_loss(exact, labels)

    @pytest.mark.parametrize("columns", [(0, 1), (0, 2), (1, 3)])
    def test_a_class_without_samples_does_not_change_the_step(self, columns: tuple[int, int]) -> None:
        features, truth = blobs(120, 2, spread=2)
        labels, inputs = flipped(truth, 2, 0.15), scale(features)
        of_two = leave_out_logistic(inputs, labels, 2, alone(120), strength=0.1)
        of_four = leave_out_logistic(inputs, np.array(columns)[labels], 4, alone(120), strength=0.1)
        assert np.allclose(of_four[:, columns], of_two, atol=1e-3)

    def test_a_sample_that_counts_thrice_is_a_sample_given_thrice(self) -> None:
        """Both regressions, left out with its repeats; and the settings that are chosen."""
        features, truth = blobs(90, spread=2)
        labels, inputs = flipped(truth, 3, 0.2), scale(features)
        weights = np.where(np.arange(90) % 4 == 0, 3.0, 1.0)
        of = np.repeat(np.arange(90), weights.astype(int))
        counted = LeaveOutKernel(inputs, 3, alone(90), 0, weights=weights)
        given = LeaveOutKernel(inputs[of], 3, of, 0)
        assert counted.choose(labels) == given.choose(labels[of])
        apart = LeaveOutKernel(inputs, 3, alone(90), 0).values(labels)
        repeated = given.values(labels[of])
        near, far = abs(counted.values(labels)[of] - repeated).mean(), abs(apart[of] - repeated).mean()
        assert near < 0.2 * far, "all but the same: the width is the median distance, which knows nothing of weights"
        by_step = leave_out_logistic(inputs, labels, 3, alone(90), strength=0.1, sample_weights=weights)
        by_repeats = leave_out_logistic(inputs[of], labels[of], 3, of, strength=0.1)
        plain = leave_out_logistic(inputs, labels, 3, alone(90), strength=0.1)
        assert abs(by_step[of] - by_repeats).max() < 0.01 < abs(plain[of] - by_repeats).max()

    def test_what_counts_next_to_nothing_changes_nothing(self) -> None:
        """Samples with wrong labels that count a millionth, beside the same fit without them."""
        features, truth = blobs(120, spread=2)
        wrong = (truth[:60] + 1) % 3
        together, labels = np.concatenate([features, features[:60]]), np.concatenate([truth, wrong])
        groups, weights = np.concatenate([alone(120), alone(60)]), np.r_[np.ones(120), np.full(60, 1e-6)]
        found = choose_regressions(Inputs(together, 3, groups, seed=0, weights=weights), labels)
        alike = choose_regressions(Inputs(together, 3, groups, seed=0), labels)
        without = choose_regressions(Inputs(features, 3, alone(120), seed=0), truth)
        assert found.settings == without.settings
        expected = without.probabilities(truth, truth)
        assert abs(found.probabilities(labels, labels)[:120] - expected).max() < 0.05
        assert abs(alike.probabilities(labels, labels)[:120] - expected).max() > 0.2

    def test_kernel_on_landmarks_comes_near_the_exact_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features, truth = blobs(400, spread=2)
        labels, inputs = flipped(truth, 3, 0.1), scale(features)
        exact = LeaveOutKernel(inputs, 3, alone(400), 0).probabilities(labels, labels)
        monkeypatch.setattr(regression, "LANDMARKS", 200)
        near = LeaveOutKernel(inputs, 3, alone(400), 0).probabilities(labels, labels)
        assert abs(near - exact).mean() < 0.03


class TestSecondRound:
    def test_the_surest_errors_are_corrected_and_no_class_is_corrected_away(self) -> None:
        labels = np.array([0, 0, 0, 0, 1, 2, 2])
        sure = np.array([[0.01, 0.99, 0], [0.02, 0.98, 0], [0.03, 0.97, 0], [0.4, 0.6, 0], [0.99, 0.01, 0],
                         [0.9, 0.1, 0], [0.95, 0.05, 0]])  # fmt: skip
        assert corrected_labels(sure, labels).tolist() == [1, 1, 0, 0, 1, 0, 2]
        settled = np.array([True, False, False, False, False, True, False])
        assert corrected_labels(sure, labels, settled).tolist() == [0, 1, 0, 0, 1, 2, 2]

    def test_what_people_have_settled_is_learned_as_it_is(self) -> None:
        """Two classes that overlap."""
        features, truth = blobs(200, 2, spread=1)
        labels = np.where(np.random.default_rng(0).random(200) < 0.2, 1 - truth, truth)

        def judged(settled: npt.NDArray[np.bool_]) -> OutOfSample:
            return score_out_of_sample(features, labels, 2, groups=alone(200), seed=0, settled=settled)

        assert judged(np.zeros(200, dtype=bool)).settings["corrected"] > 0
        assert judged(np.ones(200, dtype=bool)).settings["corrected"] == 0

    def test_much_noise_is_ranked_better_than_by_one_round(self) -> None:
        """Means over draws: a third of the labels are of one other class, so that a linear fit learns them."""
        gained = []
        for seed in range(5):
            features, truth = blobs(300, 3, seed=seed, spread=3)
            rng = np.random.default_rng(seed)
            labels = np.where(rng.random(300) < 0.33, (truth + 1) % 3, truth)
            of = {m: score_out_of_sample(features, labels, 3, groups=alone(300), seed=0, method=m) for m in METHODS}
            both = (of["loo"].probabilities + of["kernel"].probabilities) / 2
            gained.append(precision(of["auto"].probabilities, labels, truth) - precision(both, labels, truth))
        assert np.mean(gained) > 0

    def test_the_valley_is_found_from_either_side(self) -> None:
        tried: list[float] = []

        def loss(value: float) -> float:
            tried.append(value)
            return abs(value - 5)

        assert [regression.least(range(9), loss), len(set(tried))] == [5, len(tried)]
        assert [regression.least([v], loss) for v in (3, 7)] == [3, 7]
        assert regression.least((0, 1, 2, 3), loss) == 3
        assert regression.least((5, 6, 7, 8), loss) == 5


def precision(probabilities: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> float:
    return float(average_precision_score(labels != truth, -label_quality(probabilities, labels)))


class TestNuisances:
    """Copies are images moved along two of sixty axes."""

    def made(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        features = rng.normal(size=(60, 60)).astype(np.float32)
        copies = features[:40].copy()
        copies[:, 3] += rng.uniform(2, 4, 40)
        copies[:, 7] += rng.uniform(-2, 2, 40)
        return np.concatenate([features, copies]), np.arange(60, 100), np.arange(40)

    def test_they_are_what_copies_differ_in_the_most_telling_first(self) -> None:
        rows, copies, images = self.made()
        changes = rows[copies] - rows[images]
        found = nuisance_directions(changes).astype(np.float32)
        assert found.shape == (2, 60), "that there are no more is told by the differences"
        assert np.allclose(found @ found.T, np.eye(2), atol=2e-3)
        assert abs(found[0, 3]) > 0.99
        assert abs(found[1, 7]) > 0.99
        assert len(nuisance_directions(changes, count=1)) == 1
        assert len(nuisance_directions(changes[:, :20])) == 1, "a twentieth of the dimensions"
        assert len(nuisance_directions(changes[:2])) == 1, "half of the copies"

    def test_rows_say_nothing_of_them_any_more(self) -> None:
        features, copies, images = self.made()
        told = Inputs(features, 3, alone(100), seed=0, altered=(copies, images))
        assert np.allclose(told.rows[copies], told.rows[images], atol=0.02)
        assert np.allclose(np.linalg.norm(told.rows, axis=1), LENGTH, rtol=1e-3)
        plain = Inputs(features, 3, alone(100), seed=0)
        assert np.linalg.norm(plain.rows[copies] - plain.rows[images], axis=1).min() > 1
        assert plain.nuisance.shape == (0, 60)
        over = Inputs(features.copy(), 3, alone(100), seed=0, altered=(copies, images), overwrite=True)
        assert np.allclose(over.rows, told.rows, atol=1e-5)

    def test_copies_that_are_as_their_images_tell_nothing(self) -> None:
        assert nuisance_directions(np.zeros((4, 60), dtype=np.float32)).shape == (0, 60)


class TestPrincipalComponents:
    @pytest.mark.parametrize("shape", [(30, 200), (90, 200), (300, 70), (300, 200)])
    def test_products_of_samples_stay_as_near_as_so_few_directions_allow(self, shape: tuple[int, int]) -> None:
        """Short, wide and long inputs go three ways; the best approximation of this rank is that of the SVD."""
        rng = np.random.default_rng(0)
        inputs = (rng.normal(size=shape) * 0.9 ** np.arange(shape[1])).astype(np.float32)
        reduced = principal_components(inputs, 20, seed=0)
        left, values, _ = np.linalg.svd(inputs, full_matrices=False)
        best = (left[:, :20] * values[:20] ** 2) @ left[:, :20].T
        assert reduced.shape == (shape[0], 20)
        assert reduced.dtype == np.float32
        np.testing.assert_allclose(reduced @ reduced.T, best, atol=0.01 * best.max())

    def test_few_dimensions_stay_as_they_are(self) -> None:
        inputs = np.eye(5, dtype=np.float32)
        assert principal_components(inputs, 20, seed=0) is inputs


class TestFolds:
    def test_groups_are_whole_and_classes_spread(self) -> None:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 300)
        groups = np.unique(rng.integers(0, 120, 300), return_inverse=True)[1]
        folds = fold_numbers(labels, groups, 5, seed=0)
        assert all(len(set(folds[groups == g].tolist())) == 1 for g in np.unique(groups))
        for label in range(3):
            counts = np.bincount(folds[labels == label], minlength=5)
            assert counts.min() > 0.5 * counts.mean()

    def test_single_samples_are_spread_as_evenly_as_can_be(self) -> None:
        labels = np.repeat([0, 1, 2], [50, 23, 7])
        folds = fold_numbers(labels, alone(80), 5, seed=1)
        for label in range(3):
            counts = np.bincount(folds[labels == label], minlength=5)
            assert counts.max() - counts.min() <= 1
        assert np.bincount(folds).max() - np.bincount(folds).min() <= 2

    def test_folds_are_shuffled_by_the_seed(self) -> None:
        labels = np.repeat([0, 1], 50)
        assert (fold_numbers(labels, alone(100), 5, seed=0) != fold_numbers(labels, alone(100), 5, seed=1)).any()
        first = fold_numbers(labels, alone(100), 5, seed=0)[:50]
        assert np.abs(np.diff(first)).min() == 0  # neither blocks nor a plain round: neighbours now and then share one
        assert len(set(first[:10].tolist())) > 2


class TestQuality:
    PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])

    def test_self_confidence_is_the_probability_of_the_label(self) -> None:
        assert label_quality(self.PROBABILITIES, np.array([0, 2])).tolist() == pytest.approx([0.7, 0.3])

    def test_margins_compare_with_the_best_other_class(self) -> None:
        labels = np.array([0, 2])
        margin = label_quality(self.PROBABILITIES, labels, score="normalized_margin")
        assert margin.tolist() == pytest.approx([(0.7 - 0.2 + 1) / 2, (0.3 - 0.6 + 1) / 2])
        assert label_quality(self.PROBABILITIES, labels, score="log_margin").tolist() == pytest.approx([7 / 9, 1 / 3])

    def test_no_samples_have_no_quality(self) -> None:
        assert label_quality(np.zeros((0, 3)), np.zeros(0, dtype=np.int64)).shape == (0,)

    def test_shapes_that_do_not_fit_are_refused(self) -> None:
        with pytest.raises(RecordError, match=r"got \(2, 3\) and \(3,\)"):
            label_quality(self.PROBABILITIES, np.array([0, 1, 2]))

    def test_temperature_undoes_too_much_confidence(self) -> None:
        rng = np.random.default_rng(0)
        logits = rng.normal(size=(4000, 3)) * 1.5
        labels = np.array([rng.choice(3, p=p) for p in softmax(logits)])
        assert temperature(logits * 4, labels) == pytest.approx(4, rel=0.1)
        calibrated = apply_temperature(logits * 4, temperature(logits * 4, labels))
        assert log_loss(calibrated, labels) < log_loss(softmax(logits * 4), labels)
