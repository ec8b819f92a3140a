"""Other processes: whether one is still the one that it was, how it was called, its end; and servers of ours."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from curation.runs import write_json

if TYPE_CHECKING:
    import psutil


def birth(pid: int) -> float | None:
    """When the process was born, ``None`` where it is gone (or dead and not yet collected)."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def command_of(pid: int) -> tuple[str, ...]:
    """The process's command line; empty where it is gone, or not for us to see."""
    import psutil

    try:
        return tuple(psutil.Process(pid).cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return ()


def wait_until_gone(processes: Sequence[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait at most so long for these processes to end; those that are left.

    One that another living process started, and has not collected yet, has ended.
    """
    import psutil

    left, give_up = list(processes), time.monotonic() + seconds
    while left and time.monotonic() < give_up:
        left = psutil.wait_procs(left, timeout=0.1)[1]
        left = [one for one in left if one.is_running() and birth(one.pid) is not None]
    return left


@dataclass(frozen=True)
class Serving:
    """A server process of ours: ``created`` is its birth time (seconds), which tells it from a later one's id."""

    pid: int
    created: float
    port: int


class NotedServer:
    """The one server that works on a folder, noted in a file.

    ``port_of`` tells from a process's command line at which port it works on this very folder; ``None`` where it does
    not.
    """

    def __init__(self, file: Path, port_of: Callable[[Sequence[str]], int | None]) -> None:
        self._file = file
        self._port_of = port_of

    def find(self) -> Serving | None:
        """The noted process, else any that works on our folder (an orphan), which is noted; ready or not."""
        return self._ours() or self._orphan()

    def noted(self) -> Serving | None:
        """The process that the file tells of, if it is still there; it may be another folder's."""
        try:
            told = json.loads(self._file.read_text(encoding="utf-8"))
            noted = Serving(told["pid"], told["created"], told["port"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return noted if birth(noted.pid) == noted.created else None

    def note(self, found: Serving) -> Serving:
        """Write it down."""
        write_json(self._file, asdict(found))
        return found

    def forget(self) -> None:
        """Take the note away, where there is one."""
        self._file.unlink(missing_ok=True)

    def _ours(self) -> Serving | None:
        """The noted process, if it works on our folder: notes of a copied project are of the original's."""
        noted = self.noted()
        return noted if noted and self._port_of(command_of(noted.pid)) == noted.port else None

    def _orphan(self) -> Serving | None:
        import psutil

        for process in psutil.process_iter(["cmdline", "create_time", "status"]):
            port = self._port_of(process.info["cmdline"] or ())
            if port and process.info["status"] != psutil.STATUS_ZOMBIE:
                return self.note(Serving(process.pid, process.info["create_time"], port))
        return None
