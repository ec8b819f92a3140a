"""The ledger: the append-only record of samples, labels, verdicts and iterations; the truth of a project.

One door to SQLAlchemy. SQLite by default, PostgreSQL by URL. Rows are only ever added; the database itself refuses to
change or delete them. Labels are a fold over the events, so "the labels as of iteration 3" is one query, and undo is
one more event.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

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
    Split,
    State,
    Verdict,
)

SCHEMA_VERSION = 1

_tables = sa.MetaData()
_about = sa.Table(
    "about",
    _tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
_class_events = sa.Table(
    "class_events",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),  # add, rename
    sa.Column("class_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
)
_samples = sa.Table(
    "samples",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("group_key", sa.Text),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
)
_paths = sa.Table(
    "paths",
    _tables,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("root", sa.Text, nullable=False),
    sa.Column("given", sa.Text),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.UniqueConstraint("root", "path", "sample_id"),
)
_label_events = sa.Table(
    "label_events",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("task", sa.Text, nullable=False),  # "class"; other tasks (boxes, masks) later
    sa.Column("region", sa.Text),
    sa.Column("old", sa.Text),
    sa.Column("new", sa.Text),
    sa.Column("excluded", sa.Boolean, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("iteration", sa.Integer, nullable=False, index=True),
    sa.Column("cites", sa.Text, nullable=False),
    sa.Column("undoes", sa.Integer),
)
_verdicts = sa.Table(
    "verdicts",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("answer", sa.Text, nullable=False),
    sa.Column("person", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False, index=True),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("iteration", sa.Integer, nullable=False, index=True),
    sa.Column("seconds", sa.Float),
    sa.Column("note", sa.Text, nullable=False),
    sa.UniqueConstraint("source", "at", "answer"),
)
_queue = sa.Table(
    "queue",
    _tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("iteration", sa.Integer, nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("entry", sa.Text, nullable=False),
)
_iteration_events = sa.Table(
    "iteration_events",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
)
_remarks = sa.Table(
    "remarks",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("iteration", sa.Integer, nullable=False),
)
_releases = sa.Table(
    "releases",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("label_event", sa.Integer, nullable=False),
    sa.Column("class_event", sa.Integer, nullable=False),
    sa.Column("path", sa.Integer, nullable=False),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
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


def _now() -> datetime:
    return datetime.now(UTC)


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="microseconds")


class Ledger:
    """The project's record. Every method that writes does so in one transaction: all of it, or nothing."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)
        if self._engine.dialect.name == "sqlite":
            sa.event.listen(self._engine, "connect", _prepare_sqlite)
        _create(self._engine)

    @classmethod
    def in_file(cls, file: Path) -> Ledger:
        """Open (or make) a ledger in a SQLite file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{file}")

    def close(self) -> None:
        """Let go of the database's connections."""
        self._engine.dispose()

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise ProjectError(
                f"the ledger could not be written ({error.orig}); check disk space and rights"
            ) from error

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(query).all()

    # --- about and classes

    def about(self) -> dict[str, str]:
        """Facts that never change: project id, creation time, schema version."""
        return {row.key: row.value for row in self._read(sa.select(_about))}

    def set_about(self, key: str, value: str) -> None:
        """Record a fact once; raises ProjectError if it is already there with another value."""
        known = self.about().get(key)
        if known is None:
            with self._write() as connection:
                connection.execute(_about.insert().values(key=key, value=value))
        elif known != value:
            raise ProjectError(f"'{key}' of this project is already '{known}' and can't become '{value}'")

    def classes(self, *, up_to: int | None = None) -> Classes:
        """The classes in the order they were added, under their names now, or as of a class event (``up_to``)."""
        names: dict[str, str] = {}
        query = sa.select(_class_events).order_by(_class_events.c.id)
        if up_to is not None:
            query = query.where(_class_events.c.id <= up_to)
        for row in self._read(query):
            names[row.class_id] = row.name
        return Classes(tuple(names), tuple(names.values()))

    def add_classes(self, names: Iterable[str], *, who: str, at: datetime | None = None) -> Classes:
        """Add the classes that are not there yet, in this order; returns all."""
        known = self.classes()
        new = [name for name in dict.fromkeys(names) if name not in known.names]
        reserved = [name for name in new if name in SPECIAL_ANSWERS]
        if reserved:
            raise DataError(f"'{reserved[0]}' can't be a class name: it is an answer that labelers give; rename it")
        stamp = _stamp(at or _now())
        with self._write() as connection:
            for number, name in enumerate(new, start=len(known) + 1):
                connection.execute(
                    _class_events.insert().values(kind="add", class_id=f"c{number}", name=name, at=stamp, who=who)
                )
        return self.classes()

    # --- samples

    def samples(self, *, up_to: int | None = None) -> list[StoredSample]:
        """All samples with their paths, in the order they were added; only paths up to a number, where given.

        Samples whose paths all came later have none then.
        """
        paths: dict[str, list[NewPath]] = {}
        query = sa.select(_paths).order_by(_paths.c.number)
        if up_to is not None:
            query = query.where(_paths.c.number <= up_to)
        for row in self._read(query):
            paths.setdefault(row.sample_id, []).append(
                NewPath(row.sample_id, row.path, row.root, row.given, json.loads(row.metadata))
            )
        return [
            StoredSample(row.id, row.split, row.group_key, row.width, row.height, tuple(paths.get(row.id, ())))
            for row in self._read(sa.select(_samples).order_by(_samples.c.number))
        ]

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

        Samples and paths that are already there stay as they are (a holdout sample stays holdout). ``labels`` maps
        sample id to class id; a sample that already has a label event keeps its label.
        """
        stamp = _stamp(at or _now())
        have = {row.id for row in self._read(sa.select(_samples.c.id))}
        have_paths = {(r.root, r.path, r.sample_id) for r in self._read(sa.select(_paths))}
        labeled = {row.sample_id for row in self._read(sa.select(_label_events.c.sample_id).distinct())}
        new = [s for s in samples if s.id not in have]
        new_paths = [p for p in paths if (p.root, p.path, p.sample_id) not in have_paths]
        events = [
            {**_event_row("import", sample, None, label, False, who, stamp, why, iteration, ()), "undoes": None}
            for sample, label in labels.items()
            if sample not in labeled
        ]
        with self._write() as connection:
            _insert(connection, _samples, [
                {"id": s.id, "split": s.split, "group_key": s.group, "width": s.width, "height": s.height, "at": stamp}
                for s in new
            ])  # fmt: skip
            _insert(connection, _paths, [
                {"sample_id": p.sample_id, "path": p.path, "root": p.root, "given": p.given,
                 "metadata": json.dumps(dict(p.metadata), ensure_ascii=False)}
                for p in new_paths
            ])  # fmt: skip
            _insert(connection, _label_events, events)
        return len(new)

    # --- labels

    def label_events(self, sample_id: str | None = None) -> list[LabelEvent]:
        """Label events in the order they happened, of one sample or of all."""
        query = sa.select(_label_events).order_by(_label_events.c.id)
        if sample_id is not None:
            query = query.where(_label_events.c.sample_id == sample_id)
        return [_event(row) for row in self._read(query)]

    def labels(self, *, as_of: int | None = None, up_to: int | None = None) -> dict[str, CurrentLabel]:
        """Each sample's label now, or as of the end of an iteration (0: as imported); those without any are absent.

        ``up_to`` gives the labels as they were after that label event.
        """
        last = sa.select(sa.func.max(_label_events.c.id))
        if as_of is not None:
            last = last.where(_label_events.c.iteration <= as_of)
        if up_to is not None:
            last = last.where(_label_events.c.id <= up_to)
        query = sa.select(_label_events).where(_label_events.c.id.in_(last.group_by(_label_events.c.sample_id)))
        return {
            row.sample_id: CurrentLabel(row.sample_id, row.new, bool(row.excluded), row.id)
            for row in self._read(query.order_by(_label_events.c.id))
        }

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
        so that calling again after a crash is harmless and an undo stays.
        """
        current = self.labels()
        made = {(e.sample_id, e.new, e.excluded, e.cites) for e in self.label_events() if e.kind == "decision"}
        stamp = _stamp(at or _now())
        rows = []
        for decision in decisions:
            now = current.get(decision.sample_id)
            old, was_excluded = (now.class_id, now.excluded) if now else (None, False)
            if decision.outcome in ("change", "keep"):  # to keep the label of an image that was left out brings it back
                new, excluded = decision.class_id, False
            elif decision.outcome == "exclude":
                new, excluded = old, True
            else:
                continue
            if (new, excluded) == (old, was_excluded) or (decision.sample_id, new, excluded, decision.cites) in made:
                continue
            row = _event_row(
                "decision", decision.sample_id, old, new, excluded, who, stamp, decision.why, iteration, decision.cites
            )
            rows.append({**row, "undoes": None})
        return self._add_events(rows)

    def undo(
        self, sample_id: str, *, who: str, iteration: int, why: str = "undone", at: datetime | None = None
    ) -> LabelEvent:
        """Take back the sample's last change; raises ProjectError where there is none.

        The label before that change comes back by a new event; an undo can itself be undone.
        """
        events = self.label_events(sample_id)
        if len(events) < 2:
            raise ProjectError(f"sample {sample_id[:12]} has no change to undo: its label is as it was imported")
        last, before = events[-1], events[-2]
        row = _event_row(
            "undo", sample_id, last.new, before.new, before.excluded, who, _stamp(at or _now()), why, iteration, ()
        )
        return self._add_events([{**row, "undoes": last.id}])[0]

    def _add_events(self, rows: list[dict[str, Any]]) -> list[LabelEvent]:
        if not rows:
            return []
        with self._write() as connection:
            before = connection.execute(sa.select(sa.func.coalesce(sa.func.max(_label_events.c.id), 0))).scalar_one()
            connection.execute(_label_events.insert(), rows)
        added = self._read(sa.select(_label_events).where(_label_events.c.id > before).order_by(_label_events.c.id))
        return [_event(row) for row in added]

    # --- queue and verdicts

    def queue(self, iteration: int | None = None) -> list[QueueEntry]:
        """What people were asked, in order of position; of one iteration or of all."""
        query = sa.select(_queue).order_by(_queue.c.iteration, _queue.c.position)
        if iteration is not None:
            query = query.where(_queue.c.iteration == iteration)
        return [_entry(row.entry) for row in self._read(query)]

    def add_queue(self, entries: Sequence[QueueEntry]) -> None:
        """Record the intent to ask, before anybody is asked; a key that is already there is left alone."""
        have = {row.key for row in self._read(sa.select(_queue.c.key))}
        with self._write() as connection:
            _insert(connection, _queue, [
                {"key": e.key, "sample_id": e.sample_id, "iteration": e.iteration, "position": e.position,
                 "entry": json.dumps({**e.__dict__, "related": list(e.related)}, ensure_ascii=False)}
                for e in entries if e.key not in have
            ])  # fmt: skip

    def verdicts(self, *, iteration: int | None = None, every: bool = False) -> list[Verdict]:
        """Verdicts in the order they were recorded; only the latest of each source unless ``every``."""
        query = sa.select(_verdicts).order_by(_verdicts.c.id)
        if iteration is not None:
            query = query.where(_verdicts.c.iteration == iteration)
        found = [_verdict(row) for row in self._read(query)]
        if every:
            return found
        latest = {}
        for verdict in sorted(found, key=lambda v: (v.at, v.id)):
            latest[verdict.source] = verdict
        return sorted(latest.values(), key=lambda v: v.id)

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> int:
        """Record verdicts; one that says what is already recorded of its source adds nothing. Returns how many new."""
        known: dict[str, Verdict] = {v.source: v for v in self.verdicts()}
        seen = {(v.source, v.at, v.answer) for v in self.verdicts(every=True)}
        rows = []
        for verdict in verdicts:
            now = known.get(verdict.source)
            same = now is not None and (now.answer, now.person, now.note) == (
                verdict.answer, verdict.person, verdict.note,
            )  # fmt: skip
            if same or (verdict.source, verdict.at, verdict.answer) in seen:
                continue
            known[verdict.source] = verdict
            seen.add((verdict.source, verdict.at, verdict.answer))
            row = dict(verdict.__dict__)
            del row["id"]
            rows.append({**row, "at": _stamp(verdict.at)})
        with self._write() as connection:
            _insert(connection, _verdicts, rows)
        return len(rows)

    # --- what reviewers note, and releases

    def remarks(self, sample_id: str | None = None) -> list[Remark]:
        """What reviewers noted, in the order it was recorded, of one sample or of all."""
        query = sa.select(_remarks).order_by(_remarks.c.id)
        if sample_id is not None:
            query = query.where(_remarks.c.sample_id == sample_id)
        return [
            Remark(r.sample_id, r.kind, r.cause, r.note, r.who, datetime.fromisoformat(r.at), r.iteration, r.id)
            for r in self._read(query)
        ]

    def add_remarks(self, remarks: Sequence[Remark]) -> None:
        """Record remarks, all or none."""
        rows = [{k: v for k, v in r.__dict__.items() if k != "id"} | {"at": _stamp(r.at)} for r in remarks]
        with self._write() as connection:
            _insert(connection, _remarks, rows)

    def releases(self) -> list[Release]:
        """Every release, in the order they were made."""
        columns = [c for c in _releases.c if c.name != "id"]
        return [
            Release(**{**row._mapping, "at": datetime.fromisoformat(row.at)})
            for row in self._read(sa.select(*columns).order_by(_releases.c.id))
        ]

    def add_release(self, release: Release) -> None:
        """Record a release; raises DataError where its name is taken."""
        if any(known.name == release.name for known in self.releases()):
            raise DataError(f"there is a release '{release.name}' already; give this one another name")
        with self._write() as connection:
            _insert(connection, _releases, [{**release.__dict__, "at": _stamp(release.at)}])

    def heads(self) -> tuple[int, int, int]:
        """The last label event, class event and path; 0 where there is none."""
        columns = (_label_events.c.id, _class_events.c.id, _paths.c.number)
        label, klass, path = (self._read(sa.select(sa.func.coalesce(sa.func.max(c), 0)))[0][0] for c in columns)
        return int(label), int(klass), int(path)

    # --- iterations

    def iterations(self) -> list[Iteration]:
        """Every iteration with its latest state, in order."""
        found: dict[int, Iteration] = {}
        for row in self._read(sa.select(_iteration_events).order_by(_iteration_events.c.id)):
            at = datetime.fromisoformat(row.at)
            known = found.get(row.number) or Iteration(row.number, row.state, at)
            ended = at if row.state in ("done", "failed") else None
            found[row.number] = replace(known, state=row.state, ended_at=ended, message=row.message)
        return [found[number] for number in sorted(found)]

    def set_state(self, number: int, state: State, message: str = "", *, at: datetime | None = None) -> None:
        """Record that an iteration is now in this state; saying it twice in a row adds nothing."""
        now = {i.number: i for i in self.iterations()}.get(number)
        if now is not None and (now.state, now.message) == (state, message):
            return
        with self._write() as connection:
            connection.execute(
                _iteration_events.insert().values(number=number, state=state, at=_stamp(at or _now()), message=message)
            )


