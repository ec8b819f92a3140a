"""A project and the people who label: their accounts and figures, classes and the class guide, answers in files.

Every function takes a ``Project``; the commands ``curate people``, ``classes``, ``guide``, ``sync --from`` and
``export --format label-studio`` are thin calls of these.
"""

from __future__ import annotations

import itertools
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curation.errors import DataError, ProjectError
from curation.project import Project
from curation.records import AMBIGUOUS, OTHER, SKIPPED, WITHDRAWN, Classes, Decision, Ruling, Verdict
from curation.runs import project_lock, write_json

if TYPE_CHECKING:
    import pandas as pd

#: A person is told of from so many answers on; and what they are told for: a median under a second, or agreement with
#: every suggestion that was shown.
FEWEST_ANSWERS, HASTY_SECONDS = 10, 1.0


# --- people


def add_labeler(project: Project, name: str, *, email: str | None = None) -> dict[str, Any]:
    """Make an account in the project's Label Studio; returns what to send to that person, once.

    Keys ``name, url, email, password`` and ``streams``, the addresses where labeling begins (none where nothing
    waits); each asks to sign in first. The password is kept nowhere. ``name`` stands in the ledger for the person, so
    a pseudonym will do. Raises LabelStudioError where the account is refused, DataError for a name that is taken.
    """
    from labeling.server import add_person, connection_from_environment

    people = project.labelers()
    email = email or f"{re.sub(r'[^a-z0-9]+', '.', name.lower()).strip('.') or 'labeler'}@example.com"
    if not name.strip() or any(other == name and address != email for address, other in people.items()):
        raise DataError(f"'{name}' is empty or taken by somebody else; choose another name (it may be a pseudonym)")
    password = secrets.token_urlsafe(9)
    connection = connection_from_environment() or project.label_studio().start()
    add_person(connection, email, password)
    write_json(project.paths.home / "people.json", {**people, email: name}, private=True)
    streams = project.labeling_access()["streams"]
    return {"name": name, "url": connection.url, "email": email, "password": password, "streams": streams}


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
            predictions = predictions_from_frame(read_frame(file))
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
        number = max((i.number for i in project.ledger.iterations()), default=0)
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
    return [replace(v, answer=merged.get(v.answer, v.answer)) for v in verdicts]


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

    Raises ProjectError where nothing waits.
    """
    from labeling.exchange import write_batch
    from labeling.screen import read_texts

    waiting = [i.number for i in project.ledger.iterations() if i.state == "waiting"]
    if not waiting:
        raise ProjectError("no batch waits for people; `curate run --annotator files` makes the next one")
    files = {s.id: s.file for s in project.samples()}
    return write_batch(
        folder, project.ledger.queue(waiting[-1]), files, project.classes_asked(), texts=read_texts(),
        guide=project.guide_texts(),
    )  # fmt: skip


def sync_file(project: Project, file: Path) -> dict[str, Any]:
    """Take the answers in a file into the ledger: Label Studio's JSON export, or a CSV with ``key`` and ``label``.

    Tasks of a project that was made by hand are known by their image's file name. Returns ``answers``, ``new``, and
    ``set_aside``, sentences on what does not count. Reading a file twice adds nothing.
    """
    from labeling.exchange import read_answers

    with project_lock(project.paths):
        paths = {s.id: tuple(p.path for p in s.paths) for s in project.ledger.samples()}
        number = max((i.number for i in project.ledger.iterations()), default=0)
        found = read_answers(Path(file), project.ledger.queue(), project.classes, paths, iteration=max(number - 1, 0))
        kept = found.verdicts if project.settings.review.timing else [replace(v, seconds=None) for v in found.verdicts]
        new = project.ledger.add_verdicts(kept)
    return {"answers": len(found.verdicts), "new": new, "set_aside": list(found.set_aside)}
