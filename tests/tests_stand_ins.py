"""Small stand-ins for tests of the loop: drawn images, features that are pixels, people who know the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from curation.records import Progress, QueueEntry, Sample, Verdict


def draw(folder: Path, count: int, *, seed: int = 0, dark_share: float = 0.0) -> dict[str, str]:
    """Draw ``count`` pictures, ``left`` (striped) or ``right`` by where the bright side is; returns path to class."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    truth = {}
    for number in range(count):
        name = "left" if number % 2 else "right"
        pixels = rng.normal(90, 25, (24, 24, 3))
        pixels[:, :12] += 70 if name == "left" else 0
        pixels[:, 12:] += 70 if name == "right" else 0
        pixels[::4] += 60 if name == "left" else 0  # stripes, which a convolutional network sees better than a side
        if rng.random() < dark_share:
            pixels *= 0.2
        file = folder / f"{number:03d}.png"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
        truth[file.name] = name
    return truth


def content_id(file: Path) -> str:
    """The id that a file has as a sample."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


class PixelFeatures:
    """Features that are the picture at 8 x 8, in place of a backbone."""

    def pixels(self, samples: Sequence[Sample], progress: Progress | None = None) -> npt.NDArray[np.uint8]:
        return np.stack([np.asarray(Image.open(s.file).convert("RGB").resize((8, 8))) for s in samples])

    def features(self, samples: Sequence[Sample], progress: Progress | None = None) -> npt.NDArray[np.float32]:
        return self.encode(self.pixels(samples))[0]

    def encode(self, images: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], None]:
        return images.reshape(len(images), -1).astype(np.float32) / 255, None


class TruthfulPeople:
    """Answers every entry with the truth, as one person; ``silent`` entries are not answered yet."""

    def __init__(self, truth: Mapping[str, str], silent: int = 0) -> None:
        self.truth = truth
        self.silent = silent
        self.sent: list[str] = []

    def send(self, entries: Sequence[QueueEntry], files: Mapping[str, Path], progress: Progress | None = None) -> None:
        self.sent += [e.key for e in entries if e.key not in self.sent]

    def collect(self, entries: Sequence[QueueEntry], known: Sequence[Verdict] = ()) -> list[Verdict]:
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return [
            Verdict(e.sample_id, self.truth[e.sample_id], "ann", at, e.key, f"test:{e.key}", e.mode, e.iteration, 2.0)
            for e in entries[self.silent :]
        ]

    def waiting(self, entries: Sequence[QueueEntry]) -> int:
        return min(self.silent, len(entries))
