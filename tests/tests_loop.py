"""A small project whose loop runs in seconds, with people who tell the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from tests_stand_ins import PixelFeatures, TruthfulPeople, content_id, draw

from augment.choose import plan
from curation.config import ReviewSettings, Settings
from curation.copied import CopiedFeatures
from curation.heads import HeadTrainer
from curation.kept import Kept
from curation.ledger import Ledger, NewPath, NewSample
from curation.loop import Loop
from curation.parts import Account, Parts, Repaired
from curation.properties import measure_properties
from curation.records import Decision, Sample
from curation.runs import ProjectPaths

FLIPPED = 8


class Recorder:
    """Keeps the accounts that it was given."""

    def __init__(self) -> None:
        self.accounts: list[Account] = []

    def record(self, account: Account) -> Mapping[str, str]:
        self.accounts.append(account)
        return {}


class House:
    """A project on drawn images with a head as its trainer: 80 train (8 labels flipped), 40 holdout, 10 pool."""

    def __init__(self, root: Path, *, holdout_seed: int | None = None, silent: int = 0) -> None:
        truth = draw(root / "images", 130)
        self.recorder = Recorder()
        self.ledger = Ledger.in_file(root / "ledger.db")
        self.ledger.add_classes(["left", "right"], who="import")
        self.ledger.set_about("id", "0" * 32)
        splits = ["train"] * 80 + ["holdout"] * 40 + ["pool"] * 10
        ids = [content_id(root / "images" / f"{number:03d}.png") for number in range(130)]
        given = {i: truth[f"{n:03d}.png"] for n, i in enumerate(ids)}
        self.truth = {i: "c1" if name == "left" else "c2" for i, name in given.items()}
        labels = {i: self.truth[i] for i, split in zip(ids, splits, strict=True) if split != "pool"}
        for number in range(0, 10 * FLIPPED, 10):
            labels[ids[number]] = "c1" if labels[ids[number]] == "c2" else "c2"
        if holdout_seed is not None:
            held = ids[80:120]
            mixed = np.random.default_rng(holdout_seed).permutation([labels[i] for i in held])
            labels |= dict(zip(held, mixed.tolist(), strict=True))
        self.ledger.add_samples(
            [NewSample(i, s, None, 24, 24) for i, s in zip(ids, splits, strict=True)],  # type: ignore[arg-type]
            [NewPath(i, f"{n:03d}.png", "", None, {}) for n, i in enumerate(ids)],
            labels,
            who="import",
            why="label as given",
        )
        self.samples = [
            Sample(i, f"{n:03d}.png", root / "images" / f"{n:03d}.png", s)  # type: ignore[arg-type]
            for n, (i, s) in enumerate(zip(ids, splits, strict=True))
        ]
        self.people = TruthfulPeople(self.truth, silent)
        self.paths = ProjectPaths(root)
        self.loop = self.make_loop(root)

    def make_loop(self, root: Path) -> Loop:
        settings = replace(Settings(), review=ReviewSettings(budget=20))
        features = PixelFeatures()
        copied = CopiedFeatures(features, lambda images: features.encode(images)[0], Kept())

        def untried(weak, properties: pd.DataFrame, ids, labels, folder: Path, most: int, unlabeled):  # type: ignore[no-untyped-def]
            recipe, copies = plan(weak, properties, ids, labels, settings.slices, settings.seed)
            return Repaired(replace(weak, recipe=recipe.name), copies, 0)

        parts = Parts(
            encoder=features,
            trainer=HeadTrainer(copied),
            measure=lambda samples, progress: measure_properties(samples, root / "properties.parquet", progress),
            repair=untried,
            reporters=[self.recorder],
            copies=copied.copies,
        )
        return Loop(self.paths, settings, self.ledger, self.samples, parts, secret="s" * 64)


def ran(root: Path) -> House:
    """A house in which the baseline and one iteration have run."""
    house = House(root)
    house.loop.baseline()
    assert house.loop.advance(1, lambda: house.people) == "done"
    return house


def with_third_class(house: House) -> list[str]:
    """Add a class and give it half of the train images of the second; returns these."""
    house.ledger.add_classes(["third"], who="ann")
    third = [s.id for s in house.samples if s.split == "train" and house.truth[s.id] == "c2"][::2]
    house.ledger.decide([Decision(s, "change", "c3", 1.0, (), "set up") for s in third], who="import", iteration=0)
    return third


def merge_third_into_right(house: House, samples: Sequence[str], iteration: int) -> None:
    """As `curate classes --merge` does; the samples were of the third class."""
    house.ledger.merge_class("c3", "c2", who="ann")
    moved = [Decision(s, "change", "c2", 1.0, (), "class was merged") for s in samples]
    house.ledger.decide(moved, who="ann", iteration=iteration)
