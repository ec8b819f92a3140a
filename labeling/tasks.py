"""Queue entry to Label Studio task, and Label Studio annotation to verdict (pure).

A blind task holds a key and an address of an image, nothing else: Label Studio shows every field of a task to
everybody who may sign in, so what is not to be seen must not be sent. Label Studio checks nothing that comes in
through its interfaces either, so every answer is checked here before it counts.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from curation.records import AMBIGUOUS, BAD_IMAGE, OTHER, SKIPPED, WITHDRAWN, Classes, QueueEntry, Verdict

Stream = Literal["shown", "blind"]
STREAMS: tuple[Stream, ...] = ("shown", "blind")

CONTROL, OTHER_CONTROL = "label", "other"  # the names of the questions in the labeling screen; results cite them
_LONGEST_NOTE = 500
_SPECIAL = (AMBIGUOUS, BAD_IMAGE, OTHER)


@dataclass(frozen=True)
class Queue:
    """What one Label Studio project holds: a stream's tasks, of all people together or, by ``owner``, of one person.

    >>> Queue("blind").name, Queue("blind", owner_of("Ana")).name
    ('blind', 'blind-c82fe4149e3e')
    """

    stream: Stream
    owner: str = ""

    @property
    def name(self) -> str:
        """How the project's mark and its folder of images call it."""
        return f"{self.stream}-{self.owner}" if self.owner else self.stream


