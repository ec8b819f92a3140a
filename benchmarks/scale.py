"""How time and memory of judging labels grow with the number of samples: ours on features on disk.

Drawn features in half precision on disk, clusters that overlap, with 10 % of the labels wrong; quality on real images
is measured by ``detection.py`` ("ours, streaming"). The claims: a million samples of 1,280 features in under 10 minutes
and 8 GB with 10 and with 100 classes, and time that grows no faster than samples.

    python benchmarks/scale.py --json scale.json        # 10,000, 100,000 and 1,000,000 samples
    python benchmarks/scale.py --quick                  # 10,000 and 30,000

Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

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


def claims_of(found: Sequence[Figures]) -> list[dict[str, Any]]:
    """What must hold."""
    claims = []
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
    options = parser.parse_args(arguments)
    import cleanlab.rank  # noqa: F401 — takes seconds, and is nobody's work
    import scipy.linalg  # noqa: F401

    found = []
    print(f"{'samples':>10}{'classes':>9}{'AP':>8}{'seconds':>10}{'MB':>8}")
    for classes in (10, 100):
        for samples in (10_000, 30_000) if options.quick else (10_000, 100_000, 1_000_000):
            found.append(row := run(samples, classes))
            print(
                f"{row.samples:>10,}{row.classes:>9}{row.average_precision:>8.3f}{row.seconds:>10.1f}"
                f"{row.memory_mb:>8.0f}",
                flush=True,
            )
    claims = claims_of(found)
    for claim in claims:
        print(f"{'holds' if claim['holds'] else 'FAILS'}: {claim['name']} = {claim['value']:.2f} (bar {claim['bar']})")
    if options.json:
        written = {"claims": claims, "figures": [asdict(f) for f in found]}
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return 0 if all(claim["holds"] for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main())
