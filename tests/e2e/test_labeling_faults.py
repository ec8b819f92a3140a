"""Labeling survives whatever stops it: our process or Label Studio is killed at seeded points of send and collect.

Between us and Label Studio stands a proxy that counts requests and strikes at one of them: before it is passed on,
while it is at work, or after it was answered and before we hear of it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

import labeling.client
from curation.ledger import Ledger
from curation.records import Mode, QueueEntry
from labeling.client import LabelStudioAnnotator
from labeling.person import LabelStudioPerson
from labeling.server import Connection, LabelStudioServer
from labeling.web import token_client
from tests.contracts.test_annotators import CLASSES, draw
from tests.tests_gate import Moment, gate
from tests.tests_labeling import ledger_of

pytestmark = pytest.mark.e2e

TASKS, CHUNK = 12, 4
Phase = Literal["send", "collect"]
When = Literal["before", "during", "after"]


@dataclass
class Desk:
    """A project with a queue in a ledger of its own, worked on by a process that can be killed."""

    connection: Connection
    project_id: str
    ledger: Path
    files: dict[str, Path]
    people: tuple[str, ...] = ()  #: who has a queue of their own

    def work(self, phase: Phase, url: str) -> None:
        """What the process does."""
        labeling.client._SETTLE_SECONDS, labeling.client._IMPORTED = 0.1, CHUNK
        ledger = Ledger.in_file(self.ledger)
        people = LabelStudioAnnotator(
            replace(self.connection, url=url), project_name="Faults", project_id=self.project_id, classes=CLASSES,
            own_queues=lambda: self.people, recorded=ledger.verdicts,
        )  # fmt: skip
        if phase == "send":
            people.send(ledger.queue(), self.files)
        else:
            ledger.add_verdicts(people.collect(ledger.queue(), ledger.verdicts()))

    def start(self, phase: Phase, url: str) -> multiprocessing.process.BaseProcess:
        process = multiprocessing.get_context("fork").Process(target=self.work, args=(phase, url), daemon=True)
        process.start()
        return process


def make_desk(connection: Connection, folder: Path) -> Desk:
    modes: tuple[Mode, ...] = ("shown", "blind", "control")
    batch = [
        QueueEntry(uuid.uuid4().hex, uuid.uuid4().hex * 2, 1, i, modes[i % 3], "c1", "c2", "looks like a fox")
        for i in range(TASKS)
    ]
    ledger_of(batch, folder / "ledger.db").close()
    return Desk(connection, uuid.uuid4().hex, folder / "ledger.db", draw(folder / "images", batch))


def run_through(
    desk: Desk, server: LabelStudioServer, phase: Phase, *, at: int, when: When, victim: str, delay: float
) -> int:
    """Run a phase with a fault at its ``at``-th request, then again until it succeeds; returns the requests of the
    first run."""
    struck: list[multiprocessing.process.BaseProcess] = []

    def act(number: int, _request: str, moment: Moment) -> bool:
        if number == at and when == "during" and moment == "before":
            threading.Timer(delay, strike).start()
        if number == at and when == moment:
            strike()
            return True
        return False

    def strike() -> None:
        pid = struck[0].pid if victim == "us" else json.loads(server.state_file.read_text())["pid"]
        with suppress(ProcessLookupError):
            os.kill(int(pid or 0), signal.SIGKILL)

    with gate(desk.connection.url, act) as passed:
        process = desk.start(phase, passed.url)
        struck.append(process)
        process.join(120)
        requests, first = passed.count, process.exitcode
        time.sleep(delay)  # a blow that comes late must not hit the next run
    if at and at <= requests and victim == "us" and when != "during":
        assert first == -signal.SIGKILL
    for _ in range(3):
        if first == 0:
            return requests
        assert server.start(timeout=300) == desk.connection
        process = desk.start(phase, desk.connection.url)
        process.join(120)
        first = process.exitcode
    raise AssertionError(f"{phase} did not come through")


ANN, BOB = "ann@example.com", "bob@example.com"


@pytest.fixture(scope="module")
def ann(tokens: dict[str, str]) -> str:
    return tokens["ann"]


@pytest.fixture(scope="module")
def bob(tokens: dict[str, str]) -> str:
    return tokens["bob"]


def tasks_of(desk: Desk) -> list[str]:
    """The keys of all tasks in the project's queues."""
    with token_client(desk.connection.url, desk.connection.token) as client:
        listed = client.get("/api/projects/", params={"page_size": 1000}).json()["results"]
        mine = [p["id"] for p in listed if desk.project_id in (p["description"] or "")]
        assert len(mine) == 2 * max(1, len(desk.people))
        asked = ({"project": number, "page_size": 1000} for number in mine)
        return [t["data"]["key"] for a in asked for t in client.get("/api/tasks/", params=a).json()["tasks"]]


