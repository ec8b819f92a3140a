"""Checks of the holdout's labels: half of those that people are asked about are flagged."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests_stand_ins import draw

from curation import holdout
from curation.audit import wilson_interval
from curation.checking import _figures, check_holdout, holdout_report
from curation.errors import ProjectError
from curation.flags import flag_table
from curation.gain import paired_interval
from curation.project import Project
from curation.records import CurrentLabel, Issue, Predictions, Verdict
from curation.runs import write_json


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Twenty holdout and ten train images; flags name three of the holdout, ``curate flag`` is not run."""
    truth = draw(tmp_path / "images", 30)
    split = ["holdout"] * 20 + ["train"] * 10
    table = pd.DataFrame({"path": list(truth), "label": list(truth.values()), "split": split})
    table.to_csv(tmp_path / "labels.csv", index=False)
    made, _ = Project.create(tmp_path / "project", tmp_path / "images", tmp_path / "labels.csv")
    samples, labels = made.ledger.samples(), made.ledger.labels()
    held = [s.id for s in samples if s.split == "holdout"][:3]
    issues = [Issue(s, "label", 0.01, "looks like another class", labels[s].class_id, "c1") for s in held]
    issues.append(Issue(samples[5].id, "dark", 0.1, "is dark", None, None))
    flags = flag_table(samples, labels, dict.fromkeys(labels, 0.5), issues, made.classes)
    made.flag = lambda: flags  # type: ignore[method-assign]
    return made


def test_flagged_labels_of_the_holdout_are_among_those_that_are_checked(project: Project) -> None:
    asked = check_holdout(project, 6)
    assert (asked["queued"], asked["flagged"]) == (6, 3)
    assert holdout_report(project)["check"]["flagged"] == 3


def answer(project: Project, wrong: int, *, people: tuple[str, ...] = ("ann", "bob")) -> None:
    """Answers of these people to every check of the batch: of the first so many labels they name another."""
    labels, now = project.ledger.labels(), datetime(2026, 1, 2, tzinfo=UTC)
    other = {"c1": "c2", "c2": "c1"}
    entries = project.ledger.queue(project.deciding_iteration(), holdout=True)
    project.ledger.add_verdicts([
        Verdict(e.sample_id, other[given] if n < wrong else given, person, now, e.key, f"file:{e.key}:{person}",
                "holdout", e.iteration, 2.0)
        for n, e in enumerate(entries) for person in people if (given := labels[e.sample_id].class_id)
    ])  # fmt: skip


def test_what_people_found_is_told_before_the_batch_is_decided_as_after_it(project: Project) -> None:
    check_holdout(project, 20)
    answer(project, wrong=9)
    before = holdout_report(project)["check"]
    assert before["changed_flagged"] + before["changed_others"] == 9
    found = {s: now.class_id for s, now in project.ledger.labels().items()}
    decided = holdout.decisions(project.ledger.holdout_verdicts(), found)
    assert len(project.ledger.decide(decided, who="consensus", iteration=1)) == 9
    assert holdout_report(project)["check"] == before


def test_checks_that_a_closed_batch_left_unanswered_are_asked_again(project: Project) -> None:
    check_holdout(project, 12)
    answer(project, wrong=0, people=("ann",))  # the other one never came
    project.ledger.set_state(1, "done")
    assert project.deciding_iteration() == 2
    again = check_holdout(project, 20)
    assert (again["queued"], again["open"]) == (20, 0)
    with pytest.raises(ProjectError, match="all 20 labels of the holdout have been asked about"):
        check_holdout(project, 1)
    entries = project.ledger.queue(holdout=True)
    assert (len(entries), len({e.key for e in entries})) == (32, 32)
    answer(project, wrong=0)
    project.ledger.set_state(2, "done")
    with pytest.raises(ProjectError, match="all 20 labels of the holdout have been asked about"):
        check_holdout(project, 1)


def test_nobody_is_asked_about_a_file_that_is_gone(project: Project) -> None:
    held = [s for s in project.samples() if s.split == "holdout"]
    for sample in held[10:]:
        sample.file.unlink()
    assert check_holdout(project, 20)["queued"] == 10
    assert {e.sample_id for e in project.ledger.queue(holdout=True)} == {s.id for s in held[:10]}


def test_flags_are_looked_for_again_where_an_earlier_version_found_none(project: Project) -> None:
    write_json(project.paths.holdout_flags, {})
    assert check_holdout(project, 6)["flagged"] == 3


def test_intervals_of_the_holdout_are_those_of_an_iteration_where_no_label_is_in_doubt() -> None:
    """30 of 30 right, 4 of them wrong before: a bootstrap of these rows would be sure of both."""
    rows = [f"s{n}" for n in range(30)]
    before, after = (
        Predictions(tuple(rows), ("c1", "c2"), np.eye(2)[[1] * wrong + [0] * (30 - wrong)], np.full(30, -1))
        for wrong in (4, 0)
    )
    labels = {s: CurrentLabel(s, "c1", False, 1) for s in rows}
    found = _figures(after, before, rows, labels, labels, set(), set(rows), 0)
    for name, value, interval in (
        ("accuracy", 1.0, wilson_interval(30, 30)),
        ("gain", 4 / 30, paired_interval(4, 0, 30)),
    ):
        assert found[name] == found[f"{name}_checked"] == pytest.approx(value)
        assert found[f"{name}_ci"] == found[f"{name}_checked_ci"] == list(interval)
