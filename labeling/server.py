"""Start, find and stop a project's own Label Studio; or use one that somebody else runs.

Ours listens on this machine only, keeps its files under one folder, tells nobody anything, and lets nobody sign up
without an invitation. Images are served from a folder that holds nothing but the images of batches: whoever may sign
in to Label Studio can read all of it.
"""

from __future__ import annotations

import errno
import importlib.metadata
import importlib.util
import itertools
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urljoin, urlsplit

import httpx

from curation.errors import LabelStudioError
from curation.processes import NotedServer, Serving, birth, command_of, wait_until_gone
from curation.runs import write_json, write_whole
from labeling.web import faults_as_ours, plain_client, post_form, post_json, sign_in, token_client, web_origin

if TYPE_CHECKING:
    import psutil

URL_VARIABLE = "LABEL_STUDIO_URL"
KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
COMMAND_VARIABLE = "LABEL_STUDIO_COMMAND"
DATABASE_VARIABLE = "CURATION_LABEL_STUDIO_DATABASE"
#: The address under which a proxy serves our Label Studio, for instance https://label.example.org.
PUBLIC_VARIABLE = "CURATION_LABEL_STUDIO_PUBLIC_URL"
OWNER = "curator@example.com"
#: Parameters of a PostgreSQL address, and the variables that PostgreSQL's own library reads in their place.
_PARAMETERS = {
    "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL", "gssencmode": "PGGSSENCMODE", "channel_binding": "PGCHANNELBINDING",
    "connect_timeout": "PGCONNECT_TIMEOUT", "application_name": "PGAPPNAME", "options": "PGOPTIONS",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}  # fmt: skip
