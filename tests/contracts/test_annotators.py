"""What every annotator promises the loop, whoever answers.

Answers from a file keep the promises here; people in a real Label Studio keep the same ones in
``tests/e2e/test_labeling.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from curation.records import AMBIGUOUS, BAD_IMAGE, Classes, Mode, Progress, QueueEntry, Verdict
from labeling.replay import ReplayAnnotator

CLASSES = Classes(("c1", "c2"), ("cat & dog", "fox"))


class Annotating(Protocol):
    """The part of an annotator that the loop calls."""

    def send(self, entries: Sequence[QueueEntry], files: dict[str, Path], progress: Progress | None = None) -> None: ...

    def collect(self, entries: Sequence[QueueEntry]) -> list[Verdict]: ...

    def waiting(self, entries: Sequence[QueueEntry]) -> int: ...

    def address(self) -> str | None: ...

    def addresses(self) -> dict[str, str]: ...


class Asking(Protocol):
    """An annotator, and the means to answer what it asks."""

    def annotator(self) -> Annotating:
        """A new one, as after a restart of the program."""

    def answer(self, entry: QueueEntry, person: str, answer: str, seconds: float) -> None:
        """Let a person answer (class id or special answer), or change the answer given before."""


def entry(key: str, mode: Mode = "shown", position: int = 0, *, opinions: int = 1) -> QueueEntry:
    return QueueEntry(key, f"sample of {key}", 4, position, mode, "c1", "c2", "looks like a fox", opinions=opinions)


def draw(folder: Path, entries: Sequence[QueueEntry]) -> dict[str, Path]:
    """An image for each entry, none like another."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, one in enumerate(entries):
        files[one.sample_id] = folder / f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files[one.sample_id])
    return files


class AnnotatorPromises:
    """One set of promises; a subclass gives the fixture ``asking``. Keys are new to it in every test."""

    @pytest.fixture
    def batch(self, request: pytest.FixtureRequest) -> list[QueueEntry]:
        modes: tuple[Mode, ...] = ("shown", "blind", "control", "shown")
        return [entry(f"{request.node.name}-{i}", mode, i, opinions=2) for i, mode in enumerate(modes)]

    @pytest.fixture
    def files(self, batch: list[QueueEntry], tmp_path: Path) -> dict[str, Path]:
        return draw(tmp_path / "images", batch)

    def test_an_answer_comes_back_with_person_time_and_mode(
        self, asking: Asking, batch: list[QueueEntry], files: dict[str, Path]
    ) -> None:
        asking.annotator().send(batch, files)
        for one in batch:
            asking.answer(one, "ann", "c2", 2.5)
        found = asking.annotator().collect(batch)
        assert [(v.sample_id, v.key, v.answer, v.mode, v.iteration) for v in found] == [
            (e.sample_id, e.key, "c2", e.mode, 4) for e in batch
        ]
        assert {(v.person, v.seconds) for v in found} == {("ann", 2.5)}
        assert all(v.at.tzinfo and v.at <= datetime.now(UTC) + timedelta(minutes=5) for v in found)
        assert len({v.source for v in found}) == len(batch)

    def test_sending_again_asks_nobody_twice(
        self, asking: Asking, batch: list[QueueEntry], files: dict[str, Path]
    ) -> None:
        asking.annotator().send(batch[:2], files)
        asking.annotator().send(batch, files)
        for one in batch:
            asking.answer(one, "ann", "c1", 1.0)
        asking.annotator().send(batch, files)
        assert [v.key for v in asking.annotator().collect(batch)] == [e.key for e in batch]

    def test_collecting_again_gives_the_same(
        self, asking: Asking, batch: list[QueueEntry], files: dict[str, Path]
    ) -> None:
        asking.annotator().send(batch, files)
        asking.answer(batch[1], "bob", AMBIGUOUS, 1.0)
        asking.answer(batch[2], "bob", BAD_IMAGE, 1.0)
        annotator = asking.annotator()
        first = annotator.collect(batch)
        assert [(v.key, v.answer) for v in first] == [(batch[1].key, AMBIGUOUS), (batch[2].key, BAD_IMAGE)]
        assert annotator.collect(batch) == first
        assert asking.annotator().collect(batch) == first

    def test_several_people_answer_one_task(
        self, asking: Asking, batch: list[QueueEntry], files: dict[str, Path]
    ) -> None:
        asking.annotator().send(batch, files)
        asking.answer(batch[0], "ann", "c1", 1.0)
        asking.answer(batch[0], "bob", "c2", 1.0)
        found = asking.annotator().collect(batch)
        assert [(v.person, v.answer) for v in found] == [("ann", "c1"), ("bob", "c2")]

    def test_a_changed_answer_replaces_its_first_form(
        self, asking: Asking, batch: list[QueueEntry], files: dict[str, Path]
    ) -> None:
        asking.annotator().send(batch, files)
        asking.answer(batch[0], "ann", "c1", 1.0)
        (first,) = asking.annotator().collect(batch)
        asking.answer(batch[0], "ann", "c2", 1.0)
        (changed,) = asking.annotator().collect(batch)
        assert (changed.source, changed.answer) == (first.source, "c2")
        assert changed.at > first.at

    def test_only_what_was_asked_for_is_collected(
        self, asking: Asking, batch: list[QueueEntry], files: dict[str, Path]
    ) -> None:
        asking.annotator().send(batch, files)
        for one in batch:
            asking.answer(one, "ann", "c1", 1.0)
        assert [v.key for v in asking.annotator().collect(batch[2:])] == [e.key for e in batch[2:]]
        assert asking.annotator().collect([]) == []

    def test_nothing_is_waited_for_once_everybody_has_answered(
        self, asking: Asking, batch: list[QueueEntry], files: dict[str, Path]
    ) -> None:
        asking.annotator().send(batch, files)
        for person in ("ann", "bob"):
            for one in batch:
                asking.answer(one, person, "c1", 1.0)
        assert asking.annotator().waiting(batch) == 0
        assert asking.annotator().addresses() == {}
        assert asking.annotator().address() is None


class ReplayAsking:
    """People whose answers are written into a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: dict[tuple[str, str], tuple[str, float]] = {}
        self.paths: dict[str, tuple[str, ...]] = {}
        self.minutes = 0

    def annotator(self) -> ReplayAnnotator:
        now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=self.minutes)
        rows = [f"{path},{CLASSES.name(answer)},{who},{s}" for (path, who), (answer, s) in self.rows.items()]
        self.file.write_text("\n".join(["path,label,annotator,seconds", *rows]), encoding="utf-8")
        return ReplayAnnotator(self.file, classes=CLASSES, paths=self.paths, now=now)

    def answer(self, entry: QueueEntry, person: str, answer: str, seconds: float) -> None:
        path = f"{entry.sample_id}.png"
        self.paths[entry.sample_id] = (path,)
        self.rows[path, person] = (answer, seconds)
        self.minutes += 1


class TestReplay(AnnotatorPromises):
    """Answers from a file."""

    @pytest.fixture
    def asking(self, tmp_path: Path) -> Asking:
        return ReplayAsking(tmp_path / "answers.csv")
