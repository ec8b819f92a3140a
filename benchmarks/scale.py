"""How time and memory grow with the number of samples: of judging labels, and of the work on a project.

``judge``: ours on features on disk. Drawn features in half precision on disk, clusters that overlap, with 10 % of the
labels wrong; quality on real images is measured by ``detection.py`` ("ours, streaming"). The claims: a million samples
of 1,280 features in under 10 minutes and 8 GB with 10 and with 100 classes, and time that grows no faster than samples.

``project``: a table of so many rows is read, its holdout drawn and all of it recorded (image files are not made; what
reading them would tell is drawn), then ``curate status``, the making of a queue of 10,000, ``curate history`` of one
sample and ``curate export``, each in a process of its own, whose time from start to end and largest memory are told.
The claims: under 4 GB, ``status`` in under 2 s, time that grows no faster than samples.

``images``: image files of 64 pixels, every thousandth of them broken, taken in by ``curate init``. The claims: every
good one is a sample, every broken one set aside, memory under 4 GB, time that grows no faster than images.

    python benchmarks/scale.py --json scale.json        # 10,000, 100,000 and 1,000,000 samples; 100,000 images
    python benchmarks/scale.py --quick                  # 10,000 and 30,000
    python benchmarks/scale.py --part project           # one of the three

Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from benchmarks.claims import conclude
from benchmarks.detection import measured
from curation.scoring import label_quality
from curation.streaming import score_streaming

DIMENSIONS = 1280
WRONG = 0.1
LIMIT_SECONDS, LIMIT_MB = 600, 8000
#: Time of ten times the samples over ten times the time; a little more is forgiven where the disk takes part.
GROWTH = 1.3


@dataclass(frozen=True)
class Figures:
    """One run; memory is what was added at its peak, features on disk not counted but for what is read of them."""

    samples: int
    classes: int
    average_precision: float
    seconds: float
    memory_mb: float


def drawn(file: Path, samples: int, classes: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Write features; return given labels, and which are wrong."""
    rng = np.random.default_rng(0)
    truth = rng.integers(classes, size=samples)
    centres = 0.12 * rng.normal(size=(classes, DIMENSIONS)).astype(np.float32)
    features = np.memmap(file, dtype=np.float16, mode="w+", shape=(samples, DIMENSIONS))
    for start in range(0, samples, 16384):
        rows = truth[start : start + 16384]
        features[start : start + len(rows)] = centres[rows] + rng.normal(size=(len(rows), DIMENSIONS), scale=1).astype(
            np.float32
        )
    features.flush()
    wrong = rng.random(samples) < WRONG
    return np.where(wrong, (truth + rng.integers(1, classes, samples)) % classes, truth), wrong


def run(samples: int, classes: int) -> Figures:
    """Judge so many labels."""
    from sklearn.metrics import average_precision_score

    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "features.f16")
        labels, wrong = drawn(file, samples, classes)

        def judge() -> npt.NDArray[np.float64]:
            features = np.memmap(file, dtype=np.float16, mode="r", shape=(samples, DIMENSIONS))
            return label_quality(score_streaming(features, labels, classes, seed=0).probabilities, labels)

        quality, (seconds, memory) = measured(judge)
    return Figures(samples, classes, float(average_precision_score(wrong, -quality)), seconds, memory)


# --- a project of many samples

STEPS = ("import", "status", "queue", "history", "export")
IMAGES_STEP = "images"
BROKEN_EVERY = 1000
LIMIT_PROJECT_MB, LIMIT_STATUS_SECONDS = 4096, 2.0
QUEUED = 10_000


@dataclass(frozen=True)
class Step:
    """One process: seconds from its start to its end, those of them that it had a processor, and the most memory that
    it held, Python itself included.
    """

    samples: int
    step: str
    seconds: float
    cpu_seconds: float
    memory_mb: float


