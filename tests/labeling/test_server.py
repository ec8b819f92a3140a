"""Finding, starting and refusing a Label Studio, as far as none has to run."""

from __future__ import annotations

import json
import shutil
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest

from curation.errors import LabelStudioError
from curation.processes import birth
from labeling.server import (
    Connection,
    LabelStudioServer,
    add_person,
    connection_from_environment,
    database_environment,
    find_label_studio,
    log_gist,
    port_of_ours,
    prepare_database,
    server_environment,
)

KEPT = {"email": "curator@example.com", "password": "pass", "token": "tok", "secret_key": "sec"}


def stand_in(tmp_path: Path, code: str) -> str:
    """A program in the place of Label Studio."""
    script = tmp_path / "stand_in.py"
    script.write_text(code, encoding="utf-8")
    return f"{sys.executable} {script}"


def test_a_connection_keeps_its_token_to_itself() -> None:
    assert "secret" not in repr(Connection("http://x", "secret"))


@pytest.mark.parametrize("url", ["http://ls:8080", " http://ls:8080/ "])
def test_the_environment_names_a_server(url: str) -> None:
    found = connection_from_environment({"LABEL_STUDIO_URL": url, "LABEL_STUDIO_API_KEY": " key "})
    assert found == Connection("http://ls:8080", "key", None)


def test_an_empty_environment_names_none() -> None:
    assert connection_from_environment({"LABEL_STUDIO_URL": ""}) is None


@pytest.mark.parametrize(
    ("environ", "complaint"),
    [
        ({"LABEL_STUDIO_URL": "http://x"}, "LABEL_STUDIO_API_KEY is not set"),
        ({"LABEL_STUDIO_API_KEY": "key"}, "LABEL_STUDIO_URL is not set"),
        ({"LABEL_STUDIO_URL": "x:8080", "LABEL_STUDIO_API_KEY": "key"}, "must be an address like http"),
        ({"LABEL_STUDIO_URL": "http://[::1", "LABEL_STUDIO_API_KEY": "key"}, "must be an address like http"),
        ({"LABEL_STUDIO_URL": "http://x:abc", "LABEL_STUDIO_API_KEY": "key"}, "must be an address like http"),
        ({"LABEL_STUDIO_URL": "http://x:99999", "LABEL_STUDIO_API_KEY": "key"}, "must be an address like http"),
    ],
)
def test_half_an_environment_is_refused_without_showing_the_key(environ: dict[str, str], complaint: str) -> None:
    with pytest.raises(LabelStudioError, match=complaint) as refused:
        connection_from_environment(environ)
    assert "'key'" not in str(refused.value)


def test_the_command_can_be_named() -> None:
    assert find_label_studio({"LABEL_STUDIO_COMMAND": "uvx label-studio"}) == "uvx label-studio"


def test_a_missing_label_studio_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(LabelStudioError, match=r"install `curation-toolkit\[server\]`, or set LABEL_STUDIO_URL"):
        find_label_studio({})


def test_our_server_takes_forms_from_where_a_proxy_serves_it(tmp_path: Path) -> None:
    found = server_environment({"CURATION_LABEL_STUDIO_PUBLIC_URL": "https://label.example.org/"}, tmp_path, KEPT)
    assert found["LABEL_STUDIO_HOST"] == found["CSRF_TRUSTED_ORIGINS"] == "https://label.example.org"
    assert "CSRF_TRUSTED_ORIGINS" not in server_environment({"CSRF_TRUSTED_ORIGINS": "https://other"}, tmp_path, KEPT)
    for wrong in ("label", "https://[::1", "https://label:abc", "https://label/path"):
        with pytest.raises(LabelStudioError, match=r"must be an address like https://label\.example\.org, got '"):
            server_environment({"CURATION_LABEL_STUDIO_PUBLIC_URL": wrong}, tmp_path, KEPT)


