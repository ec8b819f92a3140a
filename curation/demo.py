"""``curate demo``: the whole loop on photovoltaic cells, with two simulated people answering through Label Studio.

The images are ELPV (Deitsch et al. 2019/2021; package ``elpv-dataset``, CC BY-NC-SA 4.0, an optional extra): 2,624
electroluminescence images of solar cells, graded 0, 1/3, 2/3 or 1 for how likely they are defective. Everything that
answers here goes through the same code and the same Label Studio that serve people.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import importlib.util
import io
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from curation.config import BackboneSettings, DetectionSettings, ReviewSettings, Settings, SliceSettings, read_settings
from curation.errors import ConfigError, ProjectError
from curation.project import Project
from curation.records import Progress
from curation.runs import ProjectPaths, ended_by_signal, write_whole
from curation.words import quoted

FLIPPED = 0.10
WRONG_ANSWERS = 0.05
SHARES = {"train": 0.6, "pool": 0.2, "holdout": 0.2}
PEOPLE = ("ada", "ben")
#: What a demo's project is called, and the files that it is made from.
NAME, LABELS, ANSWER_KEY = "ELPV demo", "labels.csv", "answer_key.csv"
COLUMNS = ("path", "label", "split", "wafer", "grade")


@dataclass(frozen=True)
class Cell:
    """One ELPV image: its path in the package, its grade in [0, 1], its wafer type, and its true class."""

    path: str
    grade: float
    wafer: str

    @property
    def truth(self) -> str:
        """``functional`` below a grade of 0.5, else ``defective``."""
        return "functional" if self.grade < 0.5 else "defective"


@dataclass(frozen=True)
class Planned:
    """A cell with its split and the label that the demo gives it (``None`` in the pool)."""

    cell: Cell
    split: str
    label: str | None


def run_demo(
    directory: Path,
    *,
    keep: bool,
    iterations: int,
    budget: int,
    limit: int | None,
    size: int | None,
    seed: int,
    progress: Progress | None,
    say: Callable[[str], None],
    show: Callable[[str], Any],
    table_of: Callable[[dict[str, Any]], str],
) -> None:
    """Make the demo's project where it is missing, run what is left of its iterations, and show what came of it.

    Raises ConfigError for a limit below one, and what ``check_folder`` and ``read_elpv`` raise.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit must be 1 or more, got {limit}")
    check_folder(directory)
    began = time.monotonic()
    images, cells = read_elpv()
    if not ProjectPaths(directory).settings.exists():
        _make(directory, images, cells, budget=budget, limit=limit, size=size, seed=seed, progress=progress, say=say)
    project = Project(directory, progress=progress, say=say)
    with _stopping(project, keep=keep):
        done = len([i for i in project.ledger.iterations() if i.state == "done"])
        while done < iterations:
            project.run(1, annotator="label-studio")
            if _state(project) == "waiting":
                answer(project, cells, seed=seed, say=say)
                project.run()
            done = len([i for i in project.ledger.iterations() if i.state == "done"])
            show(table_of(project.status()))
            say(f"Iteration {done} of {iterations} after {time.monotonic() - began:.0f} s.")
        show("")
        show(table_of(project.status()))
        last = project.paths.iteration(max(done, 1))
        show(f"\nReport:       {last / 'report' / 'index.html'}")
        show(f"FiftyOne App: curate review {quoted(directory)}")
        show(f"Label Studio: curate label {quoted(directory)}")


def check_folder(directory: Path) -> None:
    """Raise ProjectError for a folder that holds something and was not begun by a demo: the user's own tables would be
    written over, or the user's own project run.
    """
    file = ProjectPaths(directory).settings
    if file.exists():
        settings = read_settings(file)
        ours = (settings.name, settings.answer_key) == (NAME, ANSWER_KEY)
    elif directory.is_dir():
        names = {entry.name for entry in directory.iterdir()}
        begun = names <= {LABELS, ANSWER_KEY, ProjectPaths(directory).home.name} and LABELS in names
        ours = not names or (begun and (directory / LABELS).read_bytes().startswith(_csv(COLUMNS, ()).encode()))
    else:
        ours = not directory.exists()
    if not ours:
        raise ProjectError(f"{directory} is not empty and no demo's; name a folder that is empty, or not there yet")


def read_elpv() -> tuple[Path, list[Cell]]:
    """The folder of the installed ELPV images and its cells; raises ConfigError where the extra is not installed."""
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or not found.submodule_search_locations:
        raise ConfigError("the demo's images are missing; install them with `pip install 'curation-toolkit[demo]'`")
    folder = Path(found.submodule_search_locations[0]) / "data"
    cells = []
    for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines():
        if line.strip():
            path, grade, wafer = line.split()
            cells.append(Cell(path, float(grade), wafer))
    return folder, cells


