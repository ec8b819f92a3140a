"""The ledger: the append-only record of samples, labels, verdicts and iterations; the truth of a project.

SQLAlchemy comes in here and in ``schema.py`` alone. SQLite by default, PostgreSQL by URL. Rows are only ever added; the
database itself refuses to change or delete them, and a chain of hashes over them shows where somebody did so all the
same. Labels are a fold over the events, so "the labels as of iteration 3" is one query, and undo is one more event.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from curation import schema
from curation.errors import DataError, ProjectError
from curation.records import (
    SPECIAL_ANSWERS,
    Classes,
    CurrentLabel,
    Decision,
    Iteration,
    LabelEvent,
    MetadataValue,
    QueueEntry,
    Release,
    Remark,
    Ruling,
    Split,
    State,
    Verdict,
    check_class_name,
)


@dataclass(frozen=True)
class NewSample:
    """A sample to be added; ``id`` is the SHA-256 of the file's bytes."""

    id: str
    split: Split
    group: str | None
    width: int
    height: int


@dataclass(frozen=True)
class NewPath:
    """A path of a sample with what was given for that row: class id or ``None``, and metadata."""

    sample_id: str
    path: str
    root: str
    given: str | None
    metadata: Mapping[str, MetadataValue]


@dataclass(frozen=True)
class StoredSample:
    """A sample as the ledger has it, with all its paths in the order they were added."""

    id: str
    split: Split
    group: str | None
    width: int
    height: int
    paths: tuple[NewPath, ...]


@dataclass(frozen=True)
class Undo:
    """What is to be taken back of a sample: its events from ``since`` on (an id), which leaves it with a label.

    ``old`` is its label now, ``new`` and ``excluded`` are what it becomes, each as in an event; ``cites`` the verdicts
    that this label rests on, where it is not simply what it was before.
    """

    sample_id: str
    since: int
    old: str | None
    new: str | None
    excluded: bool
    cites: tuple[int, ...] = ()


def _now() -> datetime:
    return datetime.now(UTC)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


