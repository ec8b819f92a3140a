"""Copies are made of the right images, and a recipe is kept only where it helps."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from augment.choose import (
    MOST_COPIES,
    MOST_OF_ITS_OWN,
    Ground,
    again,
    aims,
    evener,
    harmed_by,
    judge,
    paired_gain,
    plan,
)
from augment.recipes import Recipe, Step
from curation import copies
from curation.config import SliceSettings
from curation.errors import ConfigError, RecordError
from curation.records import Condition, Estimate, Slice

DARK = Condition("brightness", "<", 0.2)


def a_slice(members: list[str], *conditions: Condition, weakness: str = "dark", rate: float = 0.4) -> Slice:
    size = len(members)
    errors = round(rate * size)
    return Slice("x", conditions, tuple(members), size, errors, rate, (0.2, 0.6), 0.1, 0.01, weakness)


def a_set(count: int = 200) -> tuple[pd.DataFrame, list[str], list[str]]:
    """Every tenth image is dark; classes take turns, wafers in pairs."""
    ids = [f"s{n}" for n in range(count)]
    table = pd.DataFrame(
        {
            "brightness": [0.1 if n % 10 == 0 else 0.6 for n in range(count)],
            "saturation": 0.3,
            "wafer": ["poly" if n % 4 < 2 else "mono" for n in range(count)],
        },
        index=ids,
    )
    return table, ids, [f"c{1 + n % 2}" for n in range(count)]


class TestPlan:
    def test_dark_copies_are_made_of_bright_images_of_the_same_kind(self) -> None:
        table, ids, labels = a_set()
        members = [s for s, n in zip(ids, range(200), strict=True) if n % 20 == 0]
        conditions = (Condition("class", "=", "c1"), Condition("wafer", "=", "poly"), DARK)
        recipe, augmentation = plan(a_slice(members, *conditions), table, ids, labels, SliceSettings(), 0)
        assert recipe.weakness == augmentation.name == "dark"
        assert len(augmentation.sample_ids) == 40  # all that are bright
        for sample_id in augmentation.sample_ids:
            row = ids.index(sample_id)
            assert sample_id not in members
            assert labels[row] == "c1"
            assert table["wafer"].iloc[row] == "poly"

    def test_how_dark_images_look_besides_does_not_limit_what_is_darkened(self) -> None:
        """Only dark images have few edges, so bright images with few edges, which are hardly any, are not asked for."""
        table, ids, labels = a_set()
        table["busyness"] = np.where(table["brightness"] < 0.2, 0.01, 0.2)
        members = [s for s, n in zip(ids, range(200), strict=True) if n % 20 == 0]
        conditions = (Condition("class", "=", "c1"), DARK, Condition("busyness", "<", 0.05))
        _, augmentation = plan(a_slice(members, *conditions), table, ids, labels, SliceSettings(), 0)
        assert len(augmentation.sample_ids) > 2 * len(members)
        assert not set(augmentation.sample_ids) & set(members)
        assert {labels[ids.index(s)] for s in augmentation.sample_ids} == {"c1"}

    def test_copies_have_the_mix_of_classes_of_the_slice(self) -> None:
        table, ids, labels = a_set()
        members = [s for s, label in zip(ids, labels, strict=True) if label == "c1"][:15]
        members += [s for s, label in zip(ids, labels, strict=True) if label == "c2"][:5]
        _, augmentation = plan(a_slice(members, DARK), table, ids, labels, SliceSettings(), 0)
        copied = [labels[ids.index(s)] for s in augmentation.sample_ids]
        assert (copied.count("c1"), copied.count("c2")) == (85, 28)  # all others of c1, and a third as many of c2

    def test_all_others_are_copied_where_their_mix_is_the_slices_but_for_chance(self) -> None:
        """Nine and eleven of two classes equally common: a chance, which must not cost a fifth of the copies."""
        table, ids, labels = a_set()
        members = [s for s, label in zip(ids, labels, strict=True) if label == "c1"][:9]
        members += [s for s, label in zip(ids, labels, strict=True) if label == "c2"][:11]
        _, augmentation = plan(a_slice(members, DARK), table, ids, labels, SliceSettings(), 0)
        assert sorted(augmentation.sample_ids) == sorted(set(ids) - set(members))

    def test_a_class_that_few_others_are_of_does_not_hold_up_the_rest(self) -> None:
        table, ids, _ = a_set()
        labels = ["c1"] * 100 + ["c2"] * 12 + ["c1"] * 88
        _, augmentation = plan(a_slice(ids[90:110], DARK), table, ids, labels, SliceSettings(), 0)
        copied = [labels[ids.index(s)] for s in augmentation.sample_ids]
        assert (copied.count("c1"), copied.count("c2")) == (20, 2)

    def test_rare_copies_are_made_of_the_slice_itself(self) -> None:
        table, ids, labels = a_set()
        weak = a_slice(ids[:12], Condition("wafer", "=", "poly"), weakness="rare")
        _, augmentation = plan(weak, table, ids, labels, SliceSettings(), 0)
        assert sorted(augmentation.sample_ids) == sorted(ids[:12])

    def test_slice_without_others_of_its_kind_is_copied_itself(self) -> None:
        table, ids, labels = a_set(20)
        _, augmentation = plan(a_slice(ids, DARK), table, ids, labels, SliceSettings(), 0)
        assert sorted(augmentation.sample_ids) == sorted(ids)

    @pytest.mark.parametrize(("members", "copies", "made"), [(1100, 1, 1), (1100, 20, 1), (300, 7, 3), (300, 2, 2)])
    def test_copies_are_bounded_and_rather_of_many_images_than_several_of_one(
        self, members: int, copies: int, made: int
    ) -> None:
        table, ids, labels = a_set(2400)
        weak = a_slice(ids[:members], weakness="rare")
        _, augmentation = plan(weak, table, ids, labels, SliceSettings(copies=copies), 0)
        assert augmentation.copies == made
        assert len(augmentation.sample_ids) == min(members, MOST_OF_ITS_OWN)

    def test_of_other_images_more_are_copied_than_of_the_slices_own(self) -> None:
        table, ids, labels = a_set(3000)
        _, augmentation = plan(a_slice(ids[:20], DARK), table, ids, labels, SliceSettings(), 0)
        assert len(augmentation.sample_ids) * augmentation.copies == MOST_COPIES
        assert not set(augmentation.sample_ids) & set(ids[:20])

    def test_no_copies_are_made_where_none_are_wanted(self) -> None:
        table, ids, labels = a_set()
        _, augmentation = plan(a_slice(ids[:20], DARK), table, ids, labels, SliceSettings(copies=0), 0)
        assert augmentation.sample_ids == ()

    def test_seed_decides(self) -> None:
        table, ids, labels = a_set()
        weak = a_slice(ids[:10], DARK)
        first, again, other = (plan(weak, table, ids, labels, SliceSettings(), s)[1].sample_ids for s in (1, 1, 2))
        assert first == again
        assert first != other

    def test_augmentation_can_be_pickled_and_darkens(self) -> None:
        table, ids, labels = a_set()
        _, augmentation = plan(a_slice(ids[::10], DARK), table, ids, labels, SliceSettings(), 0)
        transform = pickle.loads(pickle.dumps(augmentation)).transform
        assert transform(np.full((40, 40, 3), 150, dtype=np.uint8), 3).mean() == pytest.approx(25, abs=2)  # 0.1 / 0.6

    def test_own_recipe_takes_the_place_of_ours_or_is_refused(self) -> None:
        table, ids, labels = a_set()
        mine = Recipe("night", "dark", (Step("RandomGamma", {"gamma_limit": [200, 250], "p": 1.0}),), "")
        weak = a_slice(ids[::10], DARK)
        assert plan(weak, table, ids, labels, SliceSettings(), 0, [mine])[0] == mine
        wrong = replace(mine, steps=(Step("Gamma", {}),))
        with pytest.raises(ConfigError, match="'night'"):
            plan(weak, table, ids, labels, SliceSettings(), 0, [wrong])

    def test_condition_on_a_column_that_is_not_there_falls_back_on_classes(self) -> None:
        table, ids, labels = a_set()
        weak = a_slice(ids[::20], Condition("lot", "=", "a"), DARK)
        _, augmentation = plan(weak, table, ids, labels, SliceSettings(), 0)
        assert {labels[ids.index(s)] for s in augmentation.sample_ids} == {"c1"}

    def test_rows_that_differ_are_refused(self) -> None:
        table, ids, labels = a_set()
        with pytest.raises(RecordError, match="got 199 and 200 for 200 samples"):
            plan(a_slice(ids[:10], DARK), table.iloc[1:], ids, labels, SliceSettings(), 0)


def shifted_problem() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two classes told apart by one feature; in one of twenty rows, the slice, which lies apart, by eight other ones.

    Returns features (1500, 100), labels, inside, groups. Its own 75 rows are few to learn the other features from.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1500)
    inside = np.arange(1500) % 20 == 0
    features, sign = rng.normal(0, 1, (1500, 100)), (2 * labels - 1)[:, None]
    features[:, 0] += np.where(inside, 0, 3 * sign[:, 0])
    features[:, 1:9] += np.where(inside[:, None], 0.7 * sign, 0)
    features[:, 9] += np.where(inside, 6, 0)
    return features.astype(np.float32), labels, inside, np.arange(1500)


@cache
def shifted_ground() -> Ground:
    """Where that problem's recipes are tried: what it works out without copies is worked out once."""
    return Ground(*shifted_problem())


