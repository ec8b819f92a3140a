"""Runs a small project from start to end in processes that are killed, or whose disk fails, at a chosen point.

A keeper process loads everything once and forks a child for each run, so that a run costs no start of Python. Points
are numbered: every opening of a file for writing, every rename, removal, folder and flush below the project's folder,
every statement that writes to the ledger, every commit. The number of the point alone says where a run is cut, so that
a seed finds the same fault again.

``python tests/tests_faults.py`` is the keeper: it reads one JSON request a line and answers with one JSON line.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ITERATIONS = 2
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Request:
    """Run the project in ``root``; ``kind`` of fault (``none``, ``kill``, ``full``, ``read-only``) at ``point``."""

    root: str
    kind: str = "none"
    point: int = 0
    method: str = "head"


@dataclass(frozen=True)
class Outcome:
    """How the child ended: exit code, or minus the signal; how many points it passed; what it said; what was at the
    point where it was cut.
    """

    code: int
    points: int
    said: str
    where: str


class Keeper:
    """The process that forks the children; used as a context."""

    def __enter__(self) -> Keeper:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:  # a test was cut short while a child ran
            self._process.kill()
            self._process.wait()

    def run(self, request: Request) -> Outcome:
        """Run a child to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))


# --- in the keeper and its children


class Points:
    """Counts the points of a run, and does what was asked for at the chosen one."""

    def __init__(self, root: Path, note: Path, kind: str, point: int) -> None:
        self.count = 0
        self.closed = False
        self._root = str(root)
        self._note = os.open(note, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        self._kind, self._point = kind, point

    def pass_one(self, where: str) -> None:
        """Pass a point: go on, die here, or fail here and at every later point that writes."""
        if self.closed:
            return
        self.count += 1
        reached = self._kind != "none" and self.count >= self._point
        if self.count == self._point or not reached:
            os.pwrite(self._note, f"{self.count:8d} {where}\n".encode("utf-8", "replace").ljust(400)[:400], 0)
        if reached and self._kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if reached:
            number = errno.ENOSPC if self._kind == "full" else errno.EROFS
            raise OSError(number, os.strerror(number), where)

    def watch(self, event: str, given: tuple[Any, ...]) -> None:
        """The hook that Python calls for every opening, rename and the like."""
        if event == "open" and isinstance(given[2], int) and given[2] & _WRITES:
            self._file("open", given[0])
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.truncate"):
            self._file(event, given[0])

    def _file(self, what: str, file: object) -> None:
        name = os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else ""
        if name.startswith(self._root):
            self.pass_one(f"{what} {name[len(self._root) :]}")


def _set_points(points: Points) -> None:
    import sqlalchemy as sa

    flush = os.fsync

    def flushed(handle: int) -> None:
        points.pass_one("flush")
        flush(handle)

    def statement(_c: object, _cursor: object, text: str, *_: object) -> None:
        verb = text.split(None, 1)[0].upper()
        if verb in ("INSERT", "CREATE", "ALTER", "UPDATE", "DELETE"):
            points.pass_one(" ".join(text.split()[:4]))

    os.fsync = flushed
    sa.event.listen(sa.engine.Engine, "before_cursor_execute", statement)
    sa.event.listen(sa.engine.Engine, "commit", lambda _: points.pass_one("commit"))
    sys.addaudithook(points.watch)


def settings_of(method: str) -> dict[str, object]:
    """Settings of the small project: the real network on 32 pixels, no FiftyOne, 12 reviews an iteration."""
    return {
        "backbone": {"size": 32, "device": "cpu"}, "training": {"method": method, "epochs": 2},
        "detection": {"views": "one"}, "review": {"budget": 12}, "report": {"fiftyone": False},
    }  # fmt: skip


def curate(*arguments: object) -> int:
    """``curate`` in this process; its exit code."""
    from curation.cli import main

    try:
        main([str(a) for a in arguments])
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 1
    return 0


def work(root: Path, method: str) -> int:
    """Make the project where there is none, and run it to the end of its iterations; the exit code of ``curate``."""
    import tomlkit

    from curation.ledger import Ledger

    home = root / "p"
    file = home / "curation.toml"
    if not file.exists():
        code = curate("init", home, "--images", root / "images", "--labels", root / "labels.csv")
        if code:
            return code
    settings = tomlkit.parse(file.read_text(encoding="utf-8"))
    for section, values in settings_of(method).items():
        settings[section].update(values)  # type: ignore[union-attr, arg-type]
    (root / "settings").write_text(tomlkit.dumps(settings), encoding="utf-8")
    os.rename(root / "settings", file)  # as an editor would; not a point, for its source is not in the project
    ledger = Ledger.in_file(home / ".curation" / "ledger.db")
    done = [i for i in ledger.iterations() if i.state == "done"]
    ledger.close()
    if len(done) == ITERATIONS:
        return 0
    return curate("run", home, "--iterations", ITERATIONS, "--annotator", f"replay:{root / 'answers.csv'}")


def _child(request: Request, note: Path, said: Path) -> int:
    out = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    points = Points(Path(request.root, "p"), note, request.kind, request.point)
    _set_points(points)
    code = work(Path(request.root), request.method)
    points.closed = True
    return code


def _answer(request: Request) -> Outcome:
    root = Path(request.root)
    note, said = root / "note", root / "said"
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _child(request, note, said)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    count, _, where = note.read_text(encoding="utf-8").strip().partition(" ") if note.exists() else ("0", "", "")
    return Outcome(os.waitstatus_to_exitcode(status), int(count or 0), said.read_text(encoding="utf-8"), where)


def _load() -> None:
    """Everything that a run imports; no work, so that no thread is alive when children are forked."""
    for name in (
        *("cleanlab.rank", "pyarrow.parquet", "scipy.sparse.csgraph", "sklearn.linear_model", "timm", "pandas"),
        *("augment.choose", "augment.preview", "augment.transforms", "curation.cli", "curation.issues"),
        *("curation.project", "curation.scoring", "curation.slices", "curation.training", "labeling.consensus"),
        *("labeling.replay", "reports.page"),
    ):
        importlib.import_module(name)


def main() -> None:
    """Answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    _load()
    for line in sys.stdin:
        print(json.dumps(asdict(_answer(Request(**json.loads(line))))), file=answers, flush=True)


# --- what a run leaves behind


def lay_out(root: Path, count: int = 48) -> None:
    """Drawn images, a table of labels of which every twelfth is wrong, and the answers of two people."""
    from tests_stand_ins import draw

    truth = draw(root / "images", count)
    other = {"left": "right", "right": "left"}
    with (root / "labels.csv").open("w") as labels, (root / "answers.csv").open("w") as answers:
        labels.write("path,label\n")
        answers.write("path,label,annotator\n")
        for number, (path, name) in enumerate(truth.items()):
            labels.write(f"{path},{other[name] if number % 12 == 0 else name}\n")
            answers.write(f"{path},{name},Ann Example\n")


def left_behind(home: Path) -> dict[str, Any]:
    """Everything of a project that must not depend on faults: no times, no ids of events."""
    from curation.doctor import noted_heads
    from curation.project import Project
    from curation.tables import read_frame

    project = Project(home)
    ledger = project.ledger
    events = ledger.label_events()
    verdicts = ledger.verdicts(every=True)
    found: dict[str, Any] = {
        "events": [(e.kind, e.sample_id, e.old, e.new, e.excluded, e.who, e.why, e.iteration, e.undoes)
                   for e in sorted(events, key=lambda e: e.id)],
        "verdicts": [(v.sample_id, v.answer, v.person, v.mode, v.iteration, v.seconds, v.note) for v in verdicts],
        "queue": [(e.sample_id, e.iteration, e.position, e.mode, e.reason) for e in ledger.queue()],
        "iterations": [(i.number, i.state) for i in ledger.iterations()],
        "classes": ledger.classes(),
        "exports": [project.labels(as_of=n).to_csv(index=False) for n in (None, *range(ITERATIONS + 1))],
        "status": _timeless(project.status()),
    }  # fmt: skip
    for number in range(ITERATIONS + 1):
        folder = project.paths.iteration(number)
        for file in sorted(folder.glob("*.parquet")):
            found[f"{number}/{file.name}"] = read_frame(file).to_csv(index=False)
        for file in sorted(folder.glob("*.safetensors")):
            found[f"{number}/{file.name}"] = file.read_bytes()
        found[f"{number}/files"] = sorted(
            f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()
        )  # fmt: skip
    found["chain"] = ledger.faults(noted_heads(project.paths))
    found["half-written"] = [f.name for f in project.paths.home.rglob("*.part")]
    ledger.close()
    return found


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "started_at", "ended_at")}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


@contextlib.contextmanager
def keeper() -> Iterator[Callable[[Request], Outcome]]:
    """A keeper's ``run``, for a ``with``."""
    with Keeper() as made:
        yield made.run


if __name__ == "__main__":
    main()