class Ledger:
    """The project's record. Every method that writes does so in one transaction: all of it, or nothing."""

    def __init__(self, url: str | sa.URL) -> None:
        self._engine = schema.prepare(schema.connect(url), _stamp(_now()))
        self._thread = threading.local()  # ``writer``: what its transaction under way adds to, if any

    @classmethod
    def in_file(cls, file: Path) -> Ledger:
        """Open (or make) a ledger in a SQLite file; ProjectError where it lies on a network's file system."""
        file.parent.mkdir(parents=True, exist_ok=True)
        shared = network_filesystem(file)
        if shared:
            raise ProjectError(
                f"{file} lies on a network file system ({shared}), where SQLite loses data; keep the ledger in "
                "PostgreSQL (setting 'ledger'), or put the project on a local disk"
            )
        return cls(sa.URL.create("sqlite", database=str(file)))

    def close(self) -> None:
        """Let go of the database's connections."""
        self._engine.dispose()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """One transaction for all that is written within: all of it, or nothing. What is read within sees it.

        For the thread that calls; no table is to be added to twice.
        """
        with self._write():
            yield

    @contextmanager
    def _write(self) -> Iterator[schema.Writer]:
        """One transaction, alone among those that write; what it adds becomes a block of the chain."""
        if (under_way := self._under_way()) is not None:
            yield under_way
            return
        try:
            with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
                schema.hold(connection)
                writer = self._thread.writer = schema.Writer(connection)
                try:
                    yield writer
                finally:
                    self._thread.writer = None
                writer.finish(_stamp(_now()))
        except sa.exc.DatabaseError as error:
            raise ProjectError(
                f"the ledger could not be written ({schema.first_line(error.orig)}); check disk space and rights"
            ) from error

    def _under_way(self) -> schema.Writer | None:
        return getattr(self._thread, "writer", None)

    def _read(self, query: sa.Select[Any], connection: sa.Connection | None = None) -> Sequence[sa.Row[Any]]:
        """All rows; seen from within a transaction where its connection is given, or where one is under way."""
        if connection is None and (writer := self._under_way()) is not None:
            connection = writer.connection
        if connection is not None:
            return connection.execute(query).all()
        try:
            with self._engine.connect() as fresh:
                return fresh.execute(query).all()
        except sa.exc.DatabaseError as error:
            raise ProjectError(
                f"the ledger could not be read ({schema.first_line(error.orig)}); see `curate doctor`"
            ) from error

    # --- the chain

    def head(self) -> tuple[int, str]:
        """Number and hash of the last block of the chain; ``(0, "0" * 64)`` of an empty ledger."""
        with self._engine.connect() as connection:
            return schema.head(connection)

    def faults(self, heads: Mapping[str, tuple[int, str]] | None = None) -> list[str]:
        """What is wrong with the chain, in sentences; empty where every row is as it was written.

        ``heads`` are numbers and hashes of blocks that were noted elsewhere (``Ledger.head``), by where they stand.
        """
        with self._engine.connect() as connection, connection.begin():
            return schema.faults_of(connection, heads or {})

    # --- out and in

    def dump(self) -> Iterator[str]:
        """The whole ledger as JSON lines, as it is at one moment; others go on writing meanwhile."""
        engine = self._engine
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with engine.connect() as connection, connection.begin():
            yield from schema.dump(connection)

    def load(self, lines: Iterable[str]) -> None:
        """Fill an empty ledger with a dump, all or nothing; ProjectError where it is not empty, or the dump broken."""
        try:
            with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
                schema.hold(connection)
                schema.load(connection, lines)
        except sa.exc.DatabaseError as error:
            raise ProjectError(f"the backup could not be restored ({schema.first_line(error.orig)})") from error

    def recorded(self, sample_id: str | None = None) -> dict[str, tuple[int, datetime, datetime]]:
        """Block of each label event, verdict and remark (``event 3``), and between which moments it was written.

        Of one sample or of all. The moments never go back from block to block, as clocks may.
        """
        blocks: dict[str, int] = {}
        for word, table in (("event", schema.label_events), ("verdict", schema.verdicts), ("remark", schema.remarks)):
            query = sa.select(table.c.id, table.c.block)
            query = query if sample_id is None else query.where(table.c.sample_id == sample_id)
            blocks |= {f"{word} {row.id}": row.block for row in self._read(query)}
        spans: dict[int, tuple[datetime, datetime]] = {}
        earliest = until = datetime.min.replace(tzinfo=UTC)
        for row in self._read(sa.select(schema.blocks).order_by(schema.blocks.c.number)):
            after, until = until, max(until, datetime.fromisoformat(row.at))
            spans[row.number] = after, until
        beyond = earliest, datetime.max.replace(tzinfo=UTC)  # of rows that were added past the chain
        return {name: (block, *spans.get(block, beyond)) for name, block in blocks.items()}

    # --- people

    def people(self) -> list[str]:
        """Names of everybody who is in the ledger, in the order in which they came; those erased say so."""
        return list(self._names().values())

    def erase_person(self, name: str) -> str:
        """Erase a person's name; what they said stays, under the words that this returns.

        Raises DataError where nobody has that name.
        """
        with self._write() as writer:
            table = schema.people
            known = writer.connection.execute(sa.select(table.c.id).where(table.c.name == name)).scalar()
            if known is None:
                raise DataError(f"nobody called '{name}' is in the ledger; `curate people` lists all names")
            writer.connection.execute(table.update().where(table.c.id == known).values(name=None))
        if self._engine.dialect.name == "sqlite":
            with self._engine.connect() as connection:  # the name is in the log of writes, too
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return schema.erased_name(str(known))

    def _names(self, connection: sa.Connection | None = None) -> dict[str, str]:
        """What stands for a person in the tables, to the name."""
        rows = self._read(sa.select(schema.people), connection)
        ordered = sorted(rows, key=lambda row: int(row.id[1:]))
        return {row.id: row.name if row.name is not None else schema.erased_name(row.id) for row in ordered}

    # --- about and classes

    def about(self) -> dict[str, str]:
        """Facts that never change: project id, creation time, schema version."""
        return {row.key: row.value for row in self._read(sa.select(schema.about))}

    def set_about(self, key: str, value: str) -> None:
        """Record a fact once; raises ProjectError if it is already there with another value."""
        with self._write() as writer:
            known = writer.connection.execute(sa.select(schema.about.c.value).where(schema.about.c.key == key)).scalar()
            if known is None:
                writer.add(schema.about, [{"key": key, "value": value}])
        if known is not None and known != value:
            raise ProjectError(f"'{key}' of this project is already '{known}' and can't become '{value}'")

    def classes(self, *, up_to: int | None = None) -> Classes:
        """The classes in the order they were added, under their names now, or as of a class event (``up_to``)."""
        return self._classes(None, up_to)

    def _classes(self, connection: sa.Connection | None, up_to: int | None = None) -> Classes:
        names: dict[str, str] = {}
        had: dict[str, str] = {}
        query = sa.select(schema.class_events).order_by(schema.class_events.c.id)
        if up_to is not None:
            query = query.where(schema.class_events.c.id <= up_to)
        for row in self._read(query.where(schema.class_events.c.kind.in_(("add", "rename"))), connection):
            names[row.class_id] = row.name
            had[row.name] = row.class_id
        former = {name: class_id for name, class_id in had.items() if names[class_id] != name}
        return Classes(tuple(names), tuple(names.values()), former)

    def rename_class(self, class_id: str, name: str, *, who: str, at: datetime | None = None) -> Classes:
        """Give a class another name; its id, its labels and the answers that name it stay. Raises DataError."""
        known = self.classes()
        if class_id not in known.ids:
            raise DataError(f"no class has the id '{class_id}'; there are {list(known.ids)}")
        if name in SPECIAL_ANSWERS or not name.strip() or (name in known.names and known.id(name) != class_id):
            raise DataError(f"'{name}' can't be a class name: it is empty, taken, or an answer that labelers give")
        check_class_name(name)
        self._class_event("rename", class_id, name, who, at)
        return self.classes()

    def merge_class(self, class_id: str, into: str, *, who: str, at: datetime | None = None) -> None:
        """Let a class be part of another: answers that name it count for that one. Raises DataError.

        It keeps its place in every array, but nobody is asked for it any more; labels are moved by decisions.
        """
        known, merged = self.classes(), self.merged_classes()
        if class_id not in known.ids or into not in known.ids or class_id == into or into in merged:
            one, other = (known.name(c) if c in known.ids else c for c in (class_id, into))
            others = [name for c, name in known if c not in merged and c != class_id]
            raise DataError(f"class '{one}' can't be merged into '{other}'; it can be merged into one of {others}")
        if merged.get(class_id) != into:
            self._class_event("merge", class_id, into, who, at)

    def merged_classes(self) -> dict[str, str]:
        """Ids of classes that were merged, each with the one that it now belongs to."""
        return self._merged_classes(None)

    def _merged_classes(self, connection: sa.Connection | None) -> dict[str, str]:
        into: dict[str, str] = {}
        table = schema.class_events
        merges = sa.select(table).where(table.c.kind == "merge").order_by(table.c.id)
        for row in self._read(merges, connection):
            into = {merged: row.name if to == row.class_id else to for merged, to in into.items()}
            into[row.class_id] = row.name
        return into

    def rule(self, class_ids: Sequence[str], text: str, *, who: str, at: datetime | None = None) -> Ruling:
        """Add to the class guide what a class means, or how to tell two apart; a newer one replaces the older."""
        known = self.classes()
        ids = tuple(sorted(set(class_ids), key=known.ids.index)) if set(class_ids) <= set(known.ids) else ()
        if len(ids) not in (1, 2) or not text.strip():
            raise DataError(f"a ruling needs one or two classes and a text, got {list(class_ids)} and '{text}'")
        self._class_event("rule", ",".join(ids), text.strip(), who, at)
        return self.guide()[-1]

    def guide(self) -> list[Ruling]:
        """Every entry of the class guide in the order in which they were made, older versions too."""
        table = schema.class_events
        names = self._names()
        return [
            Ruling(tuple(row.class_id.split(",")), row.name, names.get(row.who, row.who),
                   datetime.fromisoformat(row.at), row.id)
            for row in self._read(sa.select(table).where(table.c.kind == "rule").order_by(table.c.id))
        ]  # fmt: skip

    def _class_event(self, kind: str, class_id: str, name: str, who: str, at: datetime | None) -> None:
        with self._write() as writer:
            writer.add(schema.class_events, [
                {"kind": kind, "class_id": class_id, "name": name, "at": _stamp(at or _now()),
                 "who": writer.person(who)}
            ])  # fmt: skip

    def add_classes(self, names: Iterable[str], *, who: str, at: datetime | None = None) -> Classes:
        """Add the classes that are not there yet, in this order; returns all."""
        with self._write() as writer:
            known = self._classes(writer.connection)
            new = [name for name in dict.fromkeys(names) if name not in known.names]
            reserved = [name for name in new if name in SPECIAL_ANSWERS]
            if reserved:
                raise DataError(f"'{reserved[0]}' can't be a class name: it is an answer that labelers give; rename it")
            for name in new:
                check_class_name(name)
            stamp = _stamp(at or _now())
            person = writer.person(who) if new else ""
            writer.add(schema.class_events, [
                {"kind": "add", "class_id": f"c{number}", "name": name, "at": stamp, "who": person}
                for number, name in enumerate(new, start=len(known) + 1)
            ])  # fmt: skip
        return self.classes()

    # --- samples

    def samples(self, ids: Sequence[str] | None = None, *, up_to: int | None = None) -> list[StoredSample]:
        """All samples with their paths, in the order they were added; or those with these ids (a few).

        Only paths up to a number (``up_to``) where it is given; samples whose paths all came later have none then.
        """
        some, all_paths = sa.select(schema.samples), sa.select(schema.paths)
        if ids is not None:
            some = some.where(schema.samples.c.id.in_(ids))
            all_paths = all_paths.where(schema.paths.c.sample_id.in_(ids))
        if up_to is not None:
            all_paths = all_paths.where(schema.paths.c.number <= up_to)
        paths: dict[str, list[NewPath]] = {}
        for row in self._read(all_paths.order_by(schema.paths.c.number)):
            paths.setdefault(row.sample_id, []).append(
                NewPath(row.sample_id, row.path, row.root, row.given, json.loads(row.metadata))
            )
        return [
            StoredSample(row.id, row.split, row.group_key, row.width, row.height, tuple(paths.get(row.id, ())))
            for row in self._read(some.order_by(schema.samples.c.number))
        ]

    def path_rows(self, *, up_to: int | None = None) -> Iterator[tuple[str, str, str, str | None, str | None]]:
        """``path, sample id, split, group, replaced by`` of every path (up to a number), samples in the order they were
        added; the last is the sample that has the file's place since, ``None`` where none has.

        Read a few at a time.
        """
        samples, paths = schema.samples, schema.paths
        query = (
            sa.select(paths.c.path, samples.c.id, samples.c.split, samples.c.group_key, _replaced_by(up_to))
            .join_from(samples, paths, paths.c.sample_id == samples.c.id)
            .order_by(samples.c.number, paths.c.number)
        )
        if up_to is not None:
            query = query.where(paths.c.number <= up_to)
        with self._engine.connect() as connection:
            for row in connection.execute(query, execution_options={"yield_per": 10_000}):
                yield row[0], row[1], row[2], row[3], row[4]

    def replaced(self) -> set[str]:
        """Samples all of whose places other samples have since; of a path in several folders the last one counts."""
        paths, by = schema.paths.c, _replaced_by(None)
        touched = sa.select(paths.sample_id).where(by.is_not(None))
        query = sa.select(paths.sample_id, paths.path, by.label("other")).where(paths.sample_id.in_(touched))
        last = {(row.sample_id, row.path): row.other for row in self._read(query.order_by(paths.number))}
        return {sample for sample, _ in last} - {sample for (sample, _), other in last.items() if other is None}

    def find_samples(self, path: str) -> list[StoredSample]:
        """Samples that have this path, as given or absolute; and where there are none, those whose id begins so."""
        parts = Path(path).parts
        roots = {str(Path(*parts[:n])): str(Path(*parts[n:])) for n in range(1, len(parts))} if path[:1] == "/" else {}
        found = self._read(
            sa.select(schema.paths.c.path, schema.paths.c.root, schema.paths.c.sample_id)
            .where(schema.paths.c.path.in_([path, *roots.values()]))
            .order_by(schema.paths.c.number)
        )
        ids = [row.sample_id for row in found if row.path == path or roots.get(row.root) == row.path]
        if not ids and len(path) >= 6:
            begins = path.lower()
            of_samples = schema.samples.c.id
            query = sa.select(of_samples).where(of_samples >= begins, of_samples < begins + "g").limit(2)
            ids = [row.id for row in self._read(query) if row.id.startswith(begins)]
        return self.samples(list(dict.fromkeys(ids))) if ids else []

    def counts(self) -> dict[str, Any]:
        """How much there is: ``splits`` (split to samples), ``labeled`` and ``excluded`` samples. No row is loaded."""
        events = schema.label_events
        split = schema.samples.c.split
        numbers = self._read(sa.select(split.label("split"), sa.func.count().label("number")).group_by(split))
        splits = {row.split: row.number for row in numbers}
        imported = sa.select(sa.func.count()).select_from(events).where(events.c.kind == "import")
        labeled = int(self._read(imported.where(events.c.new.is_not(None)))[0][0])
        excluded = 0
        # Named one by one and not made distinct, so that the index on kinds is taken.
        touched = sa.select(events.c.sample_id).where(events.c.kind.in_(("decision", "undo")))
        latest: dict[str, Any] = {}
        for row in self._read(sa.select(events).where(events.c.sample_id.in_(touched)).order_by(events.c.id)):
            labeled -= row.kind == "import" and row.new is not None
            latest[row.sample_id] = row
        labeled += len([row for row in latest.values() if row.new is not None])
        excluded += len([row for row in latest.values() if row.excluded])
        return {"splits": splits, "labeled": labeled, "excluded": excluded}

    def worked_on(self) -> bool:
        """Whether there is more than what an import writes."""
        events = schema.label_events
        beyond = [sa.select(t) for t in (schema.verdicts, schema.queue, schema.iteration_events, schema.releases)]
        beyond.append(sa.select(events).where(events.c.kind != "import"))
        return any(self._read(query.limit(1)) for query in beyond)

    def add_samples(
        self,
        samples: Sequence[NewSample],
        paths: Sequence[NewPath],
        labels: Mapping[str, str],
        *,
        who: str,
        why: str,
        iteration: int = 0,
        at: datetime | None = None,
    ) -> int:
        """Add samples, their paths, and the labels given on import, all or nothing; returns the samples added.

        Samples and paths that are already there stay as they are (a holdout sample stays holdout); of a path that comes
        twice for one sample, the first counts. ``labels`` maps sample id to class id; a sample that has a label, or was
        left out, keeps that.
        """
        stamp = _stamp(at or _now())
        of_paths = schema.paths.c
        with self._write() as writer:
            have = {row.id for row in self._read(sa.select(schema.samples.c.id), writer.connection)}
            known = sa.select(of_paths.root, of_paths.path, of_paths.sample_id)
            have_paths = {(row.root, row.path, row.sample_id) for row in self._read(known, writer.connection)}
            labeled = self._labels(writer.connection).keys()
            new = [s for s in samples if s.id not in have]
            places: dict[tuple[str, str, str], NewPath] = {}
            for path in paths:
                places.setdefault((path.root, path.path, path.sample_id), path)
            person = writer.person(who)
            writer.add(schema.samples, [
                {"id": s.id, "split": s.split, "group_key": s.group, "width": s.width, "height": s.height, "at": stamp}
                for s in new
            ])  # fmt: skip
            writer.add(schema.paths, [
                {"sample_id": p.sample_id, "path": p.path, "root": p.root, "given": p.given,
                 "metadata": json.dumps(dict(p.metadata), ensure_ascii=False)}
                for place, p in places.items() if place not in have_paths
            ])  # fmt: skip
            writer.add(schema.label_events, [
                _event_row("import", sample, None, label, False, person, stamp, why, iteration, ())
                for sample, label in labels.items() if sample not in labeled
            ])  # fmt: skip
        return len(new)

    def brought(self) -> dict[str, list[str]]:
        """Class ids that the paths of a sample came with, where these are several, by sample id."""
        paths = schema.paths.c
        disputed = (
            sa.select(paths.sample_id).where(paths.given.is_not(None)).group_by(paths.sample_id)
            .having(sa.func.count(paths.given.distinct()) > 1)
        )  # fmt: skip
        query = sa.select(paths.sample_id, paths.given).where(paths.sample_id.in_(disputed), paths.given.is_not(None))
        found: dict[str, list[str]] = {}
        for row in self._read(query.order_by(paths.number)):
            if row.given not in found.setdefault(row.sample_id, []):
                found[row.sample_id].append(row.given)
        return found

    # --- labels

    def label_events(self, sample_id: str | None = None) -> list[LabelEvent]:
        """Label events in the order they happened, of one sample or of all."""
        return self._label_events(sample_id, None)

    def _label_events(self, sample_id: str | None, connection: sa.Connection | None) -> list[LabelEvent]:
        query = sa.select(schema.label_events).order_by(schema.label_events.c.id)
        if sample_id is not None:
            query = query.where(schema.label_events.c.sample_id == sample_id)
        names = self._names(connection)
        return [_event(row, names) for row in self._read(query, connection)]

    def labels(self, *, as_of: int | None = None, up_to: int | None = None) -> dict[str, CurrentLabel]:
        """Each sample's label now, or as of the end of an iteration (0: as imported); those without any are absent.

        ``up_to`` gives the labels as they were after that label event.
        """
        return self._labels(None, as_of, up_to)

    def _labels(
        self, connection: sa.Connection | None, as_of: int | None = None, up_to: int | None = None
    ) -> dict[str, CurrentLabel]:
        events = schema.label_events.c
        query = sa.select(events.sample_id, events.new, events.excluded, events.id).order_by(events.id)
        if as_of is not None:
            query = query.where(events.iteration <= as_of)
        if up_to is not None:
            query = query.where(events.id <= up_to)
        last: dict[str, Any] = {}
        for row in self._read(query, connection):
            last.pop(row[0], None)  # so that samples come in the order of their last events
            last[row[0]] = row
        there = (row for row in last.values() if row[1] is not None or row[2])  # not what an undo left without any
        return {row[0]: CurrentLabel(row[0], row[1], bool(row[2]), row[3]) for row in there}

    def decide(
        self,
        decisions: Sequence[Decision],
        *,
        who: str,
        iteration: int,
        at: datetime | None = None,
    ) -> list[LabelEvent]:
        """Turn decisions into label events where they change something; returns the events added.

        A decision that is in force, or was made before on the same verdicts (and perhaps undone since), adds nothing,
        so that calling again after a crash is harmless and an undo stays. One that cites none can be made again.
        """
        with self._write() as writer:
            current = self._labels(writer.connection)
            of_kind = sa.select(schema.label_events).where(schema.label_events.c.kind == "decision")
            made = {
                (row.sample_id, row.new, bool(row.excluded), tuple(json.loads(row.cites)))
                for row in self._read(of_kind, writer.connection)
            }
            stamp = _stamp(at or _now())
            person = writer.person(who)
            rows = []
            for decision in decisions:
                change = _change(decision, current.get(decision.sample_id))
                if change is None:
                    continue
                old, new, excluded = change
                if decision.cites and (decision.sample_id, new, excluded, decision.cites) in made:
                    continue
                rows.append(
                    _event_row(
                        "decision", decision.sample_id, old, new, excluded, person, stamp, decision.why, iteration,
                        decision.cites,
                    )
                )  # fmt: skip
            return self._add_events(writer, rows)

    def undo(
        self, sample_id: str, *, who: str, iteration: int, why: str = "undone", at: datetime | None = None,
        since: int | None = None,
    ) -> LabelEvent:  # fmt: skip
        """Take back the sample's last change, or all from the event ``since`` on; ProjectError where there is none.

        The label before that change comes back by a new event, or none where there was none (an image of the pool); as
        one of the class that it belongs to now, where classes were merged since. An undo can itself be undone.
        """
        with self._write() as writer:
            events = self._label_events(sample_id, writer.connection)
            if not events or events[-1].kind == "import":
                raise ProjectError(f"sample {sample_id[:12]} has no change to undo: its label is as it was imported")
            first = len(events) - 1 if since is None else next(n for n, e in enumerate(events) if e.id == since)
            new, excluded = label_before(events, first, self._merged_classes(writer.connection))
            undo = Undo(sample_id, events[first].id, events[-1].new, new, excluded)
            return self._undo(writer, [undo], who, iteration, why, at)[0]

    def take_back(
        self, undos: Sequence[Undo], *, who: str, iteration: int, why: str = "undone", at: datetime | None = None
    ) -> list[LabelEvent]:
        """Take back changes of several samples, as each undo says; returns the events added."""
        with self._write() as writer:
            return self._undo(writer, undos, who, iteration, why, at)

    def _undo(
        self, writer: schema.Writer, undos: Sequence[Undo], who: str, iteration: int, why: str, at: datetime | None
    ) -> list[LabelEvent]:
        person, stamp = writer.person(who), _stamp(at or _now())
        rows = [
            {**_event_row("undo", u.sample_id, u.old, u.new, u.excluded, person, stamp, why, iteration, u.cites),
             "undoes": u.since}
            for u in undos
        ]  # fmt: skip
        return self._add_events(writer, rows)

    def _add_events(self, writer: schema.Writer, rows: list[dict[str, Any]]) -> list[LabelEvent]:
        events = schema.label_events
        before = writer.connection.execute(sa.select(sa.func.coalesce(sa.func.max(events.c.id), 0))).scalar_one()
        writer.add(events, rows)
        added = self._read(sa.select(events).where(events.c.id > before).order_by(events.c.id), writer.connection)
        names = self._names(writer.connection)
        return [_event(row, names) for row in added]

    # --- queue and verdicts

    def queue(self, iteration: int | None = None, *, holdout: bool = False) -> list[QueueEntry]:
        """What people were asked, in order of position; of one iteration or of all.

        Checks of the holdout's labels are among them only with ``holdout``, so that nothing that steers sees them.
        """
        query = sa.select(schema.queue).order_by(schema.queue.c.iteration, schema.queue.c.position)
        if iteration is not None:
            query = query.where(schema.queue.c.iteration == iteration)
        entries = [_entry(row.entry) for row in self._read(query)]
        return [e for e in entries if holdout or e.mode != "holdout"]

    def add_queue(self, entries: Sequence[QueueEntry]) -> None:
        """Record the intent to ask, before anybody is asked; a key that is already there is left alone."""
        with self._write() as writer:
            have = {row.key for row in self._read(sa.select(schema.queue.c.key), writer.connection)}
            writer.add(schema.queue, [
                {"key": e.key, "sample_id": e.sample_id, "iteration": e.iteration, "position": e.position,
                 "entry": json.dumps({**e.__dict__, "related": list(e.related)}, ensure_ascii=False)}
                for e in entries if e.key not in have
            ])  # fmt: skip

    def verdicts(self, *, iteration: int | None = None, every: bool = False, holdout: bool = False) -> list[Verdict]:
        """Verdicts in the order they were recorded; only the latest of each source unless ``every``.

        Those on the holdout's labels are among them only with ``holdout``.
        """
        found = [v for v in self._verdicts(iteration, None) if holdout or v.mode != "holdout"]
        return found if every else _latest(found)

    def holdout_verdicts(self) -> list[Verdict]:
        """The latest verdicts on the holdout's labels, in the order they were recorded."""
        return [v for v in self.verdicts(holdout=True) if v.mode == "holdout"]

    def _verdicts(
        self, iteration: int | None, connection: sa.Connection | None, sample_id: str | None = None
    ) -> list[Verdict]:
        query = sa.select(schema.verdicts).order_by(schema.verdicts.c.id)
        if iteration is not None:
            query = query.where(schema.verdicts.c.iteration == iteration)
        if sample_id is not None:
            query = query.where(schema.verdicts.c.sample_id == sample_id)
        names = self._names(connection)
        return [_verdict(row, names) for row in self._read(query, connection)]

    def verdicts_of(self, sample_id: str) -> list[Verdict]:
        """Every verdict of one sample, in the order they were recorded."""
        return self._verdicts(None, None, sample_id)

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> int:
        """Record verdicts; one that says what is already recorded of its source adds nothing. Returns how many new.

        A reviewer who says again what another has overruled since says something new.
        """
        with self._write() as writer:
            every = self._verdicts(None, writer.connection)
            known: dict[str, Verdict] = {v.source: v for v in _latest(every)}
            seen = {(v.source, v.at, v.answer) for v in every}
            spoke_last = {v.sample_id: v.source for v in every if v.mode == "review"}
            rows = []
            for verdict in verdicts:
                now = known.get(verdict.source)
                same = now is not None and (now.answer, now.person, now.note) == (
                    verdict.answer, verdict.person, verdict.note,
                )  # fmt: skip
                if verdict.mode == "review":
                    same = same and spoke_last.get(verdict.sample_id) == verdict.source
                    spoke_last[verdict.sample_id] = verdict.source
                if same or (verdict.source, verdict.at, verdict.answer) in seen:
                    continue
                known[verdict.source] = verdict
                seen.add((verdict.source, verdict.at, verdict.answer))
                rows.append(_verdict_row(verdict, writer))
            writer.add(schema.verdicts, rows)
        return len(rows)

    # --- what reviewers note, and releases

    def remarks(self, sample_id: str | None = None) -> list[Remark]:
        """What reviewers noted, in the order it was recorded, of one sample or of all."""
        query = sa.select(schema.remarks).order_by(schema.remarks.c.id)
        if sample_id is not None:
            query = query.where(schema.remarks.c.sample_id == sample_id)
        names = self._names()
        return [
            Remark(r.sample_id, r.kind, r.cause, r.note, names.get(r.who, r.who), datetime.fromisoformat(r.at),
                   r.iteration, r.id)
            for r in self._read(query)
        ]  # fmt: skip

    def add_remarks(self, remarks: Sequence[Remark]) -> None:
        """Record remarks, all or none."""
        with self._write() as writer:
            writer.add(schema.remarks, [
                {**{k: v for k, v in r.__dict__.items() if k != "id"}, "at": _stamp(r.at), "who": writer.person(r.who)}
                for r in remarks
            ])  # fmt: skip

    def releases(self) -> list[Release]:
        """Every release, in the order they were made."""
        return self._releases(None)

    def _releases(self, connection: sa.Connection | None) -> list[Release]:
        columns = [c for c in schema.releases.c if c.name not in ("id", "block")]
        names = self._names(connection)
        return [
            Release(**{**row._mapping, "at": datetime.fromisoformat(row.at), "who": names.get(row.who, row.who)})
            for row in self._read(sa.select(*columns).order_by(schema.releases.c.id), connection)
        ]

    def add_release(self, release: Release) -> None:
        """Record a release; raises DataError where its name is taken."""
        with self._write() as writer:
            if any(known.name == release.name for known in self._releases(writer.connection)):
                raise DataError(f"there is a release '{release.name}' already; give this one another name")
            row = {**release.__dict__, "at": _stamp(release.at), "who": writer.person(release.who)}
            writer.add(schema.releases, [row])

    def heads(self) -> tuple[int, int, int]:
        """The last label event, class event and path; 0 where there is none."""
        columns = (schema.label_events.c.id, schema.class_events.c.id, schema.paths.c.number)
        label, klass, path = (self._read(sa.select(sa.func.coalesce(sa.func.max(c), 0)))[0][0] for c in columns)
        return int(label), int(klass), int(path)

    # --- iterations

    def iterations(self) -> list[Iteration]:
        """Every iteration with its latest state, in order."""
        return self._iterations(None)

    def _iterations(self, connection: sa.Connection | None) -> list[Iteration]:
        found: dict[int, Iteration] = {}
        events = schema.iteration_events
        for row in self._read(sa.select(events).order_by(events.c.id), connection):
            at = datetime.fromisoformat(row.at)
            known = found.get(row.number) or Iteration(row.number, row.state, at)
            ended = at if row.state in ("done", "failed") else None
            found[row.number] = replace(known, state=row.state, ended_at=ended, message=row.message)
        return [found[number] for number in sorted(found)]

    def set_state(self, number: int, state: State, message: str = "", *, at: datetime | None = None) -> None:
        """Record that an iteration is now in this state; saying it twice in a row adds nothing."""
        with self._write() as writer:
            now = {i.number: i for i in self._iterations(writer.connection)}.get(number)
            if now is None or (now.state, now.message) != (state, message):
                row = {"number": number, "state": state, "at": _stamp(at or _now()), "message": message}
                writer.add(schema.iteration_events, [row])


