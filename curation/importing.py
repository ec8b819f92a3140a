"""Images and labels into the ledger: what an import reads, records and tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from curation import dataset, files
from curation.config import Settings
from curation.errors import ProjectError
from curation.images import bits_in_use
from curation.ledger import Ledger, NewPath, NewSample, StoredSample
from curation.records import Classes, CurrentLabel, MetadataValue, Sample
from curation.runs import ProjectPaths, write_json
from curation.words import counted

SMALL_SIDE = 112


@dataclass(frozen=True)
class Imported:
    """What an import brought: new samples, rows, notes on contradictions, rows set aside with their reason."""

    samples: int
    rows: int
    splits: Mapping[str, int]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    set_aside: tuple[dataset.SetAside, ...]


def read_rows(images: Path, labels: str | Path | None, label_column: str) -> list[dataset.Row]:
    """The rows of a table, or of a folder of class folders where there is none."""
    if labels is None:
        return dataset.rows_of_folder(images)
    return dataset.rows_of_table(Path(labels), images, label_column=label_column)


def size_for(images: Sequence[dataset.Gathered]) -> int:
    """112 pixels where most images are smaller than that, else 224."""
    sides = sorted(max(g.facts.width, g.facts.height) for g in images)
    return SMALL_SIDE if sides[len(sides) // 2] <= SMALL_SIDE else 224


def new_ledger(settings: Settings, paths: ProjectPaths, ids: set[str]) -> Ledger:
    """A ledger to import into; what an import that was cut short left of one is made anew.

    Raises ProjectError where the ledger holds anybody's work, or, in a database, samples of another import.
    """
    ledger = Ledger(settings.ledger) if settings.ledger else Ledger.in_file(paths.ledger)
    if ledger.worked_on():
        raise ProjectError(
            f"{settings.ledger or paths.ledger} holds the work of a project whose {paths.settings} is gone; put that "
            "file back (a backup has it), or move the ledger away"
        )
    have = ledger.counts()["splits"]
    if settings.ledger and have and {s.id for s in ledger.samples()} - ids:
        raise ProjectError(
            f"the database of setting 'ledger' holds {sum(have.values())} other samples; name an empty one"
        )
    if have and not settings.ledger:
        ledger.close()
        for file in paths.home.glob(f"{paths.ledger.name}*"):
            file.unlink()
        ledger = Ledger.in_file(paths.ledger)
    return ledger


def record_import(
    ledger: Ledger,
    gathered: Sequence[dataset.Gathered],
    found: dataset.Found,
    *,
    iteration: int = 0,
    notes: Sequence[str] = (),
) -> Imported:
    """Write what was gathered into the ledger; names of merged classes count for those that they now belong to, names
    that a class had before it was renamed for that one.

    Every label of a row is a class, also one that no picture got because more of its rows have another; but not that of
    a row that is known, whose image keeps the label and the split that it has: these are told. Labels of the pool are
    not taken, but those that come later for images of it, in rows that name no other split than train: these are
    learned from then. ``notes`` are told with those on contradictions, first.
    """
    before, merged = ledger.classes(), ledger.merged_classes()
    stored, labels = {s.id: s for s in ledger.samples()}, ledger.labels()
    places = {(p.sample_id, p.root, p.path) for s in stored.values() for p in s.paths}
    fresh = [(g, row) for g in gathered for row in g.rows if (g.id, _root(row), row.path) not in places]
    taken = {g.id: g.label for g in gathered if g.label is not None and _is_taken(g) and g.id not in labels}
    names = {row.label for _, row in fresh if row.label is not None} | set(taken.values())
    known = ledger.add_classes(sorted(n for n in names if before.named(n) is None), who="import")

    def class_of(name: str) -> str:
        class_id = known.named(name) or known.id(name)
        return merged.get(class_id, class_id)

    samples = [NewSample(g.id, g.split, g.group, g.facts.width, g.facts.height) for g in gathered]
    paths = [
        NewPath(g.id, row.path, _root(row), class_of(row.label) if row.label else None, row.metadata)
        for g, row in fresh
    ]
    given = {sample_id: class_of(label) for sample_id, label in taken.items()}
    added = ledger.add_samples(samples, paths, given, who="import", why="label as given", iteration=iteration)
    told = _kept([g for g in gathered if g.id in stored], stored, labels, known, merged)
    of_images = (note for g in gathered for note in g.notes)
    return Imported(
        samples=added,
        rows=len(found.rows),
        splits=dict(Counter(g.split for g in gathered)),
        classes=known.names,
        notes=tuple(note for note in (*notes, *_renamed(gathered, known), *told, *of_images) if note),
        set_aside=found.set_aside,
    )


def _renamed(gathered: Sequence[dataset.Gathered], classes: Classes) -> list[str]:
    """Sentences on names in rows that were a class's before it was renamed."""
    counts = Counter(row.label for g in gathered for row in g.rows if row.label and row.label in classes.former)
    return [
        f"class '{name}' is called '{classes.name(classes.former[name])}' now: {count:,} "
        f"{'row counts' if count == 1 else 'rows count'} for it (`curate classes --add` makes the name another's)"
        for name, count in sorted(counts.items())
    ]