def owner_of(person: str) -> str:
    """What stands for a person in the marks of their projects: 12 hex digits."""
    return hashlib.sha256(f"queue of {person}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Rejected:
    """An answer that can't count, and why, in a sentence."""

    reason: str


def stream_of(entry: QueueEntry) -> Stream:
    """Which of the two Label Studio projects an entry goes to; controls hide among the blind ones."""
    return "shown" if entry.mode == "shown" else "blind"


def served_order(entries: list[QueueEntry]) -> list[QueueEntry]:
    """The order in which people get to see the entries of one stream.

    Shown entries come worst first. Blind ones come by key, which says nothing, so that the place tells no control.
    """
    return sorted(entries, key=lambda e: (e.position, e.key) if e.mode == "shown" else (0, e.key))


def image_name(key: str) -> str:
    """A file name that tells neither sample nor task, nor that two files show the same image.

    >>> image_name("k1") == image_name("k1"), image_name("k1") == image_name("k2"), len(image_name("k1"))
    (True, False, 24)
    """
    return hashlib.sha256(f"image of task {key}".encode()).hexdigest()[:24]


def task_payload(
    entry: QueueEntry, image_url: str, classes: Classes, evidence: str = "", words: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The fields of a task: key and image; in shown mode also given label, suggestion and reason, in class names.

    ``evidence`` is HTML that shows more in shown mode, ``words`` what stands for ``no label``, ``none`` and ``no
    reason``.

    >>> entry = QueueEntry("k", "s", 1, 0, "blind", "c1", "c2", "looks like c2")
    >>> task_payload(entry, "/i.png", Classes(("c1", "c2"), ("cat", "dog")))
    {'key': 'k', 'image': '/i.png'}
    """
    task = {"key": entry.key, "image": image_url}
    if stream_of(entry) == "blind":
        return task
    said = words or {}
    return task | {
        "given_label": classes.name(entry.given) or said.get("no label", "none yet"),
        "suggestion": classes.name(entry.suggested) or said.get("none", "none"),
        "reason": entry.reason or said.get("no reason", "no reason given"),
        "evidence": evidence or "<div></div>",
    }


def nearest_shown(entry: QueueEntry, labels: Mapping[str, str | None], each: int = 2) -> list[tuple[str, list[str]]]:
    """Which images a shown task shows beside its own: for the given and the suggested class the nearest samples' ids.

    ``labels`` maps sample ids to class ids. Classes without a near image are left out; a blind task shows none.
    """
    if stream_of(entry) == "blind":
        return []
    wanted = [c for c in dict.fromkeys((entry.given, entry.suggested)) if c is not None]
    found = [(c, [s for s in entry.related if labels.get(s) == c and s != entry.sample_id][:each]) for c in wanted]
    return [(class_id, near) for class_id, near in found if near]


def verdict_from_annotation(
    annotation: Mapping[str, Any],
    task: Mapping[str, Any],
    entry: QueueEntry,
    classes: Classes,
    people: Mapping[int, str],
    server_id: str,
) -> Verdict | Rejected:
    """The verdict in a Label Studio annotation of the entry's task.

    ``people`` maps user ids to who they are; ``server_id`` names the place that gave the annotation its id, so that
    an edited answer replaces its first form and no other. A skipped task becomes the answer ``skipped``. An answer
    that is no class of the project, or not exactly one, is rejected with the reason.
    """
    where = f"annotation {annotation.get('id')} of task {task.get('id')} in Label Studio"
    if annotation.get("id") is None:
        return Rejected(f"{where} has no id")
    at = _moment(annotation.get("updated_at") or annotation.get("created_at"))
    if at is None:
        return Rejected(f"{where} has no time")
    answer = _answer(annotation, classes)
    if answer is None:
        return Rejected(f"{where} answers {_said(annotation)!r}, which is no single class of this project; ask again")
    author = _user(annotation.get("completed_by"))
    editor = _user(annotation.get("updated_by"))
    edited = editor is not None and editor != author
    return Verdict(
        sample_id=entry.sample_id,
        answer=answer,
        person=_name(author, people),
        at=at,
        key=entry.key,
        source=_source(server_id, annotation["id"]),
        mode=entry.mode,
        iteration=entry.iteration,
        seconds=_seconds(annotation.get("lead_time")),
        note="; ".join(part for part in (
            f"edited by {_name(editor, people)}" if edited else "", _other(annotation) if answer == OTHER else ""
        ) if part),
    )  # fmt: skip


@dataclass(frozen=True)
class AnsweredTask:
    """A task of Label Studio as it was fetched.

    ``about`` holds its ``id``, ``key`` and ``updated_at``; ``origin`` says where the ids of its annotations come from
    (``server_id`` of ``verdict_from_annotation``); ``queue`` in which of our projects it is, ``None`` in none.
    """

    about: Mapping[str, Any]
    annotations: tuple[Mapping[str, Any], ...]
    origin: str
    queue: Queue | None = None


def withdrawn_answers(known: Sequence[Verdict], tasks: Sequence[AnsweredTask]) -> list[Verdict]:
    """A verdict ``withdrawn`` for each known one whose answer is gone from a task that is there (pure).

    ``known`` holds the latest verdict of each source, the task of each being told by its key's tasks in ``tasks``. A
    task that is not among ``tasks`` withdraws nothing.
    """
    there = {_source(task.origin, a.get("id")) for task in tasks for a in task.annotations}
    since = {(task.origin, str(task.about.get("key"))): task for task in tasks}
    gone = []
    for verdict in known:
        origin = origin_of(verdict.source)
        task = since.get((origin, verdict.key)) if origin else None
        if task is None or verdict.source in there or verdict.answer == WITHDRAWN:
            continue
        at = max(_moment(task.about.get("updated_at")) or verdict.at, verdict.at + timedelta(microseconds=1))
        gone.append(replace(verdict, answer=WITHDRAWN, at=at, seconds=None, note="deleted in Label Studio", id=0))
    return gone


def who_answered(
    recorded: Sequence[Verdict], tasks: Sequence[AnsweredTask], people: Mapping[int, str]
) -> dict[str, set[str]]:
    """Who has answered, by key: as the fetched tasks say, and of others as was recorded (pure).

    ``recorded`` holds the latest verdict of each source. Who skipped or answered nonsense was asked, too. A recorded
    answer that is gone from a task that is there does not count; one that is still there counts as that account's, so
    that a person whose name was erased is not two.
    """
    found: dict[str, set[str]] = {}
    for task in tasks:
        for annotation in task.annotations:
            found.setdefault(str(task.about["key"]), set()).add(person_of(annotation, people))
    seen = {_source(task.origin, a.get("id")) for task in tasks for a in task.annotations}
    seen |= {verdict.source for verdict in withdrawn_answers(recorded, tasks)}
    for verdict in recorded:
        if verdict.answer != WITHDRAWN and verdict.source not in seen:
            found.setdefault(verdict.key, set()).add(verdict.person)
    return found


def _source(origin: str, annotation: object) -> str:
    return f"ls:{origin}:annotation:{annotation}"


def origin_of(source: str) -> str | None:
    """Where the answer's id comes from; ``None`` for an answer that is not from Label Studio."""
    found = re.fullmatch(r"ls:(.+):annotation:\d+", source)
    return found[1] if found else None


def person_of(annotation: Mapping[str, Any], people: Mapping[int, str]) -> str:
    """Who gave an annotation, by user ids and what people are called."""
    return _name(user_of(annotation), people)


def user_of(annotation: Mapping[str, Any]) -> int | None:
    """The id of the user who gave an annotation."""
    return _user(annotation.get("completed_by"))


def judged_before(entries: Sequence[QueueEntry], recorded: Sequence[Verdict]) -> dict[str, set[str]]:
    """Which labelers have judged the image of an entry in answer to another one, by key; keys without any are absent.

    Who answered the entry itself may do so again, for instance after deleting the answer. Reviewers don't count.
    """
    said: dict[str, set[tuple[str, str]]] = {}
    for verdict in recorded:
        if verdict.mode != "review" and verdict.answer not in (SKIPPED, WITHDRAWN):
            said.setdefault(verdict.sample_id, set()).add((verdict.key, verdict.person))
    found = {e.key: {person for key, person in said.get(e.sample_id, ()) if key != e.key} for e in entries}
    return {key: people for key, people in found.items() if people}


def passed_over(user: int) -> dict[str, Any]:
    """An annotation that keeps a task from a user whom it is not meant for: skipped, in no time, without an answer.

    Label Studio gives nobody a task of theirs again, and asks others about one that somebody skipped. The annotation
    says nothing of what that user thinks of the image.
    """
    return {"completed_by": user, "was_cancelled": True, "result": [], "lead_time": 0.0, "ground_truth": False}


def is_passed_over(annotation: Mapping[str, Any]) -> bool:
    """Whether an annotation is one of ``passed_over``, and no person's.

    >>> is_passed_over(passed_over(3)), is_passed_over(passed_over(3) | {"lead_time": 1.5})
    (True, False)
    """
    skipped = bool(annotation.get("was_cancelled")) and not annotation.get("result")
    return skipped and annotation.get("lead_time") == 0


def time_taken(said: str | float) -> float | None:
    """How many seconds somebody took, from a number or a cell of a table; ``None`` where that is no possible time.

    >>> time_taken("2.5"), time_taken("-1"), time_taken("nan"), time_taken("inf")
    (2.5, None, None, None)
    """
    try:
        seconds = float(said)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < math.inf else None


def offered(classes: Classes) -> str:
    """What an answer in a table may say, in words.

    >>> offered(Classes(("c1", "c2"), ("cat", "dog")))
    "'cat', 'dog', 'ambiguous', 'bad image' or 'other'"
    """
    *first, last = (f"'{answer}'" for answer in (*classes.names, *_SPECIAL))
    return f"{', '.join(first)} or {last}"


def choice_result(answer: str) -> list[dict[str, Any]]:
    """The result that the labeling screen makes of an answer (a class id or a special answer)."""
    value = {"choices": [answer]}
    return [{"from_name": CONTROL, "to_name": "image", "type": "choices", "value": value, "origin": "manual"}]


def _answer(annotation: Mapping[str, Any], classes: Classes) -> str | None:
    if annotation.get("was_cancelled"):
        return SKIPPED
    said = _said(annotation)
    known = len(said) == 1 and (said[0] in classes.ids or said[0] in _SPECIAL)
    return str(said[0]) if known else None


def _said(annotation: Mapping[str, Any]) -> list[Any]:
    """Every choice in the annotation's result, wherever something of that shape is found."""
    result = annotation.get("result")
    parts = [p for p in result if isinstance(p, Mapping)] if isinstance(result, list) else []
    answers = [p.get("value") for p in parts if p.get("from_name") == CONTROL]
    choices = [a.get("choices") for a in answers if isinstance(a, Mapping)]
    return [choice for listed in choices if isinstance(listed, list) for choice in listed]


def _other(annotation: Mapping[str, Any]) -> str:
    """What a person wrote beside the answer ``other``, on one line."""
    result = annotation.get("result")
    parts = [p for p in result if isinstance(p, Mapping)] if isinstance(result, list) else []
    texts = [p["value"].get("text") for p in parts
             if p.get("from_name") == OTHER_CONTROL and isinstance(p.get("value"), Mapping)]  # fmt: skip
    lines = [line for text in texts for line in (text if isinstance(text, list) else [text]) if isinstance(line, str)]
    return re.sub(r"\s+", " ", " ".join(lines)).strip()[:_LONGEST_NOTE]


def _user(who: object) -> int | None:
    """The id of a user, which Label Studio gives as a number or within a description."""
    number = who.get("id") if isinstance(who, Mapping) else who
    return number if isinstance(number, int) else None


def _name(user: int | None, people: Mapping[int, str]) -> str:
    return people.get(user, f"user {user}") if user is not None else "unknown"


def _seconds(lead_time: object) -> float | None:
    return time_taken(lead_time) if isinstance(lead_time, int | float) else None


def _moment(text: object) -> datetime | None:
    if isinstance(text, datetime):
        return text if text.tzinfo else text.replace(tzinfo=UTC)
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
