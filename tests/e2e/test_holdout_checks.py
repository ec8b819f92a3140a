"""A project whose holdout is checked by two people: what changes, what stays comparable, and what steers nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from tests_stand_ins import draw

from curation import Project
from curation.checking import check_holdout, holdout_report
from curation.config import BackboneSettings, ReportSettings, Settings, TrainingSettings
from curation.errors import ConfigError, ProjectError

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

OTHER = {"left": "right", "right": "left"}
FLIPPED = {"002.png", "007.png"}


def make(root: Path) -> Project:
    """Sixteen holdout images, two of them labeled wrong, and two people who know better."""
    truth = draw(root / "images", 64)
    rows = [
        (path, OTHER[name] if path in FLIPPED or (number % 9 == 8 and number >= 16) else name,
         "holdout" if number < 16 else "train")
        for number, (path, name) in enumerate(truth.items())
    ]  # fmt: skip
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(root / "labels.csv", index=False)
    said = [(path, name, person) for path, name in truth.items() for person in ("ann", "bob")]
    pd.DataFrame(said, columns=["path", "label", "annotator"]).to_csv(root / "answers.csv", index=False)
    settings = Settings(
        backbone=BackboneSettings(size=32),
        training=TrainingSettings(method="head"),
        report=ReportSettings(fiftyone=False),
    )
    return Project.create(root / "p", root / "images", root / "labels.csv", settings=settings)[0]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, object], dict[str, object]]:
    """The project after an iteration, a check of the whole holdout, and another iteration; both reports."""
    root = tmp_path_factory.mktemp("checked")
    project = make(root)
    project.run(1, annotator=f"replay:{root / 'answers.csv'}", budget=6)
    before = holdout_report(project)
    asked = check_holdout(project, 40)
    assert (asked["queued"], asked["open"], asked["sent"]) == (16, 0, False)
    project.run(1, annotator=f"replay:{root / 'answers.csv'}", budget=6)
    return project, before, holdout_report(project)


def test_labels_that_two_people_find_wrong_change_with_the_verdicts_cited(checked: tuple[Project, ...]) -> None:
    project = checked[0]
    held = project.labels().query("split == 'holdout'").set_index("path")["label"]
    assert {p for p, label in held.items() if label != ("left" if int(p[:3]) % 2 else "right")} == set()
    history = project.history("002.png")
    history = (
        history.set_index("what").loc[["import", "verdict", "decision"]].reset_index()
    )  # a file of answers has no times
    assert list(history["what"]) == ["import", "verdict", "verdict", "decision"]
    assert list(history["why"])[1:] == [
        "holdout",
        "holdout",
        "two people, who were shown no label, named the same class",
    ]
    assert history["cites"].iloc[-1] != ""


def test_the_report_counts_both_kinds_and_gives_figures_by_both_versions(checked: tuple[Project, ...]) -> None:
    _, before, after = checked
    assert before["check"]["words"] == "None of the 16 labels of the holdout has been checked yet."
    check = after["check"]
    assert check["looked_flagged"] > 0
    assert check["looked_flagged"] + check["looked_others"] == 16
    assert check["changed_flagged"] + check["changed_others"] == 2
    assert (check["wrong"], check["wrong_ci"]) == (2, [2, 2])
    assert [row["number"] for row in after["iterations"]] == [0, 1, 2]
    for was, now in zip(before["iterations"], after["iterations"], strict=False):
        assert was["accuracy"] == now["accuracy"], "figures by the labels as given are never told anew"
        assert (was["accuracy_checked"], was["gain_checked"]) == (None, None)
    for row in after["iterations"]:
        assert row["accuracy_checked"] * 16 == pytest.approx(round(row["accuracy_checked"] * 16))
    assert after["iterations"][-1]["accuracy_checked"] > after["iterations"][-1]["accuracy"]


def test_iterations_go_by_the_labels_as_given(checked: tuple[Project, ...]) -> None:
    project, _, after = checked
    status = project.status()
    told = [status["baseline"], *status["iterations"]]
    assert [i["holdout"]["accuracy"] for i in told] == pytest.approx([i["accuracy"] for i in after["iterations"]])


def test_nothing_that_steers_sees_the_check(checked: tuple[Project, ...]) -> None:
    project = checked[0]
    held = {s.id for s in project.samples() if s.split == "holdout"}
    assert held.isdisjoint(e.sample_id for e in project.ledger.queue())
    assert held.isdisjoint(v.sample_id for v in project.ledger.verdicts())
    review = project.status()["iterations"][-1]
    assert review["labels_reviewed"] <= 6
    assert len([v for v in project.ledger.verdicts(holdout=True) if v.sample_id in held]) == 32


def test_the_command_line_tells_it(checked: tuple[Project, ...], capsys: pytest.CaptureFixture[str]) -> None:
    from curation.cli import main

    root = str(checked[0].root)
    for command in (["holdout", root], ["status", root]):
        with suppress(SystemExit):
            main(command)
    told = capsys.readouterr().out
    assert told.count("16 of 16 labels of the holdout were checked by two people who were shown none") == 2
    assert "as checked; gain " in told
    with suppress(SystemExit):
        main(["status", root, "--json"])
    assert json.loads(capsys.readouterr().out)["holdout_check"]["check"]["wrong"] == 2


def test_what_can_not_be_checked_is_told(checked: tuple[Project, ...]) -> None:
    with pytest.raises(ConfigError, match="--check must be 1 or more, got 0"):
        check_holdout(checked[0], 0)
    with pytest.raises(ProjectError, match="all 16 labels of the holdout have been asked about"):
        check_holdout(checked[0], 5)
