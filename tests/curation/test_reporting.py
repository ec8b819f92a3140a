"""Recording in FiftyOne beside the run: one after the other, and a fault there ends no run."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests_stand_ins import draw

from curation.cli import curate
from curation.errors import ConfigError, DatabaseError
from curation.figures import metrics_json
from curation.ledger import Ledger, NewPath, NewSample
from curation.project import Project
from curation.reporting import AnswerKey, Recording
from curation.runs import write_json
from tests.reports.cases import make_summary

BEGUN = "Recording the iteration in FiftyOne."


class Recorder:
    """Notes what it is given; waits for leave, and may fail."""

    def __init__(self, fault: str = "") -> None:
        self.leave = threading.Event()
        self.begun: list[int] = []
        self.fault = fault

    def record(self, summary: Any, _table: Any) -> None:
        self.begun.append(summary)
        assert self.leave.wait(10)
        if self.fault:
            raise DatabaseError(self.fault)


def test_the_run_goes_on_while_an_iteration_is_recorded_and_the_next_one_waits_for_it() -> None:
    recorder, said = Recorder(), list[str]()
    recording: Any = Recording(said.append)
    recording.start(recorder, 0, None)
    second = threading.Thread(target=recording.start, args=(recorder, 1, None))
    second.start()
    second.join(0.2)
    assert (recorder.begun, second.is_alive()) == ([0], True)
    recorder.leave.set()
    second.join(10)
    recording.finish()
    assert recorder.begun == [0, 1]
    assert said == [BEGUN, BEGUN]


def test_a_fault_is_said_once_or_raised_where_somebody_wants_to_look() -> None:
    recorder, said = Recorder("the disk is full"), list[str]()
    recorder.leave.set()
    recording: Any = Recording(said.append)
    recording.start(recorder, 0, None)
    recording.finish()
    recording.finish()
    assert said == [BEGUN, "the disk is full (the run goes on)"]
    recording.start(recorder, 0, None)
    with pytest.raises(DatabaseError, match="the disk is full"):
        recording.finish(check=True)
    recording.finish(check=True)


def test_a_fault_that_is_not_the_databases_is_never_swallowed() -> None:
    class Broken:
        def record(self, _summary: Any, _table: Any) -> None:
            raise KeyError("a column that is missing")

    recording: Any = Recording(print)
    recording.start(Broken(), 0, None)
    with pytest.raises(KeyError, match="a column that is missing"):
        recording.finish()


def test_gains_of_the_holdout_are_told_with_what_can_not_be_compared(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 10)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{p},{c}\n" for p, c in truth.items()))
    project, _ = Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv")
    for number in (0, 1):
        summary = make_summary([Path(f"{n}.png") for n in range(24)], number)
        gain = replace(summary.gain, otherwise=("seed 0, then 5",)) if summary.gain else None
        project.paths.iteration(number).mkdir(parents=True)
        write_json(project.paths.iteration(number) / "metrics.json", metrics_json(replace(summary, gain=gain)))
    project.ledger.set_state(1, "done")
    for command in ("status", "holdout"):
        told = CliRunner().invoke(curate, [command, str(tmp_path / "p")])
        assert told.output.splitlines()[-1] == (
            "Iteration 1 was trained otherwise than the one before: seed 0, then 5."
        )


def test_an_answer_key_counts_by_the_classes_as_they_are_now(tmp_path: Path) -> None:
    samples = ["a" * 64, "b" * 64, "c" * 64]
    ledger = Ledger.in_file(tmp_path / "ledger.db")
    ledger.add_classes(["cat", "dog", "fox"], who="import")
    ledger.add_samples(
        [NewSample(s, "train", None, 4, 4) for s in samples],
        [NewPath(s, f"{s[0]}.png", "/images", None, {}) for s in samples],
        dict(zip(samples, ("c1", "c2", "c2"), strict=True)), who="import", why="label as given",
    )  # fmt: skip
    (tmp_path / "key.csv").write_text("path,label\na.png,cat\nb.png,cat\nc.png,fox\n")
    assert AnswerKey(tmp_path / "key.csv", ledger).still_wrong(ledger.labels()) == 2
    ledger.rename_class("c1", "kitten", who="ann")
    key = AnswerKey(tmp_path / "key.csv", ledger)
    assert key.still_wrong(ledger.labels()) == 2
    ledger.merge_class("c3", "c2", who="ann")
    assert key.still_wrong(ledger.labels()) == 1
    (tmp_path / "key.csv").write_text("path,label\na.png,cow\n")
    with pytest.raises(ConfigError, match=r"key\.csv: 'cow' is no class of this project"):
        AnswerKey(tmp_path / "key.csv", ledger).still_wrong({})