def project_steps(samples: int) -> list[Step]:
    """Every step on a project of so many samples."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "images").mkdir()
        with (folder / "labels.csv").open("w", encoding="utf-8") as table:
            table.write("path,label,light\n")
            table.writelines(f"{n % 1000:03d}/{n}.jpg,class {n % 10},{n % 7}\n" for n in range(samples))
        return [Step(samples, step, *_in_a_process(step, folder, samples)) for step in STEPS]


def _in_a_process(step: str, folder: Path, samples: int) -> tuple[float, float, float]:
    arguments = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--samples", str(samples)]
    began = time.monotonic()
    child = os.posix_spawn(sys.executable, arguments, {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)})
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"step '{step}' of {samples:,} samples failed")
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def do_step(step: str, folder: Path, samples: int) -> None:
    """What a process of ``project_steps`` does."""
    from curation.cli import main as curate

    out = folder / "out"
    commands = {
        "status": ["status", str(folder / "p"), "--json"],
        "history": ["history", str(folder / "p"), f"{samples // 2 % 1000:03d}/{samples // 2}.jpg", "--json"],
        "export": ["export", str(folder / "p"), "--out", str(out / "labels.csv")],
    }
    if step == "import":
        _import(folder, samples)
    elif step == "queue":
        _queue(folder)
    elif step == IMAGES_STEP:
        _images(folder)
    else:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        curate(commands[step])


def _import(folder: Path, samples: int) -> None:
    """As ``curate init`` does, but for the reading of images."""
    from curation import dataset
    from curation.config import Settings, settings_to_toml
    from curation.images import ImageFacts
    from curation.importing import record_import
    from curation.ledger import Ledger
    from curation.runs import ProjectPaths, write_whole

    rows = dataset.rows_of_table(folder / "labels.csv", folder / "images")
    facts = (ImageFacts(hashlib.sha256(row.path.encode()).hexdigest(), 32, 32) for row in rows)
    found = dataset.Found(tuple(zip(rows, facts, strict=True)))
    gathered = dataset.gather(found, known_splits={}, seed=0, holdout_share=0.2)
    dataset.check_classes(gathered)
    paths = ProjectPaths(folder / "p")
    ledger = Ledger.in_file(paths.ledger)
    ledger.set_about("id", "0" * 32)
    imported = record_import(ledger, gathered, found)
    assert imported.samples == samples
    ledger.close()
    write_whole(paths.secret, "s" * 64, private=True)
    write_whole(paths.settings, settings_to_toml(Settings(name="many", images=str(folder / "images"))))


def images_step(images: int) -> tuple[Step, dict[str, Any]]:
    """``curate init`` of so many image files in a process of its own, and what it says of them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _draw_images(folder / "images", images)
        step = Step(images, IMAGES_STEP, *_in_a_process(IMAGES_STEP, folder, images))
        return step, json.loads((folder / "told.json").read_text())


