"""What answers say of labels: people err, and nobody is taken at his word."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from curation import evidence
from curation.audit import look_ahead, recall, recommend, still_wrong
from curation.errors import RecordError
from curation.evidence import Answers, doubt_of, gather, hold_back, learn
from curation.records import Classes, Decision, Estimate, Predictions, QueueEntry, Verdict

CLASSES = Classes(("c1", "c2", "c3"), ("cat", "dog", "fox"))


def answers(rows: list[tuple[float, bool, int, int, int]], n_classes: int = 10, share: float = 0.6) -> Answers:
    """Rows of doubt, flagged, same, other, rest."""
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    doubt, flagged, same, other, rest = columns
    return Answers(
        doubt.astype(float), flagged.astype(bool), same, other, rest, np.where(other > 0, share, 0.0), n_classes
    )


def people(seed: int, *, n: int = 2000, errs: float = 0.15, reviewed: int = 300) -> dict[str, Any]:
    """A set of labels with flags as good as a real flagger's, of which the worst and some controls were reviewed."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.15
    doubt = rng.normal(np.where(wrong, 1.5, -2.5), 1.5)
    flagged = doubt > 0.5
    order = np.argsort(-doubt)
    controls = rng.choice(np.flatnonzero(~flagged), reviewed // 5, replace=False)
    rows = np.union1d(order[: reviewed - len(controls)], controls)
    same, other, rest = (np.zeros(n, dtype=np.int64) for _ in range(3))
    for row in rows:
        for _ in range(2):
            if rng.random() < errs:
                same[row] += wrong[row]
                alike = not wrong[row] and rest[row] > 0 and rng.random() < 0.35
                other[row] += alike
                rest[row] += not wrong[row] and not alike
            else:
                same[row], other[row] = (same[row] + (not wrong[row]), other[row] + wrong[row])
    both = ~wrong & (other > 0)
    other, rest = (
        np.where(both, 2, np.where(other > 0, other, np.minimum(rest, 1))),
        np.where(both, 0, np.where(other > 0, rest, np.maximum(rest - 1, 0))),
    )
    share = np.where(
        other > 0, np.where(wrong, 0.6, 0.1), 0.0
    )  # who errs names a class that the model did not think of
    said = Answers(doubt[rows], flagged[rows], same[rows], other[rows], rest[rows], share[rows], 10)
    left = np.setdiff1d(np.arange(n), rows)
    return {"said": said, "wrong": wrong, "rows": rows, "left": left, "doubt": doubt, "flagged": flagged}


class TestOneLabel:
    AGREED = ((-4.0, False, 1, 0, 0),) * 20 + ((2.0, True, 0, 1, 0),) * 20
    ERRED = ((-4.0, False, 2, 1, 0),) * 4

    def test_one_person_alone_does_not_outweigh_a_label_that_looks_right_and_two_who_agree_do(self) -> None:
        said = answers([*self.AGREED, *self.ERRED, (-4.0, False, 0, 1, 0), (-4.0, False, 0, 3, 0)])
        one, three = learn(said, draws=0).weigh(said)[-2:, 1]
        assert one < 0.5
        assert three > 0.8

    def test_people_who_contradict_and_are_contradicted_are_believed_less(self) -> None:
        contradicted, confirmed = [(-4.0, False, 1, 1, 0)] * 6, [(-4.0, False, 0, 2, 0)] * 6
        alone = answers([(-4.0, False, 0, 1, 0)])
        believed = [
            learn(answers([*self.AGREED, *rows]), draws=0).weigh(alone)[0, 1] for rows in (contradicted, confirmed)
        ]
        assert believed[0] < 0.2
        assert believed[1] > 0.6

    def test_one_person_is_enough_where_the_flagger_is_sure_too(self) -> None:
        doubted = answers([(4.0, True, 0, 1, 0)])
        assert learn(doubted, draws=0).weigh(doubted)[0, 1] > 0.8

    def test_chances_of_the_three_sum_to_one(self) -> None:
        said = answers([(0.0, True, 1, 1, 0), (-3.0, False, 0, 1, 1), (2.0, True, 0, 3, 0)])
        assert learn(said, draws=0).weigh(said).sum(axis=1) == pytest.approx(1)

    def test_of_two_classes_there_is_no_third(self) -> None:
        said = answers([(0.5, True, 0, 1, 0), (-2.0, False, 1, 0, 0)], n_classes=2, share=1.0)
        assert learn(said, draws=0).weigh(said)[0, 2] == pytest.approx(0, abs=1e-9)

    def test_doubt_of_certain_labels_is_finite(self) -> None:
        assert np.isfinite(doubt_of(np.array([0.0, 1.0]))).all()

    def test_arrays_of_different_lengths_are_refused(self) -> None:
        one = np.zeros(1, dtype=np.int64)
        with pytest.raises(RecordError, match="one value a label"):
            Answers(np.zeros(2), np.zeros(1, dtype=bool), one, one, one, np.zeros(1), 3)


class TestBeliefs:
    NOTHING = answers([(0.0, True, 0, 0, 0)])

    def test_without_answers_they_are_the_priors_and_intervals_rest_on_the_weaker_ones(self) -> None:
        beliefs = learn(self.NOTHING, draws=4000)
        assert beliefs.best == pytest.approx(evidence._USUAL[0], abs=0.02)
        assert beliefs.draws.mean(axis=0) == pytest.approx(evidence._WEAK[0], abs=0.15)
        assert beliefs.draws.std(axis=0) == pytest.approx(evidence._WEAK[1], rel=0.15)
        assert (evidence._WEAK[1] >= evidence._USUAL[1]).all()

    def test_decisions_are_the_same_with_and_without_draws(self) -> None:
        said = people(3)["said"]
        with_draws, without = learn(said), learn(said, draws=0)
        np.testing.assert_array_equal(with_draws.best, without.best)
        assert len(with_draws.draws) == evidence.DRAWS
        np.testing.assert_array_equal(without.draws, without.best[None])


class TestWhatIsLeft:
    @pytest.mark.parametrize("errs", [0.0, 0.15])
    def test_most_intervals_hold_the_truth(self, errs: float) -> None:
        """16 drawn projects: fewer than 13 held would have a chance of 1 % if 95 % hold."""
        held, estimates, truths = 0, [], []
        for seed in range(16):
            made = people(seed, errs=errs)
            beliefs = learn(made["said"], seed)
            chances = beliefs.weigh(made["said"])
            changed = chances[:, 1] > 0.5
            mended = made["wrong"].copy()
            mended[made["rows"]] = np.where(changed, ~made["wrong"][made["rows"]], made["wrong"][made["rows"]])
            left = made["left"]
            found = still_wrong(beliefs, made["said"], changed, made["doubt"][left], made["flagged"][left])
            assert found.ci is not None
            held += found.ci[0] <= mended.sum() <= found.ci[1]
            estimates.append(found.value)
            truths.append(int(mended.sum()))
        assert held >= 13
        assert np.mean(estimates) == pytest.approx(np.mean(truths), rel=0.5)

    def test_recall_is_near_the_truth(self) -> None:
        made = people(3, reviewed=600)
        left = made["left"]
        found = recall(learn(made["said"]), made["said"], made["doubt"][left], made["flagged"][left])
        truth = (made["wrong"] & made["flagged"]).sum() / made["wrong"].sum()
        assert found is not None
        assert found.ci is not None
        assert found.ci[0] <= truth <= found.ci[1]

    def test_memory_does_not_grow_with_the_labels_that_people_have_judged(self) -> None:
        """2,000 labels with 1,000 draws: one array of all would take 16 MB, and some nine are held at once."""
        said = answers([(0.5, True, 0, 1, 0), (-2.0, False, 1, 0, 0)] * 1000)
        doubt, flagged = np.linspace(-4, 2, 100), np.arange(100) >= 80
        beliefs = learn(said.of(slice(10)))
        tracemalloc.start()
        found = recall(beliefs, said, doubt, flagged)
        left = still_wrong(beliefs, said, np.zeros(len(said), dtype=bool), doubt, flagged)
        evidence._log_posterior(beliefs.draws, said, evidence._WEAK)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found is not None
        assert left.value > found.value
        assert peak < 80e6


class TestWhatComesNext:
    def test_more_reviews_find_more_and_doubtful_labels_first(self) -> None:
        made = people(0)
        left = made["left"]
        ahead = look_ahead(
            learn(made["said"]), made["doubt"][left], made["flagged"][left], gained=Estimate(0.02, (0.0, 0.04)),
            repaired=100,
        )  # fmt: skip
        assert [a.reviews for a in ahead] == [50, 100, 200]
        found = [a.errors_found.value for a in ahead]
        assert found == sorted(found)
        assert found[0] / 50 > found[2] / 200
        assert ahead[0].gain is not None
        assert ahead[0].gain.value == pytest.approx(found[0] * 0.02 / 100, rel=0.15)

    def test_what_comes_next_is_in_the_order_of_the_queue(self) -> None:
        """Where the queue begins with what is least doubtful, the next reviews find least."""
        made = people(0)
        beliefs, left = learn(made["said"]), made["left"]
        doubt, flagged = made["doubt"][left], made["flagged"][left]
        usual, same, turned = (
            look_ahead(beliefs, doubt, flagged, quality=quality)[0].errors_found.value
            for quality in (None, -doubt, doubt)
        )
        assert same == usual
        assert turned < 0.8 * usual
        advice = [recommend(beliefs, made["said"], doubt, flagged, quality=q).words for q in (-doubt, doubt)]
        assert advice[0] != advice[1]

    def test_what_is_said_of_the_next_reviews_is_one_and_no_more_than_is_wrong(self) -> None:
        """Few answers: how many labels are wrong is skewed, so that a mean lies far from the median."""
        said = answers([(2.0, True, 1, 0, 0)] * 8 + [(2.0, True, 0, 1, 0)] * 6 + [(-2.0, False, 1, 0, 0)] * 4)
        beliefs = learn(said)
        doubt, flagged = np.linspace(1.0, -4.0, 143), np.arange(143) < 20
        wrong = still_wrong(beliefs, said, np.zeros(18, dtype=bool), doubt, flagged)
        ahead = look_ahead(beliefs, doubt, flagged)
        assert [a.reviews for a in ahead] == [50, 100, 143]
        assert max(a.errors_found.value for a in ahead) <= wrong.value
        advice = recommend(beliefs, said, doubt, flagged, least_yield=0.001)
        assert advice.reviews == 143
        assert f"they should {ahead[2].words}, about {ahead[0].errors_found.value:.0f} of them with the" in advice.words
        assert f"{ahead[0].errors_found.value:.0f}" != f"{ahead[2].errors_found.value:.0f}"

    def test_where_people_find_nothing_wrong_reviewing_stops(self) -> None:
        clean = answers([(1.0, True, 1, 0, 0)] * 60 + [(-3.0, False, 1, 0, 0)] * 40)
        left = np.full(500, -3.0)
        said = recommend(learn(clean), clean, left, np.zeros(500, dtype=bool))
        assert (said.action, said.reviews) == ("stop", 0)
        with_slices = recommend(learn(clean), clean, left, np.zeros(500, dtype=bool), weak_slices=2)
        assert with_slices.action == "slices"

    def test_where_most_flags_are_wrong_labels_reviewing_goes_on(self) -> None:
        rich = answers([(3.0, True, 0, 2, 0)] * 60 + [(-3.0, False, 2, 0, 0)] * 30)
        doubt, flagged = np.array([2.5] * 120 + [-4.0] * 400), np.array([True] * 120 + [False] * 400)
        said = recommend(learn(rich), rich, doubt, flagged)
        assert said.action == "review"
        assert 100 <= said.reviews <= 200


class TestRecords:
    def entry(self, sample: str, mode: Any = "shown") -> QueueEntry:
        return QueueEntry(f"k-{sample}", sample, 1, 0, mode, "c1", "c2", "" if mode == "control" else "looks wrong")

    def verdict(self, sample: str, answer: str, person: str = "ann") -> Verdict:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return Verdict(sample, answer, person, at, f"k-{sample}", f"s-{sample}-{person}", "blind", 1)

    def predictions(self) -> Predictions:
        return Predictions(
            ("a", "b", "c"), CLASSES.ids, np.array([[0.05, 0.9, 0.05], [0.96, 0.02, 0.02], [0.9, 0.05, 0.05]]),
            np.full(3, -1),
        )  # fmt: skip

    def test_answers_are_counted_against_the_label_that_was_given(self) -> None:
        entries = [self.entry("a"), self.entry("b", "control"), self.entry("c")]
        opinions = [
            self.verdict("a", "c2"), self.verdict("a", "c3", "bob"), self.verdict("a", "c2", "eve"),
            self.verdict("b", "c1"), self.verdict("c", "ambiguous"),
        ]  # fmt: skip
        said = gather(entries, opinions, self.predictions(), CLASSES)
        assert said.sample_ids == ("a", "b")
        assert said.others == ("c2", None)
        assert said.answers.same.tolist() == [0, 1]
        assert said.answers.other.tolist() == [2, 0]
        assert said.answers.rest.tolist() == [1, 0]
        assert said.answers.flagged.tolist() == [True, False]
        assert said.answers.share[0] == pytest.approx(0.9 / 0.95)

    def test_one_persons_change_is_held_back_only_where_the_label_looks_right(self) -> None:
        entries = [self.entry("a"), self.entry("b", "control")]
        said = gather(entries, [self.verdict("a", "c2"), self.verdict("b", "c2")], self.predictions(), CLASSES)
        decisions = [Decision(s, "change", "c2", 1.0, (1,), "1 of 1 say 'dog'") for s in ("a", "b")]
        beliefs = learn(said.answers, draws=0)
        first, second = hold_back(decisions, said, beliefs, {"a": 1, "b": 1})
        assert first == decisions[0]
        assert (second.outcome, second.class_id) == ("contested", None)
        assert "second person" in second.why
        assert hold_back(decisions, said, beliefs, {"a": 1, "b": 2}) == decisions
