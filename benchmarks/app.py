"""How long a reviewer waits: `curate review`, and FiftyOne's own launch, from the command to the first pictures.

A small project of drawn pictures is run once, with replayed answers. Then, in turns, ``curate review`` is started on it
and, on the same dataset, what a user of FiftyOne would start (``launch_app``); a headless Chromium opens the address as
soon as there is one and waits for pictures. Every start is a new process; ``curate review`` starts the database, too,
FiftyOne finds it running.

    python benchmarks/app.py                    # five starts each: four minutes
    python benchmarks/app.py --starts 2 --json app.json
    python benchmarks/app.py --project DIR      # a project of your own, with an iteration

Exit code 1 where a claim does not hold. Needs what the browser tests need.
"""

from __future__ import annotations

import argparse
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np
from PIL import Image

from benchmarks.browser import chromium
from benchmarks.claims import conclude
from curation import Project
from reports.fiftyone_store import environment
from reports.mongo import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = 200
#: Seconds until the App is open, address and first picture.
BAR = 15.0
PICTURES = "[data-cy=looker]"
REVIEW = [sys.executable, "-c", "from curation.cli import main; main()", "review"]
LAUNCH = """
import sys
import fiftyone as fo
session = fo.launch_app(fo.load_dataset(sys.argv[1]), port=int(sys.argv[2]), address="127.0.0.1", remote=True)
print(f"http://127.0.0.1:{sys.argv[2]}/datasets/{sys.argv[1]}", flush=True)
session.wait(-1)
"""


@dataclass(frozen=True)
class Start:
    """Seconds from the command to the address, and to the first pictures."""

    who: str
    address: float
    pictures: float


def make_project(folder: Path) -> Project:
    """Drawn pictures, bright on the left or on the right, a tenth of the train labels wrong, reviewed once."""
    rng = np.random.default_rng(0)
    images = folder / "images"
    images.mkdir(parents=True)
    rows, truth = [], []
    for number in range(IMAGES):
        side = int(rng.integers(2))
        pixels = rng.normal(90, 25, (120, 120, 3))
        pixels[:, 60 * side : 60 * side + 60] += 70
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(images / f"{number:03d}.png")
        given = 1 - side if number % 10 == 1 else side
        rows.append((f"{number:03d}.png", ("left", "right")[given], "holdout" if number % 5 == 0 else "train"))
        truth.append((f"{number:03d}.png", ("left", "right")[side]))
    for name, header, lines in (("labels", ("path", "label", "split"), rows), ("truth", ("path", "label"), truth)):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([header, *lines])
    project, _ = Project.create(folder / "project", images, folder / "labels.csv")
    project.run(1, annotator=f"replay:{folder / 'truth.csv'}")
    project.stop_services()
    return project


def timed(who: str, command: Sequence[str], page: Page, env: dict[str, str] | None = None) -> Start:
    """Start the command, open the address that it prints, wait for pictures, end it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = next((line for line in process.stdout if "/datasets/" in line), None)
        if line is None:
            sys.exit(f"{who} ended without an address")
        address = time.perf_counter() - began
        page.goto(line[line.index("http://") :].split()[0], wait_until="commit")
        page.wait_for_selector(PICTURES, timeout=120_000)
        return Start(who, address, time.perf_counter() - began)
    finally:
        page.goto("about:blank")
        process.terminate()
        process.wait(60)
        with suppress(ProcessLookupError):  # FiftyOne's server outlives the process that started it
            os.killpg(process.pid, signal.SIGKILL)


def run(project: Project, starts: int) -> list[Start]:
    """Both, in turns, after one start of each that counts for nothing: it reads what the disk holds into memory."""
    found = []
    for turn in range(starts + 1):
        with chromium() as page:
            ours = timed("curate review", [*REVIEW, str(project.root)], page)
        store = project.fiftyone()
        try:
            launch = [sys.executable, "-c", LAUNCH, store.open_dataset_name(), str(free_port())]
            with chromium() as page:
                theirs = timed("FiftyOne", launch, page, environment(store.mongo.start()))
        finally:
            store.stop()
        if turn:
            found += [ours, theirs]
            for start in (ours, theirs):
                print(f"{start.who:>14}{start.address:>10.1f}{start.pictures:>10.1f}", flush=True)
    return found


def claims_of(found: Sequence[Start]) -> list[dict[str, Any]]:
    """What must hold."""
    slowest = max(start.pictures for start in found if start.who == "curate review")
    name = "slowest start of `curate review`, seconds to the first pictures"
    return [{"name": name, "value": slowest, "bar": BAR, "holds": slowest < BAR}]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every start; 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--starts", type=int, default=5, help="how many of each")
    parser.add_argument("--project", type=Path, help="an existing project with an iteration")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        project = Project(options.project) if options.project else make_project(Path(temporary))
        print(f"{'':>14}{'address':>10}{'pictures':>10}")
        found = run(project, options.starts)
    for who in ("curate review", "FiftyOne"):
        pictures = [start.pictures for start in found if start.who == who]
        print(f"{who}: median {statistics.median(pictures):.1f} s ({min(pictures):.1f} to {max(pictures):.1f})")
    return conclude(claims_of(found), {"starts": [asdict(start) for start in found]}, options.json)


if __name__ == "__main__":
    sys.exit(main())
