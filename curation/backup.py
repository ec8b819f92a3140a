"""A project in one file: made while others go on working, restored into SQLite or PostgreSQL.

Images and what can be made again (caches, Label Studio, FiftyOne) are left out; files in the project's folder that its
settings name are not. A stage's manifest is noted before its files are read, and the ledger is read last, so that what
is restored never claims a stage whose files or events it lacks; a stage that ended meanwhile is made again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
import tomllib
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

from curation.config import Settings, read_settings, settings_to_toml
from curation.errors import DataError, ProjectError
from curation.ledger import Ledger
from curation.runs import ProjectPaths, write_whole

FORMAT = 1
_ABOUT, _LEDGER, _SETTINGS = "backup.json", "ledger.jsonl", "curation.toml"
_ITERATIONS = ".curation/iterations/"
_PRIVATE = (".curation/secret", ".curation/people.json", ".curation/erased.json")
_SINGLE = (*_PRIVATE, ".curation/run.json", ".curation/adopted.json", ".curation/holdout-flags.json")


def back_up(paths: ProjectPaths, ledger: Ledger, out: Path) -> int:
    """Write a project into ``out`` (a gzipped tar that its owner alone can read), whole or absent; returns the rows of
    the ledger. Raises ProjectError where it can't be written.
    """
    handle, beside = -1, ""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=out.parent, prefix=".backup.", suffix=".part")
        with os.fdopen(handle, "wb") as raw:
            with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as archive:
                rows = _fill(archive, paths, ledger)
            raw.flush()
            os.fsync(raw.fileno())
        Path(beside).replace(out)
    except OSError as error:
        raise ProjectError(
            f"{out} can't be written ({error.strerror or error}); make room or name another file"
        ) from error
    finally:
        with suppress(OSError):
            Path(beside).unlink(missing_ok=True) if beside else None
    return rows


def _fill(archive: tarfile.TarFile, paths: ProjectPaths, ledger: Ledger) -> int:
    _add(archive, _ABOUT, json.dumps({"format": FORMAT, "made": datetime.now(UTC).isoformat()}).encode())
    for name, content in _files(paths):
        _add(archive, name, content)
    with tempfile.TemporaryFile() as lines:
        rows = -1  # the first line is none
        for line in ledger.dump():
            lines.write(line.encode("utf-8"))
            rows += 1
        size = lines.tell()
        lines.seek(0)
        archive.addfile(_info(_LEDGER, size), lines)
    return rows


def _files(paths: ProjectPaths) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files: manifests first, as they are at one moment."""
    noted = {file: file.read_bytes() for file in sorted(paths.iterations.glob("*/*.json"))}
    named = _named(paths.settings.read_bytes()) if paths.settings.exists() else ()
    for file in (paths.settings, *(paths.root / name for name in (*_SINGLE, *named))):
        if file.is_file():
            yield file.relative_to(paths.root).as_posix(), file.read_bytes()
    for file in sorted(paths.iterations.rglob("*")):
        if file in noted or (file.suffix == ".json" and file.parent.parent == paths.iterations):
            continue
        if "checkpoint" in file.parts or file.name.startswith(".") or not file.is_file():
            continue
        yield file.relative_to(paths.root).as_posix(), file.read_bytes()
    for file, content in noted.items():
        yield file.relative_to(paths.root).as_posix(), content


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    archive.addfile(_info(name, len(content)), io.BytesIO(content))