def _draw_images(folder: Path, images: int) -> None:
    """Noise over a slope, JPEG, two classes; every ``BROKEN_EVERY``-th is cut short."""
    import io

    from PIL import Image

    rng = np.random.default_rng(0)
    slope = np.linspace(0, 200, 64, dtype=np.float32)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
    for number in range(images):
        light = slope[None, :] if number % 2 else slope[::-1][None, :]
        pixels = (light[:, :, None] + rng.random((64, 64, 3), dtype=np.float32) * 55).astype(np.uint8)
        coded = io.BytesIO()
        Image.fromarray(pixels).save(coded, "JPEG", quality=80)
        whole = coded.getvalue()
        file = folder / ("left", "right")[number % 2] / f"{number}.jpg"
        file.write_bytes(whole[: len(whole) // 2] if number % BROKEN_EVERY == 0 else whole)


def _images(folder: Path) -> None:
    from curation.config import Settings
    from curation.project import Project

    _, imported = Project.create(folder / "p", folder / "images", settings=Settings())
    told = {"samples": imported.samples, "set_aside": len(imported.set_aside)}
    (folder / "told.json").write_text(json.dumps(told))


def _queue(folder: Path) -> None:
    """Label quality drawn, a tenth flagged, 10,000 to be asked."""
    from curation.config import ReviewSettings
    from curation.ledger import Ledger
    from curation.queue import build_batch
    from curation.records import Issue
    from curation.runs import ProjectPaths

    ledger = Ledger.in_file(ProjectPaths(folder / "p").ledger)
    labels = ledger.labels()
    ids = [row[1] for row in ledger.path_rows() if row[2] == "train"]
    quality = dict(zip(ids, np.random.default_rng(0).random(len(ids)).tolist(), strict=True))
    issues = [Issue(s, "label", q, "drawn", labels[s].class_id, "c1") for s, q in quality.items() if q < 0.1]
    entries = build_batch(
        quality, issues, {s: labels[s].class_id for s in ids}, ids, budget=QUEUED, settings=ReviewSettings(),
        iteration=1, project_id="0" * 32, seed=0, asked={}, contested=[], secret="s" * 64, pool=[],
    )  # fmt: skip
    ledger.add_queue(entries)


def project_claims(found: Sequence[Step]) -> list[dict[str, Any]]:
    """What must hold of the steps."""
    claims: list[dict[str, Any]] = [
        {"name": f"{s.step} of {s.samples:,} samples: MB", "value": s.memory_mb, "bar": LIMIT_PROJECT_MB} for s in found
    ]
    claims += [
        {"name": f"status of {s.samples:,} samples: seconds", "value": s.seconds, "bar": LIMIT_STATUS_SECONDS}
        for s in found
        if s.step == "status"
    ]
    for step in STEPS:
        for fewer, more in itertools.pairwise([s for s in found if s.step == step]):
            grown = (more.cpu_seconds / more.samples) / (fewer.cpu_seconds / fewer.samples)
            name = f"{step} of {more.samples:,} samples: processor seconds a sample over those of {fewer.samples:,}"
            claims.append({"name": name, "value": grown, "bar": GROWTH})
    return [{**c, "holds": c["value"] <= c["bar"]} for c in claims]


# --- the whole


def claims_of(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """What must hold."""
    claims: list[dict[str, Any]] = []
    for figures in found:
        name = f"{figures.samples:,} samples, {figures.classes} classes"
        if figures.samples >= 1_000_000:
            claims.append({"name": f"{name}: seconds", "value": figures.seconds, "bar": LIMIT_SECONDS})
        claims.append({"name": f"{name}: MB", "value": figures.memory_mb, "bar": LIMIT_MB})
    for fewer, more in itertools.pairwise(found):
        if fewer.classes == more.classes:
            grown = (more.seconds / more.samples) / (fewer.seconds / fewer.samples)
            name = f"{more.samples:,} samples, {more.classes} classes: seconds a sample over those of {fewer.samples:,}"
            claims.append({"name": name, "value": grown, "bar": GROWTH})
    return [{**c, "holds": c["value"] <= c["bar"]} for c in claims]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every size; 1 where a claim does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="10,000 and 30,000 samples only")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--part", choices=("judge", "project", "images"), help="only this one")
    parser.add_argument("--step", choices=(*STEPS, IMAGES_STEP), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.step:
        do_step(options.step, options.folder, options.samples)
        return 0
    sizes = (10_000, 30_000) if options.quick else (10_000, 100_000, 1_000_000)
    claims: list[dict[str, Any]] = []
    steps = _project_part(sizes) if options.part in (None, "project") else []
    claims += project_claims(steps)
    if options.part in (None, "images"):
        steps += (taken := _images_part((1_000, 3_000) if options.quick else (10_000, 100_000)))[0]
        claims += taken[1]
    figures = _judge_part(sizes) if options.part in (None, "judge") else []
    claims += claims_of(figures)
    measured = {"figures": [asdict(f) for f in figures], "project": [asdict(s) for s in steps]}
    return conclude(claims, measured, options.json)


def _project_part(sizes: Sequence[int]) -> list[Step]:
    print(f"{'samples':>10}" + "".join(f"{f'{step} s':>12}{'CPU s':>7}{'MB':>6}" for step in STEPS))
    found = []
    for samples in sizes:
        found += (row := project_steps(samples))
        print(
            f"{samples:>10,}" + "".join(f"{s.seconds:>12.1f}{s.cpu_seconds:>7.1f}{s.memory_mb:>6.0f}" for s in row),
            flush=True,
        )
    return found


def _images_part(sizes: Sequence[int]) -> tuple[list[Step], list[dict[str, Any]]]:
    print(f"{'images':>10}{'init s':>10}{'CPU s':>8}{'MB':>7}{'samples':>10}{'set aside':>11}")
    found, claims = [], []
    for images in sizes:
        step, told = images_step(images)
        found.append(step)
        print(
            f"{images:>10,}{step.seconds:>10.1f}{step.cpu_seconds:>8.1f}{step.memory_mb:>7.0f}"
            f"{told['samples']:>10,}{told['set_aside']:>11,}",
            flush=True,
        )
        broken = len(range(0, images, BROKEN_EVERY))
        lost = abs(images - broken - told["samples"]) + abs(broken - told["set_aside"])
        claims.append({"name": f"{images:,} images: lost, or used though broken", "value": lost, "bar": 0})
        claims.append({"name": f"{images:,} images: MB", "value": step.memory_mb, "bar": LIMIT_PROJECT_MB})
    name = f"{sizes[1]:,} images: processor seconds an image over those of {sizes[0]:,}"
    grown = (found[1].cpu_seconds / found[1].samples) / (found[0].cpu_seconds / found[0].samples)
    claims.append({"name": name, "value": grown, "bar": GROWTH})
    return found, [{**c, "holds": c["value"] <= c["bar"]} for c in claims]


def _judge_part(sizes: Sequence[int]) -> list[Figures]:
    import cleanlab.rank  # noqa: F401 — takes seconds, and is nobody's work
    import scipy.linalg  # noqa: F401

    found = []
    print(f"{'samples':>10}{'classes':>9}{'AP':>8}{'seconds':>10}{'MB':>8}")
    for classes in (10, 100):
        for samples in sizes:
            found.append(row := run(samples, classes))
            print(
                f"{row.samples:>10,}{row.classes:>9}{row.average_precision:>8.3f}{row.seconds:>10.1f}"
                f"{row.memory_mb:>8.0f}",
                flush=True,
            )
    return found


if __name__ == "__main__":
    sys.exit(main())
