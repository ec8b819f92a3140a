"""Label issues, duplicates and outliers: what is flagged, in which order, and with which words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curation import neighbours
from curation.config import DetectionSettings
from curation.errors import RecordError
from curation.flagging import judge_labels
from curation.issues import (
    all_issues,
    far_out,
    find_duplicate_issues,
    find_label_issues,
    find_leaks,
    find_outliers,
    find_rare_classes,
    label_reason,
)
from curation.judging import near_duplicates
from curation.kept import Kept
from curation.neighbours import MOST_TWINS, near_duplicate_pairs, unit_directions
from curation.properties import PROPERTIES
from curation.records import Classes, Predictions, Sample
from curation.scoring import score_out_of_sample

CLASSES = Classes(("c1", "c2", "c3"), ("cat", "dog", "fox"))


def ids_of(count: int) -> list[str]:
    return [f"s{number:04d}" for number in range(count)]


def samples_of(count: int) -> list[Sample]:
    return [Sample(s, f"{s}.jpg", Path(f"{s}.jpg"), "train") for s in ids_of(count)]


def predictions_of(probabilities: np.ndarray) -> Predictions:
    count = len(probabilities)
    return Predictions(tuple(ids_of(count)), CLASSES.ids, probabilities, np.full(count, -1))


class Zoo:
    """Three clusters of features with some labels exchanged, and what the model makes of them."""

    def __init__(self, count: int = 150, wrong: tuple[int, ...] = (4, 20, 77), spread: float = 1.0) -> None:
        rng = np.random.default_rng(0)
        self.truth = np.arange(count) % 3
        wrong = tuple(row for row in wrong if row < count)
        self.features = (rng.normal(size=(3, 16))[self.truth] * 2 + spread * rng.normal(size=(count, 16))).astype(
            np.float32
        )
        self.columns = self.truth.copy()
        self.columns[list(wrong)] = (self.truth[list(wrong)] + 1) % 3
        self.wrong = wrong
        out = score_out_of_sample(self.features, self.columns, 3, groups=np.arange(count), seed=0)
        self.predictions = predictions_of(out.probabilities)
        self.labels = [CLASSES.ids[column] for column in self.columns]

    def issues(self) -> list:
        return find_label_issues(self.predictions.sample_ids, self.labels, self.predictions, CLASSES, self.features)


class TestLabelIssues:
    def test_exchanged_labels_are_found_worst_first_and_nothing_else(self) -> None:
        zoo = Zoo()
        found = zoo.issues()
        assert {i.sample_id for i in found} == {f"s{row:04d}" for row in zoo.wrong}
        assert [i.score for i in found] == sorted(i.score for i in found)
        assert {i.kind for i in found} == {"label"}

    def test_an_issue_says_what_the_label_should_be_and_why(self) -> None:
        zoo = Zoo()
        issue = next(i for i in zoo.issues() if i.sample_id == "s0004")  # truly a dog (c2), labeled fox (c3)
        assert (issue.given, issue.suggested) == ("c3", "c2")
        assert issue.reason.startswith("10 of its 10 nearest images are labeled dog, 0 fox; the model gives dog ")
        assert issue.score == pytest.approx(judge_labels(zoo.predictions.probabilities, zoo.columns).quality[4])

    def test_related_are_the_nearest_of_the_given_then_of_the_suggested_class(self) -> None:
        zoo = Zoo()
        issue = next(i for i in zoo.issues() if i.sample_id == "s0004")
        rows = [int(s[1:]) for s in issue.related]
        assert zoo.columns[rows].tolist() == [2, 2, 2, 1, 1, 1]
        unit = zoo.features - zoo.features.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        nearest = sorted((r for r in range(150) if zoo.columns[r] == 1 and r != 4), key=lambda r: -unit[r] @ unit[4])
        assert rows[3:] == nearest[:3]

    def test_clean_labels_raise_no_issue(self) -> None:
        assert Zoo(wrong=()).issues() == []

    def test_no_samples_have_no_issues(self) -> None:
        assert find_label_issues([], [], predictions_of(np.zeros((0, 3))), CLASSES, np.zeros((0, 4), np.float32)) == []

    def test_predictions_of_other_samples_are_refused(self) -> None:
        zoo = Zoo(30)
        with pytest.raises(RecordError, match="same samples in the same order"):
            find_label_issues(ids_of(30)[::-1], zoo.labels, zoo.predictions, CLASSES, zoo.features)
        with pytest.raises(RecordError, match=r"one row a sample \(30\), got 29 and 30"):
            find_label_issues(ids_of(30), zoo.labels[1:], zoo.predictions, CLASSES, zoo.features)
        with pytest.raises(RecordError, match="class 'c9' is not in these predictions"):
            find_label_issues(ids_of(30), ["c9"] * 30, zoo.predictions, CLASSES, zoo.features)


class TestLeaks:
    def test_a_holdout_image_that_is_in_train_too_is_told_and_nothing_else(self) -> None:
        features = np.random.default_rng(0).normal(size=(60, 32)).astype(np.float32)
        samples = [replace(s, split="holdout" if row >= 40 else "train") for row, s in enumerate(samples_of(60))]
        features[45] = features[7] * 1.0001
        features[46] = features[47]  # twins within the holdout, and within train, are no leak
        features[3] = features[4]
        (leak,) = find_leaks(samples, near_duplicate_pairs(features))
        assert (leak.kind, leak.sample_id, leak.related) == ("leak", "s0045", ("s0007",))
        assert leak.reason == "holdout image, looks the same as s0007.jpg of train"
        assert 0 <= leak.score < 0.001

    def test_every_image_of_a_crowd_that_is_in_train_too_is_told(self) -> None:
        """Each of 100 holdout images is likest to the others of them, a little less to 100 of train."""
        rng = np.random.default_rng(0)
        features = rng.normal(size=(600, 32)).astype(np.float32)
        features[:200] = features[0] + 0.01 * rng.normal(size=(200, 32))
        features[100:200] += 0.05 * rng.normal(size=32)
        samples = [
            replace(s, split="holdout" if 100 <= row < 200 else "train") for row, s in enumerate(samples_of(600))
        ]
        leaks = find_leaks(samples, near_duplicates(Kept(), samples, lambda: features))
        assert {leak.sample_id for leak in leaks} == set(ids_of(600)[100:200])
        assert all(len(leak.related) >= MOST_TWINS for leak in leaks)


class TestReasons:
    def test_neighbours_that_disagree_with_the_model_are_said_too(self) -> None:
        assert label_reason("cat", "dog", (0.2, 0.6), (7, 2), 10) == (
            "the model gives dog 60 %, cat 20 %, though 7 of its 10 nearest images are labeled cat, 2 dog"
        )

    def test_extremes_are_not_rounded_to_certainty(self) -> None:
        words = label_reason("cat", "dog", (0.0001, 0.9999), (0, 10), 10)
        assert words.endswith("the model gives dog over 99 %, cat under 1 %")

    def test_an_only_image_has_no_neighbours(self) -> None:
        assert label_reason("cat", "dog", (0.2, 0.6), (0, 0), 0) == "the model gives dog 60 %, cat 20 %"


class TestDuplicates:
    def twins(self, second: str) -> list:
        zoo = Zoo(60, wrong=())
        zoo.features[30] = zoo.features[3] * 1.0001
        zoo.labels[30] = second
        return find_duplicate_issues(samples_of(60), zoo.labels, zoo.predictions, CLASSES, zoo.features)

    def test_twins_with_one_label_are_near_duplicates(self) -> None:
        first, second = self.twins("c1")
        assert (first.kind, second.kind) == ("near_duplicate", "near_duplicate")
        assert {first.sample_id, second.sample_id} == {"s0003", "s0030"}
        assert first.related == ((second.sample_id),)
        assert first.reason == f"looks the same as {second.sample_id}.jpg"
        assert first.score == pytest.approx(0, abs=1e-4)

    def test_twins_with_two_labels_are_a_conflict_and_the_model_sides_with_one(self) -> None:
        found = {i.sample_id: i for i in self.twins("c2")}
        assert {i.kind for i in found.values()} == {"label_conflict"}
        wrong, right = found["s0030"], found["s0003"]
        assert (wrong.given, wrong.suggested) == ("c2", "c1")
        assert (right.given, right.suggested) == ("c1", None)
        assert wrong.score < right.score
        assert wrong.reason == "the same picture is labeled dog here and cat elsewhere, as in s0003.jpg"

    @pytest.mark.parametrize("conflict", [False, True])
    def test_of_a_crowd_some_are_named_and_all_are_counted(self, conflict: bool) -> None:
        """Of 300 images in one group the last 10 bear another label, which is seen beside each of the others."""
        labels = ["c1"] * 290 + (["c2"] if conflict else ["c1"]) * 10
        predictions = predictions_of(np.tile([0.3, 0.6, 0.1], (300, 1)))
        found = find_duplicate_issues(
            samples_of(300), labels, predictions, CLASSES, np.zeros((300, 2), dtype=np.float32),
            pairs=[(row, row + 1, 0.999) for row in range(299)],
        )  # fmt: skip
        first = next(i for i in found if i.sample_id == "s0000")
        assert len(found) == 300
        assert all(i.sample_id not in i.related and len(i.related) <= 60 for i in found)
        assert first.related == (*ids_of(300)[1:51], *(ids_of(300)[290:] if conflict else ()))
        if conflict:
            assert first.reason == "the same picture is labeled cat here and dog elsewhere, as in s0290.jpg"
            assert first.suggested == "c2"
        else:
            assert first.reason == "looks the same as s0001.jpg and 298 more"

    def test_different_images_are_no_duplicates(self) -> None:
        zoo = Zoo(60)
        assert find_duplicate_issues(samples_of(60), zoo.labels, zoo.predictions, CLASSES, zoo.features) == []


class TestOutliers:
    def test_an_image_unlike_all_others_is_found_and_scored_lowest(self) -> None:
        zoo = Zoo()
        zoo.features[11] = 9 * np.random.default_rng(3).normal(size=16)
        found = find_outliers(ids_of(150), zoo.features)
        assert found[0].sample_id == "s0011"
        assert len(found) <= 4
        assert 0 <= found[0].score <= 1

    def test_small_or_constant_sets_have_none(self) -> None:
        assert find_outliers(ids_of(29), np.eye(29, dtype=np.float32)) == []
        assert find_outliers(ids_of(40), np.ones((40, 3), dtype=np.float32)) == []

    def test_the_fence_is_cleanlabs(self) -> None:
        distances = np.concatenate([np.linspace(0.9, 1.1, 100), [1.20, 1.30]])
        fence = np.quantile(distances, 0.75) + (1 / 0.37 - 1) * np.subtract(*np.quantile(distances, [0.75, 0.25]))
        assert 1.20 < fence < 1.30
        assert np.flatnonzero(far_out(np.exp(-distances))).tolist() == [101]


class TestAllIssues:
    def properties(self, count: int):
        import pandas as pd

        usual = dict.fromkeys(PROPERTIES, 0.5) | {"darkest": 0.1, "brightest": 0.9, "information": 7.0, "aspect": 1.0}
        table = pd.DataFrame([usual | {"width": 64, "height": 64} for _ in range(count)], index=ids_of(count))
        table.iloc[5, list(PROPERTIES).index("brightest")] = 0.01
        return table.astype(float)

    def test_labels_come_first_then_the_rest(self) -> None:
        zoo = Zoo()
        zoo.features[31] = zoo.features[3] * 1.0001
        found = all_issues(
            samples_of(150), zoo.labels, zoo.predictions, CLASSES, zoo.features, self.properties(150),
            settings=DetectionSettings(),
        )  # fmt: skip
        kinds = [i.kind for i in found]
        label_kinds = [k in ("label", "label_conflict") for k in kinds]
        assert label_kinds == sorted(label_kinds, reverse=True)
        assert {"label", "label_conflict", "dark"} <= set(kinds)
        about_labels = [i.score for i in found if i.kind in ("label", "label_conflict")]
        assert about_labels == sorted(about_labels)
        assert [i.sample_id for i in found if i.kind == "dark"] == ["s0005"]

    def test_settings_leave_kinds_out(self) -> None:
        zoo = Zoo()
        zoo.features[31] = zoo.features[3] * 1.0001
        found = all_issues(
            samples_of(150), zoo.labels, zoo.predictions, CLASSES, zoo.features, self.properties(150),
            settings=DetectionSettings(image_quality=False, duplicates=False),
        )  # fmt: skip
        assert {i.kind for i in found} <= {"label", "outlier"}


class TestRareClasses:
    """cleanlab's rule: the rarest class, with less than a tenth of an equal share."""

    def test_the_samples_of_a_rare_class_are_told_with_its_share(self) -> None:
        labels = ["c1"] * 60 + ["c2"] * 37 + ["c3"] * 3
        found = find_rare_classes(ids_of(100), labels, CLASSES)
        assert [(i.sample_id, i.kind, i.score) for i in found] == [
            (s, "class_imbalance", 0.03) for s in ids_of(100)[97:]
        ]
        assert found[0].reason == "3 of 100 labels are fox; more images of it are needed"

    def test_it_is_what_datalab_finds(self) -> None:
        from cleanlab import Datalab

        labels = ["c1"] * 60 + ["c2"] * 37 + ["c3"] * 3
        lab = Datalab({"label": labels}, label_name="label", verbosity=0)
        lab.find_issues(features=np.eye(100), issue_types={"class_imbalance": {}})
        theirs = lab.get_issues("class_imbalance")
        flagged = theirs[theirs["is_class_imbalance_issue"]]
        assert [i.score for i in find_rare_classes(ids_of(100), labels, CLASSES)] == flagged[
            "class_imbalance_score"
        ].tolist()

    @pytest.mark.parametrize("labels", [["c1"] * 60 + ["c2"] * 35 + ["c3"] * 5, ["c1"] * 100])
    def test_uneven_is_not_rare(self, labels: list[str]) -> None:
        assert find_rare_classes(ids_of(100), labels, CLASSES) == []


def test_outliers_are_those_of_cleanlabs_own_search() -> None:
    from cleanlab.outlier import OutOfDistribution

    zoo = Zoo(count=200)
    zoo.features[7] *= -9
    theirs = OutOfDistribution(params={"k": 10}).fit_score(features=unit_directions(zoo.features), verbose=False)
    ours = find_outliers(ids_of(200), zoo.features)
    assert [i.sample_id for i in ours] == [ids_of(200)[row] for row in np.flatnonzero(far_out(theirs))] != []
    assert ours[0].score == pytest.approx(theirs.min(), abs=1e-5)


def test_a_set_too_large_for_an_exact_search_is_told_the_same_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(count=300)
    given = (ids_of(300), zoo.labels, zoo.predictions, CLASSES, zoo.features)
    exact = find_label_issues(*given)
    monkeypatch.setattr(neighbours, "EXACT", 299)
    found = find_label_issues(*given)
    assert [i.sample_id for i in found] == [i.sample_id for i in exact]
    assert [i.reason for i in found] == [i.reason for i in exact]
    assert [i.related for i in found] == [i.related for i in exact]