def test_people_are_told_the_address_that_a_proxy_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    public = {"CURATION_LABEL_STUDIO_PUBLIC_URL": "https://label.example.org/"}
    theirs = connection_from_environment({"LABEL_STUDIO_URL": "http://ls", "LABEL_STUDIO_API_KEY": "key", **public})
    assert theirs is not None
    assert (theirs.url, theirs.address) == ("http://ls", "https://label.example.org")
    assert Connection("http://ls", "key").address == "http://ls"
    monkeypatch.setenv("CURATION_LABEL_STUDIO_PUBLIC_URL", "https://label.example.org/")
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "import time\ntime.sleep(60)"))
    server = LabelStudioServer(tmp_path / "home")
    try:
        assert server.start(wait=False).address == "https://label.example.org"
    finally:
        server.stop()


def test_our_server_inherits_nothing_that_would_change_it(tmp_path: Path) -> None:
    given = {
        "PATH": "/bin", "DJANGO_DB": "default", "POSTGRE_HOST": "db", "LABEL_STUDIO_BASE_DATA_DIR": "/other",
        "HEARTEX_DEBUG": "1", "HOST": "http://other", "SECRET_KEY": "theirs", "DEBUG": "true",
    }  # fmt: skip
    found = server_environment(given, tmp_path, KEPT)
    assert not {"DJANGO_DB", "POSTGRE_HOST", "HEARTEX_DEBUG", "HOST", "DEBUG"} & set(found)
    assert (found["PATH"], found["SECRET_KEY"]) == ("/bin", "sec")
    assert found["LABEL_STUDIO_BASE_DATA_DIR"] == str(tmp_path / "server")


def test_a_team_may_keep_our_server_in_postgresql(tmp_path: Path) -> None:
    address = "postgresql://ls@db:6543/labels"
    given = {"CURATION_LABEL_STUDIO_DATABASE": address, "PGPASSWORD": "s@cret", "POSTGRE_HOST": "x"}
    found = server_environment(given, tmp_path, KEPT)
    assert {k: v for k, v in found.items() if k.startswith(("POSTGRE", "DJANGO", "CURATION"))} == {
        "DJANGO_DB": "default", "POSTGRE_HOST": "db", "POSTGRE_PORT": "6543", "POSTGRE_NAME": "labels",
        "POSTGRE_USER": "ls", "POSTGRE_PASSWORD": "s@cret",
    }  # fmt: skip
    given = {"CURATION_LABEL_STUDIO_DATABASE": "postgresql://ls:a%40b@db/labels"}
    assert server_environment(given, tmp_path, KEPT)["POSTGRE_PASSWORD"] == "a@b"


def test_parameters_of_the_databases_address_are_handed_on_or_refused() -> None:
    asked = "postgresql://ls@db/labels?sslmode=verify-full&sslrootcert=/etc/ca%20certificate.pem"
    found = database_environment({"CURATION_LABEL_STUDIO_DATABASE": asked})
    assert (found["PGSSLMODE"], found["PGSSLROOTCERT"]) == ("verify-full", "/etc/ca certificate.pem")
    with pytest.raises(LabelStudioError, match="has the parameter 'password', which can't be handed on") as refused:
        database_environment({"CURATION_LABEL_STUDIO_DATABASE": "postgresql://ls@db/labels?password=s3cret"})
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    ["sqlite:///x:pass", "postgresql://u:pass@/x", "postgresql://u:pass@h", "pass", "postgresql://u@h:pass/x"],
)
def test_an_address_that_is_no_postgresql_is_refused_without_showing_it(address: str) -> None:
    with pytest.raises(LabelStudioError, match="CURATION_LABEL_STUDIO_DATABASE must be an address like") as refused:
        database_environment({"CURATION_LABEL_STUDIO_DATABASE": address})
    assert "pass@" not in str(refused.value)
    assert ":pass" not in str(refused.value)


