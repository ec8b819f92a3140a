"""Batches and answers as files, for teams whose Label Studio we can't reach, or who have none.

Out goes a folder: the tasks of each stream as Label Studio imports them and its screen, a table to fill in by hand, and
the images under names that tell nothing. Back comes Label Studio's JSON export, or the table.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from curation.errors import DataError
from curation.records import SKIPPED, SPECIAL_ANSWERS, WITHDRAWN, Classes, Progress, QueueEntry, Verdict
from curation.runs import write_json, write_whole
from labeling.screen import Texts, labeling_config
from labeling.served import place
from labeling.tasks import (
    CONTROL,
    STREAMS,
    Rejected,
    choice_result,
    image_name,
    offered,
    served_order,
    stream_of,
    task_payload,
    time_taken,
    verdict_from_annotation,
)

#: What the keys of answers begin with whose tasks were not sent by us.
ADOPTED = "adopted:"
_COLUMNS = ("key", "image", "stream", "given_label", "suggestion", "reason", "label", "annotator", "seconds")
#: What Label Studio puts before the names of uploads.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
#: The kind of an image that its address holds, as ``png``.
_PICTURE = re.compile(r"data:image/(\w+)", re.IGNORECASE)
#: A name longer than this, in bytes, is cut; disks take 255, and ``own_path`` adds some.
_LONGEST_NAME = 240
#: So many characters of an address stand in a sentence.
_LONGEST_TOLD = 100
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Answers:
    """What a file says: verdicts, and in sentences why other answers in it do not count."""

    verdicts: tuple[Verdict, ...]
    set_aside: tuple[str, ...]


class FileAnnotator:
    """People who answer in files that come by ``curate sync --from``: nothing is sent, nothing can be fetched.

    ``recorded`` gives the verdicts that the ledger has, from which is known what is still to come.
    """

    def __init__(self, recorded: Callable[[], Sequence[Verdict]]) -> None:
        self._recorded = recorded

    def send(self, entries: Sequence[QueueEntry], files: Mapping[str, Path], progress: Progress | None = None) -> None:
        """Nothing is sent; ``curate export --format label-studio`` writes the batch."""

    def collect(self, entries: Sequence[QueueEntry], known: Sequence[Verdict] = ()) -> list[Verdict]:
        """Nothing is fetched: the answers are in the ledger already."""
        return []

    def waiting(self, entries: Sequence[QueueEntry]) -> int:
        """How many opinions on these entries are still to come."""
        people: dict[str, set[str]] = defaultdict(set)
        for verdict in self._recorded():
            if verdict.answer != WITHDRAWN:
                people[verdict.key].add(verdict.person)
        return sum(max(0, e.opinions - len(people[e.key])) for e in entries)

    def address(self) -> None:
        """There is nowhere to go."""

    def addresses(self) -> dict[str, str]:
        """There is nowhere to go."""
        return {}


def write_batch(
    folder: Path,
    entries: Sequence[QueueEntry],
    files: Mapping[str, Path],
    classes: Classes,
    *,
    texts: Texts,
    guide: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write a batch into a folder; returns the files for people: tasks and screen of each stream, and the table.

    ``tasks-shown.json`` holds tasks of which addresses of images read ``images/NAME``, as they lie in the folder;
    ``batch.csv`` has a row a task with ``label``, ``annotator`` and ``seconds`` to be filled in. Blind tasks tell
    nothing but their image. Writing again changes nothing.
    """
    written = []
    table = io.StringIO()
    rows = csv.DictWriter(table, _COLUMNS, lineterminator="\n")
    rows.writeheader()
    for stream in STREAMS:
        wanted = served_order([e for e in entries if stream_of(e) == stream])
        if not wanted:
            continue
        tasks = []
        for entry in wanted:
            name = place(files[entry.sample_id], folder / "images" / stream, image_name(entry.key))
            data = task_payload(entry, f"images/{stream}/{name}", classes)
            tasks.append({"data": data})
            rows.writerow({"stream": stream, **{c: _plain_cell(data[c]) for c in _COLUMNS if c in data}})
        write_json(folder / f"tasks-{stream}.json", tasks)
        screen = labeling_config(classes, mode=stream, texts=texts, guide=guide)
        write_whole(folder / f"screen-{stream}.xml", screen)
        written += [folder / f"tasks-{stream}.json", folder / f"screen-{stream}.xml"]
    write_whole(folder / "batch.csv", table.getvalue())
    return [*written, folder / "batch.csv"]


