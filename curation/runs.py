"""A project on disk: its paths, its lock, and stage results that are whole or absent.

A stage writes its files into the iteration's folder, each beside and then renamed, and its manifest last: a stage
without one is not finished and is made again. Everything under ``cache`` can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from curation.errors import ProjectError, ProjectLocked

#: What files end with while they are written.
_PART = ".part"
#: What an image is called while it is put where Label Studio serves it from (``labeling/served.py``).
_BEING_SERVED = ".new"


class ProjectPaths:
    """Where everything of a project lies.

    >>> ProjectPaths(Path("p")).iteration(3).as_posix()
    'p/.curation/iterations/003'
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "curation.toml"
        self.home = root / ".curation"
        self.ledger = self.home / "ledger.db"
        self.secret = self.home / "secret"
        self.holdout_flags = self.home / "holdout-flags.json"
        self.lock = self.home / "lock"
        self.cache = self.home / "cache"
        self.label_studio = self.home / "label-studio"
        self.fiftyone = self.home / "fiftyone"
        self.iterations = self.home / "iterations"

    def image_cache(self, bits: int) -> Path:
        """The folder of what was made of images: one for every way to read 16-bit ones, the setting ``bits``."""
        return self.cache if bits == 16 else self.cache / f"{bits}-bit"

    def iteration(self, number: int) -> Path:
        """The folder of an iteration."""
        return self.iterations / f"{number:03d}"


@contextmanager
def ended_by_signal() -> Iterator[None]:
    """Let the wish to end that other programs send (SIGTERM) work as Ctrl-C does, so that nothing is left running.

    Either raises KeyboardInterrupt, whatever was under way (``was_interrupted``).
    """

    def end(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except RuntimeError as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def was_interrupted(error: BaseException) -> bool:
    """Whether Ctrl-C is what raised: Python before 3.12 gives it as RuntimeError where it comes while a class is made.

    That is while a module is imported for the first time, as at the end of a command.
    """
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)


def write_whole(file: Path, content: bytes | str, *, private: bool = False) -> None:
    """Write a file so that it is whole or not there: beside, flushed to disk, then renamed.

    ``private`` files can be read by their owner alone.
    """
    raw = content.encode("utf-8") if isinstance(content, str) else content
    try:
        _write_beside(file, raw, private)
    except OSError as error:
        raise ProjectError(
            f"{file} can't be written ({error.strerror or error}); make room or see to its rights, then go on"
        ) from error


def _write_beside(file: Path, raw: bytes, private: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    name = f".{file.name[:100]}.{os.getpid()}."  # names may have 255 bytes
    handle, beside = tempfile.mkstemp(dir=file.parent, prefix=name, suffix=_PART)
    try:
        with os.fdopen(handle, "wb") as out:
            if not private:
                os.fchmod(handle, 0o666 & ~_umask())
            out.write(raw)
            out.flush()
            os.fsync(out.fileno())
        Path(beside).replace(file)
    except BaseException:
        with suppress(OSError):
            Path(beside).unlink(missing_ok=True)
        raise


def sweep(paths: ProjectPaths) -> int:
    """Remove what processes that are dead had half written; returns how many files. Nothing ever reads them."""
    found = [*paths.home.glob(f".*{_PART}")]
    for folder in paths.home.glob("*/"):
        if folder not in (paths.label_studio, paths.fiftyone):  # what servers keep is theirs
            found += folder.rglob(f".*{_PART}")
    found += (paths.label_studio / "images").rglob(f".*{_BEING_SERVED}")  # ours alone writes there
    gone = [file for file in found if not _alive(_process_of(file.name))]
    for file in gone:
        file.unlink(missing_ok=True)
    return len(gone)


def _process_of(name: str) -> str:
    """The process that writes a file beside its place, by the file's name.

    >>> _process_of(".report.json.14320.1ez8.part"), _process_of(".4f2a.14320.new")
    ('14320', '14320')
    """
    return name.split(".")[-3 if name.endswith(_PART) else -2]


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _umask() -> int:
    """What the user leaves out of the rights of a new file."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_json(file: Path, value: object, *, private: bool = False) -> None:
    """Write JSON, whole or absent; ``private`` files can be read by their owner alone."""
    write_whole(file, json.dumps(value, indent=1, ensure_ascii=False) + "\n", private=private)


def read_json(file: Path) -> Any:
    """Read JSON; raises ProjectError naming the file where it can't be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{file} can't be read ({error}); delete it and run `curate run` again") from None


def stage(folder: Path, name: str, make: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Run a stage once: ``make(folder)`` writes whole files and returns the manifest; later calls return what is there.

    The manifest ``<name>.json`` is written last, so a stage that was interrupted has none and is made again.
    """
    done = finished(folder, name)
    if done is not None:
        return done
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{name}.json", dict(make(folder)))
    return finished(folder, name) or {}


def finished(folder: Path, name: str) -> Mapping[str, Any] | None:
    """The manifest of a finished stage, ``None`` where the stage has not finished."""
    file = folder / f"{name}.json"
    if not file.exists():
        return None
    manifest: Mapping[str, Any] = read_json(file)
    return manifest


@contextmanager
def project_lock(paths: ProjectPaths, *, timeout: float = 0) -> Iterator[None]:
    """Hold the project for writing; raises ProjectLocked naming the process that has it.

    The lock is the operating system's own (it goes with the process), so a dead process leaves none behind.
    """
    import filelock  # only when something is written

    lock = filelock.FileLock(paths.lock)
    holder = paths.home / "lock-holder"
    try:
        paths.home.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=timeout)
    except OSError as error:
        if isinstance(error, filelock.Timeout):
            raise _locked(paths, holder) from None
        raise ProjectError(
            f"{paths.home} can't be written to ({error.strerror or error}); make room or see to its rights"
        ) from error
    try:
        holder.write_text(f"process {os.getpid()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _locked(paths: ProjectPaths, holder: Path) -> ProjectLocked:
    try:
        who = holder.read_text(encoding="utf-8")
    except OSError:
        who = "another process"
    return ProjectLocked(f"{paths.root} is in use by {who}; wait for it or stop it, then try again")


@contextmanager
def held(paths: ProjectPaths, name: str, doing: str, *, timeout: float = 60) -> Iterator[None]:
    """Do something that goes on beside a run, but never twice at once; raises ProjectLocked.

    ``name`` is the lock's file in the project's home, ``doing`` says what, as in "deciding about labels".
    """
    import filelock

    paths.home.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(paths.home / name)
    try:
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        raise ProjectLocked(
            f"somebody has been {doing} of {paths.root} for {timeout:.0f} s; try again in a moment"
        ) from None
    try:
        yield
    finally:
        lock.release()


def decision_lock(paths: ProjectPaths, *, timeout: float = 60) -> AbstractContextManager[None]:
    """Hold the deciding about labels for a moment, also while a run holds the project; raises ProjectLocked.

    So a reviewer's verdict and the consensus never decide about the same label at once.
    """
    return held(paths, "decision-lock", "deciding about labels", timeout=timeout)


def accounts_lock(paths: ProjectPaths, *, timeout: float = 300) -> AbstractContextManager[None]:
    """Hold who has an account, from reading it until it is written again; raises ProjectLocked."""
    return held(paths, "accounts-lock", "changing accounts", timeout=timeout)


def sending_lock(paths: ProjectPaths, *, timeout: float = 900) -> AbstractContextManager[None]:
    """Hold the sending of tasks, also while a run holds the project; raises ProjectLocked.

    So two who look what is missing never both make it.
    """
    return held(paths, "sending-lock", "sending tasks", timeout=timeout)