def test_a_head_that_looks_past_what_a_recipe_changes_learns_more_from_its_copies() -> None:
    """Classes lie along some axes; what is altered lies far off along two others, each image by what it happens to."""
    rng = np.random.default_rng(0)
    count = 400
    labels = rng.integers(0, 2, count)
    inside = np.arange(count) % 20 == 0
    features = rng.normal(0, 1, (count, 100))
    features[:, :5] += 0.8 * (2 * labels - 1)[:, None]
    directions = rng.normal(0, 1, (2, 100)) * (np.arange(100) > 9)

    def altered(rows: np.ndarray) -> np.ndarray:
        return (rows + rng.normal(0, 8, (len(rows), 2)) @ directions).astype(np.float32)

    features[inside] = altered(features[inside])
    ground = Ground(features.astype(np.float32), labels, inside, np.arange(count))
    others = np.flatnonzero(~inside)
    copies = altered(features[others])
    plain, aligned = (ground.trial(copies, others, aligned=aligned) for aligned in (False, True))
    assert plain.belief is not None
    assert aligned.belief is not None
    assert aligned.belief.value > plain.belief.value + 0.02
    assert aligned.kept
    assert aligned.words.endswith("The model looks past what the recipe changes most.")
    assert "looks past" not in plain.words


class TestAims:
    def test_what_words_name_comes_first_then_what_can_be_measured_the_surest_first(self) -> None:
        """Few edges are no weakness that there is a recipe against, but these images are also less sharp and tilted."""
        table, ids, _ = a_set()
        own = ids[::10]
        plain = Condition("busyness", "<", 0.01)
        table["sharpness"] = [0.3 + 0.001 * (n % 7) if n % 10 == 0 else 0.5 + 0.002 * (n % 50) for n in range(200)]
        table["tilt"] = [19 if n % 10 == 0 else n % 20 for n in range(200)]
        table["brightness"] = [0.5 + 0.01 * (n % 3) for n in range(200)]
        soft = ["blurred", "low_resolution"]  # which of the two can't be measured
        assert aims(a_slice(own, plain, weakness="rare"), table, ids) == [*soft, "tilted"]
        assert aims(a_slice(own, DARK), table, ids) == ["dark", *soft]
        table["sharpness"] = np.nan
        assert aims(a_slice(own, plain, weakness="rare"), table, ids) == ["tilted"]
        assert aims(a_slice(own, plain, weakness="rare"), table[["sharpness"]], ids) == ["rare"]
        assert aims(a_slice(ids, plain, weakness="rare"), table, ids) == ["rare"]
        table["busyness"] = [0.01 if n % 10 == 0 else 0.1 for n in range(200)]
        assert aims(a_slice(own, plain, weakness="rare"), table[["busyness"]], ids) == [*soft, "rare"]
        assert aims(a_slice(own, DARK), table[["busyness"]], ids) == ["dark"]

    @pytest.mark.parametrize(("among", "tried"), [(0.85, ["blurred", "low_resolution", "rare"]), (0.75, ["rare"])])
    def test_a_hint_need_not_be_as_clear_as_what_is_measured(self, among: float, tried: list[str]) -> None:
        """``among`` is the share of other images that have more edges than those of the slice."""
        table, ids, _ = a_set()
        table["busyness"] = [0.2 * (1 - among) if n % 10 == 0 else 0.001 * n for n in range(200)]
        weak = a_slice(ids[::10], Condition("busyness", "<", 0.01), weakness="rare")
        assert aims(weak, table[["busyness"]], ids) == tried


