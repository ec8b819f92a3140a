"""The FiftyOne App as a process of its own: start it on a project's dataset, wait until it answers, stop it.

One server holds one state that every browser window on it shares, so each reviewer gets a server and port of their
own; several may stand on one database. The App asks nobody who they are: whoever reaches the port sees the pictures
and acts in the name of the reviewer whose server it is. A server ends with the process that started it; one that is
found without its owner all the same is stopped by the next start.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from curation.errors import ServiceError
from curation.processes import birth
from curation.runs import write_json
from reports.fiftyone_plan import WORKSPACE, view_slug
from reports.fiftyone_store import environment, error_gist
from reports.mongo import Mongo, free_port

_START_SECONDS = 120.0


@dataclass(frozen=True)
class Running:
    """An App's server as it is written down: process ids with their birth times (seconds), and where it listens.

    ``home`` is the folder that it was started for: notes of a copied project are of the original's.
    """

    pid: int
    created: float
    owner: int
    owner_created: float
    port: int
    address: str
    reviewer: str
    home: str = ""

    @property
    def is_alive(self) -> bool:
        return birth(self.pid) == self.created

    @property
    def is_orphan(self) -> bool:
        return birth(self.owner) != self.owner_created


class ReviewApp:
    """FiftyOne's App on one dataset.

    ``home`` is the folder of the project's MongoDB; no ``port`` takes a free one. With ``project``, the project's
    folder, the Curation panel acts on it in the name of ``reviewer``. ``meanwhile`` is done once while the App gets
    ready, which takes it ten seconds and nobody's attention: bringing the dataset up to date, for instance.
    """

    def __init__(
        self,
        home: Path,
        dataset_name: str,
        port: int | None = None,
        address: str = "127.0.0.1",
        *,
        project: Path | None = None,
        reviewer: str = "",
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        self.mongo = Mongo(home)
        self.dataset_name = dataset_name
        self.address = address
        self.port = port or free_port()
        self.project = project
        self.reviewer = reviewer
        self._meanwhile = meanwhile
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def warning(self) -> str:
        """What to tell a person before they open the App to others; '' where only this machine reaches it."""
        if is_loopback(self.address):
            return ""
        return (
            f"The App on {self.address} asks for no password: everyone who reaches port {self.port} sees every "
            "picture and can change the dataset; use 127.0.0.1 and an SSH tunnel instead."
        )

    def url(self, view: str = "") -> str:
        """Where a browser finds the dataset, opened on a saved view, or on pictures beside the Curation panel."""
        return app_url(self.address, self.port, self.dataset_name, view)

    def start(self) -> str:
        """Start database and App, wait until the App answers (about ten seconds), give its address.

        Raises ServiceError where the port is taken, and with the gist of the App's log where it ends early or does
        not answer within two minutes.
        """
        self.begin()
        self._wait()
        return self.url()

    def begin(self) -> None:
        """Start without waiting, so that several can get ready at once; ``start`` waits for it.

        What is to be done meanwhile is done when this returns; where it fails, the App is stopped.
        """
        if self._process is None or self._process.poll() is not None:
            stop_orphans(self.mongo.home)
            self._check_port()
            self._launch(self.mongo.start())
        work, self._meanwhile = self._meanwhile, None
        try:
            if work is not None:
                work()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the App; the database runs on (``Mongo.stop``). Harmless where it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._state_file.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.mongo.home / f"app-{self.port}.json"

    @property
    def log_file(self) -> Path:
        """What the App's server said, of the last start on this port."""
        return self.mongo.home / f"app-{self.port}.log"

    def _check_port(self) -> None:
        """Whoever listens there already would be taken for our App."""
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((self.address, self.port))
        except (OSError, OverflowError) as error:  # the latter for what is no port
            raise ServiceError(
                f"the FiftyOne App can't listen on {self.address}, port {self.port} "
                f"({getattr(error, 'strerror', None) or error}); "
                "choose another with --port, or none for a free one"
            ) from error

    def _launch(self, uri: str) -> None:
        if importlib.util.find_spec("fiftyone") is None:
            raise ServiceError("FiftyOne is not installed, so there is no App to start; install fiftyone")
        self.mongo.home.mkdir(parents=True, exist_ok=True)
        own = {"CURATION_REVIEWER": self.reviewer}
        if self.project is not None:
            own["CURATION_PROJECT"] = str(self.project.resolve())
        command = [sys.executable, "-m", "reports.app_server", "--port", str(self.port), "--address", self.address]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, "--owner", str(os.getpid())],
                env=environment(uri) | own,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches whoever started us, and they call stop()
            )
        pid, me = self._process.pid, os.getpid()
        born, home = birth(pid) or 0, str(self.mongo.home)
        running = Running(pid, born, me, birth(me) or 0, self.port, self.address, self.reviewer, home)
        write_json(self._state_file, asdict(running))

    def _wait(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + _START_SECONDS
        home = self.url().split("/datasets/")[0]
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                self._process = None
                raise ServiceError(f"the FiftyOne App ended at once: {self._gist()}; see {self.log_file}")
            if _answers(home):
                return
            time.sleep(0.2)
        self.stop()
        raise ServiceError(f"the FiftyOne App did not answer within {_START_SECONDS:.0f} s; see {self.log_file}")

    def _gist(self) -> str:
        return error_gist(self.log_file.read_text(encoding="utf-8", errors="replace"))


def app_url(address: str, port: int, dataset: str, view: str = "") -> str:
    """Where a browser finds a dataset in the App that listens there, with the Curation panel beside the pictures."""
    host = "127.0.0.1" if address in ("0.0.0.0", "::") else address
    host = f"[{host}]" if ":" in host else host
    asked = {"workspace": WORKSPACE} | ({"view": view_slug(view)} if view else {})
    return f"http://{host}:{port}/datasets/{dataset}?{urllib.parse.urlencode(asked)}"


def running_apps(home: Path) -> list[Running]:
    """The App servers of a project that run, by port; what is written down of others and of dead ones is removed."""
    found = []
    for file in sorted(Path(home).glob("app-*.json")):
        try:
            running = Running(**json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue
        if running.is_alive and running.home in ("", str(Path(home).resolve())):
            found.append(running)
        else:
            file.unlink(missing_ok=True)
    return found


def stop_orphans(home: Path) -> list[Running]:
    """Stop App servers whose owner is gone (it was killed, and they outlived it); returns them."""
    import psutil

    orphans = [running for running in running_apps(home) if running.is_orphan]
    for running in orphans:
        try:
            process = psutil.Process(running.pid)
            process.terminate()
            process.wait(10)
        except psutil.NoSuchProcess:
            pass
        except psutil.TimeoutExpired:
            process.kill()
        (Path(home) / f"app-{running.port}.json").unlink(missing_ok=True)
    return orphans


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