def plan(cells: Sequence[Cell], *, seed: int, limit: int | None = None) -> list[Planned]:
    """Split the cells 60/20/20 by grade and wafer, and flip a tenth of the train labels; all by the seed."""
    rng = random.Random(seed)
    strata: dict[tuple[float, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        strata[cell.grade, cell.wafer].append(cell)
    share = min(1.0, limit / len(cells)) if limit else 1.0
    planned: list[tuple[Cell, str]] = []
    for _, members in sorted(strata.items()):
        rng.shuffle(members)
        members = members[: max(5, round(share * len(members)))]
        train, pool = round(SHARES["train"] * len(members)), round(SHARES["pool"] * len(members))
        splits = ["train"] * train + ["pool"] * pool + ["holdout"] * (len(members) - train - pool)
        planned += list(zip(members, splits, strict=True))
    planned.sort(key=lambda pair: pair[0].path)
    in_train = [cell.path for cell, split in planned if split == "train"]
    flipped = set(rng.sample(in_train, round(FLIPPED * len(in_train))))
    other = {"functional": "defective", "defective": "functional"}
    return [
        Planned(cell, split, None if split == "pool" else other[cell.truth] if cell.path in flipped else cell.truth)
        for cell, split in planned
    ]


def _make(
    directory: Path,
    images: Path,
    cells: Sequence[Cell],
    *,
    budget: int,
    limit: int | None,
    size: int | None,
    seed: int,
    progress: Progress | None,
    say: Callable[[str], None],
) -> None:
    planned = plan(cells, seed=seed, limit=limit)
    flipped = len([p for p in planned if p.split == "train" and p.label != p.cell.truth])
    trained = len([p for p in planned if p.split == "train"])
    say(
        f"ELPV: {len(planned):,} photographs of solar cells. On purpose, {flipped} of the {trained:,} train labels are "
        "flipped; the loop has to find them. The data set's own labels are the answer key."
    )
    write_whole(directory / LABELS, _csv(
        COLUMNS,
        [(p.cell.path, p.label or "", p.split, p.cell.wafer, p.cell.grade) for p in planned],
    ))  # fmt: skip
    write_whole(directory / ANSWER_KEY, _csv(("path", "label"), [(p.cell.path, p.cell.truth) for p in planned]))
    settings = Settings(
        name=NAME,
        seed=seed,
        answer_key=ANSWER_KEY,
        backbone=BackboneSettings(size=size or 0),
        review=ReviewSettings(budget=budget, opinions=len(PEOPLE)),
        detection=DetectionSettings(views="one"),  # for the demo's time
        slices=SliceSettings(ignore=("grade",)),  # the label was made from it
    )
    Project.create(directory, images, directory / LABELS, settings=settings, progress=progress, say=say)


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def _state(project: Project) -> str:
    known = project.ledger.iterations()
    return known[-1].state if known else ""


def answer(project: Project, cells: Sequence[Cell], *, seed: int, say: Callable[[str], None]) -> int:
    """Let two simulated people answer the waiting batch through Label Studio, each with an account of their own.

    They say what the answer key says; the second is wrong in 5 % of the cases, by the seed. Returns the answers given.
    """
    from labeling.person import LabelStudioPerson
    from labeling.server import add_person, person_token

    connection = project.label_studio().start()
    classes = project.classes
    truth = {c.path: c.truth for c in cells}
    paths = {s.id: s.path for s in project.samples()}
    number = project.ledger.iterations()[-1].number
    path_of = {e.key: paths[e.sample_id] for e in project.ledger.queue(number)}
    secret = project.paths.secret.read_text(encoding="utf-8").strip()

    def at_work(person: str, wrong: float) -> int:
        email = f"{person}@example.com"
        password = hmac.new(secret.encode(), email.encode(), hashlib.sha256).hexdigest()[:24]
        began = time.monotonic()
        answers = {
            key: classes.id(_says(person, path, truth[path], wrong, seed, classes.names))
            for key, path in path_of.items()
        }
        pace = {key: 1.5 + 3 * _chance(seed, person, path, "seconds") for key, path in path_of.items()}
        add_person(connection, email, password)
        simulated = LabelStudioPerson(connection.url, person_token(connection, email, password))
        count = simulated.answer(project.ledger.about()["id"], answers.get, pace.__getitem__)
        say(f"{person} (simulated) answered {count} tasks in Label Studio in {time.monotonic() - began:.0f} s.")
        return count

    with ThreadPoolExecutor() as pool:  # both at once, as people are
        return sum(pool.map(at_work, PEOPLE, (0.0, WRONG_ANSWERS)))


def _says(person: str, path: str, truth: str, wrong: float, seed: int, names: Sequence[str]) -> str:
    """What a person says of an image: the truth, or with the chance ``wrong`` another class; by the seed alone."""
    return next(n for n in names if n != truth) if _chance(seed, person, path, "answer") < wrong else truth


def _chance(seed: int, *about: str) -> float:
    """A number in [0, 1) that depends on the seed and on what it is for."""
    digest = hashlib.sha256(f"{seed}:{':'.join(about)}".encode()).digest()
    return float(Fraction(int.from_bytes(digest[:8], "big"), 2**64))


@contextmanager
def _stopping(project: Project, *, keep: bool) -> Iterator[None]:
    """Stop what the demo started, however it ends, unless it is to be kept; SIGTERM ends it like Ctrl-C."""

    try:
        with ended_by_signal():
            yield
    finally:
        if not keep:
            project.stop_services()
