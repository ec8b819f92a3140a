"""What the people who label are asked, through what, where they go for it, and how far they are."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import reviews
from curation.config import Settings, read_settings
from curation.errors import DataError, ProjectError, ProjectLocked
from curation.files import for_people
from curation.goal import annotator_of
from curation.importing import samples_of
from curation.ledger import Ledger
from curation.parts import Annotator
from curation.records import Classes, Progress, QueueEntry
from curation.reporting import Say
from curation.runs import ProjectPaths, project_lock, read_json, sending_lock, write_json
from curation.tables import predictions_from_frame, read_frame
from curation.words import quoted

if TYPE_CHECKING:
    from labeling.screen import Texts
    from labeling.server import LabelStudioServer


@dataclass(frozen=True, eq=False)
class Asking:
    """Asks the people who label a project, by its settings and its ledger; ``say`` is told what users want to know."""

    paths: ProjectPaths
    settings: Settings
    ledger: Ledger
    say: Say

    def by_hand(self, sample_ids: Sequence[str], number: int) -> tuple[list[QueueEntry], dict[str, str]]:
        """Questions, blind, on samples that somebody picked; and why others are left alone, by id. DataError."""
        from curation.queue import opaque_key

        splits = {s.id: s.split for s in self.ledger.samples()}
        queue, labels, verdicts = self.ledger.queue(number), self.ledger.labels(), self.ledger.verdicts()
        answered = {v.key for v in verdicts}
        open_now = {e.sample_id for e in queue if e.key not in answered}
        waves = Counter(e.sample_id for e in self.ledger.queue())
        about, secret = self.ledger.about()["id"], self.paths.secret.read_text(encoding="utf-8").strip()
        position = max((e.position for e in queue), default=-1) + 1
        left: dict[str, str] = {}
        entries: list[QueueEntry] = []
        for sample_id in dict.fromkeys(sample_ids):
            if sample_id not in splits:
                raise DataError(f"no sample has the id '{sample_id}'; record anew with `curate review --rebuild`")
            if splits[sample_id] == "holdout":
                left[sample_id] = "is in the holdout, which labelers are not asked about by hand"
            elif sample_id in open_now:
                left[sample_id] = "is being asked about already"
            else:
                now = labels.get(sample_id)
                key = opaque_key(secret, about, number, sample_id, "blind", 1000 + waves[sample_id])
                entries.append(
                    QueueEntry(key, sample_id, number, position + len(entries), "blind",
                               now.class_id if now else None, None, "")
                )  # fmt: skip
        return entries, left

    def annotator(self, annotator: str, server: LabelStudioServer | None) -> Callable[[], Annotator]:
        """What makes the annotator on first use: ``label-studio``, ``files`` or ``replay:FILE``."""
        if annotator == "files":
            from labeling.exchange import FileAnnotator

            by_files = FileAnnotator(partial(self.ledger.verdicts, holdout=True))
            return lambda: by_files
        if annotator.startswith("replay:"):
            from labeling.replay import ReplayAnnotator

            paths = {s.id: tuple(p.path for p in s.paths) for s in self.ledger.samples()}
            replayed = ReplayAnnotator(
                Path(annotator.removeprefix("replay:")), classes=self.ledger.classes(), paths=paths,
                called=names_in_files(self.paths),
            )  # fmt: skip
            return lambda: replayed
        made: list[Annotator] = []

        def people() -> Annotator:
            if not made:
                from labeling.client import LabelStudioAnnotator
                from labeling.server import connection_from_environment

                everybody = {
                    *self.labelers().values(),
                    *(v.person for v in self.ledger.verdicts() if v.mode != "review"),
                }
                connection = server.wait_ready() if server else connection_from_environment()
                if connection is None:
                    raise ProjectError("no Label Studio is known; start one with `curate label`")
                made.append(
                    LabelStudioAnnotator(
                        connection,
                        project_name=self.settings.name,
                        project_id=self.ledger.about()["id"],
                        classes=self.ledger.classes(),
                        opinions=self.settings.review.opinions,
                        guide=self.guide(),
                        examples=self.examples(),
                        labels={s: now.class_id for s, now in self.ledger.labels().items()},
                        person_names=self.labelers(),
                        retired=tuple(self.ledger.merged_classes()),
                        labelers=everybody,
                        own_queues=self._people_with_queues,
                        earlier=self.ledger.queue,
                        recorded=partial(self.ledger.verdicts, holdout=True),
                        addresses=self.addresses_of_images(),
                        texts=self.texts(),
                        sending=partial(sending_lock, self.paths),
                    )
                )
            return made[0]

        return people

    def begin_server(self, annotator: str) -> LabelStudioServer | None:
        """Begin to start a Label Studio where one is needed; it gets ready while the first training runs."""
        if annotator != "label-studio":
            return None
        from labeling.server import connection_from_environment

        if connection_from_environment() is not None:
            return None
        server = self.server()
        if server.running() is None:
            self.say("Starting Label Studio in the background.")
        server.start(wait=False)
        return server

    def server(self) -> LabelStudioServer:
        """The project's own Label Studio, running or not."""
        from labeling.server import LabelStudioServer

        return LabelStudioServer(self.paths.label_studio)

    def access(self, number: int, progress: Progress | None = None) -> dict[str, Any]:
        """Where labelers go and how they sign in, with the project's own server started where it is needed.

        ``number`` is that of the iteration under way; what is in it: ``Project.labeling_access``.
        """
        from labeling.server import connection_from_environment

        foreign = connection_from_environment()
        server = None if foreign is not None else self.server()
        connection = foreign or (server.start() if server else None)
        if connection is None:
            raise ProjectError("no Label Studio is known; set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY")
        waiting = {i.number: i.state for i in self.ledger.iterations()}.get(number) == "waiting"
        by_files = waiting and annotator_of(self.paths, self.settings) == "files"
        streams: Mapping[str, str] = {}
        people: list[dict[str, Any]] = []
        if waiting and not by_files:
            annotator = self.annotator("label-studio", server)()
            self._send(annotator, number, progress)
            streams = getattr(annotator, "addresses", dict)()
            people = self.note_queues(number, annotator)
        access: dict[str, Any] = {"url": connection.address, "streams": dict(streams), "people": people}
        if connection.public:
            access["local_url"] = connection.url
        if by_files:
            access["by_files"] = self._how_by_files()
        if server is not None:
            access |= {"email": server.email, "password_file": str(server.secrets_file)}
        return access

    def send_open(self, number: int, progress: Progress | None = None) -> bool:
        """Send what is open to a Label Studio that runs; false where none does, or where a run will send it.

        False, too, where answers come in files.
        """
        from labeling.server import connection_from_environment

        if annotator_of(self.paths, self.settings) == "files":
            return False
        server = None
        if connection_from_environment() is None:
            server = self.server()
            if server.running() is None:
                return False
        try:
            with project_lock(self.paths):
                self._send(self.annotator("label-studio", server)(), number, progress)
        except ProjectLocked:  # a run holds the project; it sends the queue whenever it looks for answers
            return False
        return True

    def _send(self, annotator: Annotator, number: int, progress: Progress | None) -> None:
        samples = [s for s in samples_of(self.ledger, self.settings.bits) if s.file.exists()]
        files = for_people(samples, self.settings, self.paths)
        entries = [e for e in reviews.open_entries(self.ledger, number) if e.sample_id in files]
        annotator.send(entries, files, progress)

    def labelers(self) -> dict[str, str]:
        """Who was given an account by ``curate people --add``: email to the name that stands in the ledger."""
        file = self.paths.home / "people.json"
        return dict(read_json(file)) if file.exists() else {}

    def queues(self) -> list[dict[str, Any]]:
        """How far who has an own queue was when it was last looked for; see ``Project.queues``."""
        file = self.paths.home / "queues.json"
        noted: dict[str, Any] = read_json(file) if file.exists() else {}
        waits = {i.number for i in self.ledger.iterations() if i.state == "waiting"}
        return list(noted["people"]) if self._people_with_queues() and noted.get("iteration") in waits else []

    def _people_with_queues(self) -> tuple[str, ...]:
        """As the settings are by now, so that a run that waits for people heeds who is away."""
        return read_settings(self.paths.settings).review.people

    def note_queues(self, number: int, annotator: Annotator) -> list[dict[str, Any]]:
        """Look how far everybody is, and keep it for those who ask when no Label Studio is running."""
        look = getattr(annotator, "queues", None)
        rows = [asdict(row) for row in look(reviews.open_entries(self.ledger, number))] if look else []
        write_json(self.paths.home / "queues.json", {"iteration": number, "people": rows}, private=True)
        return rows

    def say_waiting(self, number: int, annotator: Annotator) -> None:
        """Tell how many answers are to come, where they are given, and how far everybody is."""
        entries = reviews.open_entries(self.ledger, number)
        missing = annotator.waiting(entries)
        self.say(
            f"Iteration {number} waits for people: {missing} of {sum(e.opinions for e in entries)} answers to come."
        )
        addresses: Mapping[str, str] = getattr(annotator, "addresses", dict)()
        for stream, address in addresses.items():
            self.say(f"  {stream}: {address}")
        for row in self.note_queues(number, annotator):
            self.say(f"  {row['person']}: {row['answered']} of {row['asked']} answered")
            for stream, address in row["addresses"].items():
                self.say(f"    {stream}: {address}")
        by_files = annotator_of(self.paths, self.settings) == "files"
        signing_in = "`curate label` shows how to sign in; `curate run` goes on when the answers are there."
        self.say(self._how_by_files() if by_files else signing_in)

    def _how_by_files(self) -> str:
        root = quoted(self.paths.root)
        return (
            f"`curate export {root} --format label-studio --out FOLDER` writes what is asked, "
            f"`curate sync {root} --from FILE` takes the answers; then `curate run {root}` goes on."
        )

    def classes(self) -> Classes:
        """The classes that people can choose: those that were not merged into others."""
        merged = self.ledger.merged_classes()
        kept = [(class_id, name) for class_id, name in self.ledger.classes() if class_id not in merged]
        return Classes(tuple(c for c, _ in kept), tuple(n for _, n in kept))

    def guide(self) -> dict[str, str]:
        """What the class guide says of each class id: the newest versions of what it means and what tells it apart."""
        newest = {ruling.class_ids: ruling.text for ruling in self.ledger.guide()}
        texts: dict[str, list[str]] = {}
        for class_ids, text in sorted(newest.items(), key=lambda entry: len(entry[0])):
            for class_id in class_ids:
                texts.setdefault(class_id, []).append(text)
        return {class_id: " ".join(parts) for class_id, parts in texts.items()}

    def examples(self) -> dict[str, tuple[Path, ...]]:
        """Two images of each class id on which label and last predictions agree the most: sure, and typical."""
        numbers = [i.number for i in reversed(self.ledger.iterations())]
        tables = (self.paths.iteration(number) / "predictions.parquet" for number in numbers)
        file = next((table for table in tables if table.exists()), None)
        if file is None:
            return {}
        predictions, labels = predictions_from_frame(read_frame(file)), self.ledger.labels()
        files = for_people(samples_of(self.ledger, self.settings.bits), self.settings, self.paths)
        found: dict[str, tuple[Path, ...]] = {}
        for column, class_id in enumerate(predictions.class_ids):
            order = (-predictions.probabilities[:, column]).argsort(kind="stable")
            ids = (predictions.sample_ids[row] for row in order.tolist())
            mine = (s for s in ids if (now := labels.get(s)) and now.class_id == class_id and not now.excluded)
            found[class_id] = tuple(files[s] for s in itertools.islice(mine, 2))
        return found

    def texts(self) -> Texts:
        """The words on the labeling screen: the project's own where it has some, else as shipped."""
        from labeling.screen import read_texts

        own = self.settings.review.texts
        return read_texts(self.paths.root / own if own else None)

    def addresses_of_images(self) -> dict[Path, str]:
        """Where a storage has the images, by file; empty where the settings name none."""
        from labeling.storages import image_address

        template, folder = self.settings.review.images_url, Path(self.settings.images)
        if not template:
            return {}
        found = {}
        for sample in samples_of(self.ledger):
            inside = sample.file.is_relative_to(folder)
            path = sample.file.relative_to(folder).as_posix() if inside else sample.path
            found[sample.file] = image_address(template, path, sample.id)
        return found


def names_in_files(paths: ProjectPaths) -> Callable[[str], str]:
    """What people whom files name are called in the ledger: those whose names were erased by the words for them."""
    file = paths.home / "erased.json"
    erased: dict[str, str] = read_json(file) if file.exists() else {}
    return lambda name: erased.get(_digest_of(name, paths), name) if erased else name


def note_erased(paths: ProjectPaths, name: str, words: str) -> None:
    """Keep by which ``words`` a name was erased: not the name, but a digest of it with the project's secret."""
    file = paths.home / "erased.json"
    known = dict(read_json(file)) if file.exists() else {}
    write_json(file, {**known, _digest_of(name, paths): words}, private=True)


def _digest_of(name: str, paths: ProjectPaths) -> str:
    secret = paths.secret.read_text(encoding="utf-8").strip()
    return hmac.new(secret.encode(), name.encode(), hashlib.sha256).hexdigest()
