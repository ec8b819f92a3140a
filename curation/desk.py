"""A project and the people who label: their accounts and figures, classes and the class guide, answers in files.

Every function takes a ``Project``; the commands ``curate people``, ``classes``, ``guide``, ``sync --from`` and
``export --format label-studio`` are thin calls of these.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
import secrets
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation import reviews
from curation.asking import names_in_files, note_erased
from curation.config import Settings
from curation.errors import DataError, ProjectError
from curation.images import FilesAsSeen
from curation.project import Project
from curation.records import AMBIGUOUS, OTHER, SKIPPED, WITHDRAWN, Classes, Decision, Progress, Ruling, Verdict
from curation.reporting import Say
from curation.runs import ProjectPaths, accounts_lock, project_lock, read_json, write_json, write_whole

if TYPE_CHECKING:
    import pandas as pd

    from labeling.adopting import TheirProject, TheirTask
    from labeling.server import Connection

#: A person is told of from so many answers on; and what they are told for: a median under a second, or agreement with
#: every suggestion that was shown.
FEWEST_ANSWERS, HASTY_SECONDS = 10, 1.0


# --- people


def add_labeler(project: Project, name: str, *, email: str | None = None) -> dict[str, Any]:
    """Make an account in the project's Label Studio; returns what to send to that person, once.

    Keys ``name, url, email, password`` and ``streams``, the addresses where labeling begins, those of the person's own
    queue where there is one (none where nothing waits); each asks to sign in first. The password is kept nowhere.
    ``name`` stands in the ledger for the person, so a pseudonym will do. Raises LabelStudioError where the account is
    refused, DataError for a name or an email that is taken.
    """
    from labeling.server import add_person, connection_from_environment, emails

    _check_free(name, email, project.labelers())
    password = secrets.token_urlsafe(9)
    connection = connection_from_environment() or project.label_studio().start()
    with accounts_lock(project.paths):  # others may add somebody at the same time
        people, there = project.labelers(), emails(connection)
        _check_free(name, email, people)
        had = next((address for address, other in people.items() if other == name), "")
        email = email or had or email_of(name, {*people, *there})
        if email.lower() in there:
            raise DataError(
                f"'{name}' has an account already ({email}); choose another name for somebody else" if had else
                f"the Label Studio at {connection.url} has an account for {email} already; give another with --email"
            )  # fmt: skip
        add_person(connection, email, password)
        write_json(project.paths.home / "people.json", {**people, email: name}, private=True)
    streams: dict[str, str] = {}
    if set(project.settings.review.people) <= {*people.values(), name}:  # else the batch can't be divided yet
        access = project.labeling_access()
        own: dict[str, str] = next((row["addresses"] for row in access["people"] if row["person"] == name), {})
        streams = own or access["streams"]
    return {"name": name, "url": connection.address, "email": email, "password": password, "streams": streams}


def _check_free(name: str, email: str | None, people: Mapping[str, str]) -> None:
    """Raise DataError where a name or an email is somebody else's; ``people`` are names by email."""
    if not name.strip() or any(other == name and email not in (None, address) for address, other in people.items()):
        raise DataError(f"'{name}' is empty or taken by somebody else; choose another name (it may be a pseudonym)")
    if email is not None and people.get(email, name) != name:
        raise DataError(f"{email} is the email of '{people[email]}'; give another with --email")


