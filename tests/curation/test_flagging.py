"""Which labels are flagged, and how many."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from curation import flagging
from curation.flagging import (
    LabelNoise,
    adjusted_quality,
    best_count,
    fit_noise,
    judge_labels,
)
from curation.regression import softmax
from curation.scoring import label_quality, score_out_of_sample


def crowd(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features around one centre a class, overlapping a little, and their labels."""
    rng = np.random.default_rng(0)
    truth = np.arange(count) % classes
    return (rng.normal(size=(classes, 32))[truth] + rng.normal(size=(count, 32))).astype(np.float32), truth


def wrong_probability(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return fit_noise(probabilities, labels).wrong(probabilities, labels)


def flags(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    out = score_out_of_sample(features, labels, classes, groups=np.arange(len(labels)), seed=0)
    return judge_labels(out.probabilities, labels).flagged


def sure_to_unsure(count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right about the classes drawn from them, some sure and some not; and these classes."""
    rng = np.random.default_rng(0)
    probabilities = softmax(rng.choice([1.0, 4.0, 8.0], size=(count, 1)) * rng.normal(size=(count, classes)))
    return probabilities, (probabilities.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)


def confused() -> tuple[np.ndarray, np.ndarray]:
    """What is made of three classes that overlap much, a fifth of whose labels are exchanged; and the labels."""
    rng = np.random.default_rng(0)
    truth = np.arange(150) % 3
    features = rng.normal(size=(3, 16))[truth] * 2 + 4 * rng.normal(size=(150, 16))
    labels = truth.copy()
    labels[:60:2] = (truth[:60:2] + 1) % 3
    out = score_out_of_sample(features.astype(np.float32), labels, 3, groups=np.arange(150), seed=0)
    return out.probabilities, labels


class TestFlagging:
    def test_a_label_that_the_model_prefers_is_never_flagged(self) -> None:
        probabilities, labels = confused()
        flagged = judge_labels(probabilities, labels).flagged
        assert flagged.any()
        assert not flagged[probabilities.argmax(axis=1) == labels].any()

    def test_an_unsure_model_that_prefers_the_label_is_no_doubt(self) -> None:
        """Half of the labels are chance, and the model knows it: every label is doubtful, yet it agrees with many."""
        rng = np.random.default_rng(0)
        clean = softmax(rng.normal(size=(600, 3)))
        truth = np.array([rng.choice(3, p=p) for p in clean])
        labels = np.where(rng.random(600) < 0.5, rng.integers(0, 3, 600), truth)
        probabilities = 0.5 * clean + 0.5 / 3
        contradicted = probabilities.argmax(axis=1) != labels
        flagged = judge_labels(probabilities, labels).flagged
        assert flagged.sum() > 0.8 * contradicted.sum()
        assert not (flagged & ~contradicted).any()

    def test_flagged_are_the_worst_by_label_quality_among_the_doubted(self) -> None:
        probabilities, labels = confused()
        judged = judge_labels(probabilities, labels)
        spared = ~judged.flagged & (probabilities.argmax(axis=1) != labels)
        assert spared.any()
        assert judged.quality[judged.flagged].max() <= judged.quality[spared].min()

    def test_an_accurate_model_flags_nearly_all_errors(self) -> None:
        """Where cleanlab's own count finds too few: 10 % wrong labels, a model that is sure and right."""
        rng = np.random.default_rng(0)
        truth = np.arange(2000) % 3
        labels = np.where(rng.random(2000) < 0.1, (truth + 1) % 3, truth)
        given_true = 0.9 * np.eye(3)[truth] + 0.1 * np.eye(3)[(truth + 1) % 3]
        probabilities = softmax(np.log(given_true + 0.01) + 0.3 * rng.normal(size=(2000, 3)))
        flagged = judge_labels(probabilities, labels).flagged
        wrong = labels != truth
        assert 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()) > 0.95

    def test_a_weak_model_flags_far_fewer_than_it_contradicts(self) -> None:
        """The model is right three times in five and knows how sure it is: few of its doubts are worth asking about."""
        rng = np.random.default_rng(0)
        probabilities = softmax(2.5 * rng.normal(size=(3000, 10)))
        labels = np.array([rng.choice(10, p=p) for p in probabilities])
        contradicted = probabilities.argmax(axis=1) != labels
        assert contradicted.mean() > 0.35
        assert 0 < judge_labels(probabilities, labels).flagged.sum() < 0.6 * contradicted.sum()

    def test_classes_without_a_sample_are_no_hindrance(self) -> None:
        probabilities = np.array([[0.9, 0.05, 0.05], [0.1, 0.1, 0.8]] * 20)
        labels = np.array([0, 2] * 20)
        labels[0] = 2
        assert np.flatnonzero(judge_labels(probabilities, labels).flagged).tolist() == [0]

    def test_a_label_whose_class_has_no_other_image_is_not_flagged(self) -> None:
        """Left out, its class is unknown: that no prediction speaks for it says nothing of the label."""
        features, truth = crowd(200, 5)
        features[:8] += 3 * np.random.default_rng(1).normal(size=(8, 32)).astype(np.float32)
        labels = truth.copy()
        labels[:8] = 5 + np.arange(8)
        labels[20:24] = (truth[20:24] + 1) % 5
        out = score_out_of_sample(features, labels, 13, groups=np.arange(200), seed=0)
        judged = judge_labels(out.probabilities, labels)
        assert judged.flagged[20:24].all()
        assert not judged.flagged[:8].any()
        assert judged.quality[:8].max() < np.median(judged.quality), "its place in the order stays"

    def test_a_label_whose_class_has_no_other_group_is_not_flagged(self) -> None:
        probabilities = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]] * 20)
        labels = np.array([0, 1] * 20)
        labels[[0, 2]], labels[4] = 2, 1
        assert np.flatnonzero(judge_labels(probabilities, labels).flagged).tolist() == [0, 2, 4]
        twins = np.arange(40)
        twins[2] = 0
        assert np.flatnonzero(judge_labels(probabilities, labels, twins).flagged).tolist() == [4]

    def test_the_count_is_where_expected_f1_is_largest(self) -> None:
        # F1 after k: 2 * sum / (k + 2): 1.8/3, 3.4/4, 4.0/5, 4.0/6
        assert best_count(np.array([0.9, 0.8, 0.3, 0.0]), 2.0) == 2


