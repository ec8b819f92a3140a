"""Labeling: how many tasks and answers a second go through, and how few opinions a good consensus needs.

Two parts. **Round trip**: tasks sent to a real Label Studio and their answers collected, beside plain HTTP requests to
the same server in the same run that do no more than carry the same contents, with what it takes of memory. **People**:
three real annotators (CIFAR-10N's ``random_label1`` to ``3``), majority vote against CROWDLAB with out-of-sample
probabilities, and against asking a second and third person only where people and model are least sure.

    python benchmarks/labeling.py --cifar10n cifar10n.zip --json labeling.json
    python benchmarks/labeling.py --quick

Without ``--cifar10n`` the people are drawn (wrong in 17 %) on scikit-learn's digits. The probabilities are learned from
the first person's answers, which is what a project has once everybody has been asked once. Exit code 1 where a claim
does not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from benchmarks.cases import Case, cifar_cases, digits_case
from benchmarks.claims import conclude
from benchmarks.detection import measured
from curation.neighbours import group_near_duplicates
from curation.records import Classes, QueueEntry, Verdict
from curation.scoring import score_out_of_sample
from labeling.client import LabelStudioAnnotator
from labeling.consensus import crowdlab, worth_asking
from labeling.server import Connection, LabelStudioServer
from labeling.tasks import Queue, choice_result
from labeling.web import token_client

Floats = npt.NDArray[np.float64]
Columns = npt.NDArray[np.int64]

TASKS, QUICK_TASKS, QUICK_IMAGES = 10_000, 2_000, 2_000
#: Answers in all, as a share of what everybody's opinion on everything would be, and in how many waves they come.
SHARE, WAVES = 0.6, 8
CLASSES = Classes(("c1", "c2", "c3"), ("cat", "dog", "fox"))
PEOPLE = ("random_label1", "random_label2", "random_label3")


# --- round trip


@dataclass(frozen=True)
class Trip:
    """One way, one direction: tasks or answers a second, and MB of memory added at the peak."""

    what: str
    way: str
    count: int
    per_second: float
    memory_mb: float


def round_trip(server: LabelStudioServer, images: Path, count: int) -> list[Trip]:
    """Send ``count`` tasks and collect ``count`` answers, by plain HTTP and by the toolkit."""
    connection = server.start(timeout=420)
    image = images / "image.png"
    _draw(image)
    batch, again = _batch(count), _batch(count)
    files = {e.sample_id: image for e in [*batch, *again]}
    trips = []

    def enter(what: str, way: str, ask: Any) -> Any:
        began = time.perf_counter()
        found, (_, memory) = measured(ask)
        trips.append(Trip(what, way, count, count / (time.perf_counter() - began), memory))
        print(f"{what:8} {way:20} {trips[-1].per_second:8.0f}/s {memory:8.0f} MB", flush=True)
        return found

    enter("send", "plain HTTP", lambda: _send_plainly(connection, batch))
    ours = _annotator(connection)
    enter("send", "toolkit", lambda: ours.send(again, files))
    answered = _annotator(connection)
    project = _answered_project(connection, answered, batch)
    found = enter("collect", "plain HTTP", lambda: _collect_plainly(connection, project))
    assert found == count, f"{found} of {count} answers came by plain HTTP"
    verdicts = enter("collect", "toolkit", lambda: answered.collect(batch))
    assert len({v.key for v in verdicts}) == len(verdicts) == count, f"{len(verdicts)} of {count} answers came"
    enter("waiting", "toolkit", lambda: answered.waiting(batch))
    return trips


def _draw(file: Path) -> None:
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(file)


def _batch(count: int) -> list[QueueEntry]:
    return [
        QueueEntry(
            uuid.uuid4().hex, uuid.uuid4().hex, 1, i, "shown", "c1", "c2", "four of its five neighbours are dogs"
        )
        for i in range(count)
    ]


def _annotator(connection: Connection) -> LabelStudioAnnotator:
    return LabelStudioAnnotator(connection, project_name="Benchmark", project_id=uuid.uuid4().hex, classes=CLASSES)


def _task(entry: QueueEntry) -> dict[str, Any]:
    words = {"given_label": "cat", "suggestion": "dog", "reason": entry.reason, "evidence": "<div></div>"}
    return {"data": {"key": entry.key, "image": f"/data/local-files/?d=shown/{entry.key}.png", **words}}


def _send_plainly(connection: Connection, batch: Sequence[QueueEntry]) -> int:
    """Tasks of the same contents in requests of 1,000, with no look at what is there before or after."""
    choice = '<Choices name="label" toName="image"><Choice value="cat"/></Choices>'
    screen = f'<View><Image name="image" value="$image"/>{choice}</View>'
    with token_client(connection.url, connection.token) as client:
        made = client.post("/api/projects/", json={"title": "Plain", "label_config": screen}).raise_for_status().json()
        for start in range(0, len(batch), 1000):
            tasks = [_task(e) for e in batch[start : start + 1000]]
            client.post(f"/api/projects/{made['id']}/import", json=tasks, timeout=300).raise_for_status()
    return len(batch)


def _answered_project(connection: Connection, annotator: LabelStudioAnnotator, batch: Sequence[QueueEntry]) -> int:
    """The annotator's shown project with every task of the batch answered once, made by import."""
    project = int(annotator._ready(Queue("shown"), None).id)
    answer = {"result": choice_result("c2"), "lead_time": 2.5, "ground_truth": False}
    with token_client(connection.url, connection.token) as client:
        for start in range(0, len(batch), 1000):
            tasks = [{**_task(e), "annotations": [answer]} for e in batch[start : start + 1000]]
            client.post(f"/api/projects/{project}/import", json=tasks, timeout=300).raise_for_status()
    return project


