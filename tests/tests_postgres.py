"""A PostgreSQL server for tests: Debian's, started in a folder and on a port of its own by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest


def programs() -> Path:
    """Where ``initdb`` and ``postgres`` are; the test fails where they are not."""
    found = shutil.which("initdb")
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name.split(".")[0]))
    if found:
        places.append(Path(found).resolve().parent)
    if not places:
        pytest.fail("PostgreSQL is missing: install it (apt-get install postgresql)")
    return places[-1]


class Postgres:
    """A running server; used as a context. Nobody but this machine reaches it, and it goes with its folder."""

    def __enter__(self) -> Postgres:
        self._programs = programs()
        self._folder = Path(tempfile.mkdtemp(prefix="curation-postgres-", dir="/tmp"))
        self._user = self._unprivileged()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        cluster = self._folder / "cluster"
        self._call("initdb", "--auth=trust", "--username=curation", "--encoding=UTF8", "--no-sync", f"-D{cluster}")
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} -F"
        self._call("pg_ctl", "start", "-w", "-t60", f"-D{cluster}", f"-l{self._folder / 'log'}", "-o", options)
        self._count = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._call("pg_ctl", "stop", "-W", "-mimmediate", f"-D{self._folder / 'cluster'}")
        for _ in range(100):  # not pg_ctl's own waiting, which also waits for somebody to reap the process
            if not (self._folder / "cluster" / "postmaster.pid").exists():
                break
            time.sleep(0.1)
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_database(self) -> str:
        """The address of a database that holds nothing: a schema of its own, which costs less than a database."""
        self._count += 1
        name = f"ledger{self._count}"
        where = ("-h", str(self._folder), "-p", str(self.port), "-U", "curation", "postgres")
        self._call("psql", *where, "-c", f"CREATE SCHEMA {name}")
        return f"postgresql://curation@127.0.0.1:{self.port}/postgres?options=-csearch_path%3D{name}"

    def _unprivileged(self) -> str | None:
        """PostgreSQL refuses to run as root."""
        if os.getuid() != 0:
            return None
        known = {user.pw_name for user in pwd.getpwall()}
        user = "postgres" if "postgres" in known else "nobody"
        shutil.chown(self._folder, user)
        return user

    def _call(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / program, *arguments], user=self._user, cwd=self._folder, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stderr}"