class TestAgain:
    def test_images_are_shown_as_they_are_as_often_as_asked_but_bounded(self) -> None:
        shown = again(["a", "b"], 4)
        assert (shown.sample_ids, shown.copies) == (("a", "b"), 3)
        image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
        assert (pickle.loads(pickle.dumps(shown)).transform(image, 5) == image).all()
        assert again([f"s{n}" for n in range(100)], 50).copies == MOST_OF_ITS_OWN // 100


class TestTrial:
    def copies_into_the_slice(self, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
        """What a fitting recipe does: other rows moved to where the slice's rows of their class lie."""
        features, labels, inside, _ = shifted_problem()
        sources = np.flatnonzero(~inside)[:count]
        made = features[sources].copy()
        sign = (2 * labels[sources] - 1)[:, None]
        made[:, 0] -= 3 * sign[:, 0]
        made[:, 1:9] += 0.7 * sign
        made[:, 9] += 6
        return made, sources

    def test_recipe_that_helps_beyond_oversampling_is_kept(self) -> None:
        result = shifted_ground().trial(*self.copies_into_the_slice(1000))
        assert result.gain.ci is not None
        assert result.gain.ci[0] > 0
        assert result.gain.value > result.baseline.value
        assert result.kept
        assert result.words.startswith(f"Kept: accuracy {100 * result.gain.value:+.1f} points")

    def test_what_another_network_sees_is_judged_by_the_same_rule(self) -> None:
        features, labels, inside, _ = shifted_problem()
        ground, sign = shifted_ground(), (2 * labels[inside] - 1).astype(np.float32)
        seen = features.copy()
        seen[inside, 0] += 3 * sign
        result = ground.trial_of(seen, 300)
        assert result.gain.ci is not None
        assert result.gain.ci[0] > 0
        assert result.kept
        assert result.taught
        assert result.words.startswith(f"Kept: accuracy {100 * result.gain.value:+.1f} points")
        assert result.words.endswith("(stability training).")
        same = ground.trial_of(features, 300)
        assert same.gain.value == 0
        assert not same.kept
        assert "stability" not in same.words
        with pytest.raises(RecordError, match=r"seen must have shape \(\d+, 100\) \(samples, d\), got \(3, 100\)"):
            ground.trial_of(features[:3], 300)

    def test_noise_in_place_of_copies_is_not_kept(self) -> None:
        sources = np.flatnonzero(~shifted_ground().inside)[:100]
        noise = np.random.default_rng(0).normal(0, 3, (100, 100)).astype(np.float32)
        result = shifted_ground().trial(noise, sources)
        assert not result.kept
        assert result.words.startswith("Not kept")

    def test_copies_that_make_a_head_surer_of_a_slice_that_is_right_are_not_kept(self) -> None:
        """Copies of its own images: the probability of its labels rises for sure, and so it does by repeats."""
        rng = np.random.default_rng(0)
        labels, inside = rng.integers(0, 2, 600), np.arange(600) % 20 == 0
        features, sign = rng.normal(0, 1, (600, 20)), 2 * labels - 1
        features[:, 0] += 3 * sign
        features[inside] += 6 * np.eye(20)[2]
        features[inside, 0], features[inside, 1] = sign[inside], 2 * sign[inside]
        own = np.repeat(np.flatnonzero(inside), 4)
        made = features[own] + rng.normal(0, 0.1, (len(own), 20))
        result = Ground(features.astype(np.float32), labels, inside, np.arange(600)).trial(made.astype(np.float32), own)
        assert result.belief is not None
        assert result.belief.ci is not None
        assert result.belief.ci[0] > 0
        assert result.gain.value == 0
        assert not result.kept

    def test_a_rare_subgroup_is_shown_as_often_as_harms_no_others(self) -> None:
        """It lies between the classes: weighing what all others do it would take the other class's place."""
        rng = np.random.default_rng(0)
        labels, inside = np.arange(2400) // 1200, np.arange(2400) >= 2380
        features = rng.normal(0, 1, (2400, 20)) + 5 * (labels[:, None] & ~inside[:, None]) * np.eye(20)[0]
        features += 3 * inside[:, None] * np.eye(20)[1]
        own = np.flatnonzero(inside)
        ground = Ground(features.astype(np.float32), labels, inside, np.arange(2400), others={"the other": labels == 0})
        result = ground.trial(features[own].astype(np.float32), own)
        assert evener(20, 2380)[0] == 20
        assert result.repair == "oversampling"
        assert 2 < result.factor < 20
        assert result.balanced is not None
        assert result.balanced.value > result.baseline.value

    def test_copies_count_as_little_as_in_training_and_repeats_as_much_as_images(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made, sources = self.copies_into_the_slice()
        monkeypatch.setattr(copies, "COPIES_SHARE", 1e-6)
        ground = Ground(*shifted_problem())
        result = ground.trial(made, sources)
        assert result.gain.value == pytest.approx(0, abs=1e-3)
        assert result.baseline.value > 0.01
        next_to_nothing = ground.rise(made, sources)
        monkeypatch.undo()
        assert ground.rise(made, sources) > next_to_nothing + 0.02

    @pytest.mark.parametrize(
        ("gain", "low", "rest", "baseline", "verdict"),
        [
            (0.10, 0.02, 0.00, 0.05, "Kept"),
            (0.10, 0.02, -0.01, 0.05, "Kept"),
            (0.10, 0.02, -0.011, 0.05, "Not kept, it harms the other images"),
            (0.10, 0.00, 0.00, 0.05, "Not kept, no gain on the slice shown"),
            (0.10, 0.02, 0.00, 0.10, "Not kept, showing the slice's images more often does as much"),
        ],
    )
    def test_verdict_follows_from_the_figures(
        self, gain: float, low: float, rest: float, baseline: float, verdict: str
    ) -> None:
        result = judge(Estimate(gain, (low, 0.2)), Estimate(rest), Estimate(baseline), 0.01)
        assert result.words.startswith(f"{verdict}: accuracy +10.0 points")
        assert result.kept == (verdict == "Kept")

    @pytest.mark.parametrize(
        ("beyond", "baseline_low", "baseline_harms", "repair"),
        [
            ((0.01, 0.09), 0.01, False, "recipe"),
            ((-0.01, 0.09), 0.01, False, "oversampling"),
            ((-0.01, 0.09), -0.01, False, "recipe"),
            ((-0.01, 0.09), 0.01, True, "recipe"),
        ],
    )
    def test_recipe_must_surely_beat_a_baseline_that_surely_helps(
        self, beyond: tuple[float, float], baseline_low: float, baseline_harms: bool, repair: str
    ) -> None:
        result = judge(
            Estimate(0.10, (0.02, 0.2)), Estimate(0.0), Estimate(0.06, (baseline_low, 0.1)), 0.01,
            beyond=Estimate(0.04, beyond), baseline_harms=baseline_harms,
        )  # fmt: skip
        assert result.repair == repair
        assert ("which harms others" in result.words) == baseline_harms

    @pytest.mark.parametrize(
        ("gain", "belief", "brier", "beyond", "repair"),
        [
            ((0.1, -0.1, 0.3), (0.01, 0.1), 0.08, 0.02, "recipe"),
            ((-0.02, -0.1, 0.1), (0.01, 0.1), 0.08, 0.02, "recipe"),
            ((-0.1, -0.2, -0.01), (0.01, 0.1), 0.08, 0.02, "collect"),
            ((0.1, -0.1, 0.3), (-0.01, 0.1), 0.08, 0.02, "collect"),
            ((0.1, -0.1, 0.3), (0.01, 0.1), -0.01, 0.02, "collect"),
            ((0.1, -0.1, 0.3), (0.01, 0.1), 0.08, -0.02, "collect"),
        ],
    )
    def test_few_rows_tell_by_the_probability_of_their_labels_what_right_and_wrong_can_not(
        self, gain: tuple[float, float, float], belief: tuple[float, float], brier: float, beyond: float, repair: str
    ) -> None:
        result = judge(
            Estimate(gain[0], gain[1:]), Estimate(0.0), Estimate(-0.05, (-0.1, 0.0)), 0.01,
            belief=Estimate(0.05, belief), brier=Estimate(brier, (-0.1, 0.2)),
            baseline_brier=Estimate(0.01, (-0.01, 0.02)), beyond=Estimate(beyond, (-0.1, 0.3)),
        )  # fmt: skip
        assert result.repair == repair
        assert "(probability of the labels +5.0 points, " in result.words

    def test_images_shown_again_are_proposed_where_they_gain_accuracy_and_not_where_a_head_is_only_surer(self) -> None:
        given = Estimate(0.0, (-0.1, 0.1)), Estimate(0.0)
        for gained, fall, repair in ((0.05, 0.01, "oversampling"), (0.0, 0.01, "collect"), (0.05, -0.01, "collect")):
            result = judge(
                *given, Estimate(gained, (-0.02, 0.1)), 0.01, belief=Estimate(0.0, (-0.1, 0.1)),
                brier=Estimate(0.0, (-0.1, 0.1)), baseline_brier=Estimate(0.02, (fall, 0.04)),
            )  # fmt: skip
            assert result.repair == repair

    @pytest.mark.parametrize(
        ("gain", "baseline", "beyond", "repair"),
        [
            (0.0, 0.0, 0.0, "collect"),
            (0.1, 0.1, 0.0, "oversampling"),
            (0.15, 0.1, -0.05, "oversampling"),
            (0.15, 0.1, 0.01, "recipe"),
            (0.1, 0.0, 0.0, "recipe"),
        ],
    )
    def test_copies_of_the_slices_own_images_must_gain_accuracy_beyond_repeats(
        self, gain: float, baseline: float, beyond: float, repair: str
    ) -> None:
        """Its own images shown again, as they are or changed, make a head surer of them for better or worse."""
        given = Estimate(gain, (-0.1, 0.3)), Estimate(0.0), Estimate(baseline, (0.0, 0.2)), 0.01
        surer = Estimate(0.05, (0.03, 0.07))
        result = judge(
            *given, belief=surer, brier=surer, baseline_brier=Estimate(0.02, (0.01, 0.03)),
            beyond=Estimate(gain - baseline, (beyond, 0.2)), own=True,
        )  # fmt: skip
        assert result.repair == repair

    def test_recipe_that_harms_a_class_is_not_kept_and_more_is_to_be_collected(self) -> None:
        result = judge(Estimate(0.1, (0.02, 0.2)), Estimate(0.0), Estimate(0.0), 0.01, harmed="class 2")
        assert (result.kept, result.repair) == (False, "collect")
        assert result.words.startswith("Not kept, it harms class 2: accuracy")
        assert result.words.endswith("Augmentation does not help here; collect more images of this kind.")

    def test_recipe_that_harms_the_rest_is_not_kept(self) -> None:
        """The copies help the slice, but as many others teach the wrong class elsewhere."""
        made, sources = self.copies_into_the_slice()
        others = np.flatnonzero(~shifted_ground().inside)
        misleading = shifted_ground().features[others].copy()
        misleading[:, 0] *= -1
        result = shifted_ground().trial(np.concatenate([made, misleading]), np.concatenate([sources, others]))
        assert result.gain.value > 0
        assert not result.kept
        assert "harms the other images" in result.words

    def test_no_head_sees_a_copy_of_what_it_is_judged_on(self) -> None:
        """Labels are chance; copies equal their source. A head that saw them would be far better than chance."""
        rng = np.random.default_rng(0)
        features = rng.normal(size=(200, 50)).astype(np.float32)
        labels = rng.integers(0, 2, 200)
        inside = np.ones(200, dtype=bool)
        inside[100:] = False
        everything = np.arange(200)
        result = Ground(features, labels, inside, everything).trial(features, everything)
        assert abs(result.gain.value) < 0.1

    def test_more_rows_of_the_same_are_no_gain(self) -> None:
        """Every row once more is the same problem; a looser penalty would make another head of it."""
        ground = shifted_ground()
        result = ground.trial(ground.features, np.arange(len(ground.labels)))
        assert abs(result.gain.value) <= 0.01
        assert abs(result.rest.value) <= 0.001

    def test_shapes_are_checked(self) -> None:
        features, labels, inside, groups = shifted_problem()
        nothing = np.zeros(0, dtype=np.int64)
        with pytest.raises(RecordError, match=r"labels must have shape \(1500,\)"):
            Ground(features, labels[1:], inside, groups)
        with pytest.raises(RecordError, match=r"augmented must have shape \(0, 100\)"):
            Ground(features, labels, inside, groups).trial(features[:3], nothing)
        with pytest.raises(RecordError, match="slice with at least one sample"):
            Ground(features, labels, inside & False, groups)


class TestHarmed:
    def test_a_class_that_surely_loses_is_named(self) -> None:
        before = np.ones(400, dtype=bool)
        after = before.copy()
        after[:30] = False
        halves = {"first": np.arange(400) < 200, "second": np.arange(400) >= 200}
        assert harmed_by(before, after, halves, 0.01) == "first"
        assert harmed_by(before, after, halves, 0.2) == ""

    def test_of_many_that_change_by_chance_none_is_named(self) -> None:
        """Each row of twenty classes turns right or wrong with the same chance: one in forty would seem to lose."""
        named = 0
        for draw in range(40):
            rng = np.random.default_rng(draw)
            before, after = rng.random((2, 2000)) < 0.8
            named += bool(harmed_by(before, after, {f"c{n}": np.arange(2000) % 20 == n for n in range(20)}, 0.01))
        assert named <= 4

    def test_few_rows_that_all_change_for_the_worse_are_not_sure(self) -> None:
        """Six changes go all one way by chance once in 64 times, nine once in 512: for ten classes that is sure."""
        tenths = {f"c{n}": np.arange(1000) % 10 == n for n in range(10)}
        for lost, named in ((6, ""), (9, "c4")):
            after = np.ones(1000, dtype=bool)
            after[np.flatnonzero(tenths["c4"])[:lost]] = False
            assert harmed_by(np.ones(1000, dtype=bool), after, tenths, 0.01) == named


class TestPairedGain:
    def test_gain_is_the_mean_change(self) -> None:
        before = np.array([True, False, False, True])
        after = np.array([True, True, True, False])
        assert paired_gain(before, after).value == 0.25

    def test_nothing_changed_has_no_width_and_no_rows_no_interval(self) -> None:
        same = np.array([True, False])
        assert paired_gain(same, same).ci == (0, 0)
        assert paired_gain(same[:0], same[:0]).ci is None

    def test_interval_matches_the_normal_one_on_many_rows(self) -> None:
        """30 % gained, 10 % lost of 1000: deviation sqrt((0.4 - 0.2 ** 2) / 1000) = 0.019."""
        before = np.repeat([False, True, True], [300, 100, 600])
        after = np.repeat([True, False, True], [300, 100, 600])
        gain = paired_gain(before, after, resamples=20_000)
        assert gain.value == pytest.approx(0.2)
        assert gain.ci == pytest.approx((0.2 - 1.96 * 0.019, 0.2 + 1.96 * 0.019), abs=0.002)
