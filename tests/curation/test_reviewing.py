"""A reviewer beside the loop outranks the consensus, closes tasks, leaves the audit as it is; the same by Project."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests_loop import House, merge_third_into_right, with_third_class
from tests_stand_ins import draw

from curation import Project
from curation.errors import DataError, ProjectError
from curation.reviews import give_verdicts, take_back
from curation.runs import decision_lock, finished, project_lock


def review(house: House, sample_id: str, answer: str) -> None:
    splits = {s.id: s.split for s in house.samples}
    give_verdicts(house.ledger, {sample_id: answer}, splits, person="eve", iteration=1)


def flipped(house: House) -> list[str]:
    """Queued images whose label is wrong, in the order of the queue."""
    labels = house.ledger.labels()
    asked = [e.sample_id for e in house.ledger.queue(1) if e.sample_id in labels]
    return [s for s in asked if labels[s].class_id != house.truth[s]]


def test_a_reviewers_verdict_closes_the_task_and_no_labeler_is_asked(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.loop.baseline()
    house.loop.prepare(1)
    wrong = flipped(house)[0]
    given = house.ledger.labels()[wrong].class_id
    review(house, wrong, str(given))
    assert house.loop.advance(1, lambda: house.people) == "done"
    keys = {e.key for e in house.ledger.queue(1) if e.sample_id == wrong}
    assert keys
    assert not keys & set(house.people.sent)
    assert house.ledger.labels()[wrong].class_id == given, "the consensus must not overrule the reviewer"


def test_a_reviewers_verdict_outranks_labelers_and_leaves_the_audit_as_it_was(tmp_path: Path) -> None:
    plain, reviewed = House(tmp_path / "plain", silent=1), House(tmp_path / "reviewed", silent=1)
    manifests = []
    for house in (plain, reviewed):
        house.loop.baseline()
        assert house.loop.advance(1, lambda people=house.people: people) == "waiting"
        if house is reviewed:
            changed, kept = [s for s in flipped(house) if s in {v.sample_id for v in house.ledger.verdicts()}][:2]
            labels = house.ledger.labels()
            review(house, changed, house.truth[changed])  # says what labelers say
            review(house, kept, str(labels[kept].class_id))  # and here the contrary
        house.people.silent = 0
        assert house.loop.advance(1, lambda people=house.people: people) == "done"
        manifests.append(finished(house.paths.iteration(1), "review") or {})
    outcomes = [
        sorted((d["sample_id"], d["outcome"], d["class_id"]) for d in manifest["decisions"]) for manifest in manifests
    ]
    assert outcomes[0] == outcomes[1]
    assert reviewed.ledger.labels()[kept].class_id != reviewed.truth[kept] == plain.ledger.labels()[kept].class_id
    assert [e.who for e in reviewed.ledger.label_events(changed)] == ["import", "eve"]
    assert (manifests[1]["by_reviewers"], manifests[1]["changed"]) == (2, manifests[0]["changed"] - 1)


def test_answers_that_a_reviewer_overruled_decide_once_the_reviewer_takes_the_verdict_back(tmp_path: Path) -> None:
    house = House(tmp_path, silent=1)
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people) == "waiting"
    wrong = next(s for s in flipped(house) if s in {v.sample_id for v in house.ledger.verdicts()})
    given = str(house.ledger.labels()[wrong].class_id)
    review(house, wrong, given)
    house.people.silent = 0
    assert house.loop.advance(1, lambda: house.people) == "done"
    take_back(house.ledger, [wrong], person="eve", iteration=2)
    assert house.ledger.labels()[wrong].class_id == given
    assert house.loop.advance(2, lambda: house.people) == "done"
    assert house.ledger.labels()[wrong].class_id == house.truth[wrong] != given


def test_a_label_that_a_reviewer_found_right_stays_right_where_its_class_is_merged_meanwhile(tmp_path: Path) -> None:
    house = House(tmp_path)
    third = with_third_class(house)
    house.loop.baseline()
    house.loop.prepare(1)
    one = next(e.sample_id for e in house.ledger.queue(1) if e.sample_id in third)
    house.ledger.add_verdicts(house.people.collect(house.ledger.queue(1)))
    review(house, one, "c3")
    merge_third_into_right(house, third, 1)
    decided = house.loop._decide(1)
    for key in ("decisions", "reviewers_decisions"):
        assert [d["outcome"] for d in decided[key] if d["sample_id"] == one] == ["keep"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    truth = draw(tmp_path / "images", 30)
    table = pd.DataFrame({"path": list(truth), "label": list(truth.values())})
    table["split"] = ["holdout"] * 6 + ["train"] * 24
    table.to_csv(tmp_path / "labels.csv", index=False)
    return Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv")[0]


def ids(project: Project, split: str) -> list[str]:
    return [s.id for s in project.samples() if s.split == split]


def test_every_action_is_in_the_history_under_the_reviewers_name(project: Project) -> None:
    first, second, third, *_ = ids(project, "train")
    other = {"left": "right", "right": "left"}
    labels = project.labels().set_index("sample_id")["label"]
    assert project.judge([first], other[labels[first]], person="eve").changed == (first,)
    assert project.judge([second], person="eve", note="clear").changed == ()
    assert project.remark([third], "glare", person="eve", note="top") == 1
    told = project.send_to_labelers([third, ids(project, "holdout")[0]], person="eve")
    assert (told["queued"], len(told["left_alone"]), told["sent"]) == (1, 1, False)
    project.take_back([first], person="eve")
    told_of = project.history()
    assert list(told_of[told_of["who"] == "eve"]["what"]) == [
        "verdict", "decision", "verdict", "remark", "sent", "verdict", "undo",
    ]  # fmt: skip
    assert list(project.causes().itertuples(index=False, name=None)) == [(0, "glare", 1)]
    assert (project.labels()["label"].to_numpy() == labels.to_numpy()).all()


def test_what_a_reviewer_sends_is_asked_once_and_blind(project: Project) -> None:
    sample = ids(project, "train")[0]
    project.send_to_labelers([sample, sample], person="eve")
    assert "already" in project.send_to_labelers([sample], person="ben")["left_alone"][sample]
    [entry] = project.ledger.queue(1)
    assert (entry.mode, entry.reason, entry.suggested) == ("blind", "", None)


def test_reviewers_work_while_a_run_holds_the_project(project: Project) -> None:
    with project_lock(project.paths):
        assert project.judge(ids(project, "train")[:1], "ambiguous", person="eve").given
        assert project.release("during", who="eve").rows == 30
    with decision_lock(project.paths), pytest.raises(ProjectError, match="try again in a moment"):
        _ = decision_lock(project.paths, timeout=0.1).__enter__()


def test_undo_withdraws_a_verdict_that_changed_nothing(project: Project) -> None:
    sample = project.samples()[10]
    project.judge([sample.id], person="eve")
    assert project.undo(sample.path) is None
    with pytest.raises(ProjectError, match=f"^{sample.path} has no change to undo"):
        project.undo(sample.path)


def test_wrong_input_is_told_in_one_sentence(project: Project) -> None:
    with pytest.raises(DataError, match="'up' is no class of this project"):
        project.judge(ids(project, "train")[:1], "up", person="eve")
    with pytest.raises(DataError, match="no sample has the id 'zz'"):
        project.remark(["zz"], "glare", person="eve")
    with pytest.raises(DataError, match="needs a cause or a note"):
        project.remark(ids(project, "train")[:1], " ", person="eve")


def test_a_release_is_exported_as_it_was(project: Project) -> None:
    before = project.labels()
    project.release("v1", who="eve", note="first")
    project.judge(ids(project, "train")[:3], "bad image", person="eve")
    pd.testing.assert_frame_equal(project.labels(release="v1"), before)
    assert project.labels()["excluded"].sum() == 3
    assert list(project.releases()["name"]) == ["v1"]


def test_a_reviewer_who_says_again_what_another_overruled_is_heard(tmp_path: Path) -> None:
    house = House(tmp_path)
    one = next(s.id for s in house.samples if s.split == "train")
    splits = {one: "train"}
    for person, answer in (("ann", "c1"), ("ben", "c2"), ("ann", "c1"), ("ann", "c1")):
        give_verdicts(house.ledger, {one: answer}, splits, person=person, iteration=1)
        assert house.ledger.labels()[one].class_id == answer
    assert [v.person for v in house.ledger.verdicts_of(one)] == ["ann", "ben", "ann"]


def test_a_reviewer_takes_back_the_label_of_an_image_that_had_none(tmp_path: Path) -> None:
    house = House(tmp_path)
    one = next(s.id for s in house.samples if s.split == "pool")
    give_verdicts(house.ledger, {one: "c1"}, {one: "pool"}, person="eve", iteration=1)
    assert house.ledger.labels()[one].class_id == "c1"
    judged = take_back(house.ledger, [one], person="eve", iteration=1)
    assert judged.changed == (one,)
    assert one not in house.ledger.labels()
    assert house.ledger.counts()["labeled"] == 120
