"""Recording in FiftyOne beside the run: one after the other, and a fault there ends no run."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from curation.errors import DatabaseError
from curation.reporting import Recording

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