def network_filesystem(file: Path, mounts: str | None = None) -> str:
    """The kind of a network's file system that a file would lie on; empty where it is a local one.

    ``mounts`` is the text of ``/proc/self/mountinfo``, by default as it is now; empty where there is none.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
    place = file.absolute().resolve()
    best, kind = Path(), ""
    for line in mounts.splitlines():
        left, _, right = line.partition(" - ")
        fields, after = left.split(), right.split()
        if len(fields) < 5 or not after:
            continue
        point = Path(fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if place.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, after[0]
    return kind if kind in _NETWORKED or kind.startswith(("nfs", "smb")) else ""


_NETWORKED = frozenset({
    "cifs", "fuse.sshfs", "glusterfs", "fuse.glusterfs", "ceph", "fuse.ceph", "lustre", "beegfs", "afs", "gpfs",
    "pvfs2", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "davfs", "fuse.davfs",
})  # fmt: skip


def label_before(events: Sequence[LabelEvent], n: int, merged: Mapping[str, str]) -> tuple[str | None, bool]:
    """A sample's label before its ``n``-th event, as a class of now, and whether left out; none before the first."""
    new, excluded = (events[n - 1].new, events[n - 1].excluded) if n else (None, False)
    return merged.get(new or "", new), excluded


def _replaced_by(up_to: int | None) -> sa.ScalarSelect[Any]:
    """Which sample has the place of a path since, within paths up to a number, as a column of a query of paths."""
    later, paths = schema.paths.alias(), schema.paths
    query = sa.select(later.c.sample_id).where(
        later.c.root == paths.c.root, later.c.path == paths.c.path, later.c.number > paths.c.number
    )
    if up_to is not None:
        query = query.where(later.c.number <= up_to)
    return query.order_by(later.c.number.desc()).limit(1).correlate(paths).scalar_subquery()


