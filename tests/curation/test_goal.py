"""What a run is to reach, where it goes on after it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests_stand_ins import draw

from curation.config import Settings, settings_from_dict
from curation.errors import ConfigError, DataError
from curation.goal import annotator_of, forget_goal, goal_of, keep_goal
from curation.project import Project
from curation.runs import ProjectPaths


@pytest.fixture
def paths(tmp_path: Path) -> ProjectPaths:
    (tmp_path / ".curation").mkdir()
    return ProjectPaths(tmp_path)


def until(paths: ProjectPaths, current: int, iterations: int | None = None) -> int:
    goal = goal_of(paths, Settings(), current, iterations=iterations)
    keep_goal(paths, goal)
    return int(goal["until"])


def test_a_run_is_of_one_iteration_unless_more_are_asked_for(paths: ProjectPaths) -> None:
    assert until(paths, 4) == 4
    forget_goal(paths)
    assert until(paths, 4, 3) == 6


def test_the_same_call_again_goes_on_and_adds_no_iterations(paths: ProjectPaths) -> None:
    assert [until(paths, current, 3) for current in (1, 2, 3)] == [3, 3, 3]
    assert until(paths, 2) == 3


def test_another_number_counts_from_where_the_run_began(paths: ProjectPaths) -> None:
    assert until(paths, 2) == 2
    assert until(paths, 2, 5) == 6
    assert until(paths, 3, 4) == 5


def test_the_iteration_under_way_is_finished_whatever_number_is_given(paths: ProjectPaths) -> None:
    assert until(paths, 1, 5) == 5
    assert until(paths, 3, 1) == 3


def test_a_run_that_has_reached_what_it_was_to_reach_is_begun_anew(paths: ProjectPaths) -> None:
    assert until(paths, 1, 2) == 2
    assert until(paths, 3, 2) == 4


def test_what_is_asked_for_counts_only_once_it_is_kept(paths: ProjectPaths) -> None:
    asked = goal_of(paths, Settings(), 1, annotator="files", budget=7)
    assert (annotator_of(paths, Settings()), goal_of(paths, Settings(), 1)["budget"]) == ("label-studio", 100)
    keep_goal(paths, asked)
    assert (annotator_of(paths, Settings()), goal_of(paths, Settings(), 1)["budget"]) == ("files", 7)


@pytest.mark.parametrize("annotator", ["nobody", "replay:", "replay: "])
def test_an_annotator_that_nobody_is_is_refused(paths: ProjectPaths, annotator: str) -> None:
    with pytest.raises(ConfigError, match=f"annotator must be .* or 'replay:FILE', got '{annotator}'"):
        goal_of(paths, Settings(), 1, annotator=annotator)


def drawn(root: Path, **changes: Any) -> Project:
    """A project of few images, ``left`` and ``right``, with changed settings."""
    truth = draw(root / "images", 8)
    (root / "labels.csv").write_text("path,label,camera\n" + "".join(f"{p},{c},x\n" for p, c in truth.items()))
    settings = settings_from_dict(changes)
    return Project.create(root / "p", root / "images", root / "labels.csv", settings=settings)[0]


def test_a_refused_run_leaves_nothing_behind(tmp_path: Path) -> None:
    project = drawn(tmp_path)
    with pytest.raises(DataError, match=r"nope\.csv is missing"):
        project.run(annotator=f"replay:{tmp_path / 'nope.csv'}", budget=7, trial=True)
    assert goal_of(project.paths, project.settings, 1) == goal_of(ProjectPaths(tmp_path), project.settings, 1)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("costs", {"positive": "nope"}, "'costs.positive' must be a class of this project, got 'nope'"),
        ("answer_key", "nope.csv", r"'answer_key' must name a CSV file .*nope\.csv .*No such file"),
        ("answer_key", "../empty.csv", r"'answer_key' must name a CSV file .*empty\.csv"),
        ("answer_key", "../labelless.csv", r"'answer_key' must name a CSV file .*'label'"),
        ("answer_key", "../unknown.csv", r"'answer_key', .*'up' is no class of this project"),
    ],
)
def test_a_setting_that_does_not_fit_the_project_is_told_before_any_work(
    tmp_path: Path, setting: str, value: object, message: str
) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "labelless.csv").write_text("path,class\n000.png,left\n")
    (tmp_path / "unknown.csv").write_text("path,label\n" + "".join(f"{n:03d}.png,up\n" for n in range(8)))
    project = drawn(tmp_path, **{setting: value})
    with pytest.raises(ConfigError, match=message):
        project.run(annotator="files")
    assert not (project.paths.home / "run.json").exists()
    assert project.ledger.iterations() == []


@pytest.mark.parametrize(("ignore", "told"), [(["camera"], []), (["camera", "camra"], ["camra"])])
def test_a_column_to_ignore_that_no_image_has_is_told(tmp_path: Path, ignore: list[str], told: list[str]) -> None:
    drawn(tmp_path, slices={"ignore": ignore})
    said: list[str] = []
    with pytest.raises(DataError, match=r"nope\.csv"):
        Project(tmp_path / "p", say=said.append).run(annotator="replay:nope.csv")
    assert said == [
        f"Setting 'slices.ignore' names '{name}', which no image has; columns that images have: camera."
        for name in told
    ]
