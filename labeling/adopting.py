"""A Label Studio project that people made themselves: its tasks, images, answers and people, as they are right now.

It is only read. Its classes are those of its one question with choices, its images those of the field that its image
tag shows.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree as Xml

import httpx

from curation.errors import DataError, LabelStudioError
from curation.records import SPECIAL_ANSWERS, Classes, Progress, Verdict
from curation.runs import write_whole
from labeling.exchange import (
    alike_addresses,
    by_file_name,
    choices_in,
    in_our_words,
    not_told_apart,
    own_path,
    path_in,
    sample_at,
    stand_in_entry,
    told,
)
from labeling.listing import listed
from labeling.server import Connection
from labeling.tasks import AnsweredTask, Rejected, verdict_from_annotation, withdrawn_answers
from labeling.web import faults_as_ours, token_client

_PAGE = 500
_FIELDS = (
    "id,data,annotations,result,completed_by,was_cancelled,lead_time,created_at,updated_at,updated_by,total_annotations"
)


@dataclass(frozen=True)
class TheirProject:
    """A Label Studio project as it was found; ``image_field`` names the field of its tasks that holds the image."""

    number: int
    title: str
    created_at: str
    class_names: tuple[str, ...]
    image_field: str


@dataclass(frozen=True)
class TheirTask:
    """A task: the path that its image gets here, its address, its annotations, and the whole as it was read."""

    path: str
    address: str
    annotations: tuple[Mapping[str, Any], ...]
    whole: Mapping[str, Any]

    @property
    def label(self) -> str:
        """What most people chose by their last answers, the first of several; empty where nobody chose one class."""
        last = {str(a.get("completed_by")): choices_in(a) for a in self.annotations if not a.get("was_cancelled")}
        votes = Counter(said[0] for said in last.values() if len(said) == 1 and said[0] not in SPECIAL_ANSWERS)
        return max(votes, key=lambda name: votes[name]) if votes else ""


def find_project(connection: Connection, which: str) -> TheirProject:
    """The project with this number or title. Raises LabelStudioError where there is none, or several of that title."""
    with faults_as_ours(connection.url, "looking for a project"), token_client(connection.url, connection.token) as ls:
        listed = ls.get("/api/projects/", params={"page_size": 1000}).raise_for_status().json()["results"]
        found = [p for p in listed if str(p["id"]) == which] or [p for p in listed if p["title"] == which]
        if len(found) != 1:
            known = ", ".join(f"{p['id']} '{p['title']}'" for p in listed[:20]) or "none"
            raise LabelStudioError(
                f"{len(found) or 'no'} projects in Label Studio at {connection.url} are called '{which}'; name one by "
                f"its number; there are: {known}"
            )
        whole = ls.get(f"/api/projects/{found[0]['id']}/").raise_for_status().json()
    names, image = read_screen(str(whole["label_config"]), str(whole["title"]))
    return TheirProject(int(whole["id"]), str(whole["title"]), str(whole["created_at"]), names, image)


def read_screen(label_config: str, title: str) -> tuple[tuple[str, ...], str]:
    """The class names and the image field of a Label Studio screen (pure); DataError where it asks for no class.

    >>> read_screen('<View><Image value="$pic"/><Choices><Choice value="cat"/></Choices></View>', "Pets")
    (('cat',), 'pic')
    """
    try:
        root = Xml.fromstring(label_config)
    except Xml.ParseError:
        raise DataError(f"project '{title}' has a screen that can't be read; correct its XML in Label Studio") from None
    image = next((tag.get("value", "") for tag in root.iter("Image") if tag.get("value", "").startswith("$")), "")
    questions = [[c.get("alias") or c.get("value") or "" for c in q.iter("Choice")] for q in root.iter("Choices")]
    if not image or len(questions) != 1:
        raise DataError(
            f"project '{title}' can't be adopted: it must show one image and ask one question with choices, got "
            f"{'an image' if image else 'no image'} and {len(questions)} such questions"
        )
    return tuple(name for name in questions[0] if name and name not in SPECIAL_ANSWERS), image.removeprefix("$")


def read_tasks(connection: Connection, project: TheirProject) -> list[TheirTask]:
    """All of its tasks, by number, with all answers."""
    asked: dict[str, Any] = {
        "project": project.number, "page_size": _PAGE, "fields": "all", "include": _FIELDS,
        "query": json.dumps({"ordering": ["tasks:id"]}),
    }  # fmt: skip
    with faults_as_ours(connection.url, "reading tasks"), token_client(connection.url, connection.token) as ls:
        return their_tasks(listed(ls, asked), project.image_field)


def their_tasks(found: Iterable[Mapping[str, Any]], image_field: str) -> list[TheirTask]:
    """Tasks as Label Studio lists them, without those that show no image (pure).

    Images whose addresses share a path get one of their own each (``own_path``), so that it says whose it is even where
    another task comes or goes.
    """
    tasks = [(str(address), t) for t in found if (address := (t.get("data") or {}).get(image_field))]
    sharing = Counter(path_in(address) for address in {address for address, _ in tasks})
    return [
        TheirTask(
            path if sharing[path := path_in(address)] == 1 else own_path(address),
            address, tuple(task.get("annotations") or ()), task,
        )
        for address, task in tasks
    ]  # fmt: skip


def fetch_images(
    connection: Connection, tasks: Sequence[TheirTask], folder: Path, progress: Progress | None = None
) -> list[str]:
    """Bring the images of tasks into a folder, under their paths; those that are there already are left alone.

    Returns in sentences what could not be had. The token is shown to Label Studio alone, not to other hosts.
    """
    missing = []
    with token_client(connection.url, connection.token) as ours, httpx.Client(follow_redirects=True) as others:

        def fetched(address: str) -> bytes:
            if address[:5].lower() == "data:":
                return bytes_in(address)
            here = address.startswith((f"{connection.url}/", "/"))
            answer = (ours if here else others).get(address, follow_redirects=not here)
            if here and answer.has_redirect_location:  # to a storage, which gets no token
                answer = others.get(answer.headers["location"])
            return answer.raise_for_status().content

        for number, task in enumerate(tasks):
            file = folder / task.path
            if not file.is_file():
                try:
                    content = fetched(task.address)
                except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                    missing.append(f"the image {told(task.address)} can't be had ({_why(error)})")
                    continue
                write_whole(file, content)
            if progress:
                progress("fetching images", number + 1, len(tasks))
    return missing


def bytes_in(address: str) -> bytes:
    """What a ``data:`` address holds (RFC 2397); ValueError where that can't be told.

    >>> bytes_in("data:text/plain;base64,SGk="), bytes_in("data:,a%20b")
    (b'Hi', b'a b')
    """
    about, comma, held = address.partition(",")
    if not comma:
        raise ValueError("it holds nothing")
    raw = unquote_to_bytes(held)
    if not about.lower().endswith(";base64"):
        return raw
    try:
        return base64.b64decode(raw)
    except binascii.Error:
        raise ValueError("what it holds is cut off") from None


def _why(error: Exception) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return type(error).__name__ if isinstance(error, httpx.HTTPError) else str(error)


def without_sample(tasks: Sequence[TheirTask], paths: Mapping[str, Sequence[str]]) -> list[TheirTask]:
    """The tasks whose images are none of the samples that were fetched before (pure); ``paths`` by sample id."""
    samples = _whole_paths(paths)
    alike = alike_addresses((task.address for task in tasks), samples)
    return [t for t in tasks if sample_at(t.address, samples) is None or t.address != alike[t.address][0]]


def _whole_paths(paths: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    return {name: ids for name, ids in by_file_name(paths).items() if name.startswith("/")}


def read_people(connection: Connection, names: Mapping[str, str]) -> dict[int, str]:
    """Who the users are, by id: as ``names`` (by email) calls them, else by email."""
    with faults_as_ours(connection.url, "reading people"), token_client(connection.url, connection.token) as ls:
        users = ls.get("/api/users/").raise_for_status().json()
    return {int(u["id"]): names.get(u["email"], u["email"]) for u in users}


def verdicts_of(
    project: TheirProject,
    tasks: Sequence[TheirTask],
    classes: Classes,
    paths: Mapping[str, Sequence[str]],
    people: Mapping[int, str],
    known: Sequence[Verdict],
    *,
    iteration: int,
    fetched: bool = False,
) -> tuple[list[Verdict], list[str]]:
    """What the project's answers say of our samples, and in sentences why some of them don't count (pure).

    ``paths`` are the samples' paths by id; images that were ``fetched`` from tasks are known by whole paths alone. Of
    ``known`` verdicts, those whose answers were deleted there come back as withdrawn; a task that is gone withdraws
    nothing. The same answers give the same sources. Of addresses that share a path and the sample of that path, the
    first is the one whose image was fetched; the others don't count.
    """
    samples, origin = _whole_paths(paths) if fetched else by_file_name(paths), f"{project.created_at}-{project.number}"
    verdicts: list[Verdict] = []
    aside: list[str] = []
    there = []
    alike = alike_addresses((task.address for task in tasks), samples)
    for task in tasks:
        sample_id = sample_at(task.address, samples)
        if sample_id is None:
            advice = "; `curate adopt` fetches it" if fetched else ""
            aside.append(f"task {task.whole['id']} of project '{project.title}' is of no image of this project{advice}")
            continue
        if task.address != alike[task.address][0]:
            aside.append(f"project '{project.title}': {not_told_apart(task.whole, task.address)}")
            continue
        entry = stand_in_entry(sample_id, iteration)
        about = {"id": task.whole["id"], "key": entry.key, "updated_at": task.whole.get("updated_at")}
        there.append(AnsweredTask(about, task.annotations, origin))
        for annotation in task.annotations:
            said = in_our_words(annotation, classes)
            found = verdict_from_annotation(said, about, entry, classes, people, origin)
            if isinstance(found, Rejected):
                aside.append(found.reason)
            else:
                verdicts.append(found)
    return verdicts + withdrawn_answers(known, there), aside
