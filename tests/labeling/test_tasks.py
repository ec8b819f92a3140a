"""What leaves for Label Studio, and what is believed of what comes back."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from curation.queue import opaque_key
from curation.records import AMBIGUOUS, SKIPPED, WITHDRAWN, Classes, Mode, QueueEntry, Verdict
from labeling.tasks import (
    AnsweredTask,
    Rejected,
    choice_result,
    image_name,
    judged_before,
    nearest_shown,
    served_order,
    stream_of,
    task_payload,
    verdict_from_annotation,
    who_answered,
    withdrawn_answers,
)

CLASSES = Classes(("c1", "c2"), ("cat", "dog"))
PEOPLE = {7: "ann@example.com", 8: "bob@example.com"}


def entry(mode: Mode = "shown", key: str = "k", position: int = 0, given: str | None = "c1") -> QueueEntry:
    return QueueEntry(key, "sample", 2, position, mode, given, "c2", "looks like a dog")


def annotation(**changes: Any) -> dict[str, Any]:
    return {
        "id": 12,
        "result": choice_result("c2"),
        "completed_by": 7,
        "updated_by": 7,
        "was_cancelled": False,
        "lead_time": 3.5,
        "created_at": "2026-01-01T10:00:00.000000Z",
        "updated_at": "2026-01-01T10:00:05.250000Z",
    } | changes


def verdict(mode: Mode = "shown", **changes: Any) -> Verdict | Rejected:
    return verdict_from_annotation(annotation(**changes), {"id": 3}, entry(mode), CLASSES, PEOPLE, "here")


def test_a_shown_task_tells_label_suggestion_and_reason_by_name() -> None:
    assert task_payload(entry(), "/i.png", CLASSES) == {
        "key": "k", "image": "/i.png", "given_label": "cat", "suggestion": "dog", "reason": "looks like a dog",
        "evidence": "<div></div>",
    }  # fmt: skip


def test_a_shown_task_of_the_pool_says_that_there_is_no_label_yet() -> None:
    assert task_payload(entry(given=None), "/i.png", CLASSES)["given_label"] == "none yet"


def test_a_shown_task_shows_the_nearest_of_both_classes_and_a_blind_one_none() -> None:
    near = replace(entry(), related=("a", "b", "c", "d", "sample", "e", "gone"))
    labels = {"a": "c1", "b": "c1", "c": "c1", "d": "c2", "sample": "c2", "e": "c2", "x": "c2"}
    assert nearest_shown(near, labels) == [("c1", ["a", "b"]), ("c2", ["d", "e"])]
    assert nearest_shown(near, {"d": "c2"}) == [("c2", ["d"])]
    assert nearest_shown(replace(near, mode="blind"), labels) == []


def test_other_comes_with_the_persons_words() -> None:
    text = {"from_name": "other", "to_name": "image", "type": "textarea", "value": {"text": ["a  tram\n"]}}
    found = verdict(result=[*choice_result("other"), text])
    assert isinstance(found, Verdict)
    assert (found.answer, found.note) == ("other", "a tram")
    plain = verdict(result=[*choice_result("c1"), text])
    assert isinstance(plain, Verdict)
    assert plain.note == ""


@pytest.mark.parametrize("mode", ["blind", "control", "holdout"])
def test_a_blind_task_holds_nothing_but_key_and_image(mode: Mode) -> None:
    assert task_payload(entry(mode), "/i.png", CLASSES) == {"key": "k", "image": "/i.png"}
    assert stream_of(entry(mode)) == "blind"


def test_shown_tasks_come_worst_first() -> None:
    entries = [entry(key="a", position=2), entry(key="b", position=0), entry(key="c", position=1)]
    assert [e.key for e in served_order(entries)] == ["b", "c", "a"]


def test_the_place_of_a_blind_task_tells_no_control() -> None:
    entries = [entry("blind", "c", 0), entry("blind", "a", 1), entry("control", "b", 2)]
    assert [e.key for e in served_order(entries)] == ["a", "b", "c"]


def test_image_names_link_no_two_tasks() -> None:
    names = {image_name(f"k{i}") for i in range(100)}
    assert len(names) == 100
    assert all("k" not in name and len(name) == 24 for name in names)


def test_an_answer_becomes_a_verdict() -> None:
    assert verdict("control") == Verdict(
        sample_id="sample",
        answer="c2",
        person="ann@example.com",
        at=datetime(2026, 1, 1, 10, 0, 5, 250000, tzinfo=UTC),
        key="k",
        source="ls:here:annotation:12",
        mode="control",
        iteration=2,
        seconds=3.5,
    )


def test_an_answer_edited_by_another_says_so() -> None:
    found = verdict(updated_by=8)
    assert isinstance(found, Verdict)
    assert (found.person, found.note) == ("ann@example.com", "edited by bob@example.com")


def test_a_skipped_task_is_a_skip_whatever_was_picked() -> None:
    found = verdict(was_cancelled=True)
    assert isinstance(found, Verdict)
    assert found.answer == SKIPPED


def test_special_answers_come_through() -> None:
    found = verdict(result=choice_result(AMBIGUOUS))
    assert isinstance(found, Verdict)
    assert found.answer == AMBIGUOUS


@pytest.mark.parametrize(
    "changes",
    [
        {"result": choice_result("dog")},
        {"result": choice_result(SKIPPED)},
        {"result": []},
        {"result": None},
        {"result": "c2"},
        {"result": [{"from_name": "label", "value": {"choices": ["c1", "c2"]}}]},
        {"result": [*choice_result("c1"), *choice_result("c2")]},
        {"result": [{"from_name": "elsewhere", "value": {"choices": ["c1"]}}]},
        {"result": [{"from_name": "label", "value": {"choices": [{"c1": 1}]}}]},
        {"result": [{"from_name": "label", "value": {"text": ["c1"]}}]},
        {"result": [{"from_name": "label", "value": None}]},
        {"id": None},
        {"updated_at": "yesterday", "created_at": None},
    ],
)
def test_an_answer_that_cannot_count_is_rejected_with_its_place(changes: dict[str, Any]) -> None:
    found = verdict(**changes)
    assert isinstance(found, Rejected)
    assert "task 3" in found.reason


@pytest.mark.parametrize(
    ("lead_time", "seconds"),
    [
        (None, None), (-1, None), ("3", None), (0, 0.0), (2, 2.0),
        (float("nan"), None), (float("inf"), None), (10**400, None),
    ],
)  # fmt: skip
def test_time_that_makes_no_sense_is_not_known(lead_time: object, seconds: float | None) -> None:
    found = verdict(lead_time=lead_time)
    assert isinstance(found, Verdict)
    assert found.seconds == seconds


@pytest.mark.parametrize(
    ("who", "person"),
    [(8, "bob@example.com"), ({"id": 8}, "bob@example.com"), (99, "user 99"), (None, "unknown"), ("8", "unknown")],
)
def test_people_are_found_however_they_are_given(who: object, person: str) -> None:
    found = verdict(completed_by=who)
    assert isinstance(found, Verdict)
    assert found.person == person


def test_an_answer_that_is_gone_from_its_task_is_withdrawn() -> None:
    known = verdict()
    assert isinstance(known, Verdict)
    task = AnsweredTask({"id": 3, "key": "k", "updated_at": "2026-01-01T11:00:00Z"}, (annotation(id=13),), "here")
    (gone,) = withdrawn_answers([known], [task])
    assert (gone.answer, gone.source, gone.person, gone.seconds) == (WITHDRAWN, known.source, known.person, None)
    assert gone.at == datetime(2026, 1, 1, 11, tzinfo=UTC)
    assert withdrawn_answers([gone], [task]) == []


@pytest.mark.parametrize(
    "task",
    [
        AnsweredTask({"id": 3, "key": "k"}, (annotation(),), "here"),  # it is there
        AnsweredTask({"id": 3, "key": "k"}, (annotation(result=[]),), "here"),  # it is there, and can't count
        AnsweredTask({"id": 3, "key": "k"}, (), "a project made again"),
        AnsweredTask({"id": 4, "key": "another"}, (), "here"),
        None,  # the task is gone
    ],
)
def test_an_answer_whose_task_is_gone_or_that_is_there_stands(task: AnsweredTask | None) -> None:
    known = verdict()
    assert isinstance(known, Verdict)
    assert withdrawn_answers([known], [task] if task else []) == []


def test_a_withdrawal_is_later_than_what_it_takes_back_whatever_the_clock_says() -> None:
    known = verdict()
    assert isinstance(known, Verdict)
    (gone,) = withdrawn_answers([known], [AnsweredTask({"id": 3, "key": "k", "updated_at": None}, (), "here")])
    assert gone.at > known.at


def test_who_has_answered_is_known_from_what_is_there_and_else_from_the_record() -> None:
    known = verdict()
    assert isinstance(known, Verdict)
    there = AnsweredTask({"id": 3, "key": "k"}, (annotation(), annotation(id=13, completed_by=8)), "here")
    vanished = replace(known, key="other", source="ls:before:annotation:1")
    assert who_answered([known, vanished], [there], PEOPLE) == {
        "k": {"ann@example.com", "bob@example.com"}, "other": {"ann@example.com"},
    }  # fmt: skip
    deleted = AnsweredTask({"id": 3, "key": "k", "updated_at": None}, (), "here")
    assert who_answered([known], [deleted], PEOPLE) == {}


def test_a_person_whose_name_was_erased_is_not_two() -> None:
    known = verdict()
    assert isinstance(known, Verdict)
    erased = replace(known, person="erased person 1")
    there = AnsweredTask({"id": 3, "key": "k"}, (annotation(),), "here")
    assert who_answered([erased], [there], PEOPLE) == {"k": {"ann@example.com"}}
    assert who_answered([erased], [], PEOPLE) == {"k": {"erased person 1"}}


def test_a_classifier_trained_on_blind_tasks_can_not_tell_the_controls() -> None:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    rng = random.Random(0)
    modes: list[Mode] = ["blind"] * 300 + ["control"] * 300
    entries = []
    for n, mode in enumerate(modes):
        sample = f"{rng.getrandbits(256):064x}"
        key = opaque_key("a secret", "project", 1, sample, mode, 0)
        flagged = ("c2", "looks like a dog") if mode == "blind" else (None, "")
        entries.append(QueueEntry(key, sample, 1, n, mode, "c1", *flagged))
    served = served_order(entries)
    payloads = [task_payload(e, f"/i/{image_name(e.key)}.png", CLASSES) for e in served]
    told = [[place, *map(ord, task["key"]), *map(ord, task["image"])] for place, task in enumerate(payloads)]
    control = [e.mode == "control" for e in served]
    forest = RandomForestClassifier(30, max_depth=5, random_state=0)
    guessed = cross_val_predict(forest, told, control, cv=3, method="predict_proba")[:, 1]
    assert 0.4 < roc_auc_score(control, guessed) < 0.6
    told_by_position = [
        [*row, entry.position] for row, entry in zip(told, served, strict=True)
    ]  # what would give it away
    guessed = cross_val_predict(forest, told_by_position, control, cv=3, method="predict_proba")[:, 1]
    assert roc_auc_score(control, guessed) > 0.95


def test_who_judged_an_image_before_is_known_and_who_answered_this_question_may_again() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)

    def said(key: str, person: str, answer: str = "c1", mode: Mode = "blind", sample: str = "sample") -> Verdict:
        return Verdict(sample, answer, person, at, key, f"{key}:{person}", mode, 1)

    recorded = [
        said("old", "ann"), said("old", "bob", SKIPPED), said("older", "cem", WITHDRAWN), said("k", "dan"),
        said("old", "eve", mode="review"), said("old", "fay", sample="another"),
    ]  # fmt: skip
    assert judged_before([entry()], recorded) == {"k": {"ann"}}
    assert judged_before([entry()], [said("k", "dan")]) == {}
