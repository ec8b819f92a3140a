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
from curation.ledger import Ledger, NewPath, NewSample
from curation.records import Mode, QueueEntry
from labeling.client import LabelStudioAnnotator, LabelStudioPerson
from labeling.server import Connection, LabelStudioServer, add_person, person_token
from labeling.web import token_client
from tests.contracts.test_annotators import CLASSES, draw
from tests.tests_gate import Moment, gate

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

    def work(self, phase: Phase, url: str) -> None:
        """What the process does."""
        labeling.client._SETTLE_SECONDS, labeling.client._IMPORTED = 0.1, CHUNK
        ledger = Ledger.in_file(self.ledger)
        people = LabelStudioAnnotator(
            replace(self.connection, url=url), project_name="Faults", project_id=self.project_id, classes=CLASSES
        )
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
    ledger = Ledger.in_file(folder / "ledger.db")
    ledger.add_classes(CLASSES.names, who="import")
    ledger.add_samples(
        [NewSample(e.sample_id, "train", None, 12, 12) for e in batch],
        [NewPath(e.sample_id, f"{e.position}.png", "", None, {}) for e in batch],
        {e.sample_id: "c1" for e in batch}, who="import", why="label as given",
    )  # fmt: skip
    ledger.add_queue(batch)
    ledger.close()
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


@pytest.fixture(scope="module")
def ann(label_studio: LabelStudioServer) -> str:
    connection = label_studio.start()
    add_person(connection, "ann@example.com", "a long enough one")
    return person_token(connection, "ann@example.com", "a long enough one")


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
    with token_client(desk.connection.url, desk.connection.token) as client:
        listed = client.get("/api/projects/", params={"page_size": 1000}).json()["results"]
        mine = [p["id"] for p in listed if desk.project_id in (p["description"] or "")]
        tasks = [
            task["data"]["key"]
            for number in mine
            for task in client.get("/api/tasks/", params={"project": number, "page_size": 1000}).json()["tasks"]
        ]
    assert len(mine) == 2
    assert Counter(tasks) == Counter(e.key for e in queue)
    answers = {e.key: rng.choice(CLASSES.ids) for e in queue}
    assert LabelStudioPerson(desk.connection.url, ann).answer(desk.project_id, answers.__getitem__) == TASKS
    run("collect")
    run("collect")
    assert {v.key: v.answer for v in ledger.verdicts(every=True)} == answers
    assert len(ledger.verdicts(every=True)) == TASKS
    ledger.close()
