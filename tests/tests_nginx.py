"""Debian's nginx with the configuration of ``docs/team.md``, on free ports, in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "team.md"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def documented_servers() -> str:
    """The blocks that the page tells to put into nginx's configuration."""
    found = re.search(r"```nginx\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@contextlib.contextmanager
def nginx(folder: Path, reviewers: Mapping[str, str], *, label_studio: int, app: int, port: int) -> Iterator[Path]:
    """Serve both names at ``port``; gives the certificate, which nobody has signed.

    ``reviewers`` are names and passwords; ``label_studio`` and ``app`` the ports of the services behind it.
    """
    certificate, key, passwords = folder / "both.pem", folder / "both.key", folder / "reviewers"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate,
         "-subj", "/CN=example.org", "-addext", "subjectAltName=DNS:label.example.org,DNS:review.example.org"],
        check=True, capture_output=True,
    )  # fmt: skip
    passwords.write_text("".join(f"{name}:{_hashed(password)}\n" for name, password in reviewers.items()))
    servers = documented_servers()
    for told, here in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8080", f"127.0.0.1:{label_studio}"),
        ("127.0.0.1:5151", f"127.0.0.1:{app}"),
        ("/etc/nginx/reviewers", str(passwords)),
    ):
        assert told in servers, told
        servers = servers.replace(told, here)
    servers = re.sub(r"/etc/ssl/private/\S+\.key", str(key), servers)
    servers = re.sub(r"/etc/ssl/\S+\.pem", str(certificate), servers)
    config = folder / "nginx.conf"
    temporary = "".join(f"{of}_temp_path {folder}/{of};" for of in ("proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}\nevents {{}}\n"
        f"http {{ access_log {folder}/access.log; client_body_temp_path {folder}/body; {temporary}\n{servers}}}\n"
    )
    server = subprocess.Popen([NGINX, "-p", folder, "-c", config], stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server, folder / "error.log")
        yield certificate
    finally:
        server.terminate()
        server.wait(30)


def _hashed(password: str) -> str:
    told = subprocess.run(["openssl", "passwd", "-apr1", password], check=True, capture_output=True, text=True)
    return told.stdout.strip()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        assert server.poll() is None, f"nginx ended: {log.read_text() if log.exists() else 'no log'}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    raise AssertionError("nginx does not listen")