def restore(file: Path, root: Path, *, ledger: str = "") -> None:
    """Make the project anew in ``root``, a folder that is empty or missing; its ledger in SQLite, or in the empty
    database with the URL ``ledger``.

    The project is there when all of it is; what fails leaves folder and database as empty as they were. Raises
    DataError for a file that is no backup, ConfigError for a URL that settings may not hold, ProjectError where folder
    or database hold something, or the database can't be reached.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ProjectError(f"{root} is not empty; name a folder that is, or is not there yet")
    Settings(ledger=ledger)  # the URL is checked before anything is made
    there, paths = root.exists(), ProjectPaths(root)
    try:
        restored = Ledger(ledger) if ledger else Ledger.in_file(paths.ledger)
        try:
            settings = _unpack(file, paths, restored, ledger)
        finally:
            restored.close()
        write_whole(paths.settings, settings_to_toml(settings))
    except BaseException:
        with suppress(OSError):
            for made in root.iterdir():  # it was empty
                shutil.rmtree(made, ignore_errors=True) if made.is_dir() else made.unlink()
            if not there:
                root.rmdir()
        raise


def _unpack(file: Path, paths: ProjectPaths, restored: Ledger, url: str) -> Settings:
    """Everything but the settings, which it returns; the ledger last, when all else is known to be whole."""
    with tempfile.TemporaryFile() as lines:
        try:
            with tarfile.open(file, mode="r:gz") as archive:
                settings = _unpack_files(archive, file, paths, lines)
            lines.seek(0)
            draft = paths.home / "restored.toml"
            write_whole(draft, settings)
            known = replace(read_settings(draft), ledger=url)
            draft.unlink()
            restored.load(io.TextIOWrapper(lines, encoding="utf-8"))
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
            raise DataError(
                f"{file} can't be read as a backup ({error}); name a file made by `curate backup`"
            ) from error
    return known


def _unpack_files(archive: tarfile.TarFile, file: Path, paths: ProjectPaths, lines: IO[bytes]) -> bytes:
    """Everything but the settings, which it returns, and the ledger, which goes into ``lines``."""
    settings = None
    named: tuple[str, ...] = ()
    for number, member in enumerate(archive):
        stream = archive.extractfile(member) if member.isfile() else None
        if stream is None or not (_allowed(member.name) or member.name in named):
            raise DataError(f"{file} holds '{member.name[:200]}', which is no part of a backup; nothing was made of it")
        if number == 0:
            about = json.loads(stream.read()) if member.name == _ABOUT else {}
            if about.get("format") != FORMAT:
                raise DataError(f"{file} is no backup that this release reads; name a file made by `curate backup`")
        elif member.name == _SETTINGS:
            settings = stream.read()
            named = _named(settings)
        elif member.name == _LEDGER:
            shutil.copyfileobj(stream, lines)
        else:
            write_whole(paths.root / member.name, stream.read(), private=member.name in _PRIVATE)
    while archive.fileobj is not None and archive.fileobj.read(1 << 20):
        pass  # to the end of the file, where its check sum is
    if settings is None or not lines.tell():
        raise DataError(f"{file} lacks the settings or the ledger: it was cut short; use another backup")
    return settings


def _named(settings: bytes) -> tuple[str, ...]:
    """The files in the project's folder that its settings name, none of our own; nothing of broken settings.

    >>> _named(b'answer_key = "./key.csv"\\n[slices]\\nrecipes = "../mine.toml"')
    ('key.csv',)
    """
    try:
        values = tomllib.loads(settings.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return ()
    sections = (values, values.get("review"), values.get("slices"))
    pairs = zip(sections, ("answer_key", "texts", "recipes"), strict=True)
    texts = [section.get(key) for section, key in pairs if isinstance(section, dict)]
    paths = [PurePosixPath(text) for text in texts if isinstance(text, str) and text]
    inside = [p for p in paths if p.parts and not p.is_absolute() and ".." not in p.parts and p.parts[0] != ".curation"]
    return tuple(str(p) for p in inside if str(p) != _SETTINGS)


def _allowed(name: str) -> bool:
    """Whether a backup may hold a file of this name.

    >>> [_allowed(n) for n in ("curation.toml", ".curation/iterations/1/a.json", ".curation/iterations/../x", "/x")]
    [True, True, False, False]
    """
    parts = PurePosixPath(name).parts
    plain = ".." not in parts and not name.startswith("/") and "\x00" not in name
    return plain and (name in (_ABOUT, _LEDGER, _SETTINGS, *_SINGLE) or name.startswith(_ITERATIONS))
