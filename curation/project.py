"""The public face: a project on disk, and all that can be done with it.

Every command of ``curate`` is a thin call of a method here; they take and return pandas frames and records.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from curation import dataset, files, releases, reviews
from curation.asking import Asking
from curation.assembly import Encoders, load_encoders, made_from, make_parts
from curation.backbone import check_named
from curation.config import Settings, read_settings, settings_to_toml
from curation.costs import positive_class
from curation.errors import ConfigError, DataError, InputError, ProjectError
from curation.figures import collect_json
from curation.flags import flag_table
from curation.goal import forget_goal, goal_of, keep_goal, settings_for
from curation.history import HISTORY, history_rows
from curation.importing import (
    Imported,
    bits_of,
    names_of,
    new_ledger,
    note_import,
    read_rows,
    record_import,
    sample_of,
    samples_of,
    size_for,
    too_deep,
)
from curation.judging import class_of, labeled_holdout, not_in_metadata, trainable
from curation.ledger import Ledger
from curation.loop import Loop
from curation.parts import Annotator
from curation.records import (
    SPECIAL_ANSWERS,
    Classes,
    CurrentLabel,
    LabelEvent,
    Progress,
    Release,
    Remark,
    Sample,
    Slice,
    SliceStatus,
)
from curation.reporting import AnswerKey, Recording, Reporting, Say, overview_of, status_of
from curation.runs import (
    ProjectPaths,
    decision_lock,
    finished,
    project_lock,
    read_json,
    sweep,
    write_json,
    write_whole,
)
from curation.tables import read_frame, slices_from_frame, slices_to_frame, write_frame
from curation.words import counted, quoted

if TYPE_CHECKING:
    import pandas as pd

    from labeling.screen import Texts
    from labeling.server import LabelStudioServer
    from reports.app import ReviewApp
    from reports.fiftyone_store import FiftyOneReporter
    from reports.overview import Overview

T = TypeVar("T")
#: Images on which an exported model must predict what the model does.
CHECKED = 16


def _silent(_message: str) -> None:
    """Say nothing: what a caller gets who does not ask for words."""


class Project:
    """A curation project in a folder.

    ``Project(folder)`` opens one, ``Project.create(...)`` makes one. ``progress(what, done, total)`` is called during
    long work, ``say(sentence)`` with what a user wants to know as it happens. Raises DataError where there is none.
    """

    def __init__(
        self, root: str | Path, *, progress: Progress | None = None, say: Say = _silent, device: str | None = None
    ) -> None:
        self.root = Path(root)
        self.paths = ProjectPaths(self.root)
        if not self.paths.settings.exists():
            raise DataError(f"{self.root} is no project (no curation.toml in it); make one with `curate init`")
        self.settings = read_settings(self.paths.settings)
        if device is not None:
            self.settings = replace(self.settings, backbone=replace(self.settings.backbone, device=device))
        self.ledger = Ledger(self.settings.ledger) if self.settings.ledger else Ledger.in_file(self.paths.ledger)
        self.progress = progress
        self.say = say
        self.recording = Recording(say)
        key = self.settings.answer_key
        self._answer_key = AnswerKey(self.root / key, self.ledger) if key else None
        #: Images whose files are gone or changed, as of the last time that files were looked at.
        self.aside: tuple[dataset.SetAside, ...] = ()
        self._loaded: Encoders | None = None

    @property
    def _asking(self) -> Asking:
        return Asking(self.paths, self.settings, self.ledger, self.say)

    # --- making and adding

    @classmethod
    def create(
        cls,
        root: str | Path,
        images: str | Path,
        labels: str | Path | None = None,
        *,
        label_column: str = "label",
        settings: Settings | None = None,
        progress: Progress | None = None,
        say: Say = _silent,
    ) -> tuple[Project, Imported]:
        """Make a project from a folder of class folders, or from a table and a folder.

        Nothing is written before all of it has been read and checked. Raises DataError, ConfigError or WeightsError for
        bad input, ProjectError where there is a project already.
        """
        root = Path(root)
        paths = ProjectPaths(root)
        if paths.settings.exists():
            raise ConfigError(f"{root} is a project already; bring in more with `curate add`, or name another folder")
        folder = Path(images).resolve()
        settings = settings or Settings()
        chosen = settings.backbone
        check_named(chosen.name, Path(chosen.weights) if chosen.weights else None)
        rows = read_rows(folder, labels, label_column)
        found = dataset.inspect_rows(rows, progress=progress)
        gathered = dataset.gather(found, known_splits={}, seed=settings.seed, holdout_share=settings.holdout_share)
        dataset.check_classes(gathered)
        size = settings.backbone.size or size_for(gathered)
        bits, of_bits = (settings.bits, "") if settings.bits != 16 else bits_of(found)
        settings = replace(
            settings,
            name=settings.name or root.resolve().name,
            images=str(folder),
            bits=bits,
            backbone=replace(settings.backbone, size=size),
        )
        with project_lock(paths):
            ledger = new_ledger(settings, paths, {g.id for g in gathered})
            if not paths.secret.exists():
                write_whole(paths.secret, secrets.token_hex(32), private=True)
            if "id" not in ledger.about():
                ledger.set_about("id", uuid.uuid4().hex)
            notes = (of_bits or too_deep(found, bits), dataset.without_holdout(gathered))
            imported = record_import(ledger, gathered, found, notes=notes)
            ledger.close()
            note_import(paths, found)
            write_whole(paths.settings, settings_to_toml(settings))
        return cls(root, progress=progress, say=say), imported

    def add(self, images: str | Path, labels: str | Path | None = None, *, label_column: str = "label") -> Imported:
        """Bring in more images; the rows of the holdout stay as they are, new ones go to train or to the pool.

        A row may name its split; a new image of a group that is in the holdout joins the holdout, one of a group that
        is trained on does not. Images of the pool get the labels that rows have for them, unless these name the pool.
        """
        rows = read_rows(Path(images).resolve(), labels, label_column)
        found = dataset.inspect_rows(rows, progress=self.progress)
        stored = self.ledger.samples()
        known = {s.id: s.split for s in stored}
        gathered = dataset.gather(
            found, known_splits=known, seed=self.settings.seed, holdout_share=self.settings.holdout_share,
            draw_holdout=False,
        )  # fmt: skip
        held, trained = ({s.group for s in stored if s.group and s.split == split} for split in ("holdout", "train"))
        gathered = [g if g.id in known else dataset.beside_group(g, held, trained) for g in gathered]
        dataset.check_names(gathered)
        with project_lock(self.paths):
            note_import(self.paths, found)
            return record_import(
                self.ledger, gathered, found, iteration=self.arriving_iteration(),
                notes=(too_deep(found, self.settings.bits),),
            )  # fmt: skip

    # --- what there is

    @property
    def classes(self) -> Classes:
        """The classes with their ids and names."""
        return self.ledger.classes()

    def samples(self) -> list[Sample]:
        """All samples in the order they came."""
        return samples_of(self.ledger, self.settings.bits)

    def labels(self, as_of: int | None = None, *, release: str | None = None) -> pd.DataFrame:
        """Labels now, as of the end of an iteration, or as a release froze them, one row a path.

        Columns ``path, label, split, excluded, group, sample_id``. Raises DataError for an iteration or a release that
        is not there, ProjectError for a release that reads otherwise than when it was made.
        """
        import pandas as pd

        there = sorted({0, *(i.number for i in self.ledger.iterations())})
        if as_of is not None and as_of not in there:
            raise DataError(f"there is no iteration {as_of}; there are {there} (0: labels as given)")
        if release is not None:
            rows = releases.released_rows(self.ledger, release)
        else:
            rows = releases.label_rows(self.ledger, as_of=as_of)
        if as_of is not None:  # without images that came later with their labels
            events = self.ledger.label_events()
            later = {e.sample_id for e in events if e.kind == "import" and e.iteration > as_of}
            rows = [row for row in rows if row[2] == "pool" or row[5] not in later]
        return pd.DataFrame(rows, columns=["path", "label", "split", "excluded", "group", "sample_id"])

    def find(self, path: str) -> Sample:
        """The sample with this path (as given or absolute) or id (or its beginning); DataError where it is not one."""
        found = self.ledger.find_samples(str(path))
        if not found or (len(found) > 1 and not any(str(path) in names_of(s) for s in found)):
            raise DataError(f"no sample has the path or id '{path}'; `curate export` lists them all")
        if len(found) > 1:
            those = ", ".join(f"{s.id[:12]} ({sample_of(s).file})" for s in found[:5])
            raise DataError(f"{len(found)} samples have the path '{path}'; name one by its id: {those}")
        return sample_of(found[0], self.settings.bits)

    def history(self, path: str | None = None) -> pd.DataFrame:
        """Label events and verdicts in the order they happened, of one image or of all."""
        import pandas as pd

        rows = history_rows(self.ledger, self.find(path) if path is not None else None)
        return pd.DataFrame(rows, columns=list(HISTORY))

    def undo(self, path: str, *, who: str = "user", why: str = "undone") -> LabelEvent | None:
        """Take back what was last decided of an image; a new event, so nothing is lost.

        A reviewer's verdict is withdrawn with the change that it made. Returns the new label event, ``None`` where a
        verdict was withdrawn that had changed nothing. Raises ProjectError where there is nothing to take back.
        """
        sample = self.find(path)
        taken = self.take_back([sample.id], person=who, why=why)
        if not taken.given:
            raise ProjectError(f"{sample.path} has no change to undo: nothing that was decided of it stands")
        return self.ledger.label_events(sample.id)[-1] if taken.changed else None

    # --- what reviewers do

    def judge(
        self, answers: Mapping[str, str] | Sequence[str], answer: str | None = None, *, person: str, note: str = ""
    ) -> reviews.Judged:
        """Give a reviewer's verdicts on samples, by id; they decide at once and outrank the consensus of labelers.

        Either a mapping of sample ids to answers, or sample ids and one ``answer``: a class name, ``ambiguous`` or
        ``bad image`` (leaves it out of training); without one, each label is said to be right. Images of the holdout
        are left alone. Raises DataError for an unknown sample or answer, before anything is recorded.
        """
        classes, labels = self.classes, self.ledger.labels()
        if not isinstance(answers, Mapping):
            right = {s: classes.name(labels[s].class_id) for s in answers if s in labels}
            if answer is None and len(right) < len(set(answers)):
                raise DataError("an image without a label can't be said to be labeled right; name a class")
            answers = right if answer is None else dict.fromkeys(answers, answer)
        ids = {s: a if a in SPECIAL_ANSWERS else classes.id(a) for s, a in answers.items()}
        splits = {s.id: s.split for s in self.ledger.samples()}
        with decision_lock(self.paths):
            return reviews.give_verdicts(
                self.ledger, ids, splits, person=person, note=note, iteration=self.deciding_iteration()
            )

    def take_back(self, sample_ids: Sequence[str], *, person: str, why: str = "undone") -> reviews.Judged:
        """Take back what was last decided of each sample: a reviewer's verdict and its change, else the last change."""
        with decision_lock(self.paths):
            return reviews.take_back(
                self.ledger, sample_ids, person=person, iteration=self.deciding_iteration(), why=why
            )

    def last_judged(self, person: str) -> list[str]:
        """The samples of this reviewer's last verdicts, those given at one moment, as far as they stand."""
        return reviews.last_given(self.ledger.verdicts(), person)

    def remark(self, sample_ids: Sequence[str], cause: str, *, person: str, note: str = "") -> int:
        """Note why the model errs on these samples, as of the last finished iteration; returns how many."""
        if not cause.strip() and not note.strip():
            raise DataError("a remark needs a cause or a note")
        known = {s.id for s in self.ledger.samples()}
        if missing := [s for s in sample_ids if s not in known]:
            raise DataError(
                f"no sample has the id '{missing[0]}'; record the project anew with `curate review --rebuild`"
            )
        done = max((i.number for i in self.ledger.iterations() if i.state == "done"), default=0)
        ids, now = list(dict.fromkeys(sample_ids)), datetime.now(UTC)
        self.ledger.add_remarks([Remark(s, "error", cause.strip(), note.strip(), person, now, done) for s in ids])
        return len(ids)

    def live(self, sample_ids: Sequence[str] | None = None) -> list[dict[str, str]]:
        """What stands of samples now, for the App: ``sample_id, current, review, cause, note`` (classes by name)."""
        return reviews.live_rows(self.ledger, sample_ids)

    def causes_offered(self) -> list[str]:
        """Causes of errors to choose from, most used first."""
        return reviews.causes_offered(self.ledger.remarks())

    def causes(self) -> pd.DataFrame:
        """How often reviewers named each cause of errors: ``iteration, cause, images``."""
        import pandas as pd

        counts = reviews.count_causes(self.ledger.remarks())
        rows = [(number, cause, count) for number, of in counts.items() for cause, count in of.items()]
        return pd.DataFrame(rows, columns=["iteration", "cause", "images"])

    def send_to_labelers(self, sample_ids: Sequence[str], *, person: str) -> dict[str, Any]:
        """Put samples into the review queue, blind, for one more opinion each; send them where Label Studio runs.

        Returns ``queued`` (new questions), ``left_alone`` (id to why), ``sent`` (whether they are in Label Studio
        already; else they go out with the next batch).
        """
        number = self.deciding_iteration()
        with decision_lock(self.paths):
            entries, left = self._asking.by_hand(sample_ids, number)
            now = datetime.now(UTC)
            self.ledger.add_remarks([Remark(e.sample_id, "sent", "", "", person, now, number) for e in entries])
            self.ledger.add_queue(entries)
        return {"queued": len(entries), "left_alone": left, "sent": bool(entries) and self.send_open(number)}

    def send_open(self, number: int) -> bool:
        """Send what is open to a Label Studio that runs; false where none does, or where a run will send it."""
        return self._asking.send_open(number, self.progress)

    def deciding_iteration(self) -> int:
        """The iteration that what people decide now belongs to: the one under way until its labels are trained on."""
        number = self._current()
        return number if finished(self.paths.iteration(number), "review") is None else number + 1

    def arriving_iteration(self) -> int:
        """The iteration that images brought in and classes merged now belong to; 0 until a model of the labels is made.

        Else that of ``deciding_iteration``, so that labels as of the end of an iteration stay as they were.
        """
        return 0 if finished(self.paths.iteration(0), "train") is None else self.deciding_iteration()

    # --- releases

    def release(self, name: str, *, who: str = "user", note: str = "") -> Release:
        """Freeze the labels as they are now under a name, with date, person and checksum."""
        with decision_lock(self.paths):
            return releases.make_release(self.ledger, name, who=who, note=note)

    def releases(self) -> pd.DataFrame:
        """The releases: ``name, at, who, note, rows, checksum``."""
        import pandas as pd

        columns = ["name", "at", "who", "note", "rows", "checksum"]
        rows = [tuple(getattr(r, column) for column in columns) for r in self.ledger.releases()]
        return pd.DataFrame(rows, columns=columns)

    def status(self) -> dict[str, Any]:
        """Where the project stands; the JSON of ``curate status --json``."""
        return status_of(self.paths, self.settings.name, self.ledger, self.queues)

    # --- the loop

    def run(
        self,
        iterations: int | None = None,
        *,
        annotator: str | None = None,
        budget: int | None = None,
        seed: int | None = None,
        trial: bool | None = None,
        wait: bool = False,
        close_batch: bool = False,
        poll: float = 5.0,
    ) -> dict[str, Any]:
        """Run iterations; returns the status.

        A run that was stopped, or that waits for people, is taken up where it is, with its own settings; ``iterations``
        count from where it began, so the same call again adds none, and the one under way is finished in any case.
        ``annotator`` is ``label-studio`` or ``replay:FILE``. With people it ends with the iteration ``waiting`` unless
        ``wait``; ``close_batch`` goes on with the answers that are there. ``trial`` uses the recipe for the weakest
        slice even where it is not proven to help.
        """
        if iterations is not None and iterations < 1:
            raise ConfigError(f"--iterations must be 1 or more, got {iterations}")
        with project_lock(self.paths), self._tidy():
            sweep(self.paths)
            self._check_settings()
            goal = goal_of(
                self.paths, self.settings, self._current(),
                iterations=iterations, annotator=annotator, budget=budget, seed=seed, trial=trial,
            )  # fmt: skip
            server = self._asking.begin_server(goal["annotator"])
            who = self._asking.annotator(goal["annotator"], server)
            keep_goal(self.paths, goal)
            if self._without_bad_files(lambda: self._advance(goal, who, wait, close_batch, poll)):
                forget_goal(self.paths)
        return self.status()

    def _check_settings(self) -> None:
        """Raise ConfigError for a setting that does not fit what the project holds, before anything is worked out."""
        positive_class(self.settings.costs, self.classes, self.ledger.merged_classes())
        self.still_wrong({})  # reads the answer key
        if self.settings.slices.ignore:
            samples = self.samples()
            there = ", ".join(sorted({column for s in samples for column in s.metadata})) or "none"
            for name in not_in_metadata(samples, self.settings.slices.ignore):
                self.say(
                    f"Setting 'slices.ignore' names '{name}', which no image has; columns that images have: {there}."
                )

    def _advance(
        self, goal: Mapping[str, Any], who: Callable[[], Annotator], wait: bool, close_batch: bool, poll: float
    ) -> bool:
        """Go on to the run's goal; false where that waits for people."""
        loop = self._loop(goal)
        if finished(self.paths.iteration(0), "report") is None:
            self.say("Training on the labels as given, to have a 'before'.")
            loop.baseline()
        number = self._current()
        while number <= goal["until"]:
            outcome = loop.advance(number, who, close_batch=close_batch)
            while outcome == "waiting" and wait:
                time.sleep(poll)
                outcome = loop.advance(number, who)
            if outcome == "waiting":
                self._asking.say_waiting(number, who())
                return False
            self.say(f"Iteration {number} is done.")
            close_batch = False
            number += 1
        return True

    def _without_bad_files(self, work: Callable[[], T]) -> T:
        """Do the work; where a file turns out to be gone or changed meanwhile, set it aside and do it again."""
        while True:
            try:
                return work()
            except DataError:
                known = {a.path for a in self.aside}
                self.usable_samples(thorough=True)
                if {a.path for a in self.aside} <= known:
                    raise

    def usable_samples(self, *, thorough: bool = False) -> list[Sample]:
        """Samples whose files are as they were at import; says once which are not."""
        cache = self.paths.cache / "files.parquet"
        notes = files.read_notes(cache)
        before = dict(notes)
        usable, aside = files.check_files(self.samples(), notes, thorough=thorough, replaced=self.ledger.replaced())
        known = {a.path for a in self.aside}
        for one in [a for a in aside if a.path not in known][:10]:
            self.say(f"Set aside: {one.reason}")
        if len(aside) > max(10, len(known)):
            self.say(f"Set aside: {len(aside):,} images in all; `curate doctor {quoted(self.root)}` tells of them.")
        self.aside = tuple(aside)
        if notes != before:
            with suppress(ProjectError):  # it can be made again
                files.write_notes(cache, notes)
        return usable

    @contextmanager
    def _tidy(self) -> Iterator[None]:
        """Stop the database after a run; and a Label Studio that the run started, where nobody waits for it."""
        began_with_server = self.paths.label_studio.exists() and self.label_studio().running() is not None
        try:
            yield
        except BaseException:
            waits = any(i.state == "waiting" for i in self.ledger.iterations())
            if not began_with_server and not waits and self.paths.label_studio.exists():
                self.label_studio().stop()
            raise
        finally:
            try:
                self.recording.finish()
            finally:
                if self.settings.report.fiftyone and self.paths.fiftyone.exists():
                    self.fiftyone().stop()

    def sync(self) -> dict[str, Any]:
        """Take the answers that have come into the ledger, without going on; returns counts."""
        with project_lock(self.paths):
            number = self._current()
            entries = self.ledger.queue(number)
            state = {i.number: i.state for i in self.ledger.iterations()}.get(number)
            if state != "waiting":
                nothing: dict[str, Any] = {"answered": 0, "missing": 0, "people": []}
                return {"iteration": number, "state": state, "queued": len(entries), **nothing}
            goal = goal_of(self.paths, self.settings, number)
            who = self._asking.annotator(goal["annotator"], self._asking.begin_server(goal["annotator"]))()
            missing = self._loop(goal, tells_how=False).collect(number, who)
            answered = len({v.sample_id for v in self.ledger.verdicts(iteration=number)})
            return {
                "iteration": number, "state": state, "queued": len(entries), "answered": answered, "missing": missing,
                "people": self._asking.note_queues(number, who),
            }  # fmt: skip

    def _current(self) -> int:
        """The iteration that is under way, or the next one."""
        known = self.ledger.iterations()
        if not known:
            return 1
        return known[-1].number + (1 if known[-1].state == "done" else 0)

    def label_studio(self) -> LabelStudioServer:
        """The project's own Label Studio, running or not."""
        return self._asking.server()

    def labeling_access(self) -> dict[str, Any]:
        """Where labelers go and how they sign in, with the project's own server started where it is needed.

        ``url``, ``streams`` (name to address, empty where nothing waits, and where people have queues of their own),
        ``people`` (rows of ``queues``); behind a proxy also ``local_url``, what that is before; for an own server also
        ``email`` and ``password_file``; where the batch is answered in files, also ``by_files``, how that is done.
        """
        return self._asking.access(self._current(), self.progress)

    def labelers(self) -> dict[str, str]:
        """Who was given an account by ``curate people --add``: email to the name that stands in the ledger."""
        return self._asking.labelers()

    def queues(self) -> list[dict[str, Any]]:
        """How far everybody is who has a queue of their own, and where it is; empty where all share, or nothing waits.

        Rows ``person, answered, asked, addresses`` (by stream), those of ``review.people`` first, then who else has
        answered; as it was when answers were looked for the last time.
        """
        return self._asking.queues()

    def classes_asked(self) -> Classes:
        """The classes that people can choose: those that were not merged into others."""
        return self._asking.classes()

    def guide_texts(self) -> dict[str, str]:
        """What the class guide says of each class id: the newest versions of what it means and what tells it apart."""
        return self._asking.guide()

    def texts(self) -> Texts:
        """The words on the labeling screen: the project's own where it has some, else as shipped."""
        return self._asking.texts()

    def _loop(self, goal: Mapping[str, Any] | None = None, *, tells_how: bool = True) -> Loop:
        """The loop with the settings of a run's goal, by default with the project's own.

        ``tells_how`` says what computes, which is of no use to who only collects answers.
        """
        settings = settings_for(self.settings, goal) if goal else self.settings
        usable = self._some_usable()
        encoders = self._encoders(settings)
        described = encoders.store.backbone.describe()
        if tells_how:
            self.say(described)
        reporting = self._reporting(settings, described, fiftyone=settings.report.fiftyone)
        return Loop(
            self.paths, settings, self.ledger, usable,
            make_parts(encoders, self.paths, settings, usable, self.classes, reporting, self.progress),
            secret=self.paths.secret.read_text(encoding="utf-8").strip(),
        )  # fmt: skip

    def _some_usable(self) -> list[Sample]:
        """Those of ``usable_samples``; raises ProjectError where not one is."""
        usable = self.usable_samples()
        if self.aside and not usable:
            raise ProjectError(f"not one of {len(self.aside):,} images is as it was at import: {self.aside[0].reason}")
        return usable

    def _encoders(self, settings: Settings) -> Encoders:
        """The network and what it tells of images; loaded once while the project is open and its settings stay."""
        if self._loaded is None or self._loaded.made_from != made_from(settings):
            self._loaded = load_encoders(self.paths, settings)
        return self._loaded

    def slices(self, number: int | None = None) -> list[Slice]:
        """The weak slices of an iteration (the last one that has any by default), weakest first, fixed ones last."""
        scored = [n for n in range(1, self._current() + 1) if (self.paths.iteration(n) / "slices.parquet").exists()]
        chosen = number if number is not None else scored[-1] if scored else None
        if chosen is None or not scored:
            raise ProjectError("no iteration has looked for weak slices yet; run `curate run`")
        if chosen not in scored:
            there = ", ".join(map(str, scored))
            raise ProjectError(f"iteration {chosen} has not looked for weak slices; these have: {there}")
        return self._slices_in(self.paths.iteration(chosen) / "slices.parquet")

    def _slices_in(self, file: Path) -> list[Slice]:
        """The slices of a file, by the names that classes have now."""
        from curation.tracking import called_now

        return [called_now(s, self.classes) for s in slices_from_frame(read_frame(file))]

    def mark_slice(self, name: str, status: SliceStatus) -> list[Slice]:
        """Set what becomes of a slice: ``open``, ``accepted`` (live with it), ``collecting``, ``fixed``.

        It keeps that over iterations. An accepted slice is tried no recipe on; for one that is being collected for, a
        shot list is made. Returns the slices. Raises DataError naming those that there are where it is none of them,
        InputError for another status.
        """
        from curation.tracking import mark, shot_list

        if status not in get_args(SliceStatus):
            raise InputError(f"status must be one of {', '.join(get_args(SliceStatus))}, not '{status}'")
        with project_lock(self.paths):
            slices = self.slices()
            if name not in {s.name for s in slices}:
                known = "; ".join(s.name for s in slices) or "none"
                raise DataError(f"no weak slice is named '{name}'; there are: {known}")
            number = max(n for n in range(self._current() + 1) if (self.paths.iteration(n) / "slices.parquet").exists())
            folder = self.paths.iteration(number)
            place = [s.name for s in slices].index(name)
            old = slices_from_frame(read_frame(folder / "slices.parquet"))[place].name
            # What a training that was stopped begins with again, then what it has made of it.
            for file in (folder / "scored_slices.parquet", folder / "slices.parquet"):
                if file.exists():
                    slices = [mark(s, status) if s.name == name else s for s in self._slices_in(file)]
                    write_frame(file, slices_to_frame(slices))
            metrics = folder / "metrics.json"
            if metrics.exists():
                told = read_json(metrics)
                shot = next((shot for shot in shot_list(slices, self.classes) if shot.slice == name), None)
                for entry in (entry for entry in told["slices"] if entry["name"] == old):
                    entry |= {"status": status, "collect": shot and collect_json(shot.wanted, shot.arrived, shot.words)}
                write_json(metrics, told)
        return slices

    def flag(self, predictions: str | Path | None = None) -> pd.DataFrame:
        """Every labeled file, worst first.

        Columns ``path, label, label_quality, suggested_label, issue, reason``; one row a path as it was given, train
        and holdout. ``label_quality`` in [0, 1]; ties by path. Each label is judged by predictions that have not seen
        it; those of train rows come from train rows alone. With ``predictions``, a CSV or Parquet file with ``path``
        (as given, absolute, or the image's id) and a column of probabilities a class, labels are judged by those, which
        the user declares out of sample; files without a row there are left out. Raises DataError for such a file that
        can't be used.
        """
        return self._without_bad_files(lambda: self._flag(predictions))

    def _flag(self, predictions: str | Path | None) -> pd.DataFrame:
        loop = self._loop()
        labels = self.ledger.labels()
        excluded = sum(s.split != "pool" and s.id in labels and labels[s.id].excluded for s in loop.samples)
        if excluded:
            self.say(
                f"{counted(excluded, 'image that people set aside is', 'images that people set aside are')} left out."
            )
        if predictions is not None:
            train, holdout = trainable(loop.samples, labels), labeled_holdout(loop.samples, labels)
            return self._flag_by(loop, Path(predictions), [*train, *holdout], labels)
        quality, issues = loop.judging.score_all(loop.samples, labels)
        return flag_table(self.ledger.samples(), labels, quality, issues, self.classes)

    def _flag_by(
        self, loop: Loop, file: Path, rows: Sequence[Sample], labels: Mapping[str, CurrentLabel]
    ) -> pd.DataFrame:
        from curation.predictions import read_predictions

        there = {s.id for s in loop.samples}
        names = {s.id: [s.paths[0].path, *sorted(names_of(s)), s.id] for s in self.ledger.samples() if s.id in there}
        given = {s.id: class_of(labels, s) for s in rows}
        theirs = read_predictions(file, self.classes, names, given, self.ledger.merged_classes())
        known = set(theirs.sample_ids)
        judged = [s for s in rows if s.id in known]
        if len(judged) < len(rows):
            self.say(
                f"{len(rows) - len(judged):,} of {len(rows):,} labeled images have no row in {file} and are left out."
            )
        properties = loop.parts.measure(judged, self.progress)
        scored = loop.judging.score(judged, labels, properties, find_slices=False, predictions=theirs)
        return flag_table(self.ledger.samples(), labels, scored.quality, scored.issues, self.classes)

    # --- reports

    def export_model(self, file: str | Path, file_format: str, iteration: int | None = None) -> dict[str, Any]:
        """Write an iteration's model (the last one's by default) as ``onnx`` or ``safetensors``.

        Class names and preprocessing are in the file, and it was checked to predict the same on images of the project.
        Returns ``file``, ``iteration`` and ``difference``, the largest one between probabilities. Raises ProjectError
        where there is no such iteration, ConfigError for another format or a model that is a head alone.
        """
        from curation.exports import export_model
        from curation.heads import is_head
        from curation.ways import load_model

        trained = [n for n in range(self._current() + 1) if finished(self.paths.iteration(n), "train") is not None]
        if not trained:
            raise ProjectError("there is no model to export yet; run `curate run`")
        chosen = trained[-1] if iteration is None else iteration
        if chosen not in trained:
            raise ProjectError(f"iteration {chosen} has no model; there are {trained}")
        file_of_model = self.paths.iteration(chosen) / "model.safetensors"
        if is_head(file_of_model):
            raise ConfigError(
                f"the model of iteration {chosen} is a head alone, which can't be exported; set training.method = "
                "'auto' and run again"
            )
        encoders = self._encoders(self.settings)
        self.say(encoders.store.backbone.describe())
        model = load_model(file_of_model, encoders.store, encoders.views)
        names = [self.classes.name(class_id) for class_id in model.class_ids]
        difference = self._without_bad_files(
            lambda: export_model(model, names, Path(file), file_format, self._some_usable()[:CHECKED])
        )
        return {"file": str(file), "iteration": chosen, "difference": difference}

    def report(self, number: int | None = None) -> Path:
        """Write the HTML report of an iteration again (the last one by default); returns its path.

        Figures of ``status`` stay as they were measured where images are set aside since; the report says so.
        """
        done = [n for n in range(self._current() + 1) if finished(self.paths.iteration(n), "train") is not None]
        if not done:
            raise ProjectError("there is no iteration to report on yet; run `curate run`")
        chosen = done[-1] if number is None else number
        if chosen not in done:
            raise ProjectError(f"iteration {chosen} has no results yet; there are {done}")
        reporting = self._reporting(self.settings, self.settings.backbone.name, fiftyone=False)
        return Path(reporting.record(self._loop().account(chosen))["report"])

    def _reporting(self, settings: Settings, backbone: str, *, fiftyone: bool) -> Reporting:
        recorder = self.fiftyone() if fiftyone else None
        return Reporting(
            self.paths, settings, self.ledger, backbone, self.still_wrong, self.recording, recorder, self.links
        )

    def report_in_full(self, number: int | None = None) -> dict[str, Any]:
        """Everything that an iteration's report shows (of the last one by default), as it was last written.

        Raises ProjectError where there is none.
        """
        files = {int(f.parent.parent.name): f for f in self.paths.iterations.glob("*/report/summary.json")}
        if not files or number not in (None, *files):
            raise ProjectError(f"there is no report of iteration {number} yet; there are {sorted(files) or 'none'}")
        full: dict[str, Any] = read_json(files[max(files) if number is None else number])
        return full

    def overview(self) -> Path:
        """Write the HTML report over all iterations again; returns its path."""
        from reports.overview import write_overview

        return write_overview(self._overview(), self.paths.home / "report")

    def _overview(self) -> Overview:
        return overview_of(self.paths, self.settings.name, self.ledger, self.links())

    def _repr_html_(self) -> str:
        """The project in a notebook: what each iteration did and was worth, what next, and links to what runs."""
        from reports.overview import notebook_html

        return notebook_html(self._overview())

    def links(self) -> dict[str, str]:
        """The addresses of what runs now, by name: the reviewers' Apps and Label Studio."""
        from labeling.server import connection_from_environment
        from reports.app import app_url, running_apps

        found: dict[str, str] = {}
        if self.paths.fiftyone.exists():
            dataset_name = self.fiftyone().open_dataset_name()
            for app in running_apps(self.paths.fiftyone):
                found[f"FiftyOne App ({app.reviewer})"] = app_url(app.address, app.port, dataset_name)
        connection = connection_from_environment()
        if connection is None and self.paths.label_studio.exists():
            connection = self.label_studio().running()
        if connection is not None:
            found["Label Studio"] = connection.address
        return found

    def review_app(
        self, *, port: int | None = None, address: str = "127.0.0.1", rebuild: bool = False, reviewer: str = "reviewer"
    ) -> ReviewApp:
        """The FiftyOne App on this project's dataset, not yet started, for one reviewer who acts under that name.

        While it starts, what is missing in the dataset is recorded (all of it with ``rebuild``), and what people have
        decided since is brought up to date. Raises ProjectError where there is nothing to review yet.
        """
        from reports.app import ReviewApp

        done = [n for n in range(self._current() + 1) if finished(self.paths.iteration(n), "report") is not None]
        if not done:
            raise ProjectError("there is no iteration to review yet; run `curate run`")
        return ReviewApp(
            self.paths.fiftyone, self.fiftyone().open_dataset_name(), port=port, address=address, project=self.root,
            reviewer=reviewer, meanwhile=lambda: self._record_missing(done, rebuild=rebuild),
        )  # fmt: skip

    def _record_missing(self, done: Sequence[int], *, rebuild: bool) -> None:
        """Bring the FiftyOne dataset up to these iterations and to the ledger."""
        reporter = self.fiftyone()
        missing = done if rebuild else sorted(set(done) - reporter.whole())
        if not missing:
            reporter.refresh(self.live())
            return
        loop = self._loop()
        reporting = self._reporting(self.settings, self.settings.backbone.name, fiftyone=True)
        for number in missing:
            reporting.record(loop.account(number))
            self.recording.finish(check=True)

    def fiftyone(self) -> FiftyOneReporter:
        """What records iterations in the project's FiftyOne dataset."""
        from reports.fiftyone_store import FiftyOneReporter

        return FiftyOneReporter(self.paths.fiftyone, self.settings.name, self.ledger.about()["id"])

    def stop_services(self) -> None:
        """Stop the project's own Label Studio and MongoDB, where they run."""
        self.label_studio().stop()
        self.fiftyone().stop()

    # --- the answer key of demos

    def still_wrong(self, labels: Mapping[str, CurrentLabel]) -> int | None:
        """How many train labels differ from the answer key; ``None`` where the project has none."""
        return self._answer_key.still_wrong(labels) if self._answer_key else None