DATABASE = "label_studio.sqlite3"
_HELP = f"install `curation-toolkit[server]`, or set {URL_VARIABLE} and {KEY_VARIABLE}"
_ADDRESS = "127.0.0.1"
#: Our changes to Label Studio's settings; only where its Python is ours, and so finds this package.
_SETTINGS = {"DJANGO_SETTINGS_MODULE": "labeling.label_studio_settings"}
#: How long each way of stopping is given before the next, in seconds.
_PATIENCE = ((signal.SIGINT, 10.0), (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
#: Settings that would turn our server into somebody else's, were they inherited. Label Studio reads each of its
#: settings under two prefixes and under the bare name.
_PREFIXES = ("LABEL_STUDIO_", "HEARTEX_", "POSTGRE_", "MYSQL_", "DJANGO_", "STORAGE_", "MINIO_", "REDIS_")
_BARE = ("HOST", "PORT", "DEBUG", "LOG_LEVEL", "DATABASE_NAME", "USERNAME", "PASSWORD", "USER_TOKEN", "FRONTEND_HMR",
         "EDITOR_KEYMAP", "FEATURE_FLAGS_FILE", "CSRF_TRUSTED_ORIGINS", "ALLOWED_HOSTS", "JSON_LOG")  # fmt: skip


@dataclass(frozen=True)
class Connection:
    """How to reach a Label Studio. ``images`` is the folder that it serves; ``None`` where images must be uploaded.

    ``public`` is where a proxy serves it to people, if one does.
    """

    url: str
    token: str = field(repr=False)
    images: Path | None = None
    public: str = ""

    @property
    def address(self) -> str:
        """What people are told: where they reach it with their browsers."""
        return self.public or self.url


def connection_from_environment(environ: Mapping[str, str] | None = None) -> Connection | None:
    """The Label Studio named by LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY; ``None`` where neither is set.

    The key may be a personal access token or a legacy token. Raises LabelStudioError where only one of the two is
    set, or where the address is none.
    """
    given = os.environ if environ is None else environ
    url, key = given.get(URL_VARIABLE, "").strip().rstrip("/"), given.get(KEY_VARIABLE, "").strip()
    if not url and not key:
        return None
    if not url or not key:
        missing = KEY_VARIABLE if url else URL_VARIABLE
        raise LabelStudioError(f"{missing} is not set; set both {URL_VARIABLE} and {KEY_VARIABLE}, or neither")
    try:
        web_origin(url)
    except ValueError:
        raise LabelStudioError(f"{URL_VARIABLE} must be an address like http://localhost:8080, got '{url}'") from None
    return Connection(url, key, public=public_address(given))


def public_address(given: Mapping[str, str]) -> str:
    """Where a proxy serves Label Studio to people, as CURATION_LABEL_STUDIO_PUBLIC_URL has it; empty where none does.

    Raises LabelStudioError where that is no address, or one with a path.
    """
    public = given.get(PUBLIC_VARIABLE, "").strip().rstrip("/")
    try:
        if public and (not web_origin(public) or urlsplit(public).path):
            raise ValueError
    except ValueError:
        raise LabelStudioError(
            f"{PUBLIC_VARIABLE} must be an address like https://label.example.org, got '{public}'"
        ) from None
    return public


def find_label_studio(environ: Mapping[str, str] | None = None) -> str:
    """The command that runs Label Studio: ``$LABEL_STUDIO_COMMAND``, else the script beside this Python.

    Raises LabelStudioError where there is none.
    """
    named = (os.environ if environ is None else environ).get(COMMAND_VARIABLE, "").strip()
    if named:
        return named
    script = Path(sys.executable).parent / "label-studio"
    if not script.is_file():
        raise LabelStudioError(f"Label Studio is not installed here; {_HELP}")
    return shlex.quote(str(script))


def prepare_database(*, say: Callable[[str], None] = print) -> Path | None:
    """Make an empty Label Studio database for this installation, so that first starts take 12 s in place of 45 s.

    It lies within the installation and is named by Label Studio's version. Returns where, or ``None`` where there is
    no Label Studio beside this Python or no right to write there. Raises LabelStudioError where making it fails.
    """
    from filelock import FileLock

    kept = _prepared_file()
    package = importlib.util.find_spec("label_studio")
    if kept is None or package is None or package.origin is None:
        return None
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            if kept.is_file():
                return kept
            say("Preparing Label Studio's database (under a minute, once) ...")
            nobody = {"email": OWNER, "password": "", "token": "", "secret_key": secrets.token_urlsafe(50)}
            data = Path(folder, "server")
            data.mkdir()
            made = subprocess.run(
                [sys.executable, str(Path(package.origin).parent / "manage.py"), "migrate", "--no-color", "-v", "0"],
                env=server_environment(os.environ, Path(folder), nobody),
                cwd=data,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if made.returncode:
                raise LabelStudioError(f"Label Studio's database can't be prepared: {log_gist(made.stderr)}")
            (data / DATABASE).replace(kept)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return None
    return kept


def _prepared_file() -> Path | None:
    try:
        version = importlib.metadata.version("label-studio")
    except importlib.metadata.PackageNotFoundError:
        return None
    return Path(sys.prefix) / "share" / "curation-toolkit" / f"label-studio-{version}.sqlite3"


class LabelStudioServer:
    """A project's own Label Studio.

    ``home`` is its folder, for instance ``<project>/.curation/label-studio``: the server's files lie in ``server``,
    the served images in ``images``, the owner's password and token in ``secrets.json``, the log in ``server.log``.
    Without ``port`` it keeps the one that it had before, where that is free, so that bookmarks stay good.
    """

    def __init__(self, home: Path, *, port: int | None = None) -> None:
        self.home = Path(home).resolve()
        self.port = port
        self.email = OWNER
        self.images = self.home / "images"
        self.secrets_file = self.home / "secrets.json"
        self.state_file = self.home / "state.json"
        self._server = NotedServer(self.state_file, lambda command: port_of_ours(command, self.home))
        self.log_file = self.home / "server.log"
        self._child: subprocess.Popen[bytes] | None = None
        self._found: Serving | None = None

    def start(self, *, wait: bool = True, timeout: float = 240) -> Connection:
        """Use ours if it runs, else start it: 10 s, or 45 s where it makes its own database (``prepare_database``).

        With ``wait=False`` it comes back at once, and ``wait_ready`` tells when it answers. Raises LabelStudioError
        where Label Studio is missing, or does not come up within ``timeout`` seconds.
        """
        from filelock import FileLock

        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.home / "start.lock"):
            self._end_left_behind()
            self._found = self._server.find()
            begun = self._found or self._launch()
        return self.wait_ready(timeout) if wait else self._connection(begun)

    def wait_ready(self, timeout: float = 240) -> Connection:
        """Wait until the server that ``start`` found or began answers.

        One that ``start`` found and that ends before it answers was about to end (a killed process is there for a
        moment longer): it is started anew. Raises LabelStudioError with the gist of its log where the one that we
        began has died, or where none answers within ``timeout`` seconds.
        """
        give_up = time.monotonic() + timeout
        while found := self._server.find():
            if _is_up(_url(found.port)):
                return self._checked(found)
            if time.monotonic() > give_up:
                raise LabelStudioError(
                    f"Label Studio (process {found.pid}) did not answer within {timeout:.0f} s; see {self.log_file}"
                )
            time.sleep(0.2)
        if self._found:
            return self.start(timeout=timeout)
        raise LabelStudioError(f"Label Studio is not running: {log_gist(self._log())}; see {self.log_file}")

    def running(self) -> Connection | None:
        """The way to our server where it answers, else ``None``."""
        found = self._server.find()
        return self._connection(found) if found and _is_up(_url(found.port)) else None

    def stop(self) -> None:
        """End our server cleanly and wait until it is gone; harmless where none is running."""
        self._end_left_behind()
        if found := self._server.find():
            self._end_server(found)
        self._server.forget()

    def _end_server(self, found: Serving) -> None:
        import psutil

        with suppress(psutil.NoSuchProcess):
            _end(psutil.Process(found.pid))
        if self._child is not None and self._child.pid == found.pid:
            self._child.wait(1)
        if birth(found.pid) == found.created:
            raise LabelStudioError(f"Label Studio (process {found.pid}) can't be stopped; see {self.log_file}")

    def _end_left_behind(self) -> None:
        """End our server where the project's folder was moved while it ran: it can't open its files any more."""
        noted = self._server.noted()
        if noted and (data := data_folder(command_of(noted.pid))) and not data.exists():
            self._end_server(noted)
            self._server.forget()

    def _connection(self, found: Serving) -> Connection:
        return Connection(_url(found.port), self._secrets()["token"], self.images, public_address(os.environ))

    def _checked(self, found: Serving) -> Connection:
        """Make sure that it is ours who answers: another program may have taken the port first."""
        connection = self._connection(found)
        with faults_as_ours(_url(found.port), "signing in"), token_client(_url(found.port), connection.token) as client:
            answer = client.get("/api/current-user/whoami")
        if answer.status_code != 200:
            raise LabelStudioError(
                f"the Label Studio at {_url(found.port)} does not know the token in {self.secrets_file}; stop it with "
                f"`curate label --stop`, delete {self.home} and start it again (answers fetched before are kept)"
            )
        return connection

    def _launch(self) -> Serving:
        command = shlex.split(find_label_studio())
        data = self.home / "server"
        for folder in (data, self.images):
            folder.mkdir(exist_ok=True, mode=0o700)
        kept = self._secrets()
        is_beside = not os.environ.get(COMMAND_VARIABLE, "").strip()
        prepared = _prepared_file() if is_beside and not database_environment(os.environ) else None
        if prepared and prepared.is_file() and not (data / DATABASE).exists():
            write_whole(data / DATABASE, prepared.read_bytes(), private=True)
        port = self.port or _free_port(int(kept.get("port") or 0))
        if not _is_free(port):
            raise LabelStudioError(f"port {port} is taken; choose another for Label Studio, or none for a free one")
        write_json(self.secrets_file, {**kept, "port": str(port)}, private=True)
        with self.log_file.open("wb") as log:
            try:
                self._child = subprocess.Popen(
                    [*command, "start", "--no-browser", "--internal-host", _ADDRESS,
                     "--port", str(port), "--data-dir", str(data)],
                    cwd=data,
                    env=server_environment(os.environ, self.home, kept) | (_SETTINGS if is_beside else {}),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C in the terminal must not take it from labelers at work
                )  # fmt: skip
            except OSError as error:
                raise LabelStudioError(f"Label Studio can't be started by '{command[0]}' ({error}); {_HELP}") from error
        created = birth(self._child.pid)
        if created is None:
            raise LabelStudioError(f"Label Studio ended at once: {log_gist(self._log())}; see {self.log_file}")
        return self._server.note(Serving(self._child.pid, created, port))

    def _secrets(self) -> dict[str, str]:
        """The owner's secrets, made up once; readable by the user alone."""
        try:
            kept: dict[str, str] = json.loads(self.secrets_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            kept = {
                "email": OWNER,
                "password": secrets.token_urlsafe(12),
                "token": secrets.token_hex(20),
                "secret_key": secrets.token_urlsafe(50),
            }
            write_json(self.secrets_file, kept, private=True)
        except ValueError as error:
            raise LabelStudioError(f"{self.secrets_file} is damaged ({error}); delete {self.home}") from None
        return kept

    def _log(self) -> str:
        try:
            return self.log_file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def database_environment(given: Mapping[str, str]) -> dict[str, str]:
    """What tells Label Studio of the PostgreSQL that CURATION_LABEL_STUDIO_DATABASE names, if any (pure).

    The password may stand in the address or in PGPASSWORD; parameters such as ``sslmode`` are handed on. Raises
    LabelStudioError where it is no such address, which is not shown, or for a parameter that can't be handed on.

    >>> found = database_environment({"CURATION_LABEL_STUDIO_DATABASE": "postgresql://ls@db/labels?sslmode=require"})
    >>> found["POSTGRE_HOST"], found["PGSSLMODE"]
    ('db', 'require')
    """
    address = given.get(DATABASE_VARIABLE, "").strip()
    if not address:
        return {}
    try:
        parts = urlsplit(address)
        port = parts.port or 5432
    except ValueError:
        parts, port = urlsplit(""), 0
    name = parts.path.strip("/")
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or not name or not parts.username:
        raise LabelStudioError(
            f"{DATABASE_VARIABLE} must be an address like postgresql://USER@HOST:5432/NAME (the password in PGPASSWORD)"
        )
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := [name for name in parameters if name not in _PARAMETERS]:
        raise LabelStudioError(
            f"{DATABASE_VARIABLE} has the parameter '{unknown[0]}', which can't be handed on to Label Studio; "
            f"leave it out (known are {', '.join(_PARAMETERS)})"
        )
    return {_PARAMETERS[name]: value for name, value in parameters.items()} | {
        "DJANGO_DB": "default",
        "POSTGRE_HOST": parts.hostname,
        "POSTGRE_PORT": str(port),
        "POSTGRE_NAME": unquote(name),
        "POSTGRE_USER": unquote(parts.username),
        "POSTGRE_PASSWORD": unquote(parts.password or "") or given.get("PGPASSWORD", ""),
    }


def server_environment(given: Mapping[str, str], home: Path, kept: Mapping[str, str]) -> dict[str, str]:
    """The environment that our server gets: the given one without what would change it, and our settings (pure).

    Raises LabelStudioError where ``CURATION_LABEL_STUDIO_PUBLIC_URL`` or ``..._DATABASE`` is no address.
    """
    kept_out = (*_BARE, DATABASE_VARIABLE)
    inherited = {k: v for k, v in given.items() if not k.startswith(_PREFIXES) and k not in kept_out}
    return (
        inherited
        | _behind_proxy(given)
        | database_environment(given)
        | {
            "LABEL_STUDIO_BASE_DATA_DIR": str(home / "server"),
            "LABEL_STUDIO_USERNAME": kept["email"],
            "LABEL_STUDIO_PASSWORD": kept["password"],
            "LABEL_STUDIO_USER_TOKEN": kept["token"],
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
            "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(home / "images"),
            "SECRET_KEY": kept["secret_key"],
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
    )


def _behind_proxy(given: Mapping[str, str]) -> dict[str, str]:
    """What Label Studio needs to know where a proxy serves it: from that address forms are accepted, too."""
    public = public_address(given)
    return {"LABEL_STUDIO_HOST": public, "CSRF_TRUSTED_ORIGINS": public} if public else {}


def port_of_ours(command: Sequence[str], home: Path) -> int | None:
    """The port of a Label Studio whose command line says that its files lie under ``home`` (pure).

    >>> port_of_ours(["python", "label-studio", "start", "--port", "80", "--data-dir", "/p/server"], Path("/p"))
    80
    >>> port_of_ours(["python", "label-studio", "start", "--port", "80", "--data-dir", "/q/server"], Path("/p")) is None
    True
    """
    port = dict(itertools.pairwise(command)).get("--port", "")
    is_ours = data_folder(command) == home / "server"
    return int(port) if is_ours and port.isdigit() else None


def data_folder(command: Sequence[str]) -> Path | None:
    """Where the Label Studio with this command line has its files; ``None`` where it is none (pure).

    >>> data_folder(["python", "label-studio", "start", "--data-dir", "/p/server"])
    PosixPath('/p/server')
    """
    folder = dict(itertools.pairwise(command)).get("--data-dir")
    return Path(folder) if folder and "start" in command else None


def log_gist(log: str) -> str:
    """The last complaint in the server's log, else its last line (pure).

    >>> log_gist("Starting\\nPermissionError: no\\n  at x\\n")
    'PermissionError: no'
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    complaints = [line for line in lines[-50:] if "rror" in line.split(":")[0]]
    return (complaints or lines or ["it left no log"])[-1][:300]


def emails(connection: Connection) -> set[str]:
    """The addresses of all accounts that are there, in small letters."""
    with faults_as_ours(connection.url, "listing accounts"), token_client(connection.url, connection.token) as owner:
        return {str(user["email"]).lower() for user in owner.get("/api/users/").raise_for_status().json()}


def add_person(connection: Connection, email: str, password: str) -> None:
    """Give a labeler an account, by the invitation link; harmless where the person has it already.

    Whoever has an account may see and change everything in that Label Studio. Raises LabelStudioError where the
    account exists with another password, or is refused (passwords have 8 characters or more).
    """
    with faults_as_ours(connection.url, f"adding {email}"):
        with plain_client(connection.url) as browser:
            if sign_in(browser, email, password):
                return
        with token_client(connection.url, connection.token) as owner:
            invitation = owner.get("/api/invite").raise_for_status().json()["invite_url"]
        link = urlsplit(urljoin(f"{connection.url}/", invitation))
        page = f"{link.path}?{link.query}"
        with plain_client(connection.url) as browser:
            browser.get(page).raise_for_status()
            fields = {"email": email, "password": password, "allow_newsletters": "false"}
            accepted = post_form(browser, page, fields).status_code == 302
    if not accepted:
        raise LabelStudioError(
            f"Label Studio at {connection.url} did not accept an account for {email}; it may exist with another "
            "password, be no email, or the password has fewer than 8 characters; give another with --email"
        )


def person_token(connection: Connection, email: str, password: str) -> str:
    """A personal access token of a labeler, by signing in as them. A person has one: an earlier one ends with this.

    Raises LabelStudioError where email and password do not fit.
    """
    with faults_as_ours(connection.url, f"signing in as {email}"), plain_client(connection.url) as browser:
        if not sign_in(browser, email, password):
            raise LabelStudioError(f"Label Studio at {connection.url} knows no {email} with this password")
        answer = post_json(browser, "/api/token/")
        if answer.status_code == 409:  # one is there, and its signature can't be had again
            for old in browser.get("/api/token/").raise_for_status().json():
                post_json(browser, "/api/token/blacklist/", {"refresh": old["token"]}).raise_for_status()
            answer = post_json(browser, "/api/token/")
        return str(answer.raise_for_status().json()["token"])


def _url(port: int) -> str:
    return f"http://{_ADDRESS}:{port}"


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_ADDRESS, port))
        except OSError:
            return False
        return True


def _free_port(wanted: int) -> int:
    """``wanted`` where it is free, else a port that nobody listens on right now."""
    if wanted and _is_free(wanted):
        return wanted
    with socket.socket() as probe:
        probe.bind((_ADDRESS, 0))
        return int(probe.getsockname()[1])


def _end(process: psutil.Process) -> None:
    """Ask a process and what it started to end, ever less kindly, until none is left."""
    import psutil

    alive = [process, *process.children(recursive=True)]
    for request, patience in _PATIENCE:
        for one in alive:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(request)
        alive = wait_until_gone(alive, patience)
        if not alive:
            return


if __name__ == "__main__":
    prepare_database()