def test_our_server_is_closed_quiet_and_serves_images_alone(tmp_path: Path) -> None:
    found = server_environment({}, tmp_path, KEPT)
    assert found["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
    assert (found["COLLECT_ANALYTICS"], found["LATEST_VERSION_CHECK"], found["SENTRY_DSN"]) == ("false", "false", "")
    root = Path(found["LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"])
    data = Path(found["LABEL_STUDIO_BASE_DATA_DIR"])
    assert root != data
    assert root not in data.parents


@pytest.mark.parametrize(
    ("command", "port"),
    [
        (["python", "/x/label-studio", "start", "--port", "4000", "--data-dir", "/p/server"], 4000),
        (["python", "/x/label-studio", "start", "--port", "4000", "--data-dir", "/p/server2"], None),
        (["python", "/x/label-studio", "export", "--port", "4000", "--data-dir", "/p/server"], None),
        (["python", "/x/label-studio", "start", "--data-dir", "/p/server"], None),
        ([], None),
    ],
)
def test_our_server_is_known_by_its_command_line(command: list[str], port: int | None) -> None:
    assert port_of_ours(command, Path("/p")) == port


@pytest.mark.parametrize(
    ("log", "gist"),
    [
        ("", "it left no log"),
        ("one\ntwo\n", "two"),
        ("Starting\ndjango.db.utils.OperationalError: no space\nbye\n", "django.db.utils.OperationalError: no space"),
    ],
)
def test_the_gist_of_a_log_is_its_last_complaint(log: str, gist: str) -> None:
    assert log_gist(log) == gist


def test_a_server_that_dies_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "raise SystemExit('RuntimeError: no migrations')"))
    server = LabelStudioServer(tmp_path / "home")
    with pytest.raises(LabelStudioError, match=r"RuntimeError: no migrations; see .*server\.log"):
        server.start(timeout=20)
    assert server.running() is None
    server.stop()


def test_a_server_found_while_it_ends_is_started_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A killed process is there for a moment longer, and no longer answers."""
    started = tmp_path / "started"
    code = f"""
