"""What a run is to reach, where it goes on after it was stopped."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation.config import Settings
from curation.goal import forget_goal, goal_of
from curation.runs import ProjectPaths


@pytest.fixture
def paths(tmp_path: Path) -> ProjectPaths:
    (tmp_path / ".curation").mkdir()
    return ProjectPaths(tmp_path)


def until(paths: ProjectPaths, current: int, iterations: int | None = None) -> int:
    return int(goal_of(paths, Settings(), current, iterations=iterations)["until"])


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