def _kept(
    gathered: Sequence[dataset.Gathered],
    stored: Mapping[str, StoredSample],
    labels: Mapping[str, CurrentLabel],
    classes: Classes,
    merged: Mapping[str, str],
) -> list[str]:
    """Sentences on known images whose rows have a label that they never came with, another split, group or metadata."""
    others: list[str] = []
    described: list[str] = []
    apart: list[str] = []
    grouped: list[str] = []
    for g in gathered:
        now = labels[g.id].class_id if g.id in labels else None
        same = {now, *(merged.get(p.given, p.given) for p in stored[g.id].paths if p.given)}
        named_class = classes.named(g.label) if g.label is not None else now
        if now is not None and (named_class is None or merged.get(named_class, named_class) not in same):
            others.append(f"{g.rows[0].path} is '{classes.name(now)}', not '{g.label}'")
        named = {row.split for row in g.rows} - {None, g.split}
        if named - ({"train"} if g.split == "pool" else set()):
            apart.append(f"{g.rows[0].path} is in {g.split}")
        had = {(p.root, p.path): p.metadata for p in stored[g.id].paths}
        for row in g.rows:
            before = had.get((_root(row), row.path))
            if before is not None and (new := _new_in(row.metadata, before)):
                described.append(f"{row.path} has {new}")
        group = stored[g.id].group
        if {row.group for row in g.rows} - {None, group}:
            grouped.append(f"{g.rows[0].path} is in {'none' if group is None else repr(group)}")
    told = []
    if others:
        told.append(
            f"{counted(len(others), 'image is', 'images are')} known with another label, which stays ({others[0]}): "
            "labels change by what people say, for instance in `curate review`"
        )
    if apart:
        told.append(f"{counted(len(apart), 'image is', 'images are')} known in another split, which stays ({apart[0]})")
    if grouped:
        told.append(
            f"{counted(len(grouped), 'image is', 'images are')} known in another group, which stays ({grouped[0]}): "
            "groups are fixed when an image first comes, since train and holdout are divided by them"
        )
    if described:
        images = counted(len(described), "image is", "images are")
        told.append(
            f"{images} known with other metadata, which stays ({described[0]}): what slices speak of is fixed when an "
            "image first comes"
        )
    return told


def _new_in(metadata: Mapping[str, MetadataValue], before: Mapping[str, MetadataValue]) -> str:
    """The first value of a row that was another before, or was not there, in words; '' where there is none."""
    for key, value in metadata.items():
        was, now = dataset.text_of(before.get(key)), dataset.text_of(value)
        if now is not None and now != was:
            return f"{key} {'none' if was is None else repr(was)}, not {now!r}"
    return ""


def _root(row: dataset.Row) -> str:
    """The folder that a row's path is told from; '' for an absolute one."""
    return "" if Path(row.path).is_absolute() else str(row.root)


def _is_taken(gathered: dataset.Gathered) -> bool:
    """Whether an image's label is taken; a new one of the pool always has a row that says so."""
    return gathered.split != "pool" or {row.split for row in gathered.rows} <= {None, "train"}


def sample_of(stored: StoredSample, bits: int = 16) -> Sample:
    """A sample as the rest of the house knows it; of several paths the first that is there. ``bits``: the setting."""
    first = stored.paths[0]
    places = [Path(p.root) / p.path for p in stored.paths]
    file = next((f for f in places if f.exists()), places[0]) if len(places) > 1 else places[0]
    metadata = {k: v for p in reversed(stored.paths) for k, v in p.metadata.items()}
    return Sample(stored.id, first.path, file, stored.split, stored.group, metadata, stored.width, stored.height, bits)


def samples_of(ledger: Ledger, bits: int = 16) -> list[Sample]:
    """All samples of a ledger in the order they came. ``bits``: the setting."""
    return [sample_of(stored, bits) for stored in ledger.samples()]


def bits_of(found: dataset.Found) -> tuple[int, str]:
    """How many bits the 16-bit images of an import use, and where these are fewer than 16, a sentence that says so."""
    deep = [facts.deepest for _, facts in found.rows if facts.deepest]
    bits = bits_in_use(max(deep, default=0))
    if bits == 16:
        return 16, ""
    return bits, (
        f"{counted(len(deep), 'image uses', 'images use')} only {bits} of 16 bits (the largest value is "
        f"{max(deep):,}): all are read so, by bits = {bits} in curation.toml, which can be set "
        "otherwise before the first run"
    )


def too_deep(found: dataset.Found, bits: int) -> str:
    """A sentence on images of which not all values are told apart; '' where there are none."""
    deep = [facts.deepest for _, facts in found.rows if facts.deepest >= 2**bits]
    if not deep:
        return ""
    return (
        f"{counted(len(deep), 'image has', 'images have')} values above {2**bits - 1:,} (the largest is "
        f"{max(deep):,}), which are read as white by bits = {bits} in curation.toml; set it to "
        f"{bits_in_use(max(deep))}, and all images are computed anew"
    )


def names_of(stored: StoredSample) -> set[str]:
    """All that a sample can be called by: its paths, as given and absolute."""
    return {name for p in stored.paths for name in (p.path, str(Path(p.root) / p.path))}


def note_import(paths: ProjectPaths, found: dataset.Found) -> None:
    """Keep what the files were like that were read, and all that was set aside."""
    notes = files.read_notes(paths.cache / "files.parquet")
    notes |= {facts.sha256: now for row, facts in found.rows if (now := files.note(row.file)) is not None}
    files.write_notes(paths.cache / "files.parquet", notes)
    if found.set_aside:
        write_json(paths.home / "set-aside.json", [asdict(one) for one in found.set_aside])