def _plain_cell(words: str) -> str:
    """Untrusted words as a cell that no spreadsheet takes for a formula."""
    return f"'{words}" if words[:1] in _FORMULA else words


def _cell_words(cell: str) -> str:
    """The words of which ``_plain_cell`` made a cell."""
    return cell[1:] if cell[:1] == "'" and cell[1:2] in _FORMULA else cell


def read_answers(
    file: Path,
    entries: Sequence[QueueEntry],
    classes: Classes,
    paths: Mapping[str, Sequence[str]],
    *,
    iteration: int,
    called: Callable[[str], str] = str,
) -> Answers:
    """The answers in a file: Label Studio's JSON export, or a CSV ``key,label[,annotator][,seconds]``.

    An answer belongs to the queue entry whose key its task has. A task without a key, from a project that somebody made
    by hand, belongs to the sample one of whose ``paths`` (sample id to paths) ends like its image's address; such an
    answer is a class's name, was given blind, and counts for ``iteration``. ``called`` says what a person is called in
    the ledger. Reading a file again gives the same sources. Raises DataError where the file can't be read.
    """
    by_key = {e.key: e for e in entries}
    found = _of_table(file, by_key, classes) if file.suffix.lower() == ".csv" else _of_export(
        file, by_key, classes, paths, iteration
    )  # fmt: skip
    everything = [_said_by(called(v.person), v) if isinstance(v, Verdict) else v for v in found]
    return Answers(
        tuple(v for v in everything if isinstance(v, Verdict)),
        tuple(r.reason for r in everything if isinstance(r, Rejected)),
    )


def _said_by(person: str, verdict: Verdict) -> Verdict:
    """A verdict as that person's, in its source too, where it ends with who gave it."""
    whole, name = verdict.source, f":{verdict.person}"
    source = f"{whole.removesuffix(name)}:{person}" if whole.endswith(name) else whole
    return replace(verdict, person=person, source=source)


def _of_table(file: Path, by_key: Mapping[str, QueueEntry], classes: Classes) -> Iterator[Verdict | Rejected]:
    at = datetime.fromtimestamp(_there(file).stat().st_mtime, tz=UTC)
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = csv.DictReader(text)
            if not {"key", "label"} <= set(rows.fieldnames or ()):
                raise DataError(f"{file}: the first row must name the columns key and label, got {rows.fieldnames}")
            for row in rows:
                said = (row["label"] or "").strip()
                if said:
                    yield _row_verdict(row, said, f"{file}, row {rows.line_num}", by_key, classes, at)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} can't be read as CSV in UTF-8 ({error})") from None


def _row_verdict(
    row: Mapping[str, str | None],
    said: str,
    where: str,
    by_key: Mapping[str, QueueEntry],
    classes: Classes,
    at: datetime,
) -> Verdict | Rejected:  # fmt: skip
    entry = by_key.get((row["key"] or "").strip())
    if entry is None:
        return Rejected(f"{where}: key '{row['key']}' is of no task of this project")
    answer = _answer_by_name(said, classes) or _answer_by_name(_cell_words(said), classes)
    if answer is None:
        return Rejected(f"{where}: '{said}' is no class of this project; use one of {offered(classes)}")
    person = (row.get("annotator") or "").strip() or "somebody"
    took = (row.get("seconds") or "").strip()
    seconds = time_taken(took) if took else None
    if took and seconds is None:
        return Rejected(f"{where}: seconds must be a number, 0 or more, got '{took}'")
    source = f"file:{entry.key}:{person}"
    return Verdict(entry.sample_id, answer, person, at, entry.key, source, entry.mode, entry.iteration, seconds)


