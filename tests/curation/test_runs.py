"""What is written is whole, stages run once, and one process at a time holds a project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from curation import cli
from curation.errors import ProjectLocked
from curation.runs import (
    ProjectPaths,
    accounts_lock,
    ended_by_signal,
    finished,
    project_lock,
    sending_lock,
    stage,
    sweep,
    write_whole,
)


def test_a_stage_runs_once(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(folder: Path) -> dict[str, int]:
        calls.append(folder)
        return {"rows": 3}

    assert stage(tmp_path / "001", "score", make) == {"rows": 3}
    assert stage(tmp_path / "001", "score", make) == {"rows": 3}
    assert len(calls) == 1


def test_a_stage_that_fails_is_not_finished(tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, int]:
        write_whole(folder / "half.txt", "half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        stage(tmp_path / "001", "score", fail)
    assert finished(tmp_path / "001", "score") is None
    assert stage(tmp_path / "001", "score", lambda _: {"rows": 1}) == {"rows": 1}


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    write_whole(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "\ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_second_process_is_told_who_holds_the_project(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, curation.runs as r\n"
        "with r.project_lock(r.ProjectPaths(pathlib.Path(sys.argv[1]))): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ProjectLocked, match=f"in use by process {other.pid}"), project_lock(ProjectPaths(tmp_path)):
            pass
        other.kill()
        other.wait()
    with project_lock(ProjectPaths(tmp_path)):
        assert ProjectPaths(tmp_path).lock.exists()


def test_what_goes_on_beside_a_run_is_done_by_one_at_a_time(tmp_path: Path) -> None:
    paths = ProjectPaths(tmp_path)
    with project_lock(paths), accounts_lock(paths), sending_lock(paths):
        with pytest.raises(
            ProjectLocked, match=r"somebody has been sending tasks of .* for 0 s; try again in a moment"
        ):
            sending_lock(paths, timeout=0.01).__enter__()
        with pytest.raises(ProjectLocked, match="somebody has been changing accounts of"):
            accounts_lock(paths, timeout=0.01).__enter__()
    with sending_lock(paths, timeout=0), accounts_lock(paths, timeout=0):
        pass


def test_only_private_files_are_hidden_from_others(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_whole(tmp_path / "open", "for all")
        write_whole(tmp_path / "secret", "for one", private=True)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("open", "secret")] == [0o644, 0o600]


def test_what_a_killed_run_had_half_written_is_swept_wherever_it_lies_but_not_what_servers_keep(tmp_path: Path) -> None:
    paths = ProjectPaths(tmp_path)
    dead = 2**22 + 1  # above the largest process id
    ours = [paths.home, paths.home / "report", paths.iteration(1) / "report", paths.cache / "views"]
    for folder in (*ours, paths.fiftyone):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".index.html.{dead}.x.part").write_text("half", encoding="utf-8")
    (paths.cache / f".index.html.{os.getpid()}.x.part").write_text("being written", encoding="utf-8")
    served = paths.label_studio / "images" / "p"
    served.mkdir(parents=True)
    for process in (dead, os.getpid()):
        (served / f".4f2a.{process}.new").write_bytes(b"half")
    assert sweep(paths) == len(ours) + 1
    assert [f.name for f in served.iterdir()] == [f".4f2a.{os.getpid()}.new"]
    assert sorted(f.parent.name for f in paths.home.rglob("*.part")) == ["cache", "fiftyone"]


class _StoppedOnceNamed:
    """What a class has a part of while Ctrl-C comes: Python before 3.12 wraps what is raised here."""

    def __init__(self, stop: Callable[[], object]) -> None:
        self.stop = stop

    def __set_name__(self, _owner: type, _name: str) -> None:
        self.stop()


def test_the_wish_to_end_counts_also_while_a_class_is_made() -> None:
    with pytest.raises(KeyboardInterrupt), ended_by_signal():
        type("Made", (), {"part": _StoppedOnceNamed(lambda: signal.raise_signal(signal.SIGTERM))})


def test_an_error_while_a_class_is_made_stays_one() -> None:
    with pytest.raises((RuntimeError, ZeroDivisionError)), ended_by_signal():
        type("Made", (), {"part": _StoppedOnceNamed(lambda: 1 / 0)})


def test_ctrl_c_while_a_class_is_made_ends_a_command_as_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(**_: object) -> None:
        type("Made", (), {"part": _StoppedOnceNamed(lambda: signal.raise_signal(signal.SIGINT))})

    monkeypatch.setattr(cli.curate, "main", stopped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are started deaf to it
    try:
        with pytest.raises(SystemExit, match="130"):
            cli.main(["status", "."])
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.startswith("Stopped.")
