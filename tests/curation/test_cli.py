"""What ``curate`` says of calls that are wrong or stopped, before any work is done."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests_stand_ins import draw

from curation import cli
from curation.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    truth = draw(tmp_path / "images", 12)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{p},{c}\n" for p, c in truth.items()))
    return Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv")[0]


def code_of(*arguments: object) -> int:
    """The exit code of ``curate`` with these arguments."""
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run", "Stopped. `curate run` goes on where it stopped."),
        ("demo", "Stopped. `curate demo` goes on where it stopped."),
        ("init", "Stopped."),
        ("flag", "Stopped."),
    ],
)
def test_who_stops_a_command_is_told_what_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    def stopped(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.curate, "main", stopped)
    assert code_of("--debug", command, ".") == 130
    assert capsys.readouterr().err == f"{said}\n"


def test_a_call_that_is_wrong_is_refused_before_the_work(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Project, "flag", lambda *_: pytest.fail("the labels were judged"))
    assert code_of("flag", project.root, "--out", tmp_path) == 2
    assert "is a directory" in capsys.readouterr().err
    assert code_of("backup", project.root, "--out", tmp_path) == 2
    assert "is a directory" in capsys.readouterr().err
    for command, folder in (("init", tmp_path / "new"), ("add", project.root)):
        assert code_of(command, folder, "--images", tmp_path / "images", "--label-column", "kind") == 2
        assert "--label-column names a column of --labels; give that table, too" in capsys.readouterr().err


def test_labels_are_written_in_the_format_of_the_ending_in_either_case(project: Project, tmp_path: Path) -> None:
    assert code_of("export", project.root, "--out", tmp_path / "labels.CSV") == 0
    assert list(pd.read_csv(tmp_path / "labels.CSV")["label"]) == list(project.labels()["label"])


def test_flags_are_written_as_parquet_where_the_file_ends_so(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = pd.DataFrame({"path": ["a.png"], "label_quality": [0.25], "issue": ["true"]})
    monkeypatch.setattr(Project, "flag", lambda *_: flags)
    for ending, read in (("Parquet", pd.read_parquet), ("csv", lambda file: pd.read_csv(file, dtype={"issue": str}))):
        assert code_of("flag", project.root, "--out", tmp_path / f"flags.{ending}") == 0
        pd.testing.assert_frame_equal(read(tmp_path / f"flags.{ending}"), flags)


@pytest.mark.parametrize("arguments", [("release", "r1", "--note"), ("guide", "--class", "left", "--rule")])
def test_an_argument_that_is_no_text_is_named(
    project: Project, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    command, *options = arguments
    assert code_of(command, project.root, *options, "sch\udcf6n") == 2
    assert capsys.readouterr().err == "Error: 'sch\\udcf6n' is no UTF-8 text; write it so, or choose another name\n"