class TestWrongProbability:
    """Given labels are drawn from true ones by a known noise, and the model knows what it can know."""

    def test_as_many_errors_are_expected_as_there_are(self) -> None:
        """A model that tells two classes in five from each other well, and labels of which 15 % are exchanged."""
        probabilities, truth = sure_to_unsure(4000, 2)
        rng = np.random.default_rng(1)
        labels = np.where(rng.random(4000) < 0.15, 1 - truth, truth)
        seen = 0.85 * probabilities + 0.15 * (1 - probabilities)  # what a model of such labels would say
        wrong = wrong_probability(seen, labels)
        assert abs(wrong.sum() - (labels != truth).sum()) < 0.15 * (labels != truth).sum()

    def test_where_no_label_is_wrong_few_are_said_to_be(self) -> None:
        probabilities, truth = sure_to_unsure(4000, 10)
        assert wrong_probability(probabilities, truth).mean() < 0.05

    def test_expected_errors_come_from_how_classes_are_confused(self) -> None:
        """One class is labeled as the next in three of ten cases, the others never."""
        probabilities, truth = sure_to_unsure(3000, 3)
        rng = np.random.default_rng(1)
        labels = np.where((truth == 0) & (rng.random(3000) < 0.3), 1, truth)
        probabilities = np.concatenate([probabilities, [[0.5, 0.4, 0.1], [0.5, 0.1, 0.4]]])
        wrong = wrong_probability(probabilities, np.concatenate([labels, [1, 2]]))
        assert wrong[-2] > wrong[-1] + 0.2
        assert ((wrong >= 0) & (wrong <= 1)).all()

    def test_a_large_set_is_judged_by_a_part_of_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another part gives nearly the same, and a class that was not drawn is no hindrance."""
        probabilities, truth = sure_to_unsure(4000, 4)
        probabilities = np.concatenate([probabilities * 0.999, np.full((4000, 1), 0.001)], axis=1)
        labels = np.where(np.random.default_rng(1).random(4000) < 0.1, (truth + 1) % 4, truth)
        labels[0] = 4  # in the drawn part it is not
        whole = wrong_probability(probabilities, labels)
        monkeypatch.setattr(flagging, "_ESTIMATED_ON", 2000)
        part = wrong_probability(probabilities, labels)
        assert not np.array_equal(part, whole)
        assert np.abs(part - whole).mean() < 0.02
        assert np.isfinite(part).all()


class TestDegenerate:
    """What is odd about a set must not stop the others from being judged; few false alarms where nothing is wrong."""

    @pytest.mark.parametrize("classes", [2, 3, 10])
    def test_where_no_label_is_wrong_few_are_flagged(self, classes: int) -> None:
        features, truth = crowd(400, classes)
        assert flags(features, truth, classes).mean() <= 0.05

    @pytest.mark.parametrize("classes", [5, 10])
    def test_six_labels_in_ten_may_be_wrong(self, classes: int) -> None:
        rng = np.random.default_rng(1)
        features, truth = crowd(900, classes)
        wrong = rng.random(900) < 0.6
        labels = np.where(wrong, (truth + rng.integers(1, classes, 900)) % classes, truth)
        flagged = flags(features, labels, classes)
        assert 2 * (flagged & wrong).sum() / (flagged.sum() + wrong.sum()) > (0.8 if classes == 5 else 0.9)

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_a_class_of_one_to_three_samples_is_judged_and_the_others_are_not_disturbed(self, count: int) -> None:
        features, truth = crowd(203, 3)
        few = np.flatnonzero(truth == 2)[:count]
        rows = np.sort(np.concatenate([np.flatnonzero(truth != 2), few]))
        flagged = flags(features[rows], truth[rows], 3)
        assert flagged[~np.isin(rows, few)].mean() <= 0.05

    @pytest.mark.parametrize("labels", [(0, 1, 2, 3, 4), (0, 0, 1, 1, 1), (0, 1, 1, 1, 1), (0, 0, 0, 1, 2)])
    def test_five_samples_are_judged(self, labels: tuple[int, ...]) -> None:
        features, _ = crowd(5, 5)
        assert flags(features, np.array(labels), 5).shape == (5,)

    def test_features_that_are_all_the_same_say_nothing(self) -> None:
        assert not flags(np.ones((90, 8), dtype=np.float32), np.arange(90) % 3, 3).any()

    def test_a_thousand_classes_are_judged_in_seconds(self) -> None:
        rng = np.random.default_rng(0)
        truth = np.arange(3000) % 1000
        features = (rng.normal(size=(1000, 64))[truth] * 2 + rng.normal(size=(3000, 64))).astype(np.float32)
        labels = truth.copy()
        labels[:60] = (truth[:60] + 500) % 1000
        flagged = flags(features, labels, 1000)
        assert flagged[:60].mean() > 0.6
        assert flagged[60:].mean() < 0.05


class TestAdjustedQuality:
    PROBABILITIES = np.array([[0.6, 0.4], [0.4, 0.6], [0.9, 0.1], [0.2, 0.8]])
    LABELS = np.array([1, 0, 0, 1])

    def noise(self, rates: list[list[float]]) -> LabelNoise:
        return LabelNoise(np.arange(len(rates)), np.array(rates), 1.0)

    def test_one_rate_of_errors_for_all_confusions_gives_self_confidence(self) -> None:
        even = self.noise([[0.9, 0.1], [0.1, 0.9]])
        found = adjusted_quality(self.PROBABILITIES, self.LABELS, even, 0.4)
        assert found.tolist() == pytest.approx(label_quality(self.PROBABILITIES, self.LABELS).tolist())

    def test_of_equal_confidence_the_label_that_is_often_wrong_is_the_more_doubtful(self) -> None:
        """Class 0 is labeled 1 in three of ten, class 1 never 0; so many errors that this is believed wholly."""
        one_way = self.noise([[0.7, 0.0], [0.3, 1.0]])
        probabilities, labels = np.tile(self.PROBABILITIES, (50_000, 1)), np.tile(self.LABELS, 50_000)
        found = adjusted_quality(probabilities, labels, one_way, 30_000.0)[:4]
        assert found[1] == pytest.approx(1, abs=0.01)  # labeled 0, and no label of class 0 is wrong
        assert found[0] == pytest.approx(0.4 / (0.4 + 0.6 * 0.3 / 0.15 * 0.85 / 1.0), abs=0.01)

    def test_few_errors_for_each_confusion_are_hardly_believed(self) -> None:
        rng = np.random.default_rng(0)
        probabilities = rng.dirichlet(np.ones(10), 1000)
        labels = rng.integers(0, 10, 1000)
        odd = np.full((10, 10), 0.1 / 9)
        odd[0, 1] = 0.1
        odd += np.eye(10) * (1 - odd.sum(axis=0) + np.diag(odd))
        confidence = label_quality(probabilities, labels)
        few = adjusted_quality(probabilities, labels, self.noise(odd.tolist()), 10.0)
        many = adjusted_quality(probabilities, labels, self.noise(odd.tolist()), 900.0)
        assert np.abs(few - confidence).max() < 0.2 * np.abs(many - confidence).max()

    def test_of_two_classes_twenty_errors_let_half_of_the_noise_be_believed(self) -> None:
        """Given the rate of all, one rate is free."""
        one_way = self.noise([[0.7, 0.0], [0.3, 1.0]])
        probabilities, labels = np.tile(self.PROBABILITIES, (50, 1)), np.tile(self.LABELS, 50)
        found = adjusted_quality(probabilities, labels, one_way, 20.0)[0]
        wrong, right = (0.3 / 0.1 + 1) / 2, (1.0 / 0.9 + 1) / 2
        assert found == pytest.approx(0.4 * right / (0.4 * right + 0.6 * wrong))

    def test_a_single_label_is_judged(self) -> None:
        assert judge_labels(np.array([[0.3, 0.7]]), np.array([0])).quality.tolist() == pytest.approx([0.3])
        single = LabelNoise(np.array([0]), np.ones((1, 1)), 1.0)
        assert adjusted_quality(np.array([[0.3, 0.7]]), np.array([0]), single, 0.0).tolist() == pytest.approx([0.3])

    def test_a_class_that_nobody_labeled_keeps_its_share(self) -> None:
        """Of three classes the labels are of two: what the model gives the third counts as before."""
        probabilities = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]])
        found = adjusted_quality(probabilities, np.array([0, 1]), self.noise([[0.8, 0.2], [0.2, 0.8]]), 0.4)
        assert found.tolist() == pytest.approx([0.5, 0.6])

    def test_noise_that_goes_one_way_is_ranked_better_than_by_confidence(self) -> None:
        """A quarter of class 0 is labeled 1; average precision on what a leave-one-out model knows of two blobs."""
        rng = np.random.default_rng(1)
        truth = np.arange(800) % 2
        features = (rng.normal(size=(2, 32))[truth] + 1.5 * rng.normal(size=(800, 32))).astype(np.float32)
        labels = np.where((truth == 0) & (rng.random(800) < 0.25), 1, truth)
        out = score_out_of_sample(features, labels, 2, groups=np.arange(800), seed=0)
        wrong = labels != truth
        confidence = average_precision_score(wrong, -label_quality(out.probabilities, labels))
        adjusted = average_precision_score(wrong, -judge_labels(out.probabilities, labels).quality)
        assert adjusted > confidence + 0.02
