"""The batch that people are asked about: what is in it, in which order, and what it gives away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.audit import is_flagged
from curation.config import ReviewSettings
from curation.queue import build_batch, confusion_weights, opaque_key
from curation.records import Issue, QueueEntry

#: 100 training images: s000 to s039 are flagged, the lower the number the worse.
TRAIN = [f"s{number:03d}" for number in range(100)]
QUALITY = {s: number / 100 for number, s in enumerate(TRAIN)}
ISSUES = [Issue(s, "label", QUALITY[s], f"reason {s}", "c1", "c2", ("r1", "r2")) for s in TRAIN[:40]]
LABELS: dict[str, str | None] = dict.fromkeys(TRAIN, "c1")
PLAIN = ReviewSettings(blind_share=0, control_share=0)


def batch(budget: int = 20, review: ReviewSettings | None = None, **changes: Any) -> list[QueueEntry]:
    arguments: dict[str, Any] = {
        "budget": budget, "settings": review or ReviewSettings(), "iteration": 1, "project_id": "p", "seed": 0,
        "asked": {}, "contested": [], "secret": "quiet",
    } | changes  # fmt: skip
    issues = arguments.pop("issues", ISSUES)
    return build_batch(QUALITY, issues, LABELS, arguments.pop("train_ids", TRAIN), **arguments)


def samples(entries: list[QueueEntry], mode: str | None = None) -> list[str]:
    return [e.sample_id for e in entries if mode in (None, e.mode)]


class TestWhatIsAsked:
    def test_flagged_come_worst_first(self) -> None:
        assert samples(batch(5, PLAIN)) == TRAIN[:5]

    def test_what_may_cost_more_comes_first(self) -> None:
        """Quality 0.05 at a weight of 0.5 leaves 0.475 at stake; 0.3 at a weight of 1 leaves 0.7."""
        assert samples(batch(2, PLAIN, weights={s: 1.0 if s == "s030" else 0.5 for s in TRAIN})) == ["s030", "s000"]

    def test_a_rare_confusion_comes_before_a_common_one_of_nearly_the_same_doubt(self) -> None:
        """Of 60 labels of the first class 40 are taken for the second, one for the third; that one is doubted less."""
        probabilities = np.tile([0.9, 0.08, 0.02], (60, 1))
        probabilities[:40] = [0.04, 0.9, 0.06]
        probabilities[40] = [0.05, 0.1, 0.85]
        weights = confusion_weights(probabilities, np.zeros(60, dtype=np.int64))
        doubts = (1 - probabilities[:, 0]) * weights
        assert doubts.argmax() == 40
        assert 0.8 < weights.min() < weights.max() < 1.25
        probabilities[40] = [0.3, 0.1, 0.6]  # much less doubted, it comes last
        assert ((1 - probabilities[:, 0]) * confusion_weights(probabilities, np.zeros(60, dtype=np.int64)))[
            :41
        ].argmin() == 40

    def test_order_of_issues_does_not_matter_but_label_quality_does(self) -> None:
        assert samples(batch(5, PLAIN, issues=ISSUES[::-1])) == TRAIN[:5]

    def test_shares_of_the_budget_are_blind_and_controls(self) -> None:
        found = batch(40, ReviewSettings(blind_share=0.2, control_share=0.1))
        assert len(found) == 40
        assert len(samples(found, "blind")) == 8
        assert len(samples(found, "control")) == 4
        assert len(samples(found, "shown")) == 28
        assert set(samples(found, "blind") + samples(found, "shown")) == set(TRAIN[:36])

    def test_controls_are_not_flagged_and_drawn_anew_by_seed_and_iteration(self) -> None:
        review = ReviewSettings(control_share=0.5, blind_share=0)
        draws = [
            samples(batch(40, review, seed=seed, iteration=it), "control") for seed, it in ((0, 1), (1, 1), (0, 2))
        ]
        assert all(set(draw) <= set(TRAIN[40:]) for draw in draws)
        assert len({tuple(sorted(draw)) for draw in draws}) == 3

    def test_controls_are_drawn_by_their_doubt(self) -> None:
        """Qualities of 0.4 to 0.99 in steps of 0.01, so doubts of 0.6 to 0.01."""
        review = ReviewSettings(control_share=0.5, blind_share=0)
        counts = dict.fromkeys(TRAIN[40:], 0)
        for seed in range(600):
            for sample in samples(batch(12, review, seed=seed), "control"):
                counts[sample] += 1
        drawn, doubts = list(counts.values()), [0.6 - 0.01 * n for n in range(60)]
        assert min(drawn[:50]) > 0
        expected = [3600 * doubt / sum(doubts) for doubt in doubts]
        assert max(abs(sum(drawn[n : n + 20]) - sum(expected[n : n + 20])) for n in (0, 20, 40)) < 150

    def test_what_was_reviewed_is_not_asked_again(self) -> None:
        found = batch(20, asked={"s000": 1, "s001": 2, "s050": 1, "s002": 0})
        assert not {"s000", "s001", "s050"} & set(samples(found))
        assert "s002" in samples(found)  # skipped by all who saw it: no opinion yet

    def test_contested_come_first_blind_for_one_more_opinion(self) -> None:
        found = batch(10, ReviewSettings(opinions=2), contested=["s070", "s003"], asked={"s070": 2, "s003": 2})
        assert [(e.sample_id, e.mode, e.opinions) for e in found[:2]] == [("s070", "blind", 1), ("s003", "blind", 1)]
        assert {e.opinions for e in found[2:]} == {2}
        assert len(found) == 10

    def test_what_is_asked_again_says_nothing_of_the_flagger_however_much_it_is_flagged(self) -> None:
        again, *fresh = batch(40, ReviewSettings(blind_share=0.2), contested=["s003"], asked={"s003": 2})
        assert (again.sample_id, again.given, again.suggested, again.reason, again.related) == (
            "s003", "c1", None, "", (),
        )  # fmt: skip
        assert not is_flagged(again)
        assert [e.mode for e in fresh if is_flagged(e)].count("blind") == 8

    def test_contested_rest_after_five_opinions(self) -> None:
        found = batch(10, contested=["s070", "s071"], asked={"s070": 5, "s071": 4})
        assert "s071" in samples(found)
        assert "s070" not in samples(found)

    def test_contested_within_the_budget(self) -> None:
        assert samples(batch(1, contested=["s070", "s071"], asked={"s070": 2, "s071": 2})) == ["s070"]

    def test_nothing_is_asked_for_nothing(self) -> None:
        assert batch(0, contested=["s001"], asked={"s001": 1}, pool=[("u1", 0.5)]) == []

    def test_a_budget_beyond_the_issues_is_not_spent_on_anything(self) -> None:
        found = batch(1000, ReviewSettings(blind_share=0.1, control_share=0.05))
        assert len(samples(found, "control")) == 50
        assert set(samples(found, "shown") + samples(found, "blind")) == set(TRAIN[:40])

    def test_images_that_are_not_for_training_are_never_asked_about(self) -> None:
        found = batch(100, train_ids=TRAIN[10:], contested=["s002"], asked={"s002": 1})
        assert not set(TRAIN[:10]) & set(samples(found))

    def test_other_kinds_of_issues_flag_nothing(self) -> None:
        dark = [Issue(TRAIN[90], "dark", 0.0, "very dark")]
        assert samples(batch(5, PLAIN, issues=dark)) == []

    def test_a_conflict_is_asked_about_with_the_reason_of_the_label_issue_where_there_is_one(self) -> None:
        conflicts = [Issue(s, "label_conflict", 0.0, "labeled twice", "c1", "c3") for s in ("s001", "s060")]
        found = {e.sample_id: e for e in batch(100, PLAIN, issues=[*conflicts, *ISSUES])}
        assert (found["s060"].reason, found["s060"].suggested) == ("labeled twice", "c3")
        assert found["s001"].reason == "reason s001"

    def test_what_is_left_goes_to_the_pool_most_doubtful_first(self) -> None:
        pool = [("u1", 0.2), ("u2", 0.9), ("u3", 0.5)]
        found = batch(42, PLAIN, pool=pool)
        assert samples(found[40:]) == ["u2", "u3"]
        assert {(e.mode, e.given) for e in found[40:]} == {("blind", None)}
        assert samples(batch(42, PLAIN, pool=pool, asked={"u2": 1})[40:]) == ["u3", "u1"]
        assert not {"u1", "u2", "u3"} & set(samples(batch(40, PLAIN, pool=pool)))


class TestHow:
    def test_positions_count_from_zero_and_shown_keep_their_order(self) -> None:
        found = batch(40)
        assert [e.position for e in found] == list(range(40))
        shown = samples(found, "shown")
        assert shown == sorted(shown)

    def test_blind_ones_and_controls_are_strewn_among_the_shown(self) -> None:
        hidden = [
            e.position for e in batch(40, ReviewSettings(blind_share=0.2, control_share=0.2)) if e.mode != "shown"
        ]
        assert min(hidden) < 13
        assert 13 <= sorted(hidden)[len(hidden) // 2] <= 27
        assert hidden != list(range(hidden[0], hidden[0] + len(hidden)))

    def test_which_of_the_hidden_are_controls_can_not_be_told_from_their_order(self) -> None:
        first = [next(e.mode for e in batch(40, seed=seed) if e.mode != "shown") for seed in range(40)]
        assert 8 <= first.count("control") <= 32

    def test_a_shown_entry_carries_why(self) -> None:
        entry = batch(5, PLAIN)[0]
        assert (entry.given, entry.suggested, entry.reason, entry.related) == ("c1", "c2", "reason s000", ("r1", "r2"))

    def test_the_same_call_gives_the_same_batch(self) -> None:
        assert batch(30) == batch(30)

    def test_keys_are_opaque_and_of_one_question_each(self) -> None:
        found = batch(40)
        keys = {e.key for e in found}
        assert len(keys) == 40
        assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)
        assert not keys & {e.key for e in batch(40, iteration=2)}
        assert not keys & {e.key for e in batch(40, secret="other")}
        assert not keys & {e.key for e in batch(40, project_id="q")}

    def test_asking_again_after_an_answer_is_another_question(self) -> None:
        first = batch(1, contested=["s007"], asked={"s007": 2})[0]
        second = batch(1, contested=["s007"], asked={"s007": 3})[0]
        assert first.key != second.key
        assert first.key == opaque_key("quiet", "p", 1, "s007", "blind", 2)


@settings(max_examples=60, deadline=None)
@given(
    budget=st.integers(0, 150),
    blind=st.floats(0, 0.5),
    control=st.floats(0, 0.5),
    asked=st.dictionaries(st.sampled_from(TRAIN), st.integers(0, 6)),
    contested=st.lists(st.sampled_from(TRAIN)),
    seed=st.integers(0, 5),
)
def test_every_batch_keeps_to_its_budget(
    budget: int, blind: float, control: float, asked: dict[str, int], contested: list[str], seed: int
) -> None:
    review = ReviewSettings(blind_share=blind, control_share=control)
    pool = [("u1", 0.1), ("u2", 0.2)]
    found = batch(budget, review, asked=asked, contested=contested, seed=seed, pool=pool)
    ids = samples(found)
    assert len(ids) == len(set(ids)) <= budget
    assert all(e.sample_id in contested for e in found if asked.get(e.sample_id))
    assert [e.position for e in found] == list(range(len(found)))
    assert {e.mode for e in found} <= {"shown", "blind", "control"}
    askable = [s for s in [*TRAIN[:40], "u1", "u2"] if not asked.get(s)]
    assert len(found) >= min(budget, len(askable))


@pytest.mark.parametrize("budget", [1, 4, 5])
def test_a_tiny_budget_goes_to_the_worst(budget: int) -> None:
    assert set(samples(batch(budget, ReviewSettings(blind_share=0, control_share=0.1)))) == set(TRAIN[:budget])