def _change(decision: Decision, now: CurrentLabel | None) -> tuple[str | None, str | None, bool] | None:
    """Old label, new label and whether left out, where a decision changes something."""
    old, was_excluded = (now.class_id, now.excluded) if now else (None, False)
    if decision.outcome in ("change", "keep"):  # to keep the label of an image that was left out brings it back
        new, excluded = decision.class_id, False
    elif decision.outcome == "exclude":
        new, excluded = old, True
    else:
        return None
    return None if (new, excluded) == (old, was_excluded) else (old, new, excluded)


def _latest(found: Sequence[Verdict]) -> list[Verdict]:
    """The latest verdict of each source, in the order they were recorded.

    Reviewers' and those from files are so by when they were recorded: clocks are set back, and a corrected file may be
    dated before the one that it corrects. Others may come late, and are so by when they were given.
    """
    latest: dict[str, Verdict] = {}
    for verdict in sorted(found, key=lambda v: v.id):
        known = latest.get(verdict.source)
        as_recorded = verdict.mode == "review" or verdict.source.startswith(("file:", "replay:"))
        if known is None or as_recorded or verdict.at >= known.at:
            latest[verdict.source] = verdict
    return sorted(latest.values(), key=lambda v: v.id)


def _verdict_row(verdict: Verdict, writer: schema.Writer) -> dict[str, Any]:
    """A verdict as a row without a name, in its source either, which a reviewer has who may be another."""
    row, person = dict(verdict.__dict__), writer.person(verdict.person)
    del row["id"]
    seconds = None if verdict.seconds is None else float(verdict.seconds)
    source = schema.stored_source(verdict.source, verdict.person, person)
    if reviewer := schema.reviewer_in(source, verdict.sample_id):
        source = f"review:{writer.person(reviewer)}:{verdict.sample_id}"
    return {**row, "person": person, "source": source, "seconds": seconds, "at": _stamp(verdict.at)}


