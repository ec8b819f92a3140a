"""The ledger's tables: made, brought up to date from older releases, held append-only by the database, and chained.

Every row belongs to a block: what one transaction wrote. A block's hash covers its rows one after another and the hash
of the block before it, so that whoever changes, adds or takes away a row has to change every later hash, among them
those that iterations keep in their manifests. Names of people stand in a table of their own, outside the chain, where
they can be erased.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from curation.errors import ProjectError, RecordError

SCHEMA_VERSION = 3
#: The versions whose rows are those of this one.
_SAME_ROWS = (2, 3)
#: Who acts without being a person; stands in the tables as it is.
SYSTEM = ("import", "consensus")
#: How the words begin that stand for a name that was erased.
_ERASED = "erased person "
#: The hash before the first block.
BEGINNING = "0" * 64
#: The block of everything that a ledger held before it had blocks.
_BEFORE_BLOCKS = 1
_ROWS_AT_ONCE = 20_000
#: What SQLite takes on disk for the index of its log while a ledger is open.
_LOG_INDEX_BYTES = 32_768
#: How long a SQLite ledger waits for somebody else who writes.
_PATIENCE_S = 30

metadata = sa.MetaData()
about = sa.Table(
    "about",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
)
class_events = sa.Table(
    "class_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),  # add, rename
    sa.Column("class_id", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
)
samples = sa.Table(
    "samples",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("split", sa.Text, nullable=False),
    sa.Column("group_key", sa.Text),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
)
paths = sa.Table(
    "paths",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("path", sa.Text, nullable=False, index=True),
    sa.Column("root", sa.Text, nullable=False),
    sa.Column("given", sa.Text),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
    sa.UniqueConstraint("root", "path", "sample_id"),
)
label_events = sa.Table(
    "label_events",
    metadata,
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
    sa.Column("block", sa.Integer, nullable=False),
)
#: What `curate status` counts by, so that it need not read a row.
COUNTED_BY = (
    sa.Index("ix_samples_split", samples.c.split),
    sa.Index("ix_label_events_kind", label_events.c.kind, label_events.c.new),
)
verdicts = sa.Table(
    "verdicts",
    metadata,
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
    sa.Column("block", sa.Integer, nullable=False),
    sa.UniqueConstraint("source", "at", "answer"),
)
queue = sa.Table(
    "queue",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("iteration", sa.Integer, nullable=False, index=True),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("entry", sa.Text, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
)
iteration_events = sa.Table(
    "iteration_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, nullable=False, index=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
)
remarks = sa.Table(
    "remarks",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sample_id", sa.Text, sa.ForeignKey("samples.id"), nullable=False, index=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
    sa.Column("iteration", sa.Integer, nullable=False),
    sa.Column("block", sa.Integer, nullable=False),
)
releases = sa.Table(
    "releases",
    metadata,
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
    sa.Column("block", sa.Integer, nullable=False),
)
blocks = sa.Table(
    "blocks",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("rows", sa.Integer, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
)
people = sa.Table(
    "people",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text),  # none: erased
)

#: Tables whose rows are chained, in the order in which a block's hash takes them. A new one goes to the end and comes
#: with a schema version and a migration that makes it.
CHAINED = (
    about, class_events, samples, paths, label_events, verdicts, queue, iteration_events, remarks, releases,
)  # fmt: skip
#: Columns that name a person.
_NAMED = ((class_events, "who"), (label_events, "who"), (verdicts, "person"), (remarks, "who"), (releases, "who"))


# --- the chain


def line_of(table: str, row: Sequence[Any]) -> bytes:
    """A row as bytes: its table and its values in column order, without its block.

    >>> line_of("about", ["id", "x"])
    b'["about","id","x"]\\n'
    """
    return (json.dumps([table, *row], ensure_ascii=False, separators=(",", ":")) + "\n").encode("utf-8", "replace")


def seal(before: str, digests: Mapping[str, str]) -> str:
    """The hash of a block: of the hash before it, and of the digest of its rows in each table that it has rows in.

    >>> seal(BEGINNING, {"about": "aa"}) == seal(BEGINNING, {"about": "ab"})
    False
    """
    parts = [before, *(f"{t.name}={digests[t.name]}" for t in CHAINED if t.name in digests)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _columns(table: sa.Table) -> list[sa.Column[Any]]:
    return [column for column in table.c if column.name != "block"]


class Writer:
    """Rows that one transaction adds; ``finish`` seals them as a block. The caller holds the lock on writing."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection
        last = connection.execute(sa.select(blocks).order_by(blocks.c.number.desc()).limit(1)).first()
        self._number: int = last.number + 1 if last else 1
        self._before: str = last.hash if last else BEGINNING
        self._digests: dict[str, str] = {}
        self._count = 0

    def add(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, in this order; numbers and ids are given here. Once a table and transaction. RecordError."""
        if not rows:
            return
        if table.name in self._digests:
            raise ValueError(f"{table.name} got rows before in this transaction")
        columns = _columns(table)
        key = columns[0]
        number = 0
        if isinstance(key.type, sa.Integer):
            number = self.connection.execute(sa.select(sa.func.coalesce(sa.func.max(key), 0))).scalar_one()
        else:
            rows = sorted(rows, key=lambda row: str(row[key.name]))
        digest = hashlib.sha256()
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            whole = []
            for row in rows[start : start + _ROWS_AT_ONCE]:
                number += 1
                values = {c.name: row.get(c.name) for c in columns}
                if isinstance(key.type, sa.Integer):
                    values[key.name] = number
                _check_numbers(table, values)
                digest.update(line_of(table.name, list(values.values())))
                whole.append({**values, "block": self._number})
            self.connection.execute(table.insert(), whole)
        self._digests[table.name] = digest.hexdigest()
        self._count += len(rows)

    def finish(self, at: str) -> None:
        """Seal what was added; nothing where nothing was."""
        if self._digests:
            values = {
                "number": self._number, "rows": self._count, "hash": seal(self._before, self._digests), "at": at,
            }  # fmt: skip
            self.connection.execute(blocks.insert().values(values))

    def person(self, name: str) -> str:
        """What stands for a person in the tables; a new person is noted, one who was erased is known by those words."""
        if name in SYSTEM:
            return name
        wanted = people.c.name == name
        if name.startswith(_ERASED):
            wanted |= people.c.name.is_(None) & (people.c.id == f"p{name.removeprefix(_ERASED)}")
        known = self.connection.execute(sa.select(people.c.id).where(wanted)).scalar()
        if known is None:
            count = self.connection.execute(sa.select(sa.func.count()).select_from(people)).scalar_one()
            known = f"p{count + 1}"
            self.connection.execute(people.insert().values(id=known, name=name))
        return str(known)


def _check_numbers(table: sa.Table, row: Mapping[str, Any]) -> None:
    """Raise RecordError for a number that a database may not give back as it was hashed."""
    for column, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RecordError(f"'{column}' of a row for {table.name} must be a finite number, got {value}")


def head(connection: sa.Connection) -> tuple[int, str]:
    """Number and hash of the last block."""
    last = connection.execute(sa.select(blocks).order_by(blocks.c.number.desc()).limit(1)).first()
    return (last.number, last.hash) if last else (0, BEGINNING)


def faults_of(connection: sa.Connection, heads: Mapping[str, tuple[int, str]]) -> list[str]:
    """What is wrong with the chain, in sentences; empty where every row is as it was written.

    ``heads`` are numbers and hashes that were noted elsewhere, by where.
    """
    digests, counts = _digests(connection)
    known = {row.number: row for row in connection.execute(sa.select(blocks).order_by(blocks.c.number))}
    found = [
        f"{sum(counts[number].values())} rows name block {number}, which is not in the chain: they were added past it"
        for number in sorted(set(counts) - set(known))
    ]
    before = BEGINNING
    for expected, (number, row) in enumerate(known.items(), start=1):
        if number != expected:
            found.append(f"block {expected} is missing: rows were taken away")
            break
        in_tables = ", ".join(f"{name} ({count})" for name, count in counts.get(number, {}).items())
        if seal(before, digests.get(number, {})) != row.hash:
            found.append(
                f"block {number} of {row.at} is not as it was written; it has rows in {in_tables or 'no table'}"
            )
            break  # every later hash rests on this one
        before = row.hash
    for where, (number, noted) in heads.items():
        if number and (number not in known or known[number].hash != noted):
            why = "it is gone: the ledger was cut short" if number not in known else "its hash is another one"
            found.append(f"{where} notes block {number}, and {why}")
    return found


def _digests(connection: sa.Connection) -> tuple[dict[int, dict[str, str]], dict[int, dict[str, int]]]:
    """Of each block, by table: the digest of its rows as they are now, and how many they are."""
    digests: dict[int, dict[str, str]] = {}
    counts: dict[int, dict[str, int]] = {}
    for table in CHAINED:
        hashes: dict[int, Any] = {}
        for block, values in _rows(connection, table):
            hashes.setdefault(block, hashlib.sha256()).update(line_of(table.name, values))
            of_block = counts.setdefault(block, {})
            of_block[table.name] = of_block.get(table.name, 0) + 1
        for block, digest in hashes.items():
            digests.setdefault(block, {})[table.name] = digest.hexdigest()
    return digests, counts


def _rows(connection: sa.Connection, table: sa.Table) -> Iterator[tuple[int, list[Any]]]:
    """Block and values of a table's rows, in the order in which they were added."""
    columns = _columns(table)
    query = sa.select(table.c.block, *columns)
    if table is about:  # a migration changes it
        query = query.where(about.c.key != "schema")
    if isinstance(columns[0].type, sa.Integer):
        result = connection.execute(query.order_by(columns[0]), execution_options={"yield_per": _ROWS_AT_ONCE})
        for row in result:
            yield row[0], list(row[1:])
    else:  # databases order text in their own ways
        for row in sorted(connection.execute(query).all(), key=lambda row: str(row[1])):
            yield row[0], list(row[1:])


# --- making, and bringing up to date


def connect(url: str | sa.URL) -> sa.Engine:
    """An engine for a database URL; connections read, or write where ``execution_options(writes=True)``."""
    if isinstance(url, str) and url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    try:
        kind = sa.make_url(url).get_backend_name()
        if kind not in ("postgresql", "sqlite"):
            raise ProjectError(f"setting 'ledger' must be an address of PostgreSQL or SQLite, got {kind}")
        engine = sa.create_engine(url)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError) as error:
        raise ProjectError(f"setting 'ledger' is no database URL that can be used: {error}") from None
    except ImportError as error:
        raise ProjectError(f"{error.name} is missing; install curation-toolkit[postgres] for such a ledger") from None
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, those that make tables too
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {1000 * _PATIENCE_S}")
    _write_ahead(cursor)
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Turn the write-ahead log on; SQLite itself does not wait where somebody else makes the file just now."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def hold(connection: sa.Connection) -> None:
    """Let nobody else write before this transaction ends; readers go on."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("LOCK TABLE about IN SHARE ROW EXCLUSIVE MODE")


def version_of(connection: sa.Connection) -> int | None:
    """The schema version; ``None`` where there is no ledger."""
    if not sa.inspect(connection).has_table("about"):
        return None
    try:
        return int(connection.execute(sa.text("SELECT value FROM about WHERE key = 'schema'")).scalar() or 0)
    except (ValueError, sa.exc.DatabaseError):
        return 0


def prepare(engine: sa.Engine, now: str) -> sa.Engine:
    """Make the tables, or bring those of an older release up to date: all of it or nothing; returns what to go on with.

    A SQLite file of an older release is kept beside the new one, named by its version. On a full disk, where SQLite has
    no room to open a file that others may write, that is an engine that only reads. Raises ProjectError where the
    database can't be opened or is of a newer release.
    """
    if (reader := _reader_on_a_full_disk(engine)) is not None:
        engine = reader
    try:
        with engine.connect() as connection:
            found = version_of(connection)
        if found == SCHEMA_VERSION:
            return engine
        if found is not None and found not in _MIGRATIONS:
            raise ProjectError(
                f"the ledger has schema version {found}, this release reads {SCHEMA_VERSION}; upgrade curation-toolkit"
            )
        if found is not None and engine.dialect.name == "sqlite" and engine.url.database:
            _keep_old(Path(engine.url.database), found)
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            _make_or_migrate(connection, now)
        return engine
    except sa.exc.DatabaseError as error:
        full = "; the disk is full; make room on it" if _is_full(engine) else ""
        raise ProjectError(f"the ledger at {engine.url!r} can't be opened: {first_line(error.orig)}{full}") from error


def _is_full(engine: sa.Engine) -> bool:
    """Whether a SQLite file lies on a disk that has no room for the index of its log."""
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    try:
        return bool(file) and shutil.disk_usage(Path(str(file)).parent)[2] < _LOG_INDEX_BYTES
    except OSError:
        return False


def _reader_on_a_full_disk(engine: sa.Engine) -> sa.Engine | None:
    """An engine that reads a SQLite file that nobody has open, where its disk is full; ``None`` anywhere else."""
    if not _is_full(engine):
        return None
    file = Path(str(engine.url.database)).absolute()
    try:
        with engine.connect() as connection:
            version_of(connection)
        return None
    except sa.exc.DatabaseError:
        log = file.with_name(f"{file.name}-wal")
        if not file.exists() or (log.exists() and log.stat().st_size):
            return None  # the log holds what the file does not have yet
    engine.dispose()
    address = f"file:{quote(str(file))}?mode=ro&immutable=1"
    reader = sa.create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(address, uri=True, isolation_level=None), poolclass=sa.NullPool
    )
    sa.event.listen(reader, "begin", _begin_sqlite)
    return reader


def first_line(error: object) -> str:
    """What a database says is wrong, without the statement and the hints."""
    return (str(error).strip().splitlines() or [""])[0]


def _make_or_migrate(connection: sa.Connection, now: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7253081)")  # two that make tables at once
    found = version_of(connection)  # again: somebody may have been quicker
    if found is None:
        metadata.create_all(connection)
        connection.execute(about.insert().values(key="schema", value=str(SCHEMA_VERSION), block=_BEFORE_BLOCKS))
        _let_only_grow(connection)
    while found is not None and found < SCHEMA_VERSION:
        _let_change(connection)
        _MIGRATIONS[found](connection, now)
        found += 1
        connection.execute(sa.text("UPDATE about SET value = :v WHERE key = 'schema'"), {"v": str(found)})
        _let_only_grow(connection)


def _keep_old(file: Path, version: int) -> None:
    kept = file.with_name(f"{file.name}.v{version}")
    if kept.exists():
        return
    with closing(sqlite3.connect(file)) as old, closing(sqlite3.connect(kept)) as new:
        old.backup(new)
    kept.chmod(0o600)


def _to_2(connection: sa.Connection, now: str) -> None:
    """Blocks, and names of people in a table of their own."""
    have = set(sa.inspect(connection).get_table_names())
    metadata.create_all(connection, tables=[table for table in metadata.sorted_tables if table.name not in have])
    for table in CHAINED:
        if table.name not in have:
            continue  # the first ones had neither remarks nor releases
        connection.exec_driver_sql(
            f"ALTER TABLE {table.name} ADD COLUMN block INTEGER NOT NULL DEFAULT {_BEFORE_BLOCKS}"
        )
    connection.exec_driver_sql("CREATE INDEX ix_paths_path ON paths (path)")
    _take_names_out(connection)
    digests, counts = _digests(connection)
    if counts:
        values = {
            "number": _BEFORE_BLOCKS, "rows": sum(counts[_BEFORE_BLOCKS].values()),
            "hash": seal(BEGINNING, digests[_BEFORE_BLOCKS]), "at": now,
        }  # fmt: skip
        connection.execute(blocks.insert().values(values))


def _take_names_out(connection: sa.Connection) -> None:
    writer = Writer(connection)
    for table, column in _NAMED:
        key = next(iter(table.c))
        query = sa.select(table.c[column]).group_by(table.c[column]).order_by(sa.func.min(key))
        for name in connection.execute(query).scalars().all():
            connection.execute(table.update().where(table.c[column] == name).values({column: writer.person(name)}))
    names: dict[str, str | None] = {row.id: row.name for row in connection.execute(sa.select(people))}
    for row in connection.execute(sa.select(verdicts.c.id, verdicts.c.source, verdicts.c.person)).all():
        source = stored_source(row.source, names.get(row.person) or "", row.person)
        if source != row.source:
            connection.execute(verdicts.update().where(verdicts.c.id == row.id).values(source=source))


def stored_source(source: str, name: str, person: str) -> str:
    """A verdict's source without the name that it may end with.

    >>> stored_source("replay:k1:Ann", "Ann", "p1")
    'replay:k1:p1'
    """
    return f"{source[: -len(name)]}{person}" if name and source.endswith(f":{name}") else source


def reviewer_in(source: str, sample_id: str) -> str:
    """Who gave the verdict that a reviewer's source names, '' for any other source.

    >>> reviewer_in("review:p1:a17", "a17"), reviewer_in("replay:k1:p1", "a17")
    ('p1', '')
    """
    before, after = "review:", f":{sample_id}"
    return source[len(before) : -len(after)] if source.startswith(before) and source.endswith(after) else ""


def erased_name(person: str) -> str:
    """What a person is called whose name was erased.

    >>> erased_name("p2")
    'erased person 2'
    """
    return f"{_ERASED}{person[1:]}"


def _to_3(connection: sa.Connection, _now: str) -> None:
    """Indexes that counting needs."""
    for index in COUNTED_BY:
        index.create(connection, checkfirst=True)


_MIGRATIONS = {1: _to_2, 2: _to_3}


def _let_only_grow(connection: sa.Connection) -> None:
    """Let the database itself refuse to change or delete what is in the ledger; names can be erased."""
    for table in (*CHAINED, blocks, people):
        verbs = ("delete",) if table is people else ("update", "delete")
        for statement in _append_only(connection.dialect.name, table.name, verbs):
            connection.execute(sa.text(statement))


def _append_only(dialect: str, table: str, verbs: Iterable[str]) -> list[str]:
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, 'the ledger only grows: {verb} on {table} refused'); END"
            for verb in verbs
        ]
    return [
        "CREATE OR REPLACE FUNCTION ledger_only_grows() RETURNS trigger AS $$ BEGIN "
        "RAISE EXCEPTION 'the ledger only grows: % on % refused', TG_OP, TG_TABLE_NAME; END $$ LANGUAGE plpgsql",
        f"CREATE TRIGGER {table}_only_grows BEFORE {' OR '.join(verbs)} ON {table} "
        "FOR EACH ROW EXECUTE FUNCTION ledger_only_grows()",
        f"CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table} EXECUTE FUNCTION ledger_only_grows()",
    ]


def _let_change(connection: sa.Connection) -> None:
    """Take the guards away, within the transaction of a migration."""
    for table in (*CHAINED, blocks, people):
        if connection.dialect.name == "sqlite":
            for verb in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {table.name}_no_{verb}")
        elif sa.inspect(connection).has_table(table.name):
            for name in (f"{table.name}_only_grows", f"{table.name}_not_emptied"):
                connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name} ON {table.name}")


# --- the whole of it, out and in


def dump(connection: sa.Connection) -> Iterator[str]:
    """Every row of every table as a JSON line, the first line its version; in one transaction."""
    yield json.dumps({"ledger": SCHEMA_VERSION}) + "\n"
    for table in (*CHAINED, blocks, people):
        rows = connection.execute(sa.select(table), execution_options={"yield_per": _ROWS_AT_ONCE})
        for row in rows:
            yield json.dumps([table.name, *row], ensure_ascii=False) + "\n"


def load(connection: sa.Connection, lines: Iterable[str]) -> None:
    """Put a dump into tables that hold nothing yet; raises ProjectError for what is no dump, and where they do."""
    tables = {t.name: t for t in (*CHAINED, blocks, people)}
    if connection.execute(sa.select(sa.func.count()).select_from(blocks)).scalar_one():
        raise ProjectError("the database that is to be restored into holds a ledger already; name an empty one")
    waiting: list[dict[str, Any]] = []
    last = about
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            if number == 1:
                if values["ledger"] not in _SAME_ROWS:
                    raise ProjectError(
                        f"the backup is of schema version {values['ledger']}; restore it with its release"
                    )
                continue
            table = tables[values[0]]
            row = dict(zip((c.name for c in table.c), values[1:], strict=True))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ProjectError(f"line {number} of the backup's ledger is no row of a ledger ({error!r})") from None
        if table is not last or len(waiting) >= _ROWS_AT_ONCE:
            _flush(connection, last, waiting)
            waiting, last = [], table
        if not (table is about and row["key"] == "schema"):
            waiting.append(row)
    _flush(connection, last, waiting)


def _flush(connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(table.insert(), rows)