def _collect_plainly(connection: Connection, project: int) -> int:
    """Read all tasks with their answers, 1,000 a request, the fields that an answer needs; count the answers."""
    fields = "id,data,annotations,result,completed_by,was_cancelled,lead_time,created_at,updated_at,updated_by"
    asked: dict[str, Any] = {"project": project, "page_size": 1000, "fields": "all", "include": fields}
    found = 0
    with token_client(connection.url, connection.token) as client:
        for page in range(1, 1000):
            answer = client.get("/api/tasks/", params={**asked, "page": page}, timeout=300)
            if answer.status_code == 404:
                break
            tasks = answer.raise_for_status().json()["tasks"]
            found += sum(len(task["annotations"]) for task in tasks)
            if len(tasks) < 1000:
                break
    return found


# --- people


@dataclass(frozen=True)
class Consensus:
    """How good a consensus is, and how many answers it took."""

    way: str
    answers: int
    accuracy: float


def consensus_of(cases: Sequence[Case], seed: int) -> tuple[list[Consensus], dict[str, Any]]:
    """The ways to a consensus on one set of images; paired differences of accuracy with their 95 % intervals."""
    said = np.stack([case.given for case in cases], axis=1).astype(np.float64)
    truth, names = cases[0].truth, cases[0].names
    case = cases[0]
    features, widths = (case.features, ()) if case.views is None else (case.views, case.widths)
    probabilities = score_out_of_sample(
        features, case.given, len(names), groups=group_near_duplicates(case.features), seed=seed, widths=widths
    ).probabilities
    ways = {
        "one person": (said[:, :1], said[:, 0].astype(np.int64)),
        "majority of three": (said, majority(said, len(names), seed)),
        "CROWDLAB of two": (said[:, :2], _consensus(said[:, :2], probabilities)),
        "CROWDLAB of three": (said, _consensus(said, probabilities)),
    }
    rng = np.random.default_rng(seed)
    least_sure = in_waves(said, probabilities, rng, at_random=False)
    at_random = in_waves(said, probabilities, rng, at_random=True)
    ways["CROWDLAB, more opinions where least sure"] = (least_sure, _consensus(least_sure, probabilities))
    ways["CROWDLAB, more opinions at random"] = (at_random, _consensus(at_random, probabilities))
    found = [
        Consensus(way, int(np.isfinite(labels).sum()), float((best == truth).mean()))
        for way, (labels, best) in ways.items()
    ]
    right = {way: (best == truth).astype(float) for way, (_, best) in ways.items()}
    gains = {
        "CROWDLAB of three over majority": paired(right["CROWDLAB of three"] - right["majority of three"]),
        "where least sure over CROWDLAB of three": paired(
            right["CROWDLAB, more opinions where least sure"] - right["CROWDLAB of three"]
        ),
    }
    return found, gains


