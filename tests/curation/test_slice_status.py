"""What becomes of a slice is set by its name, kept on disk, and shown by `curate slices`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from curation import Project
from curation.cli import curate
from curation.errors import DataError, InputError, ProjectError
from curation.records import Condition, Slice, SliceStatus
from curation.runs import read_json, write_json
from curation.tables import read_frame, slices_from_frame, slices_to_frame, write_frame

DARK = Slice("brightness < 0.2", (Condition("brightness", "<", 0.2),), ("a",), 30, 15, 0.5, (0.3, 0.7), 0.1, 0.001)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    for number in range(12):
        folder = tmp_path / "images" / ("left", "right")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 20 * number, dtype=np.uint8)).save(folder / f"{number}.png")
    made, _ = Project.create(tmp_path / "project", tmp_path / "images")
    return made


def keep(project: Project) -> None:
    folder = project.paths.iteration(1)
    folder.mkdir(parents=True)
    write_frame(folder / "slices.parquet", slices_to_frame([DARK]))
    write_json(folder / "metrics.json", {"slices": [{"name": DARK.name, "status": "open", "collect": None}]})


def test_accepted_slice_stays_accepted_on_disk_and_in_the_figures(project: Project) -> None:
    keep(project)
    project.mark_slice(DARK.name, "accepted")
    assert [s.status for s in Project(project.root).slices()] == ["accepted"]
    assert read_json(project.paths.iteration(1) / "metrics.json")["slices"][0]["status"] == "accepted"


def test_mark_is_kept_for_a_training_that_is_made_again(project: Project) -> None:
    """It begins with the slices as they were found, without what the one that was stopped has made of them."""
    keep(project)
    found = project.paths.iteration(1) / "scored_slices.parquet"
    write_frame(found, slices_to_frame([DARK]))
    tried = replace(DARK, status="collecting", repair="collect", wanted=20, began=30)
    write_frame(found.with_name("slices.parquet"), slices_to_frame([tried]))
    project.mark_slice(DARK.name, "accepted")
    assert slices_from_frame(read_frame(found)) == [replace(DARK, status="accepted")]
    assert project.slices() == [replace(tried, status="accepted")]


def test_slice_that_is_collected_for_asks_for_a_number(project: Project) -> None:
    keep(project)
    (found,) = project.mark_slice(DARK.name, "collecting")
    assert (found.status, found.began) == ("collecting", 30)
    assert found.wanted >= 20


def test_what_is_to_be_collected_is_in_the_figures_as_long_as_it_is_asked_for(project: Project) -> None:
    keep(project)
    metrics = project.paths.iteration(1) / "metrics.json"
    expected: tuple[tuple[SliceStatus, tuple[int, int] | None], ...] = (("collecting", (20, 0)), ("open", None))
    for status, asked in expected:
        project.mark_slice(DARK.name, status)
        (told,) = read_json(metrics)["slices"]
        assert told["status"] == status
        assert (told["collect"] and (told["collect"]["wanted"], told["collect"]["arrived"])) == asked
        if told["collect"]:
            assert told["collect"]["words"] == "about 20 more images darker than most (brightness < 0.2)"


def test_name_that_is_none_is_refused_with_those_that_are(project: Project) -> None:
    with pytest.raises(ProjectError, match="no iteration has looked for weak slices yet"):
        project.slices()
    keep(project)
    with pytest.raises(DataError, match=r"no weak slice is named 'dark'; there are: brightness < 0\.2"):
        project.mark_slice("dark", "fixed")


def test_slice_of_a_renamed_class_goes_by_the_name_of_now(project: Project) -> None:
    keep(project)
    of_left = replace(DARK, name="class = left and brightness < 0.2")
    of_left = replace(
        of_left, conditions=(Condition("class", "=", project.classes.named("left") or ""), *DARK.conditions)
    )
    folder = project.paths.iteration(1)
    write_frame(folder / "slices.parquet", slices_to_frame([of_left]))
    write_json(folder / "metrics.json", {"slices": [{"name": of_left.name, "status": "open", "collect": None}]})
    project.ledger.rename_class(project.classes.named("left"), "links", who="ann")
    assert [s.name for s in project.slices()] == ["class = links and brightness < 0.2"]
    project.mark_slice("class = links and brightness < 0.2", "accepted")
    assert [s.status for s in project.slices()] == ["accepted"]
    assert read_json(folder / "metrics.json")["slices"][0]["status"] == "accepted"


def test_status_and_iteration_that_are_none_are_refused(project: Project) -> None:
    keep(project)
    with pytest.raises(InputError, match="status must be one of open, accepted, collecting, fixed, not 'opened'"):
        project.mark_slice(DARK.name, "opened")  # type: ignore[arg-type]
    assert project.slices() == [DARK]
    project.paths.iteration(2).mkdir()
    with pytest.raises(ProjectError, match="iteration 9 has not looked for weak slices; these have: 1"):
        project.slices(9)


def test_command_lists_slices_and_sets_a_status(project: Project) -> None:
    keep(project)
    told = CliRunner().invoke(curate, ["slices", str(project.root), "--accept", DARK.name])
    assert told.exit_code == 0
    assert told.output == "accepted     50% of 30 wrong, elsewhere 10%: brightness < 0.2\n"
    found = json.loads(CliRunner().invoke(curate, ["slices", str(project.root), "--json"]).output)
    assert [(s["name"], s["status"], s["errors"]) for s in found] == [(DARK.name, "accepted", 15)]


def test_command_says_of_a_slice_that_it_holds_no_image_any_more(project: Project) -> None:
    keep(project)
    gone = replace(DARK, status="fixed", sample_ids=(), size=0, errors=0, error_rate=0.0)
    write_frame(project.paths.iteration(1) / "slices.parquet", slices_to_frame([gone]))
    told = CliRunner().invoke(curate, ["slices", str(project.root)])
    assert told.output == "fixed       no image any more: brightness < 0.2\n"
