"""Answers from a file in place of people: for benchmarks, tests, and labels that somebody made elsewhere."""

from __future__ import annotations

import csv
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from curation.errors import DataError
from curation.records import AMBIGUOUS, BAD_IMAGE, OTHER, Classes, Progress, QueueEntry, Verdict
from curation.tables import plain_cell
from labeling.tasks import offered, time_taken

_COLUMNS = ("path", "label", "annotator", "seconds")


@dataclass(frozen=True)
class _Answer:
    """A row of the file; ``path`` is normalised, ``answer`` a class id or a special answer."""

    path: str
    answer: str
    person: str
    seconds: float | None


class ReplayAnnotator:
    """Answers queue entries from a CSV ``path,label[,annotator][,seconds]``.

    ``label`` is the name of one of ``classes``, ``ambiguous``, ``bad image`` or ``other``; several rows of a path are
    several people, in file order; a second row of the same annotator and path replaces the first. Without annotators
    the people of a path are called ``person 1``, ``person 2``, ... ``paths`` maps a sample id to its paths as they
    were given. Every answer is dated ``now``, by default when the file was last changed. Rows of other images are left
    alone. ``called`` says what a person is called in the ledger. Raises DataError naming file and row for what can't be
    used, and where no row fits any sample.
    """

    def __init__(
        self, file: Path, *, classes: Classes, paths: Mapping[str, tuple[str, ...]], now: datetime | None = None,
        called: Callable[[str], str] = str,
    ) -> None:  # fmt: skip
        self.file = Path(file)
        answers: dict[str, list[_Answer]] = defaultdict(list)
        for answer in _read(self.file, classes):
            answers[answer.path].append(replace(answer, person=called(answer.person)))
        self._now = now or datetime.fromtimestamp(self.file.stat().st_mtime, tz=UTC)
        self._answers = {s: found for s, given in paths.items() if (found := _of_sample(given, answers))}
        if answers and paths and not self._answers:
            ours = next((path for given in paths.values() for path in given), "")
            raise DataError(
                f"{self.file}: no path of it is an image of this project; they must read as given to `curate init`, "
                f"for instance '{ours}', not '{next(iter(answers))}'"
            )

    def send(self, entries: Sequence[QueueEntry], files: Mapping[str, Path], progress: Progress | None = None) -> None:
        """Nothing has to be sent: the answers are there."""

    def collect(self, entries: Sequence[QueueEntry], known: Sequence[Verdict] = ()) -> list[Verdict]:
        """The file's answers to these entries, up to ``opinions`` an entry, in the order of entries and rows.

        Who has answered an image before, by ``known``, is not asked about it again. What is not in the file is not
        taken back by it, so ``known`` verdicts stand.
        """
        before: dict[str, set[tuple[str, str]]] = defaultdict(set)
        for verdict in known:
            before[verdict.sample_id].add((verdict.key, verdict.person))
        return [
            Verdict(
                sample_id=entry.sample_id,
                answer=answer.answer,
                person=answer.person,
                at=self._now,
                key=entry.key,
                source=f"replay:{entry.key}:{answer.person}",
                mode=entry.mode,
                iteration=entry.iteration,
                seconds=answer.seconds,
            )
            for entry in entries
            for answer in self._left(entry, before[entry.sample_id])[: entry.opinions]
        ]

    def _left(self, entry: QueueEntry, before: set[tuple[str, str]]) -> list[_Answer]:
        """The answers to an entry by people who have not answered another one about the same image."""
        elsewhere = {person for key, person in before if key != entry.key}
        return [a for a in self._answers.get(entry.sample_id, ()) if a.person not in elsewhere]

    def waiting(self, entries: Sequence[QueueEntry]) -> int:
        """Always 0: what the file does not answer now, it never will."""
        return 0

    def address(self) -> None:
        """There is nowhere to go."""

    def addresses(self) -> dict[str, str]:
        """There is nowhere to go."""
        return {}


def _of_sample(given: Sequence[str], answers: Mapping[str, Sequence[_Answer]]) -> list[_Answer]:
    """A sample's answers under all of its paths, one a person: that of the first path that has one."""
    found: dict[str, _Answer] = {}
    for path in dict.fromkeys(map(normal_path, given)):
        for answer in answers.get(path, ()):
            found.setdefault(answer.person, answer)
    return list(found.values())


def normal_path(path: str) -> str:
    """A path in one spelling.

    >>> normal_path("./a//b.png"), normal_path("a\\\\b.png")
    ('a/b.png', 'a/b.png')
    """
    return posixpath.normpath(path.strip().replace("\\", "/"))


def _read(file: Path, classes: Classes) -> Iterator[_Answer]:
    """The usable rows of a path and annotator, the last of each in the place of the first."""
    known: dict[tuple[str, str], _Answer] = {}
    rows_of: dict[str, int] = defaultdict(int)
    for number, row in _rows(file):
        path = normal_path(row["path"])
        rows_of[path] += 1
        person = row.get("annotator") or f"person {rows_of[path]}"
        known[path, person] = _Answer(path, _answer(row["label"], classes, f"{file}, row {number}"), person,
                                      _seconds(row.get("seconds"), f"{file}, row {number}"))  # fmt: skip
    yield from known.values()


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number (the header is 1) and fields of each row that is not empty; checks that the columns fit."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, strict=True, skipinitialspace=True)
            header = [name.strip() for name in reader.fieldnames or ()]
            if not {"path", "label"} <= set(header):
                raise DataError(f"{file}: the first row must name the columns {','.join(_COLUMNS)}, got {header}")
            reader.fieldnames = header
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{file}, row {reader.line_num}: it must have {len(header)} fields, like the first")
                fields = {name: plain_cell(value.strip()) for name, value in row.items()}
                if not fields["path"]:
                    raise DataError(f"{file}, row {reader.line_num}: path is empty; name the image")
                yield reader.line_num, fields
    except FileNotFoundError:
        raise DataError(f"{file} is missing; give a CSV file with the columns path,label") from None
    except IsADirectoryError:
        raise DataError(f"{file} is a folder; name the file in it that has the answers") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} can't be read as CSV in UTF-8 ({error})") from None


def _answer(label: str, classes: Classes, where: str) -> str:
    if (named := classes.named(label)) is not None:
        return named
    if label in (AMBIGUOUS, BAD_IMAGE, OTHER):
        return label
    raise DataError(f"{where}: '{label}' is no class of this project; use one of {offered(classes)}")


def _seconds(text: str | None, where: str) -> float | None:
    if not text:
        return None
    seconds = time_taken(text)
    if seconds is None:
        raise DataError(f"{where}: seconds must be a number, 0 or more, got '{text}'")
    return seconds