def _consensus(labels: Floats, probabilities: Floats) -> Columns:
    found = crowdlab(labels, probabilities)
    assert found is not None, "CROWDLAB declined"
    return found[0]


def majority(labels: Floats, n_classes: int, seed: int) -> Columns:
    """The class that most name; ties by chance."""
    rng = np.random.default_rng(seed)
    votes = np.stack([(labels == column).sum(axis=1) for column in range(n_classes)], axis=1)
    return np.asarray((votes + rng.random(votes.shape) / 2).argmax(axis=1), dtype=np.int64)


def in_waves(said: Floats, probabilities: Floats, rng: np.random.Generator, *, at_random: bool) -> Floats:
    """Opinions bought in waves: one on every image, then a second and third where the toolkit says, or at random."""
    labels = np.full_like(said, np.nan)
    labels[:, 0] = said[:, 0]
    left = int(SHARE * said.size) - len(said)
    classes = Classes(
        tuple(f"c{i}" for i in range(probabilities.shape[1])), tuple(f"n{i}" for i in range(probabilities.shape[1]))
    )
    by_row = {str(row): probabilities[row] for row in range(len(said))}
    for _ in range(WAVES):
        if at_random:
            rows = rng.permutation(np.flatnonzero(~np.isfinite(labels).all(axis=1)))
        else:
            found = worth_asking(_verdicts(labels), by_row, classes, most=said.shape[1])
            rows = np.array([int(sample_id) for sample_id, _ in found])
        for row in rows[: left // WAVES]:
            count = int(np.isfinite(labels[row]).sum())
            labels[row, count] = said[row, count]
    return labels


def _verdicts(labels: Floats) -> list[Verdict]:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows, people = np.nonzero(np.isfinite(labels))
    return [
        Verdict(str(r), f"c{int(labels[r, p])}", f"p{p}", at, f"{r}", f"{r}:{p}", "blind", 1)
        for r, p in zip(rows.tolist(), people.tolist(), strict=True)
    ]


def paired(differences: Floats) -> dict[str, Any]:
    """The mean of paired differences and its 95 % interval (normal)."""
    half = 1.96 * float(differences.std()) / len(differences) ** 0.5
    value = float(differences.mean())
    return {"value": value, "ci": [value - half, value + half]}


def drawn_people(seed: int) -> list[Case]:
    """Three people who are wrong in 17 % of the digits, each in their own."""
    from dataclasses import replace

    case = digits_case(seed)
    rng = np.random.default_rng(seed)
    cases = []
    for _ in PEOPLE:
        wrong = rng.random(len(case.truth)) < 0.17
        other = (case.truth + rng.integers(1, len(case.names), len(case.truth))) % len(case.names)
        cases.append(replace(case, given=np.where(wrong, other, case.truth)))
    return cases


# --- both


def claims_of(
    trips: Sequence[Trip], found: Sequence[Consensus], gains: dict[str, Any], small: Sequence[Trip] = ()
) -> list[dict[str, Any]]:
    """What is claimed: name, value, bar, and whether it holds."""
    claims: list[dict[str, Any]] = []

    def claim(name: str, value: float, bar: float, at_least: bool = True) -> None:
        claims.append({"name": name, "value": value, "bar": bar, "holds": value >= bar if at_least else value <= bar})

    speed = {(t.what, t.way): t for t in trips}
    for what in ("send", "collect") if trips else ():
        ratio = speed[what, "toolkit"].per_second / speed[what, "plain HTTP"].per_second
        claim(f"{what}: tasks a second over plain HTTP", ratio, 0.5)
    little = {(t.what, t.way): t for t in small}
    for what in ("send", "collect") if small else ():
        extra = speed[what, "toolkit"].memory_mb - little[what, "toolkit"].memory_mb
        claim(f"{what}: MB that ten times as many take more", extra, 100, at_least=False)
    if found:
        of = {c.way: c for c in found}
        claim("CROWDLAB of three over majority, lower bound", gains["CROWDLAB of three over majority"]["ci"][0], 0)
        sparing = of["CROWDLAB, more opinions where least sure"].answers / of["CROWDLAB of three"].answers
        claim("answers where least sure, of all", sparing, SHARE, at_least=False)
        gap = gains["where least sure over CROWDLAB of three"]
        claim("accuracy where least sure over all, upper bound", gap["ci"][1], 0)
    return claims


@contextmanager
def own_server() -> Any:
    """A Label Studio of the benchmark's own, on this machine, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        server = LabelStudioServer(Path(folder) / "label-studio")
        try:
            yield server, Path(folder)
        finally:
            server.stop()


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TASKS:,} tasks, {QUICK_IMAGES:,} images")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--cifar10n", type=Path, default=os.environ.get("CURATION_CIFAR10N"), help="zip of CIFAR-10N")
    parser.add_argument("--cache", type=Path, help="keep features here for the next time")
    parser.add_argument("--half", type=int, choices=(0, 1), help="every other image: 0 the first, 1 the second")
    parser.add_argument("--only", choices=("trip", "people"), help="one part alone")
    parser.add_argument("--seed", type=int, default=0, help="seed of ties and draws")
    return parser.parse_args(arguments)


def cases_of(options: argparse.Namespace, cache: Path) -> list[Case]:
    """The three people's labels of the same images."""
    from dataclasses import replace

    rows = QUICK_IMAGES if options.quick else None
    if options.cifar10n:
        cases = cifar_cases(Path(options.cifar10n), rows, cache, PEOPLE)
    else:
        print("no images given: drawn people on scikit-learn's digits; see --help for real ones")
        cases = drawn_people(options.seed)
    if options.half is None:
        return cases
    half = slice(options.half, None, 2)
    return [
        replace(c, features=c.features[half], views=None if c.views is None else c.views[half],
                given=c.given[half], truth=c.truth[half])
        for c in cases
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts; 1 where a claim does not hold."""
    options = read_options(arguments)
    trips: list[Trip] = []
    small: list[Trip] = []
    found: list[Consensus] = []
    gains: dict[str, Any] = {}
    if options.only != "trip":
        with tempfile.TemporaryDirectory() as temporary:
            found, gains = consensus_of(cases_of(options, options.cache or Path(temporary)), options.seed)
        for one in found:
            print(f"{one.way:42} {one.answers:7,} answers, {one.accuracy:.4f} right", flush=True)
        for name, gain in gains.items():
            print(f"{name}: {gain['value']:+.4f} ({gain['ci'][0]:+.4f} to {gain['ci'][1]:+.4f})")
    if options.only != "people":
        count = QUICK_TASKS if options.quick else TASKS
        with own_server() as (server, folder):
            round_trip(server, folder, 20)  # connections and imports are made before anything is timed
            small = round_trip(server, folder, count // 10)
            trips = round_trip(server, folder, count)
    measured = {"round_trip": [asdict(t) for t in (*small, *trips)], "consensus": [asdict(c) for c in found],
                "differences": gains}  # fmt: skip
    return conclude(claims_of(trips, found, gains, small), measured, options.json)


if __name__ == "__main__":
    sys.exit(main())