def _event_row(
    kind: Literal["import", "decision", "undo"],
    sample_id: str,
    old: str | None,
    new: str | None,
    excluded: bool,
    who: str,
    at: str,
    why: str,
    iteration: int,
    cites: Sequence[int],
) -> dict[str, Any]:
    return {
        "kind": kind, "sample_id": sample_id, "task": "class", "region": None, "old": old, "new": new,
        "excluded": excluded, "who": who, "at": at, "why": why, "iteration": iteration,
        "cites": json.dumps(list(cites)), "undoes": None,
    }  # fmt: skip


def _event(row: sa.Row[Any], names: Mapping[str, str]) -> LabelEvent:
    return LabelEvent(
        row.id, row.kind, row.sample_id, row.old, row.new, bool(row.excluded), names.get(row.who, row.who),
        datetime.fromisoformat(row.at), row.why, row.iteration, tuple(json.loads(row.cites)), row.undoes,
    )  # fmt: skip


def _entry(text: str) -> QueueEntry:
    values = json.loads(text)
    return QueueEntry(**{**values, "related": tuple(values["related"])})


def _verdict(row: sa.Row[Any], names: Mapping[str, str]) -> Verdict:
    name = names.get(row.person, row.person)
    source = schema.stored_source(row.source, row.person, name)
    if reviewer := schema.reviewer_in(row.source, row.sample_id):  # by name in older ledgers, then that of the person
        source = f"review:{names.get(reviewer, name)}:{row.sample_id}"
    return Verdict(
        sample_id=row.sample_id, answer=row.answer, person=name, at=datetime.fromisoformat(row.at), key=row.key,
        source=source, mode=row.mode, iteration=row.iteration,
        seconds=row.seconds, note=row.note, id=row.id,
    )  # fmt: skip