def _of_export(
    file: Path,
    by_key: Mapping[str, QueueEntry],
    classes: Classes,
    paths: Mapping[str, Sequence[str]],
    iteration: int,
) -> Iterator[Verdict | Rejected]:
    try:
        tasks = json.loads(_there(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be read as Label Studio's JSON export ({error})") from None
    if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
        raise DataError(f"{file} is no JSON export of Label Studio: it must hold a list of tasks")
    samples = by_file_name(paths)
    fields = [task["data"] if isinstance(task.get("data"), Mapping) else {} for task in tasks]
    ours = [by_key.get(str(data.get("key"))) for data in fields]
    images = [None if mine else _image_of(data, samples) for mine, data in zip(ours, fields, strict=True)]
    alike = alike_addresses((image[0] for image in images if image), samples)
    for task, mine, image in zip(tasks, ours, images, strict=True):
        if mine is not None:
            entry = mine
        elif image is None:
            yield Rejected(f"{file}: task {task.get('id')} is of no image of this project")
            continue
        elif len(alike[image[0]]) > 1:
            yield Rejected(f"{file}: {not_told_apart(task, image[0])}")
            continue
        else:
            entry = stand_in_entry(image[1], iteration)
        for annotation in task.get("annotations") or ():
            if isinstance(annotation, Mapping):
                yield _exported(annotation, task, entry, classes)


def _exported(
    annotation: Mapping[str, Any], task: Mapping[str, Any], entry: QueueEntry, classes: Classes
) -> Verdict | Rejected:
    who = annotation.get("completed_by")
    people = {who["id"]: str(who.get("email") or who["id"])} if isinstance(who, Mapping) and "id" in who else {}
    origin = f"export-{annotation.get('unique_id') or task.get('project')}"
    said = in_our_words(annotation, classes, ours=not entry.key.startswith(ADOPTED))
    return verdict_from_annotation(said, task, entry, classes, people, origin)


def in_our_words(annotation: Mapping[str, Any], classes: Classes, *, ours: bool = False) -> Mapping[str, Any]:
    """An annotation of any classification, as our own screen would have made it.

    Ids of classes are read in an answer to a task of ours alone: elsewhere ``c1`` is a name that somebody gave.
    """
    if ours and _is_ours(annotation):
        return annotation
    known = _answer_by_name if ours else _class_named
    said = [known(choice, classes) or _no_class(choice, classes) for choice in choices_in(annotation)]
    (part,) = choice_result("")
    return {**annotation, "result": [{**part, "value": {"choices": said}}]}


def choices_in(annotation: Mapping[str, Any]) -> list[str]:
    """What an annotation chose, whatever its question is called."""
    parts = annotation.get("result")
    return [
        str(choice)
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, Mapping) and isinstance(part.get("value"), Mapping)
        for choice in part["value"].get("choices") or ()
    ]


def _is_ours(annotation: Mapping[str, Any]) -> bool:
    """Whether our own screen made an annotation: it answers our question with an id, not with a name."""
    parts = [p for p in annotation.get("result") or () if isinstance(p, Mapping) and p.get("from_name") == CONTROL]
    values = [p["value"] for p in parts if isinstance(p.get("value"), Mapping)]
    choices = [str(choice) for value in values for choice in value.get("choices") or ()]
    return bool(choices) and all(re.fullmatch(r"c\d+", c) or c in SPECIAL_ANSWERS for c in choices)


def _answer_by_name(said: str, classes: Classes) -> str | None:
    """A class id or special answer from what a person wrote: a name, an id, or a special answer."""
    return _class_named(said, classes) or (said if said in classes.ids else None)


def _class_named(said: str, classes: Classes) -> str | None:
    """A class id or special answer from a name or a special answer."""
    if (named := classes.named(said)) is not None:
        return named
    return said if said in SPECIAL_ANSWERS and said not in (SKIPPED, WITHDRAWN) else None


def _no_class(said: str, classes: Classes) -> str:
    """A name that no class has, so written that it is no class's id either."""
    return f"{said} (a name)" if said in classes.ids else said


def _image_of(data: Mapping[str, Any], samples: Mapping[str, set[str]]) -> tuple[str, str] | None:
    """The first of a task's fields that is the address of a sample's image, and that sample."""
    words = (value for value in data.values() if isinstance(value, str))
    return next(((address, found) for address in words if (found := sample_at(address, samples))), None)


def stand_in_entry(sample_id: str, iteration: int) -> QueueEntry:
    """A stand-in for the entry of a task that we did not send."""
    return QueueEntry(f"{ADOPTED}{sample_id}", sample_id, iteration, 0, "blind", None, None, "")


def alike_addresses(addresses: Iterable[str], samples: Mapping[str, set[str]]) -> dict[str, list[str]]:
    """For each address those that may be of another image though they lead to the same sample; itself among them.

    They have the same path, and differ in what is no part of it: the host or bucket, or a query. In their order.
    """
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    known = {a: (path_in(a), _known_by(a, samples)) for a in addresses}
    for address, by in known.items():
        found[by].append(address)
    return {address: found[by] for address, by in known.items()}


def not_told_apart(task: Mapping[str, Any], address: str) -> str:
    """Why a task with such an address does not count."""
    return f"task {task.get('id')} can't be told from another by the path of its image ({told(address)})"


def told(address: str) -> str:
    """An address as sentences name it: one that is long, as that of an image that it holds itself, by its beginning.

    >>> told("https://host/1.png"), told("data:image/png;base64," + 500 * "A")[-27:]
    ('https://host/1.png', 'AAAAAAA... (522 characters)')
    """
    return address if len(address) <= _LONGEST_TOLD else f"{address[:_LONGEST_TOLD]}... ({len(address):,} characters)"


def sample_at(address: str, samples: Mapping[str, set[str]]) -> str | None:
    """The sample whose image is at an address; ``None`` where none is, or which of several can't be told.

    It is the one whose path the address's is, with or without what ``own_path`` adds; else, of those with the image's
    file name, the one that most of the folders before it are the same of. ``samples`` of ``by_file_name``.
    """
    found = samples.get(_known_by(address, samples), set())
    return next(iter(found)) if len(found) == 1 else None


def _known_by(address: str, samples: Mapping[str, set[str]]) -> str:
    """What of an address is among the names of samples, the most telling first; empty where nothing is."""
    path = path_in(address)
    folders, name = _parts(f"{_split(address).netloc}/{path}")[:-1], PurePosixPath(path).name
    endings = [
        "/".join([*folders[start:], called])
        for called in dict.fromkeys((name, _UPLOADED.sub("", name)))
        for start in range(len(folders) + 1)
    ]
    return next((known for known in (f"/{own_path(address)}", f"/{path}", *endings) if known in samples), "")


def path_in(address: str) -> str:
    """The path of an image in its address, without what leads out of a folder, and with names that a disk takes.

    An image that the address itself holds is called by the SHA-256 of that.

    >>> path_in("/data/local-files/?d=cats/1%20a.png"), path_in("https://host/../x/2.png?v=3")
    ('cats/1 a.png', 'x/2.png')
    >>> path_in("data:image/png;base64,AAAA")
    'bde6da8e9d3902a86a1452ec.png'
    """
    if address[:5].lower() == "data:":
        kind = _PICTURE.match(address)
        return f"{_digits(address, 24)}.{kind[1].lower() if kind else 'img'}"
    parts = _split(address)
    return "/".join(_parts(parse_qs(parts.query).get("d", [unquote(parts.path)])[0]))


def _split(address: str) -> SplitResult:
    """The parts of an address; words that are none, as other fields of a task may hold, are all path."""
    try:
        return urlsplit(address)
    except ValueError:
        return SplitResult("", "", address, "", "")


def own_path(address: str) -> str:
    """The path with digits that follow from the whole address, for an image that shares its path with others.

    >>> own_path("https://host/uc?id=A"), own_path("https://host/uc?id=B")
    ('uc-e4d65802f069', 'uc-c7918d38a9cc')
    """
    path = PurePosixPath(path_in(address) or "image")
    return str(path.with_name(f"{path.stem}-{_digits(address, 12)}{path.suffix}"))


def _digits(words: str, count: int) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:count]


def by_file_name(paths: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """Sample ids by the names of their files, by these with the folders before them, and by ``/`` and whole paths.

    >>> sorted(by_file_name({"s1": ["cats/1.png"]}))
    ['/cats/1.png', '1.png', 'cats/1.png']
    """
    names: dict[str, set[str]] = defaultdict(set)
    for sample_id, given in paths.items():
        for path in given:
            parts = _parts(path)
            for ending in ["/".join(["", *parts]), *("/".join(parts[start:]) for start in range(len(parts)))]:
                names[ending].add(sample_id)
    return dict(names)


def _parts(path: str) -> list[str]:
    return [_fitting(part) for part in path.replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _fitting(name: str) -> str:
    """A name that is too long for a disk, cut and with digits that follow from the whole of it."""
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix.encode()) <= 10 else ""
    begins = name.encode()[:150].decode(errors="ignore")
    return f"{begins}-{_digits(name, 12)}{suffix}"


def _there(file: Path) -> Path:
    if file.is_dir():
        raise DataError(f"{file} is a folder; name the file in it that has the answers")
    if not file.is_file():
        raise DataError(f"{file} is missing; give Label Studio's JSON export, or a CSV file with key and label")
    return file