def email_of(name: str, taken: Collection[str]) -> str:
    """An email made of a name, numbered where it is taken (pure).

    >>> email_of("Zoë O'Hara", ["zoe@example.com"]), email_of("太郎", ["labeler@example.com"])
    ('zoe.o.hara@example.com', 'labeler.2@example.com')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode("ascii").lower()
    word = re.sub(r"[^a-z0-9]+", ".", plain).strip(".") or "labeler"
    tries = (f"{word}{ending}@example.com" for ending in itertools.chain([""], map(".{}".format, itertools.count(2))))
    return next(email for email in tries if email not in taken)


def erase_person(project: Project, name: str) -> str:
    """Erase a name from the ledger and from who has an account; what the person said stays under what this returns, and
    so does what files that name them say again.

    Reports, FiftyOne, Label Studio, curation.toml and backups made before still hold the name. Raises DataError where
    nobody has that name.
    """
    now = project.ledger.erase_person(name)
    note_erased(project.paths, name, now)
    home = project.paths.home
    (home / "queues.json").unlink(missing_ok=True)
    with accounts_lock(project.paths):
        accounts = project.labelers()
        if name in accounts.values():
            write_json(home / "people.json", {e: other for e, other in accounts.items() if other != name}, private=True)
    return now


def labelers(project: Project) -> pd.DataFrame:
    """How people label: one row a person, best first.

    Columns of ``labeling.consensus.annotator_quality`` (``person, answered, agreement, median_seconds, quality``), then
    ``follows_suggestion``, the share of their answers to shown tasks with a suggestion that say just that, and
    ``note``, what whoever runs the project should look at.
    """
    from labeling.consensus import annotator_quality, opinions

    classes = project.classes
    verdicts = [v for v in project.ledger.verdicts() if v.mode != "review"]
    table = annotator_quality(verdicts, _last_probabilities(project), classes)
    suggested = {e.key: e.suggested for e in project.ledger.queue() if e.mode == "shown" and e.suggested}
    follows: dict[str, list[bool]] = defaultdict(list)
    for verdict in opinions(verdicts, classes):
        if verdict.key in suggested:
            follows[verdict.person].append(verdict.answer == suggested[verdict.key])
    shares = [sum(follows[p]) / len(follows[p]) if follows[p] else float("nan") for p in table["person"]]
    table["follows_suggestion"] = shares
    table["note"] = [
        note_on(answered, seconds, follows[person])
        for person, answered, seconds in zip(table["person"], table["answered"], table["median_seconds"], strict=True)
    ]
    return table


def note_on(answered: int, median_seconds: float, follows: Sequence[bool]) -> str:
    """What to look at in how a person labels, in words; empty where nothing stands out (pure).

    >>> note_on(40, 0.5, [True] * 20)
    'answers in under 1 s; agrees with every suggestion'
    """
    notes = []
    if answered >= FEWEST_ANSWERS and median_seconds < HASTY_SECONDS:
        notes.append(f"answers in under {HASTY_SECONDS:.0f} s")
    if len(follows) >= FEWEST_ANSWERS and all(follows):
        notes.append("agrees with every suggestion")
    return "; ".join(notes)


def _last_probabilities(project: Project) -> Mapping[str, Any]:
    from curation.tables import predictions_from_frame, read_frame

    for iteration in reversed(project.ledger.iterations()):
        file = project.paths.iteration(iteration.number) / "predictions.parquet"
        if file.exists():
            predictions = predictions_from_frame(read_frame(file)).over(
                project.classes.ids, project.ledger.merged_classes()
            )
            return dict(zip(predictions.sample_ids, predictions.probabilities, strict=True))
    return {}


# --- classes


def rename_class(project: Project, name: str, to: str, *, who: str) -> Classes:
    """Give a class another name; labels, answers and open tasks keep it. Raises DataError."""
    with project_lock(project.paths):
        return project.ledger.rename_class(project.classes.id(name), to, who=who)


def add_class(project: Project, name: str, *, who: str) -> Classes:
    """Add a class; labelers can choose it from the next `curate label` or `curate run` on."""
    if not name.strip() or name in project.classes.names:
        raise DataError(f"'{name}' can't be added: it is empty, or a class already")
    with project_lock(project.paths):
        return project.ledger.add_classes([name], who=who)


def merge_class(project: Project, name: str, into: str, *, who: str) -> int:
    """Let a class be part of another: its labels move, answers that name it count for the other; returns labels moved.

    The class guide, screens and the queue know only the other from here on. Raises DataError.
    """
    classes = project.classes
    merged, target = classes.id(name), classes.id(into)
    with project_lock(project.paths):
        project.ledger.merge_class(merged, target, who=who)
        number = project.arriving_iteration()
        moved = [
            Decision(sample, "change", target, 1.0, (), f"class '{name}' was merged into '{into}'")
            for sample, now in project.ledger.labels().items()
            if now.class_id == merged and not now.excluded
        ]
        return len(project.ledger.decide(moved, who=who, iteration=number))


# --- the class guide


def rule(project: Project, names: Sequence[str], text: str, *, who: str) -> Ruling:
    """Write into the class guide what a class means, or how two are told apart; shown with the next batch's tasks."""
    classes = project.classes
    return project.ledger.rule([classes.id(name) for name in names], text, who=who)