@pytest.fixture(scope="module")
def requests(label_studio: LabelStudioServer, ann: str, tmp_path_factory: pytest.TempPathFactory) -> dict[Phase, int]:
    """How many requests each phase makes where nothing goes wrong."""
    desk = make_desk(label_studio.start(), tmp_path_factory.mktemp("plain"))
    never: dict[str, Any] = {"at": 0, "when": "before", "victim": "us", "delay": 0.0}
    sent = run_through(desk, label_studio, "send", **never)
    assert LabelStudioPerson(desk.connection.url, ann).answer(desk.project_id, lambda key: "c1") == TASKS
    return {"send": sent, "collect": run_through(desk, label_studio, "collect", **never)}


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[pytest.mark.slow] if s >= 8 else []) for s in range(50)])
def test_no_verdict_is_lost_or_doubled_and_no_task_comes_twice(
    label_studio: LabelStudioServer, ann: str, requests: dict[Phase, int], seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    victim, faulty = ("us", "server")[seed % 2], ("send", "collect")[seed // 2 % 2]
    desk = make_desk(label_studio.start(), tmp_path)

    def run(phase: Phase) -> None:
        at = rng.randint(1, requests[phase]) if phase == faulty else 0
        when: When = rng.choice(("before", "during", "after"))
        run_through(desk, label_studio, phase, at=at, when=when, victim=victim, delay=rng.uniform(0, 0.05))

    run("send")
    ledger = Ledger.in_file(desk.ledger)
    queue = ledger.queue()
    assert Counter(tasks_of(desk)) == Counter(e.key for e in queue)
    answers = {e.key: rng.choice(CLASSES.ids) for e in queue}
    assert LabelStudioPerson(desk.connection.url, ann).answer(desk.project_id, answers.__getitem__) == TASKS
    run("collect")
    run("collect")
    assert {v.key: v.answer for v in ledger.verdicts(every=True)} == answers
    assert len(ledger.verdicts(every=True)) == TASKS
    ledger.close()


def hand_over(desk: Desk, bob: str) -> Desk:
    """Bob answers a few of his, and is away."""
    asked = LabelStudioPerson(desk.connection.url, bob)
    assert asked.answer(desk.project_id, lambda key: "c2", limit=2, queue_of=BOB) == 2
    return replace(desk, people=(ANN,))


@pytest.fixture(scope="module")
def queue_requests(
    label_studio: LabelStudioServer, ann: str, bob: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, int]:
    """How many requests it takes to send a batch to two queues, and to hand one over."""
    desk = replace(make_desk(label_studio.start(), tmp_path_factory.mktemp("plain")), people=(ANN, BOB))
    never: dict[str, Any] = {"at": 0, "when": "before", "victim": "us", "delay": 0.0}
    sent = run_through(desk, label_studio, "send", **never)
    return sent, run_through(hand_over(desk, bob), label_studio, "send", **never)


@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=[] if s in (1, 2) else [pytest.mark.slow]) for s in range(24)]
)  # 1 kills the server while a batch is sent, 2 kills us while a queue is handed over
def test_a_queue_is_sent_and_handed_over_once_whatever_stops_it(
    label_studio: LabelStudioServer, ann: str, bob: str, queue_requests: tuple[int, int], seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    victim, faulty = ("us", "server")[seed % 2], seed // 2 % 2
    desk = replace(make_desk(label_studio.start(), tmp_path), people=(ANN, BOB))

    def send(desk: Desk, phase: int) -> None:
        at = rng.randint(1, queue_requests[phase]) if phase == faulty else 0
        when: When = rng.choice(("before", "during", "after"))
        run_through(desk, label_studio, "send", at=at, when=when, victim=victim, delay=rng.uniform(0, 0.05))

    send(desk, 0)
    ledger = Ledger.in_file(desk.ledger)
    keys = Counter(e.key for e in ledger.queue())
    assert Counter(tasks_of(desk)) == keys
    left = hand_over(desk, bob)
    send(left, 1)
    assert Counter(tasks_of(desk)) == keys
    assert LabelStudioPerson(desk.connection.url, bob).answer(desk.project_id, lambda key: "c1", queue_of=BOB) == 0
    person = LabelStudioPerson(desk.connection.url, ann)
    assert person.answer(desk.project_id, lambda key: "c1", queue_of=ANN) == TASKS - 2
    run_through(left, label_studio, "collect", at=0, when="before", victim="us", delay=0.0)
    assert Counter((v.person, v.answer) for v in ledger.verdicts(every=True)) == {
        (ANN, "c1"): TASKS - 2,
        (BOB, "c2"): 2,
    }
    ledger.close()
