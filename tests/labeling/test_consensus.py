"""Verdicts become decisions by the rules at the head of labeling/consensus.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from curation.errors import RecordError
from curation.records import AMBIGUOUS, BAD_IMAGE, OTHER, SKIPPED, WITHDRAWN, Classes, Decision, Verdict
from labeling.consensus import annotator_quality, crowdlab, decide, opinions, pooled, weighed, worth_asking

CLASSES = Classes(("c1", "c2", "c3"), ("cat", "dog", "fox"))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def said(
    sample: str, person: str, answer: str, *, minute: int = 0, source: str = "", number: int = 0, seconds: float = 2.0
) -> Verdict:
    source = source or f"test:{sample}:{person}:{minute}"
    at = NOON + timedelta(minutes=minute)
    return Verdict(sample, answer, person, at, f"key-{sample}", source, "shown", 1, seconds, id=number)


def decision(*verdicts: Verdict, given: str | None = "c1") -> Decision:
    (found,) = decide(verdicts, {"s": given}, None, CLASSES)
    return found


def crowd_case(samples: int = 40, *, sure: float = 0.98) -> tuple[list[Verdict], dict[str, np.ndarray], list[str]]:
    """Ann and zoe and the model agree on everything; bob is wrong in every third sample, and in the last."""
    truth = [CLASSES.ids[i % 3] for i in range(samples)]
    verdicts, probabilities = [], {}
    for i, class_id in enumerate(truth):
        row = np.full(3, (1 - sure) / 2)
        row[CLASSES.index(class_id)] = sure
        probabilities[f"s{i}"] = row
        bobs = CLASSES.ids[(i + 1) % 3] if i % 3 == 0 else class_id
        verdicts += [said(f"s{i}", "ann", class_id), said(f"s{i}", "zoe", class_id), said(f"s{i}", "bob", bobs)]
    return verdicts, probabilities, truth


def test_one_person_who_names_another_class_changes_the_label() -> None:
    found = decision(said("s", "ann", "c2", number=7))
    assert (found.outcome, found.class_id, found.confidence, found.cites) == ("change", "c2", 1.0, (7,))
    assert found.why == "1 of 1 say 'dog'"


def test_people_who_name_the_given_class_keep_it() -> None:
    found = decision(said("s", "ann", "c1", number=2), said("s", "bob", "c1", number=1))
    assert (found.outcome, found.class_id, found.cites) == ("keep", "c1", (1, 2))


def test_a_sample_of_the_pool_gets_the_class() -> None:
    assert decision(said("s", "ann", "c1"), given=None).outcome == "change"


def test_a_sample_whose_label_nobody_told_counts_as_unlabeled() -> None:
    (found,) = decide([said("s", "ann", "c1")], {}, None, CLASSES)
    assert found.outcome == "change"


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([BAD_IMAGE], "exclude"),
        ([BAD_IMAGE, BAD_IMAGE, "c1"], "exclude"),
        ([BAD_IMAGE, "c1"], "contested"),
        ([AMBIGUOUS], "ambiguous"),
        ([OTHER], "ambiguous"),
        ([OTHER, AMBIGUOUS, "c1"], "ambiguous"),
        ([AMBIGUOUS, "c1"], "contested"),
        ([AMBIGUOUS, BAD_IMAGE], "contested"),
        ([BAD_IMAGE, AMBIGUOUS, "c2"], "contested"),
        (["c1", "c2"], "contested"),
        (["c2", "c2", "c1"], "contested"),
        (["c2", "c2", "c2", "c2", "c1"], "change"),
        (["c1", "c1", "c1", "c1", AMBIGUOUS], "keep"),
    ],
)
def test_majorities_decide_without_a_model(answers: list[str], outcome: str) -> None:
    found = decision(*[said("s", f"p{i}", answer) for i, answer in enumerate(answers)])
    assert found.outcome == outcome
    assert 0 <= found.confidence <= 1


def test_an_edited_answer_replaces_its_first_form() -> None:
    first, edited = said("s", "ann", "c2", source="a"), said("s", "ann", "c1", source="a", minute=5)
    assert decision(edited, first).outcome == "keep"


def test_a_withdrawn_answer_counts_no_more() -> None:
    verdicts = [said("s", "ann", "c2", source="a"), said("s", "ann", WITHDRAWN, source="a", minute=1)]
    assert decide(verdicts, {"s": "c1"}, None, CLASSES) == []


def test_a_skip_counts_for_nothing_and_takes_nothing_back() -> None:
    verdicts = [said("s", "ann", "c2"), said("s", "ann", SKIPPED, minute=9), said("s", "bob", SKIPPED)]
    assert decision(*verdicts).why == "1 of 1 say 'dog'"


def test_a_person_has_one_opinion_of_a_sample_the_latest() -> None:
    verdicts = [said("s", "ann", "c2", minute=9), said("s", "ann", "c1"), said("s", "ann", "c3", minute=3)]
    assert [v.answer for v in opinions(verdicts, CLASSES)] == ["c2"]


def test_of_two_answers_of_the_same_moment_the_one_recorded_last_counts() -> None:
    verdicts = [said("s", "ann", "c2", number=4, source="a"), said("s", "ann", "c3", number=3, source="b")]
    assert [v.answer for v in opinions(verdicts, CLASSES)] == ["c2"]


def test_decisions_come_in_the_order_of_the_verdicts() -> None:
    verdicts = [said("z", "ann", "c1"), said("a", "ann", "c1"), said("z", "bob", "c1")]
    assert [d.sample_id for d in decide(verdicts, {}, None, CLASSES)] == ["z", "a"]


def test_an_unknown_answer_is_refused_with_its_source() -> None:
    with pytest.raises(RecordError, match="verdict test:s:ann:0 answers 'cat'"):
        decision(said("s", "ann", "cat"))


def test_reliable_people_and_the_model_outweigh_one_who_is_often_wrong() -> None:
    verdicts, probabilities, truth = crowd_case()
    last = decide(verdicts, {}, probabilities, CLASSES)[-1]
    assert (last.outcome, last.class_id) == ("change", truth[-1])
    assert last.confidence >= 0.8
    assert "CROWDLAB" in last.why


def test_two_people_and_a_model_who_each_name_another_class_leave_it_contested() -> None:
    verdicts, probabilities, _ = crowd_case()
    verdicts = [v for v in verdicts if (v.sample_id, v.person) != ("s39", "zoe")]
    named = {v.answer for v in verdicts if v.sample_id == "s39"}
    assert len(named) == 2
    third = next(c for c in CLASSES.ids if c not in named)
    probabilities["s39"] = np.where(np.array(CLASSES.ids) == third, 0.9, 0.05)
    last = decide(verdicts, {}, probabilities, CLASSES)[-1]
    assert (last.outcome, last.class_id) == ("contested", None)


def test_a_class_that_nobody_named_is_never_taken_however_sure_the_posterior() -> None:
    verdicts = [said("s", "ann", "c1"), said("s", "bob", "c2")]
    assert weighed(verdicts, ("c3", 0.99)).answer is None
    assert weighed(verdicts, ("c2", 0.99)).answer == "c2"
    assert weighed(verdicts, ("c2", 0.49)).answer is None
    assert weighed(verdicts, None).answer is None


def test_too_few_shared_samples_leave_the_disagreement() -> None:
    verdicts, probabilities, _ = crowd_case(7)
    assert decide(verdicts, {}, probabilities, CLASSES)[-1].outcome == "contested"


def test_a_disagreement_without_a_prediction_stays_contested_beside_settled_ones() -> None:
    verdicts, probabilities, _ = crowd_case()
    verdicts += [said("new", "ann", "c1"), said("new", "bob", "c2")]
    by_sample = {d.sample_id: d.outcome for d in decide(verdicts, {}, probabilities, CLASSES)}
    assert (by_sample["s39"], by_sample["new"]) == ("change", "contested")


def test_crowdlab_bears_classes_that_nobody_names() -> None:
    labels = np.array([[2.0, 2.0], [4.0, 4.0], [2.0, 4.0]] * 5)
    probabilities = np.full((15, 6), 0.02)
    probabilities[np.arange(15), [2, 4, 2] * 5] = 0.9
    found = crowdlab(labels, probabilities)
    assert found is not None
    best, posterior, quality = found
    assert best.tolist() == [2, 4, 2] * 5
    assert posterior.min() > 0.5
    assert quality[0] > quality[1]


def test_crowdlab_declines_what_it_cannot_weigh() -> None:
    assert crowdlab(np.array([[0.0, np.nan], [np.nan, 1.0]]), np.full((2, 2), 0.5)) is None


def test_a_further_opinion_goes_first_to_where_person_and_model_disagree() -> None:
    verdicts = [said(f"s{i}", "ann", CLASSES.ids[i % 3]) for i in range(30)]
    probabilities = {f"s{i}": np.eye(3)[i % 3] * 0.9 + 0.1 / 3 for i in range(30)}
    probabilities["s7"] = np.array([0.96, 0.02, 0.02])  # ann said c2
    probabilities["s5"] = np.array([0.4, 0.3, 0.3])  # ann said c3; the model does not know
    found = worth_asking(verdicts, probabilities, CLASSES, most=2)
    assert [s for s, _ in found[:2]] == ["s7", "s5"]
    assert len(found) == 30
    assert worth_asking([*verdicts, said("s7", "bob", "c1")], probabilities, CLASSES, most=2)[0][0] == "s5"
    assert worth_asking(verdicts, {}, CLASSES, most=2) == []


def test_pooled_opinions_by_hand() -> None:
    even = np.full((1, 2), 0.5)
    one = pooled(np.array([[0.0]]), even, rounds=1)
    assert one[0].tolist() == pytest.approx([0.8, 0.2])
    two = pooled(np.array([[0.0, 0.0]]), even, rounds=1)
    assert two[0, 0] == pytest.approx(0.64 / 0.68)
    against = pooled(np.array([[0.0]]), np.array([[0.2, 0.8]]), rounds=1)
    assert against[0].tolist() == pytest.approx([0.5, 0.5])


def test_people_are_rated_by_agreement_speed_and_crowdlab() -> None:
    verdicts, probabilities, _ = crowd_case()
    verdicts.append(said("alone", "carl", "c1", seconds=9.0))
    table = annotator_quality(verdicts, probabilities, CLASSES).set_index("person")
    assert table["answered"].to_dict() == {"ann": 40, "zoe": 40, "bob": 40, "carl": 1}
    assert table.loc["ann", "agreement"] == pytest.approx((40 + 26) / 80)
    assert table.loc["carl", "median_seconds"] == 9.0
    assert table.loc["ann", "quality"] > table.loc["bob", "quality"]
    assert table.loc["carl", ["agreement", "quality"]].isna().all()


def test_nobody_said_anything() -> None:
    assert decide([], {}, None, CLASSES) == []
    assert list(annotator_quality([], None, CLASSES).columns) == [
        "person", "answered", "agreement", "median_seconds", "quality",
    ]  # fmt: skip