def disputes(project: Project) -> pd.DataFrame:
    """Pairs of classes between which people disagree, the most disputed first.

    Columns: ``first``, ``second``; ``images`` on which one person says the one and another the other; ``paths``, up to
    ten of them; ``ruling``, the guide's newest on the pair; ``agreement_before`` and ``agreement_after``, the share of
    pairs of opinions that agree, on images of which somebody says one of the two, of answers given before and after
    that ruling (all before where there is none), NaN where there are none; ``pairs_before`` and ``pairs_after``, how
    many pairs these are.
    """
    import pandas as pd

    classes = project.classes
    paths = {s.id: s.path for s in project.samples()}
    rulings = {r.class_ids: r for r in project.ledger.guide() if len(r.class_ids) == 2}
    said = _opinions(project)
    contested = disputed_images(said)
    rows = []
    for pair in sorted({*contested, *rulings}, key=lambda p: (-len(contested.get(p, ())), p)):
        ruling = rulings.get(pair)
        before, n_before = agreement(said, pair, until=ruling.at if ruling else None)
        after, n_after = agreement(said, pair, since=ruling.at) if ruling else (float("nan"), 0)
        images = contested.get(pair, [])
        rows.append(
            (classes.name(pair[0]), classes.name(pair[1]), len(images), [paths.get(s, s) for s in images[:10]],
             ruling.text if ruling else "", before, after, n_before, n_after)
        )  # fmt: skip
    columns = ["first", "second", "images", "paths", "ruling", "agreement_before", "agreement_after",
               "pairs_before", "pairs_after"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def open_questions(project: Project) -> pd.DataFrame:
    """What people called ambiguous or something else: ``path, answer, words, person``, in the order it was said."""
    import pandas as pd

    paths = {s.id: s.path for s in project.samples()}
    rows = [
        (paths.get(v.sample_id, v.sample_id), v.answer, v.note, v.person)
        for v in project.ledger.verdicts()
        if v.answer in (AMBIGUOUS, OTHER)
    ]
    return pd.DataFrame(rows, columns=["path", "answer", "words", "person"])


def _opinions(project: Project) -> list[Verdict]:
    """Opinions that name a class, classes that were merged as what they are now; without reviewers'."""
    merged = project.ledger.merged_classes()
    verdicts = [v for v in project.ledger.verdicts() if v.mode != "review" and v.answer not in (SKIPPED, WITHDRAWN)]
    return reviews.in_classes_of_now(verdicts, merged)


def disputed_images(said: Sequence[Verdict]) -> dict[tuple[str, str], list[str]]:
    """Sample ids by pair of class ids (sorted) that different people gave the same image (pure)."""
    by_sample: dict[str, dict[str, str]] = defaultdict(dict)
    for verdict in said:
        if verdict.answer not in (AMBIGUOUS, OTHER) and verdict.answer[:1] == "c":
            by_sample[verdict.sample_id][verdict.person] = verdict.answer
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for sample, answers in by_sample.items():
        for one, other in itertools.combinations(sorted(set(answers.values()), key=_number), 2):
            found[one, other].append(sample)
    return dict(found)


def agreement(
    said: Sequence[Verdict], pair: tuple[str, str], *, since: datetime | None = None, until: datetime | None = None
) -> tuple[float, int]:
    """How often two people say the same of images of which somebody says one of a pair: share, and pairs (pure).

    Only answers given from ``since`` on and before ``until`` count; a person's last one on each image.
    """
    by_sample: dict[str, dict[str, str]] = defaultdict(dict)
    for verdict in sorted(said, key=lambda v: (v.at, v.id)):
        if (since is None or verdict.at >= since) and (until is None or verdict.at < until):
            by_sample[verdict.sample_id][verdict.person] = verdict.answer
    same: Counter[bool] = Counter()
    for answers in by_sample.values():
        if set(pair) & set(answers.values()):
            same.update(one == other for one, other in itertools.combinations(answers.values(), 2))
    total = same.total()
    return (same[True] / total if total else float("nan")), total


def _number(class_id: str) -> tuple[int, str]:
    return (int(class_id[1:]) if class_id[1:].isdigit() else 0, class_id)


# --- files


def export_batch(project: Project, folder: Path) -> list[Path]:
    """Write the batch that waits for people into a folder, for a Label Studio elsewhere or a table; returns the files.

    Left out is what a reviewer has settled, and images whose files are gone or were changed, of which the project
    tells. Raises ProjectError where nothing waits.
    """
    from labeling.exchange import write_batch

    waiting = [i.number for i in project.ledger.iterations() if i.state == "waiting"]
    if not waiting:
        raise ProjectError("no batch waits for people; `curate run --annotator files` makes the next one")
    files = FilesAsSeen(project.usable_samples(), project.paths.cache / "seen")
    entries = [e for e in reviews.open_entries(project.ledger, waiting[-1]) if e.sample_id in files]
    return write_batch(
        folder, entries, files, project.classes_asked(), texts=project.texts(), guide=project.guide_texts()
    )


def sync_file(project: Project, file: Path) -> dict[str, Any]:
    """Take the answers in a file into the ledger: Label Studio's JSON export, or a CSV with ``key`` and ``label``.

    Tasks of a project that was made by hand are known by their image's file name. Returns ``answers``, ``new``, and
    ``set_aside``, sentences on what does not count. Reading a file twice adds nothing.
    """
    from labeling.exchange import read_answers

    with project_lock(project.paths):
        paths = {s.id: tuple(p.path for p in s.paths) for s in project.ledger.samples()}
        number = max((i.number for i in project.ledger.iterations()), default=0)
        found = read_answers(
            Path(file), project.ledger.queue(holdout=True), project.classes, paths, iteration=max(number - 1, 0),
            called=names_in_files(project.paths),
        )  # fmt: skip
        kept = found.verdicts if project.settings.review.timing else [replace(v, seconds=None) for v in found.verdicts]
        new = project.ledger.add_verdicts(kept)
    return {"answers": len(found.verdicts), "new": new, "set_aside": list(found.set_aside)}


# --- a Label Studio project that people made themselves


def adopt(root: Path, which: str, *, progress: Progress | None = None, say: Say = print) -> dict[str, Any]:
    """Take over a Label Studio project, by number or title: its images, answers and people.

    Where ``root`` is no project, one is made of it: the images are fetched into ``root/images``, a label is what most
    people said (unlabeled tasks go to the pool). Where it was made so, images that it does not have yet are fetched and
    brought in; where it has images of its own, answers to these are taken. In any case the answers come into the ledger
    with who gave them and when, and ``sync`` takes what comes there from now on. Returns ``project`` (its title),
    ``tasks``, ``answers``, ``new`` and ``set_aside``, sentences on what does not count. The Label Studio is that of the
    environment, else the project's own. Raises LabelStudioError, and DataError also where no image can be had.
    """
    from labeling.adopting import fetch_images, find_project, read_tasks
    from labeling.server import connection_from_environment

    known = ProjectPaths(root).settings.exists()
    connection = connection_from_environment()
    if connection is None:
        if not known:
            raise DataError("set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY, so that the project to adopt can be found")
        connection = Project(root).label_studio().start()
    theirs = find_project(connection, which)
    lost: list[str] = []
    if not known:
        tasks = read_tasks(connection, theirs)
        lost = fetch_images(connection, tasks, root / "images", progress)
        had = [t for t in tasks if (root / "images" / t.path).is_file()]
        if not had:
            raise DataError(
                f"none of the {len(tasks)} images of project '{theirs.title}' can be had: {lost[0]}; see to their host"
                if lost
                else f"no task of project '{theirs.title}' has an image in '{theirs.image_field}'; import some there"
            )
        _project_of(root, theirs, had, progress, say)
    project = Project(root, progress=progress, say=say)
    if known and _is_of_theirs(project):
        lost = _bring_in(project, connection, read_tasks(connection, theirs), progress)
    noted = [*_adopted(project), {"url": connection.url, "project": theirs.number}]
    write_json(project.paths.home / "adopted.json", [n for i, n in enumerate(noted) if n not in noted[:i]])
    found = sync_adopted(project, connection, theirs.number)
    return {**found, "set_aside": [*lost, *found["set_aside"]]}


def _project_of(
    root: Path, theirs: TheirProject, tasks: Sequence[TheirTask], progress: Progress | None, say: Say
) -> None:
    """A project of our own with the images and labels of theirs, and all of its classes."""
    write_whole(root / "labels.csv", _table_of(tasks))
    settings = Settings(name=theirs.title)
    project, _ = Project.create(
        root, root / "images", root / "labels.csv", settings=settings, progress=progress, say=say
    )
    more = [name for name in theirs.class_names if name not in project.classes.names]
    if more:
        project.ledger.add_classes(more, who="import")


def _table_of(tasks: Sequence[TheirTask]) -> str:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerows([("path", "label"), *((t.path, t.label) for t in {t.path: t for t in tasks}.values())])
    return table.getvalue()


def _is_of_theirs(project: Project) -> bool:
    """Whether the project was made by ``adopt``: its images are those that were fetched from Label Studio."""
    root = project.root.resolve()
    return Path(project.settings.images) == root / "images" and (root / "labels.csv").is_file()


def _bring_in(
    project: Project, connection: Connection, tasks: Sequence[TheirTask], progress: Progress | None
) -> list[str]:
    """Fetch and add the images that the project does not have; returns in sentences what could not be had."""
    from labeling.adopting import fetch_images, without_sample

    folder, table = project.root / "images", project.paths.home / "fetched.csv"
    new = without_sample(tasks, _paths(project))
    there = {t.path for t in new if (folder / t.path).is_file()}
    lost = fetch_images(connection, new, folder, progress)
    had = [t for t in new if (folder / t.path).is_file()]
    if not had:
        return lost
    write_whole(table, _table_of(had))
    try:
        lost += [one.reason for one in project.add(folder, table).set_aside]
    except DataError as error:  # none of them is an image: answers to the others still count
        lost.append(str(error))
    finally:
        table.unlink(missing_ok=True)
    for task in without_sample(had, _paths(project)):  # a page in place of the image: asked for again next time
        if task.path not in there:
            (folder / task.path).unlink(missing_ok=True)
    return lost


def _paths(project: Project) -> dict[str, tuple[str, ...]]:
    return {s.id: tuple(p.path for p in s.paths) for s in project.ledger.samples()}


def _adopted(project: Project) -> list[dict[str, Any]]:
    file = project.paths.home / "adopted.json"
    return list(read_json(file)) if file.exists() else []


def sync_adopted(project: Project, connection: Connection | None = None, number: int | None = None) -> dict[str, Any]:
    """Take what has come, changed or was deleted in adopted projects, of all or of one; counts as of ``adopt``.

    Those of a Label Studio that is not ``connection`` (by default that of the environment, else the project's own) are
    left alone, and ``set_aside`` says so.
    """
    from labeling.adopting import find_project, read_people, read_tasks, verdicts_of
    from labeling.server import connection_from_environment

    counts: dict[str, Any] = {"project": "", "tasks": 0, "answers": 0, "new": 0, "set_aside": []}
    noted = _adopted(project)
    if not noted:
        return counts
    connection = connection or connection_from_environment() or project.label_studio().start()
    for one in noted:
        if number not in (None, one["project"]):
            continue
        if one["url"] != connection.url:
            counts["set_aside"].append(
                f"the adopted project {one['project']} is in the Label Studio at {one['url']}, which LABEL_STUDIO_URL "
                "does not name now; set it, and LABEL_STUDIO_API_KEY, to take its answers"
            )
            continue
        theirs = find_project(connection, str(one["project"]))
        tasks = read_tasks(connection, theirs)
        people = read_people(connection, project.labelers())
        with project_lock(project.paths):
            last = max((i.number for i in project.ledger.iterations()), default=0)
            known = project.ledger.verdicts()
            found, aside = verdicts_of(
                theirs, tasks, project.classes, _paths(project), people, known, iteration=max(last - 1, 0),
                fetched=_is_of_theirs(project),
            )  # fmt: skip
            if not project.settings.review.timing:
                found = [replace(v, seconds=None) for v in found]
            new = project.ledger.add_verdicts(found)
        counts["project"] = theirs.title
        for what, count in (("tasks", len(tasks)), ("answers", len(found)), ("new", new)):
            counts[what] += count
        counts["set_aside"] += aside
    return counts