import http.server, json, pathlib, sys, time
if not pathlib.Path({str(started)!r}).exists():
    pathlib.Path({str(started)!r}).touch()
    time.sleep(1)
    raise SystemExit("RuntimeError: the first one")
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
"""
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, code))
    first = LabelStudioServer(tmp_path / "home")
    begun = first.start(wait=False)
    second = LabelStudioServer(tmp_path / "home")
    try:
        assert second.start(timeout=20) == begun, "with the token and the address that it had"
        assert second.running() == begun
    finally:
        second.stop()
    with pytest.raises(LabelStudioError, match="Label Studio is not running"):
        first.wait_ready(1)


def test_a_server_that_says_nothing_is_given_up_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\ntime.sleep(60)"
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, code))
    monkeypatch.setattr("labeling.server._PATIENCE", tuple((s, 0.5) for s in (2, 15, 9)))
    server = LabelStudioServer(tmp_path / "home")
    with pytest.raises(LabelStudioError, match="did not answer within 1 s"):
        server.start(timeout=1)
    pid = json.loads(server.state_file.read_text())["pid"]
    LabelStudioServer(tmp_path / "home").stop()
    server.stop()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not server.state_file.exists()


def test_a_second_start_finds_the_first_even_without_its_notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "import time\ntime.sleep(60)"))
    server = LabelStudioServer(tmp_path / "home")
    first = server.start(wait=False)
    pid = json.loads(server.state_file.read_text())["pid"]
    try:
        assert LabelStudioServer(tmp_path / "home").start(wait=False) == first
        server.state_file.unlink()
        assert LabelStudioServer(tmp_path / "home").start(wait=False) == first
        assert json.loads(server.state_file.read_text())["pid"] == pid
    finally:
        server.stop()


def test_a_copied_project_leaves_the_originals_server_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "import time\ntime.sleep(60)"))
    original = LabelStudioServer(tmp_path / "home")
    original.start(wait=False)
    pid = json.loads(original.state_file.read_text())["pid"]
    try:
        shutil.copytree(tmp_path / "home", tmp_path / "copy")
        LabelStudioServer(tmp_path / "copy").stop()
        assert birth(pid)
        shutil.copy(original.state_file, tmp_path / "copy")
        copy = LabelStudioServer(tmp_path / "copy")
        copy.start(wait=False)
        assert json.loads(copy.state_file.read_text())["pid"] != pid
        copy.stop()
        assert birth(pid)
    finally:
        original.stop()


@pytest.mark.parametrize("is_stopped_first", [False, True])
def test_a_server_whose_project_was_moved_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_stopped_first: bool
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "import time\ntime.sleep(60)"))
    LabelStudioServer(tmp_path / "home").start(wait=False)
    (tmp_path / "home").rename(tmp_path / "moved")
    moved = LabelStudioServer(tmp_path / "moved")
    before = json.loads(moved.state_file.read_text())["pid"]
    try:
        assert moved.running() is None
        if is_stopped_first:
            moved.stop()
            assert not moved.state_file.exists()
        else:
            moved.start(wait=False)
            assert json.loads(moved.state_file.read_text())["pid"] != before
        assert birth(before) is None
    finally:
        moved.stop()


def test_a_first_start_begins_with_the_prepared_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared.sqlite3"
    prepared.write_bytes(b"tables")
    script = stand_in(tmp_path, "import time\ntime.sleep(60)")
    monkeypatch.setattr("labeling.server._prepared_file", lambda: prepared)
    monkeypatch.setattr("labeling.server.find_label_studio", lambda: script)
    server = LabelStudioServer(tmp_path / "home")
    database = tmp_path / "home" / "server" / "label_studio.sqlite3"
    for content in (b"tables", b"in use"):
        try:
            server.start(wait=False)
            assert database.read_bytes() == content, "a database that is there is never replaced"
        finally:
            server.stop()
        database.write_bytes(b"in use")
    assert stat.S_IMODE(database.stat().st_mode) == 0o600


def test_a_label_studio_of_the_users_own_gets_no_prepared_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prepared = tmp_path / "prepared.sqlite3"
    prepared.write_bytes(b"tables of another version")
    monkeypatch.setattr("labeling.server._prepared_file", lambda: prepared)
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "import time\ntime.sleep(60)"))
    server = LabelStudioServer(tmp_path / "home")
    try:
        server.start(wait=False)
        assert not (tmp_path / "home" / "server" / "label_studio.sqlite3").exists()
    finally:
        server.stop()


def test_where_no_label_studio_is_installed_nothing_is_prepared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("labeling.server._prepared_file", lambda: tmp_path / "share" / "prepared.sqlite3")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert prepare_database() is None
    assert not (tmp_path / "share").exists()


def test_notes_of_another_process_with_the_same_number_are_not_believed(tmp_path: Path) -> None:
    server = LabelStudioServer(tmp_path / "home")
    server.home.mkdir()
    mine = psutil.Process()
    notes = {"pid": mine.pid, "created": mine.create_time() - 100, "port": 1, "url": "http://127.0.0.1:1"}
    server.state_file.write_text(json.dumps(notes), encoding="utf-8")
    assert server.running() is None
    server.stop()
    assert mine.is_running()


def test_secrets_are_for_the_user_alone_and_stay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "import time\ntime.sleep(60)"))
    server = LabelStudioServer(tmp_path / "home")
    first = server.start(wait=False)
    server.stop()
    second = server.start(wait=False)
    server.stop()
    assert first == second  # the same token, and the same port for the labelers' bookmarks
    assert stat.S_IMODE(server.secrets_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700
    assert first.token not in server.state_file.name + server.log_file.read_text()


def test_a_port_that_is_taken_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", stand_in(tmp_path, "pass"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LabelStudioError, match=f"port {port} is taken"):
            LabelStudioServer(tmp_path / "home", port=port).start(wait=False)


def test_waiting_for_a_server_that_was_never_started_says_so(tmp_path: Path) -> None:
    with pytest.raises(LabelStudioError, match="Label Studio is not running"):
        LabelStudioServer(tmp_path / "home").wait_ready(1)


def test_a_server_that_is_not_there_is_reported_in_our_own_words() -> None:
    with pytest.raises(LabelStudioError, match=r"http://127\.0\.0\.1:9 can't be reached while adding ann@example\.com"):
        add_person(Connection("http://127.0.0.1:9", "secret"), "ann@example.com", "longenough")