def _insert(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)


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
        "cites": json.dumps(list(cites)),
    }  # fmt: skip


def _event(row: sa.Row[Any]) -> LabelEvent:
    return LabelEvent(
        row.id, row.kind, row.sample_id, row.old, row.new, bool(row.excluded), row.who,
        datetime.fromisoformat(row.at), row.why, row.iteration, tuple(json.loads(row.cites)), row.undoes,
    )  # fmt: skip


def _entry(text: str) -> QueueEntry:
    values = json.loads(text)
    return QueueEntry(**{**values, "related": tuple(values["related"])})


def _verdict(row: sa.Row[Any]) -> Verdict:
    return Verdict(
        sample_id=row.sample_id, answer=row.answer, person=row.person, at=datetime.fromisoformat(row.at), key=row.key,
        source=row.source, mode=row.mode, iteration=row.iteration, seconds=row.seconds, note=row.note, id=row.id,
    )  # fmt: skip


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "busy_timeout = 30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _create(engine: sa.Engine) -> None:
    """Make the tables where they are missing, and let the database itself refuse changes and deletions."""
    try:
        found = sa.inspect(engine).has_table("about")
    except sa.exc.DatabaseError as error:
        raise ProjectError(f"the ledger at {engine.url!r} can't be opened: {error.orig}") from error
    if found:
        with engine.connect() as connection:
            version = connection.execute(sa.select(_about.c.value).where(_about.c.key == "schema")).scalar()
        if version != str(SCHEMA_VERSION):
            raise ProjectError(
                f"the ledger has schema version {version}, this release reads {SCHEMA_VERSION}; "
                "upgrade curation-toolkit"
            )
        _make_tables(engine)
        return
    _make_tables(engine, first={"key": "schema", "value": str(SCHEMA_VERSION)})


def _make_tables(engine: sa.Engine, first: Mapping[str, str] | None = None) -> None:
    """Make the tables that are missing: all in a new ledger, those that came later in an older one."""
    have = set(sa.inspect(engine).get_table_names())
    missing = [table for table in _tables.sorted_tables if table.name not in have]
    if not missing:
        return
    with engine.begin() as connection:
        _tables.create_all(connection, tables=missing)
        if first:
            connection.execute(_about.insert().values(**first))
        for table in missing:
            for statement in _append_only(engine.dialect.name, table.name):
                connection.execute(sa.text(statement))


def _append_only(dialect: str, table: str) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'the ledger only grows: {verb} on {table} refused'); END"
            for verb in ("update", "delete")
        ]
    return [
        "CREATE OR REPLACE FUNCTION ledger_only_grows() RETURNS trigger AS $$ BEGIN "
        "RAISE EXCEPTION 'the ledger only grows: % on % refused', TG_OP, TG_TABLE_NAME; END $$ LANGUAGE plpgsql",
        f"CREATE TRIGGER {table}_only_grows BEFORE UPDATE OR DELETE ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION ledger_only_grows()",
    ]
