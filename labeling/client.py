"""The door to label_studio_sdk: ask people through Label Studio, and fetch what they say, exactly once.

Label Studio keeps nothing unique and may have stored tasks whose arrival it never confirmed. So a task carries the
key of its queue entry, keys that are there are looked up before anything is sent, and nothing is sent again without
looking. A curation project has two Label Studio projects, which every iteration uses again: one where tasks show the
given label, one where they do not. Where people have queues of their own, each of them has two (``labeling.queues``).
Should two of one kind have been made at once, the younger is the other's twin: answers in it count, it gets no more.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError

from curation.errors import ConfigError, DataError, LabelStudioError
from curation.records import WITHDRAWN, Classes, Progress, QueueEntry, Verdict
from labeling.listing import CHUNK, chunks_of, task_condition, task_filter, tasks_of_keys
from labeling.queues import PersonQueue, Plan, plan_apart, plan_together, progress_of
from labeling.screen import Texts, evidence, labeling_config, read_texts
from labeling.served import SHOWN_BY_BROWSERS, as_shown, place
from labeling.server import Connection
from labeling.storages import check_resolved, check_storage, check_web_images, is_web, some_of
from labeling.tasks import (
    STREAMS,
    AnsweredTask,
    Queue,
    Rejected,
    Stream,
    image_name,
    is_passed_over,
    judged_before,
    nearest_shown,
    origin_of,
    owner_of,
    passed_over,
    stream_of,
    task_payload,
    user_of,
    verdict_from_annotation,
    who_answered,
    withdrawn_answers,
)
from labeling.web import faults_as_ours, token_client

_T = TypeVar("_T")
_ONCE: Any = {"max_retries": 0}
#: Tasks in one request to import.
_IMPORTED = 1000
_UPLOADS = 50
_TRIES = 3
#: After a lost connection Label Studio may still be storing what it was sent; it needs less than this for a chunk.
_SETTLE_SECONDS = 5.0
_LONGEST_TITLE, _LONGEST_NAME = 50, 30
log = logging.getLogger(__name__)


class LabelStudioAnnotator:
    """Asks people in Label Studio.

    ``project_id`` is the curation project's own id, by which its two Label Studio projects are found again;
    ``opinions`` how many people see each task; ``guide`` says what a class means and ``examples`` are images of it, by
    class id; ``labels`` are class ids by sample id, to show what lies near; ``person_names`` how people are called in
    verdicts, by email (as they are, where missing); ``retired`` are class ids that nobody is asked for any more.
    ``earlier`` gives all entries that were ever sent, ``recorded`` the verdicts that the ledger has: who has judged an
    image is not asked about it again where another one of ``labelers`` is here. ``own_queues`` gives those people who
    have a queue each, among whom a batch is divided, as of now; where there are none, all share. ``addresses`` are
    addresses of image files in a storage that Label Studio reads (``labeling.storages``). ``sending`` keeps others who
    send for the same curation project out while it is held.
    After ``collect``, ``rejected`` holds the reasons of answers that could not count. Every fault of Label Studio is a
    LabelStudioError.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        project_name: str,
        project_id: str,
        classes: Classes,
        opinions: int = 1,
        guide: Mapping[str, str] | None = None,
        examples: Mapping[str, Sequence[Path]] | None = None,
        labels: Mapping[str, str | None] | None = None,
        person_names: Mapping[str, str] | None = None,
        retired: Sequence[str] = (),
        labelers: Collection[str] = (),
        own_queues: Callable[[], Sequence[str]] = tuple,
        earlier: Callable[[], Sequence[QueueEntry]] = tuple,
        recorded: Callable[[], Sequence[Verdict]] = tuple,
        addresses: Mapping[Path, str] | None = None,
        texts: Texts | None = None,
        sending: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.connection = connection
        self.project_name = project_name
        self.project_id = project_id
        self.classes = classes
        self.opinions = opinions
        self.guide = dict(guide or {})
        self.examples = {class_id: tuple(files) for class_id, files in (examples or {}).items()}
        self.labels = dict(labels or {})
        self.person_names = dict(person_names or {})
        kept = [(class_id, name) for class_id, name in classes if class_id not in retired]
        self._asked = Classes(tuple(c for c, _ in kept), tuple(n for _, n in kept))
        self.labelers = frozenset(labelers)
        self._own_queues = own_queues
        self.stored_at = dict(addresses or {})
        self._earlier, self._recorded, self._sending = earlier, recorded, sending
        self.texts = texts or read_texts()
        self.rejected: tuple[str, ...] = ()
        self._client: Any = None

    # --- what the loop calls

    def send(self, entries: Sequence[QueueEntry], files: Mapping[str, Path], progress: Progress | None = None) -> None:
        """Make these entries the open batch; entries that are there already are left alone.

        ``files`` maps sample ids to images. A task of an earlier batch that nobody has answered becomes the task of the
        same image in this batch, in its old place; where this batch has none, it is withdrawn, so that people are not
        asked what nobody waits for, unless somebody is at work on it. Open tasks of people who have no queue any more
        go to the others. Raises DataError where an image is missing, ConfigError where a queue's person has no account.
        """
        for entry in entries:
            _check_file(entry, files)
        with self._sending(), self._faults("sending tasks"):
            marked = _patiently(self._marked)
            found = {queue: project for queue, (project, *_) in marked.items()}
            younger = {queue: projects[1:] for queue, projects in marked.items()}
            twins = [(queue, twin) for queue in younger for twin in self._settle_twins(queue, younger[queue])]
            plan = _patiently(partial(self._plan, entries, found, twins))
            projects, stuck = {}, {}
            for queue in dict.fromkeys([*plan.wanted, *plan.there]):
                wanted, kept = plan.wanted.get(queue, ()), plan.kept.get(queue, frozenset())
                project = _patiently(partial(self._open, queue, found.get(queue), bool(wanted), bool(kept)))
                if project is None:
                    continue
                if wanted:
                    self._check_addresses(project, queue, wanted, files)
                settle = partial(self._settle_earlier, project, queue, wanted, kept, files, used=queue in plan.wanted)
                stuck[queue] = _patiently(settle)
                projects[queue] = project
            plan = plan.without(stuck)
            total, done = sum(map(len, plan.wanted.values())), 0
            for queue, wanted in ((q, plan.wanted[q]) for q in projects if plan.wanted.get(q)):
                for chunk in chunks_of(wanted, _IMPORTED):
                    self._send_chunk(projects[queue], queue, chunk, files, look=bool(projects[queue].task_number))
                    if chunk[0] is wanted[0]:
                        self._check_resolved(projects[queue], queue, chunk[0], files)
                    done += len(chunk)
                    if progress:
                        progress("sending tasks", done, total)
                if not queue.owner:
                    _patiently(partial(self._pass_over, projects[queue], wanted, plan.asked))
                _patiently(partial(self._reopen, projects[queue], queue, wanted, plan))

    def collect(self, entries: Sequence[QueueEntry], known: Sequence[Verdict] = ()) -> list[Verdict]:
        """Every answer to these entries that is there now, in their order; answers that can't count go to ``rejected``.

        An edited answer has the source of its first form and a later time. ``known`` are verdicts recorded before: one
        whose answer somebody has deleted since comes back as ``withdrawn``, after the others. An answer that is gone
        with its task, or with the whole project, was not deleted by the person who gave it, and stands.
        """
        verdicts: list[Verdict] = []
        rejected: list[str] = []
        with self._faults("fetching answers"):
            answers = self._answers(entries)
            people = self._people() if any(found.annotations for copies in answers.values() for found in copies) else {}
        for entry in entries:
            for task in answers.get(entry.key, ()):
                for annotation in task.annotations:
                    found = verdict_from_annotation(annotation, task.about, entry, self.classes, people, task.origin)
                    if isinstance(found, Rejected):
                        rejected.append(found.reason)
                        log.warning("%s", found.reason)
                    else:
                        verdicts.append(found)
        self.rejected = tuple(rejected)
        return verdicts + withdrawn_answers(known, _all_tasks(answers))

    def waiting(self, entries: Sequence[QueueEntry]) -> int:
        """How many opinions on these entries are still to come; who skipped or answered nonsense was asked, too."""
        with self._faults("counting answers"):
            asked = self._who_answered(self._answers(entries))
        return sum(max(0, e.opinions - len(asked.get(e.key, ()))) for e in entries)

    def queues(self, entries: Sequence[QueueEntry]) -> list[PersonQueue]:
        """How far everybody is who has a queue, and where it is, then whoever else has answered; none where all share.

        Also counts answers that were not collected yet.
        """
        own_queues = self._own_queues()
        if not own_queues:
            return []
        with self._faults("counting answers"):
            marked = self._marked()
            answers = self._answers(entries, _each(marked))
            asked = self._who_answered(answers)
        rows = progress_of(entries, own_queues, _all_tasks(answers), asked)
        return [
            PersonQueue(
                person, given, of,
                {q.stream: self._address(first) for q, (first, *_) in marked.items() if q.owner == owner_of(person)},
            )
            for person, given, of in rows
        ]  # fmt: skip

    def _who_answered(self, answers: Mapping[str, Sequence[AnsweredTask]]) -> dict[str, set[str]]:
        """Who has answered, by key: in Label Studio now, or before their task vanished."""
        tasks = _all_tasks(answers)
        people = self._people() if any(task.annotations for task in tasks) else {}
        return who_answered(self._recorded(), tasks, people)

    def _answered_by(self) -> dict[str, set[str]]:
        """Who has answered, by key, as the ledger has it."""
        people: dict[str, set[str]] = defaultdict(set)
        for verdict in self._recorded():
            if verdict.answer != WITHDRAWN:
                people[verdict.key].add(verdict.person)
        return people

    def address(self) -> str | None:
        """Where a labeler begins; ``None`` where nothing has been sent."""
        return next(iter(self.addresses().values()), None)

    def addresses(self) -> dict[str, str]:
        """Where all labelers go, by stream (``shown`` first); only streams that hold open tasks.

        Where people have queues of their own, ``queues`` says where each of them goes.
        """
        with self._faults("looking up the labeling projects"):
            found = {} if self._own_queues() else self._projects()
        return {
            queue.stream: self._address(project)
            for queue, project in found.items()
            if not queue.owner and (project.task_number or 0) > (project.finished_task_number or 0)
        }

    def _address(self, project: Any) -> str:
        return f"{self.connection.address}/projects/{project.id}/data?labeling=1"

    # --- who is asked what

    def _plan(
        self, entries: Sequence[QueueEntry], projects: Mapping[Queue, Any], twins: Sequence[tuple[Queue, Any]]
    ) -> Plan:
        """What belongs where; where nobody has a queue of their own, without looking at the tasks that are there."""
        own_queues = self._own_queues()
        if not own_queues and not twins and not any(queue.owner for queue in projects):
            return plan_together(entries, self._answered_by())
        people, answers, recorded = self._people(), self._answers(entries, projects.items()), self._recorded()
        for person in own_queues:
            if person not in people.values():
                raise ConfigError(
                    f"setting 'review.people' names '{person}', who has no account in the Label Studio at "
                    f"{self.connection.url}; make one with `curate people DIR --add` or correct the name"
                )
        tasks = _all_tasks(answers)
        both = [*tasks, *_all_tasks(self._answers(entries, twins))]
        deleted = {(str(origin_of(v.source)), v.key) for v in withdrawn_answers(recorded, both)}
        answered, judged = who_answered(recorded, both, people), judged_before(entries, recorded)
        here = Counter(task.queue for task in tasks)
        others = {queue: p for queue, p in projects.items() if queue.owner and (p.task_number or 0) > here[queue]}
        old = self._same_images(others, entries)
        plan = plan_apart(entries, own_queues, tasks, answered, judged, deleted, old)
        kept = dict(plan.kept)
        for queue in {queue for queue, _ in twins}:  # what was answered in the twin is not asked here as well
            still = {str(t.about["key"]) for t in tasks if t.queue == queue and not t.annotations}
            still -= {key for _, key in deleted}
            kept[queue] = kept.get(queue, frozenset()) - still
        return replace(plan, kept=kept, there={queue: plan.there.get(queue, frozenset()) for queue in projects})

    def _same_images(self, projects: Mapping[Queue, Any], entries: Sequence[QueueEntry]) -> dict[str, set[Queue]]:
        """In which of these queues an open task of an earlier batch asks about the image of an entry, by key."""
        sample_of, keys = {e.key: e.sample_id for e in self._earlier()}, {e.key for e in entries}
        wanted = {(stream_of(e), e.sample_id): e.key for e in entries}
        found: dict[str, set[Queue]] = defaultdict(set)
        for queue, project in projects.items():
            for task in self._unanswered(project):
                key = str((task.data or {}).get("key"))
                if key not in keys and (queue.stream, sample_of.get(key, "")) in wanted:
                    found[wanted[queue.stream, sample_of[key]]].add(queue)
        return found

    def _reopen(self, project: Any, queue: Queue, wanted: Sequence[QueueEntry], plan: Plan) -> None:
        """Ask a person all the same whose task somebody else has answered, where their opinion is still to come."""
        keys = [e.key for e in wanted if queue.owner and e.key in plan.kept.get(queue, ())]
        with token_client(self.connection.url, self.connection.token) as client:
            for task in list(tasks_of_keys(client, project, keys)):
                room = 1 + sum(not a.get("was_cancelled") for a in task.get("annotations") or [])
                if (task.get("overlap") or 0) < room:
                    change = {"overlap": room, "is_labeled": False}
                    client.patch(f"/api/tasks/{task['id']}/", json=change).raise_for_status()

    # --- the Label Studio projects

    def _open(self, queue: Queue, known: Any, needed: bool, answered: bool) -> Any:
        """The queue's project, made ready where tasks are to come or were answered; ``None`` where it needs none.

        ``known`` is the project as it was found, ``None`` where there was none; then it is looked for again.
        """
        if known is None and needed:
            known = self._projects().get(queue)
        return self._ready(queue, known) if needed or (known is not None and answered) else known

    def _ready(self, queue: Queue, project: Any) -> Any:
        """The queue's project, made where there is none, with the screen for the classes as they are now."""
        opinions = 1 if queue.owner else self.opinions
        settings: dict[str, Any] = {"label_config": self._screen(queue.stream, {}), "maximum_annotations": opinions}
        if project is None:
            project = self._sdk.projects.create(
                title=self._title(queue),
                description=self._mark(queue),
                sampling="Sequential sampling",
                show_skip_button=False,
                enable_empty_annotation=False,
                show_collab_predictions=False,
                show_instruction=False,
                request_options=_ONCE,
                **settings,
            )
        if self.connection.images is not None:
            self._serve(project, self.connection.images / queue.name)
        settings["label_config"] = self._screen(queue.stream, self._examples(project, queue))
        if any(getattr(project, name) != value for name, value in settings.items()):
            self._sdk.projects.update(project.id, **settings)
        return project

    def _title(self, queue: Queue) -> str:
        """What people find the project by: whose it is first, where it is somebody's."""
        word = self.texts.title_shown if queue.stream == "shown" else self.texts.title_blind
        whose = {owner_of(person): person for person in self._own_queues()}.get(queue.owner, "")
        if not whose:
            return f"{self.project_name[: _LONGEST_TITLE - len(word) - 3]} · {word}"
        return f"{whose[:_LONGEST_NAME]} · {word} · {self.project_name}"[:_LONGEST_TITLE]

    def _screen(self, stream: Stream, examples: Mapping[str, Sequence[str]]) -> str:
        send = "Ctrl+Enter" if self.connection.images is None else "Enter"  # a key of our own Label Studio alone
        return labeling_config(
            self._asked, mode=stream, texts=self.texts, guide=self.guide, examples=examples, near=self._shows_near,
            send=send,
        )  # fmt: skip

    @property
    def _shows_near(self) -> bool:
        """Whether images beside the one that is asked about can be shown: not those uploaded or of cloud storages."""
        return self.connection.images is not None or any(is_web(address) for address in self.stored_at.values())

    def _by_address(self, stream: Stream) -> bool:
        """Whether a stream's images come from a storage; not blind ones, since an address may tell class or image."""
        return self.connection.images is None and stream == "shown" and bool(self.stored_at)

    def _projects(self) -> dict[Queue, Any]:
        """The project of each queue that has one, shown ones first; the oldest, should there be two."""
        return {queue: first for queue, (first, *_) in self._marked().items()}

    def _marked(self) -> dict[Queue, list[Any]]:
        """All projects of each queue that has one, shown ones first; of each queue, the oldest first."""
        marked: dict[Queue, list[Any]] = defaultdict(list)
        shape = re.compile(rf"\[{re.escape(self.project_id)}/({'|'.join(STREAMS)})(?:-([0-9a-f]{{12}}))?\]")
        for project in sorted(self._sdk.projects.list(page_size=100), key=lambda p: p.id):
            if found := shape.search(project.description or ""):
                marked[Queue(cast(Stream, found[1]), found[2] or "")].append(project)
        return dict(sorted(marked.items(), key=lambda pair: (STREAMS.index(pair[0].stream), pair[0].owner)))

    def _settle_twins(self, queue: Queue, twins: Sequence[Any]) -> list[Any]:
        """Withdraw from a queue's further projects what nobody has answered; those where something is left.

        Two who sent from different machines, or before one waited for the other, have both made one. Others go.
        """
        kept = []
        for twin in twins:
            open_now = _patiently(partial(self._unanswered, twin))
            _patiently(partial(self._delete_untouched, twin, [t.id for t in open_now], begun=False))
            if any(True for _ in self._sdk.tasks.list(project=twin.id, page_size=1, fields="task_only", include="id")):
                kept.append(twin)
            else:
                log.warning("project %s in Label Studio is a second one of %s; deleted", twin.id, queue.name)
                self._sdk.projects.delete(twin.id)
        return kept

    def _mark(self, queue: Queue) -> str:
        return f"Curation Toolkit finds this project by its mark [{self.project_id}/{queue.name}]; leave it here."

    def _serve(self, project: Any, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        storages = self._sdk.import_storage.local.list(project=project.id)
        if not any(storage.path == str(folder) for storage in storages):
            self._sdk.import_storage.local.create(
                project=project.id, path=str(folder), use_blob_urls=True, request_options=_ONCE
            )

    # --- sending

    def _send_chunk(
        self, project: Any, queue: Queue, chunk: Sequence[QueueEntry], files: Mapping[str, Path], *, look: bool
    ) -> None:
        """Import what is missing of a chunk; ``look`` first, and again whenever it is not sure that all has arrived."""
        missing = list(chunk)
        for attempt in range(_TRIES):
            if look or attempt:
                present = _patiently(lambda: self._present(project, [e.key for e in chunk]))
                missing = [e for e in chunk if e.key not in present]
            if not missing:
                return
            try:
                payloads: Any = self._payloads(project, queue, missing, files)
                sent = self._sdk.projects.import_tasks(project.id, request=payloads, request_options=_ONCE)
            except (httpx.HTTPError, ApiError) as fault:
                if attempt + 1 == _TRIES or not _may_pass(fault):
                    raise
                time.sleep(_SETTLE_SECONDS)
            else:
                if sent.task_count == len(missing):
                    return
        if {e.key for e in chunk} - self._present(project, [e.key for e in chunk]):
            raise LabelStudioError(
                f"Label Studio at {self.connection.url} took tasks but does not have them; see its log and try again"
            )

    def _present(self, project: Any, keys: Sequence[str]) -> set[str]:
        """Which keys have a task; a second task of one key is deleted where nobody has answered it."""
        tasks: dict[str, list[Any]] = defaultdict(list)
        for chunk in chunks_of(keys, CHUNK):
            for task in self._tasks(project, chunk, fields="task_only", include="id,data,total_annotations"):
                tasks[task.data["key"]].append(task)
        for copies in tasks.values():
            kept, *extra = sorted(copies, key=lambda t: (-(t.total_annotations or 0), t.id))
            for task in extra:
                if not task.total_annotations:
                    log.warning("task %s in Label Studio repeats task %s; deleted", task.id, kept.id)
                    self._sdk.tasks.delete(task.id)
        return set(tasks)

    def _payloads(
        self, project: Any, queue: Queue, entries: Sequence[QueueEntry], files: Mapping[str, Path]
    ) -> list[dict[str, Any]]:
        """The tasks of these entries, their images put where browsers get them."""
        near = {e.key: nearest_shown(e, self.labels) if self._shows_near else [] for e in entries}
        wanted = {image_name(e.key): files[e.sample_id] for e in entries}
        for entry in entries:
            beside = [s for _, samples in near[entry.key] for s in samples if s in files and files[s].is_file()]
            wanted |= {_near_name(entry.key, s): files[s] for s in beside}
        addresses = self._publish(project, queue, wanted)
        words = {"no label": self.texts.no_label, "none": self.texts.none, "no reason": self.texts.no_reason}
        tasks = []
        for entry in entries:
            shown = [
                (self.classes.name(c), [addresses[n] for s in samples if (n := _near_name(entry.key, s)) in addresses])
                for c, samples in near[entry.key]
            ]
            html = evidence(shown, self.texts)
            address = addresses[image_name(entry.key)]
            tasks.append({"data": task_payload(entry, address, self.classes, html, words)})
        return tasks

    def _pass_over(self, project: Any, entries: Sequence[QueueEntry], asked: Mapping[str, Collection[str]]) -> None:
        """Keep tasks from those who have judged the image: a further opinion has to be somebody else's.

        ``asked`` says who has answered the entry itself, in another queue.
        """
        unwanted = judged_before(entries, self._recorded())
        for entry in entries:
            if found := {*unwanted.get(entry.key, ()), *asked.get(entry.key, ())}:
                unwanted[entry.key] = found
        if not unwanted:
            return
        people = self._people()
        here = self.labelers & set(people.values())
        unwanted = {key: names for key, names in unwanted.items() if here - names}
        with token_client(self.connection.url, self.connection.token) as client:
            for task in list(tasks_of_keys(client, project, list(unwanted))):
                there = {user_of(a) for a in task.get("annotations") or []}
                for user in (
                    u for u, name in people.items() if name in unwanted[task["data"]["key"]] and u not in there
                ):
                    client.post(f"/api/tasks/{task['id']}/annotations/", json=passed_over(user)).raise_for_status()

    def _publish(self, project: Any, queue: Queue, images: Mapping[str, Path]) -> dict[str, str]:
        """Put images where browsers get them; their addresses by the names that they are given."""
        folder = self.connection.images
        if folder is None:
            stored = {
                n: self.stored_at[f]
                for n, f in images.items()
                if self._by_address(queue.stream) and f in self.stored_at
            }
            return stored | self._upload(project, {n: f for n, f in images.items() if n not in stored})
        return {
            name: f"/data/local-files/?d={queue.name}/{place(file, folder / queue.name, name)}"
            for name, file in images.items()
        }

    def _upload(self, project: Any, images: Mapping[str, Path]) -> dict[str, str]:
        """Upload images to a server whose disk we do not share; their addresses by name."""
        addresses: dict[str, str] = {}
        path = f"/api/projects/{project.id}"
        with token_client(self.connection.url, self.connection.token) as client:
            for chunk in chunks_of(list(images.items()), _UPLOADS):
                parts = [(name, as_shown(file, name)) for name, file in chunk]
                sent = client.post(
                    f"{path}/import", params={"commit_to_project": "false"}, files=parts, timeout=300
                ).raise_for_status()
                ids = sent.json()["file_upload_ids"]
                listed = client.get(f"{path}/file-uploads", params={"ids": json.dumps(ids)}).raise_for_status().json()
                for name, _ in chunk:
                    addresses[name] = next(f"/data/{u['file']}" for u in listed if name in u["file"])
        return addresses

    def _examples(self, project: Any, queue: Queue) -> dict[str, list[str]]:
        """The addresses of the guide's example images, by class id; those that the screen has already are kept."""
        names = {_example_name(class_id, file): file for class_id, listed in self.examples.items() for file in listed}
        there = dict(re.findall(r"src=&quot;([^&]*?([0-9a-f]{24})[^&]*)&quot;", project.label_config or ""))
        known = {name: address for address, name in there.items() if name in names}
        missing = {name: file for name, file in names.items() if name not in known and file.is_file()}
        handed_on_by_task = self._by_address(queue.stream) and not self._shows_near  # a screen can't name such images
        known |= self._upload(project, missing) if handed_on_by_task else self._publish(project, queue, missing)
        return {
            class_id: [known[n] for file in listed if (n := _example_name(class_id, file)) in known]
            for class_id, listed in self.examples.items()
        }

    def _settle_earlier(
        self,
        project: Any,
        queue: Queue,
        wanted: Sequence[QueueEntry],
        kept: Collection[str],
        files: Mapping[str, Path],
        *,
        used: bool,
    ) -> set[str]:
        """Give tasks that nobody has answered and that don't belong here to this batch, or withdraw them with images.

        Returns the keys of those that stay: somebody is at work on them, or has answered in this moment. In a queue
        that is not ``used`` any more nobody is thought to be at work: who is away may have left a task half done.
        """
        keys = {e.key for e in wanted} | set(kept)
        old = [t for t in self._unanswered(project) if (t.data or {}).get("key") not in keys]
        if not old:
            return set()
        taken = self._take_over(project, queue, wanted, old, files)
        left = [t for t in old if t.id not in taken]
        gone = self._delete_untouched(project, [t.id for t in left], begun=not used)
        if self.connection.images is not None:
            for task in old:
                if task.id in taken or task.id in gone:
                    _unlink_images(self.connection.images / queue.name, task.data or {})
        return {str((t.data or {}).get("key")) for t in left if t.id not in gone}

    def _unanswered(self, project: Any) -> list[Any]:
        unanswered = task_filter("total_annotations", "equal", "Number", 0)
        return list(
            self._sdk.tasks.list(
                project=project.id, query=unanswered, page_size=1000, fields="task_only", include="id,data"
            )
        )

    def _take_over(
        self,
        project: Any,
        queue: Queue,
        wanted: Sequence[QueueEntry],
        old: Sequence[Any],
        files: Mapping[str, Path],
    ) -> set[int]:
        """Make old tasks those of this batch where they are about the same image; returns their ids.

        A person who has such a task on the screen right now answers this batch's question by answering it.
        """
        sample_of = {e.key: e.sample_id for e in self._earlier()}
        by_sample = {e.sample_id: e for e in wanted}
        pairs = {}
        for task in old:
            entry = by_sample.pop(sample_of.get(str((task.data or {}).get("key")), ""), None)
            if entry is not None:
                pairs[task.id] = entry
        present = self._present(project, [e.key for e in pairs.values()])
        pairs = {number: entry for number, entry in pairs.items() if entry.key not in present}
        if not pairs:
            return set()
        payloads = self._payloads(project, queue, list(pairs.values()), files)
        for number, payload in zip(pairs, payloads, strict=True):
            self._sdk.tasks.update(str(number), data=payload["data"], request_options=_ONCE)
        return set(pairs)

    def _delete_untouched(self, project: Any, tasks: Sequence[int], *, begun: bool) -> set[int]:
        """Delete those of these tasks that nobody has answered, and (but for ``begun``) that nobody is at work on.

        Label Studio looks as it deletes.
        """
        if not tasks:
            return set()
        untouched = [task_condition("total_annotations", "equal", "Number", 0)]
        if not begun:
            untouched.append(task_condition("draft_exists", "equal", "Boolean", False))
        with token_client(self.connection.url, self.connection.token) as client:
            client.post(
                "/api/dm/actions",
                params={"id": "delete_tasks", "project": project.id},
                json={"selectedItems": {"all": False, "included": list(tasks)},
                      "filters": {"conjunction": "and", "items": untouched}},
                timeout=300,
            ).raise_for_status()  # fmt: skip
        there = self._sdk.tasks.list(project=project.id, page_size=1000, fields="task_only", include="id")
        return set(tasks) - {t.id for t in there}

    # --- images in a storage

    def _check_addresses(
        self, project: Any, queue: Queue, wanted: Sequence[QueueEntry], files: Mapping[str, Path]
    ) -> None:
        """Before anything is sent: would labelers see what lies in the storage? Looks at a few."""
        if not self._by_address(queue.stream):
            return
        looked_at = {self.stored_at[files[e.sample_id]]: files[e.sample_id] for e in some_of(wanted)}
        for file in (files[e.sample_id] for e in wanted):
            if file.suffix.lower() not in SHOWN_BY_BROWSERS:
                raise DataError(f"image {file} can't be shown by browsers; convert it to PNG or JPEG, or leave "
                                "review.images_url empty: images are converted and uploaded then")  # fmt: skip
        if self._shows_near:
            check_web_images(looked_at, self.connection.address)
        else:
            check_storage(self._sdk, project, next(iter(looked_at)))

    def _check_resolved(self, project: Any, queue: Queue, entry: QueueEntry, files: Mapping[str, Path]) -> None:
        """After the first tasks were sent: does Label Studio hand on what lies in the cloud's storage?"""
        if not self._by_address(queue.stream) or self._shows_near:
            return
        (task, *_) = self._tasks(project, [entry.key], fields="task_only", include="id")
        file = files[entry.sample_id]
        with token_client(self.connection.url, self.connection.token) as client:
            check_resolved(client, task.id, self.stored_at[file], file)

    # --- fetching

    def _answers(
        self, entries: Sequence[QueueEntry], projects: Iterable[tuple[Queue, Any]] | None = None
    ) -> dict[str, list[AnsweredTask]]:
        """The tasks of these entries with their answers, by key, in all projects or these; others are absent."""
        projects = _each(self._marked()) if projects is None and entries else projects or ()
        found: dict[str, list[AnsweredTask]] = defaultdict(list)
        with token_client(self.connection.url, self.connection.token) as client:
            for queue, project in projects if entries else ():
                keys = [e.key for e in entries if stream_of(e) == queue.stream]
                # Ids begin again in a new database, so a source must tell apart projects of the same number.
                origin = f"{project.created_at:%Y%m%dT%H%M%S.%f}-{project.id}"
                for task in tasks_of_keys(client, project, keys):
                    given = (a for a in task.get("annotations") or [] if not is_passed_over(a))
                    annotations = sorted(given, key=lambda a: int(a["id"]))
                    about = {"id": task["id"], "key": task["data"]["key"], "updated_at": task.get("updated_at")}
                    found[task["data"]["key"]].append(AnsweredTask(about, tuple(annotations), origin, queue))
        return found

    def _tasks(self, project: Any, keys: Sequence[str], **wanted: str) -> Iterator[Any]:
        query = task_filter("data.key", "in_list", "List", list(keys))
        yield from self._sdk.tasks.list(project=project.id, query=query, page_size=1000, **wanted)

    def _people(self) -> dict[int, str]:
        return {u.id: self.person_names.get(u.email, u.email) for u in self._sdk.users.list()}

    # --- the library

    @property
    def _sdk(self) -> Any:
        if self._client is None:
            make: Any = LabelStudio  # its constructor has no types
            self._client = make(base_url=self.connection.url, api_key=self.connection.token, timeout=300)
        return self._client

    def _faults(self, doing: str) -> AbstractContextManager[None]:
        return faults_as_ours(self.connection.url, doing, ApiError)


def _each(marked: Mapping[Queue, Sequence[Any]]) -> list[tuple[Queue, Any]]:
    return [(queue, project) for queue, projects in marked.items() for project in projects]


def _all_tasks(answers: Mapping[str, Sequence[AnsweredTask]]) -> list[AnsweredTask]:
    return [task for copies in answers.values() for task in copies]


def _near_name(key: str, sample_id: str) -> str:
    return image_name(f"{key} near {sample_id}")


def _example_name(class_id: str, file: Path) -> str:
    return image_name(f"example of {class_id}: {file}")


def _unlink_images(folder: Path, task: Mapping[str, Any]) -> None:
    """Take the images of a task's fields out of the folder that is served."""
    for name in re.findall(r"\b[0-9a-f]{24}(?=\.)", json.dumps(task)):
        for file in folder.glob(f"{name}.*"):
            file.unlink(missing_ok=True)


def _check_file(entry: QueueEntry, files: Mapping[str, Path]) -> None:
    file = files.get(entry.sample_id)
    if file is None or not file.is_file():
        where = f"image {file}" if file else f"the image of sample '{entry.sample_id}'"
        raise DataError(
            f"{where} is missing, so nobody can be asked about it; put it back, or bring it in from its new place with "
            "`curate add`"
        )


def _patiently(work: Callable[[], _T]) -> _T:
    """Do what may be done twice, up to three times where a connection is lost or the server fails for a moment."""
    for _ in range(_TRIES - 1):
        try:
            return work()
        except (httpx.HTTPError, ApiError) as fault:
            if not _may_pass(fault):
                raise
        time.sleep(_SETTLE_SECONDS)
    return work()


def _may_pass(fault: Exception) -> bool:
    """Whether a fault may be over in a moment: lost connections and the server's own errors, not refusals."""
    return not isinstance(fault, ApiError) or fault.status_code is None or fault.status_code >= 500
