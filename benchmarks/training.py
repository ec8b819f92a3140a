"""Fine-tuning: how good a small set makes the model, what an iteration costs, and how busy the device is kept.

Each part can be asked for alone with ``--only``; all of them by default:

``accuracy``   ELPV with clean labels (package elpv-dataset), the demo's splits by seed: 1,574 train images, 525
               holdout; the model that an iteration makes (fine-tuned or a head on views, whichever does better on the
               part of the train images set apart), the fine-tuned network, and a head alone on frozen features of
               one forward pass. Intervals: bootstrap over images.
               Each image counts once, a grade of 2/3 or 1 as defective. The data set's authors, whose figure is the
               bar, trained on 1,968 images.
``noise``      images with labels by people (``--cifar10n FILE``, or the variable CURATION_CIFAR10N, a zip that holds
               ``train.csv`` with ``path``, ``clean_label`` and ``worse_label``): trained on the noisy labels, measured
               on other images by the clean ones, by the same three.
``time``       a project of ELPV: its first iteration, a second after 100 labels changed, and ranking and slices alone,
               each over the time of a plain forward pass over the train images at the same resolution, by a program
               that does nothing else, and over one with the memory kept that passes free, as here.
``speed``      samples a second, and seconds to the best holdout accuracy: ours on the whole network, the ceiling (the
               same model stepping on one batch that lies on the device), timm's own way (its loader, augmentation,
               optimiser and schedule) and a plain torch DataLoader loop; and ours as it is by default on a CPU.

    python benchmarks/training.py --cifar10n cifar10n.zip --splits 5 --json training.json

``--quick`` takes two splits and a few hundred images for speed. On CUDA the same command compares there
(``--device cuda``). ``--cache`` keeps features for the next time. Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from benchmarks.cases import cifar_table
from benchmarks.claims import conclude
from curation.backbone import create_model, describe_device, load_backbone
from curation.config import ReportSettings, ReviewSettings, Settings, TrainingSettings
from curation.copied import copied_by_store
from curation.demo import plan, read_elpv
from curation.features import BATCH, FeatureStore, ViewFeatures
from curation.heads import HeadTrainer
from curation.images import PixelCache, inspect_image
from curation.kept import Kept
from curation.neighbours import group_near_duplicates
from curation.records import Augmentation, Progress, Sample
from curation.training import FineTuned, fine_tune
from curation.view_heads import ViewTrainer
from curation.ways import EitherTrainer

if TYPE_CHECKING:
    import torch

Columns = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Claims = list[dict[str, Any]]

NAMES = ("head", "tuned", "ours")
PARTS = ("accuracy", "noise", "time", "speed")
RESAMPLES = 2_000
CLASSES = ("defective", "functional")
#: Train images and images to measure on, of CIFAR-10N.
NOISY, MEASURED = 3_000, 2_500


def claim(name: str, value: float, bar: float, at_least: bool = True) -> dict[str, Any]:
    """One entry of ``claims``."""
    return {"name": name, "value": value, "bar": bar, "holds": bool(value >= bar if at_least else value <= bar)}


# --- data


def store_of(options: argparse.Namespace, size: int, data: str) -> FeatureStore:
    """Features and activations of some data at a size, kept under ``--cache``."""
    backbone = load_backbone(options.backbone, weights=options.weights, size=size, device=options.device)
    cache = options.cache / data
    return FeatureStore(
        backbone, PixelCache(cache / "pixels", size), cache / "features", views=cache / "views", view_all=True
    )


def samples_of(files: Sequence[Path]) -> list[Sample]:
    """Samples of image files, in their order."""
    return [Sample(inspect_image(file).sha256, file.name, file, "train") for file in files]


def elpv() -> tuple[list[Sample], Columns, list[dict[str, str]]]:
    """ELPV's samples, their true columns of ``CLASSES``, and by path the split of each of ten seeds."""
    folder, cells = read_elpv()
    labels = np.array([CLASSES.index(c.truth) for c in cells], dtype=np.int64)
    splits = [{p.cell.path: p.split for p in plan(cells, seed=seed)} for seed in range(10)]
    paths = [c.path for c in cells]
    return samples_of([folder / p for p in paths]), labels, [{p: s[p] for p in paths} for s in splits]


def rows_of(split: dict[str, str], name: str) -> Columns:
    """The rows of a split's part."""
    return np.flatnonzero(np.array([part == name for part in split.values()]))


# --- how good


class Tuner:
    """Fine-tunes, and keeps the last model."""

    def __init__(self, store: FeatureStore, settings: TrainingSettings) -> None:
        self._store, self._settings = store, settings
        self.last: FineTuned | None = None

    def train(
        self, samples: Sequence[Sample], labels: Columns, class_ids: tuple[str, ...], *, seed: int,
        augmentations: Sequence[Augmentation], checkpoint: Path, progress: Progress | None,
    ) -> FineTuned:  # fmt: skip
        """As ``curation.parts.Trainer`` has it."""
        groups = group_near_duplicates(self._store.features(samples))
        self.last = fine_tune(
            self._store, samples, labels, class_ids, settings=self._settings, seed=seed, groups=groups
        )
        return self.last


def contenders(
    store: FeatureStore, samples: Sequence[Sample], labels: Columns, train: Columns, held: Columns, truth: Columns,
    classes: tuple[str, ...], settings: TrainingSettings, seed: int,
) -> tuple[dict[str, Mask], dict[str, Any]]:  # fmt: skip
    """Which of the ``held`` rows each of ``NAMES`` gets right, and how it went."""
    chosen, others = [samples[row] for row in train], [samples[row] for row in held]
    views = ViewFeatures(store.backbone, store.folder.parent / "views")
    head = HeadTrainer(copied_by_store(store, Kept())).train(
        chosen, labels[train], classes, seed=seed, augmentations=[], checkpoint=Path(), progress=None
    )
    store.features([*chosen, *others])  # so that no forward pass is counted as training
    views.compute([*chosen, *others])
    tuner = Tuner(store, settings)
    viewer = ViewTrainer(views, settings, lambda samples: group_near_duplicates(store.features(samples)))
    began = time.perf_counter()
    ours = EitherTrainer(tuner, viewer).train(
        chosen, labels[train], classes, seed=seed, augmentations=[], checkpoint=Path("000/checkpoint"), progress=None
    )
    seconds = time.perf_counter() - began
    assert tuner.last is not None
    models: dict[str, Any] = {"head": head, "tuned": tuner.last, "ours": ours}
    right = {name: m.predict(others).probabilities.argmax(axis=1) == truth[held] for name, m in models.items()}
    told: dict[str, Any] = {name: float(rows.mean()) for name, rows in right.items()}
    said = ", ".join(f"{name} {value:.3f}" for name, value in told.items())
    print(f"  split {seed}: {said} ({seconds:.0f} s): {ours.words}", flush=True)
    return right, {"seed": seed, **told, "seconds": seconds, "words": ours.words}


def interval(rows: Columns, values: npt.NDArray[np.float64], seed: int = 0) -> dict[str, Any]:
    """Mean of ``values`` and its 95 % interval, drawing whole images (``rows`` says of which image a value is)."""
    images, of = np.unique(rows, return_inverse=True)
    sums, counts = np.bincount(of, weights=values), np.bincount(of)
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(images), size=(RESAMPLES, len(images)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(values.mean()), "ci": [float(low), float(high)]}


def compare(runs: list[tuple[Columns, dict[str, Mask]]]) -> dict[str, Any]:
    """Accuracy of each, and what ours gains on the same images, over all splits."""
    rows = np.concatenate([r for r, _ in runs])
    right = {name: np.concatenate([run[name] for _, run in runs]).astype(float) for name in NAMES}
    found = {name: interval(rows, values) for name, values in right.items()}
    return found | {f"gain over {name}": interval(rows, right["ours"] - right[name]) for name in ("head", "tuned")}


def tell(title: str, found: dict[str, Any]) -> None:
    """One line an entry."""
    for name in found:
        low, high = found[name]["ci"]
        print(f"{title}, {name}: {found[name]['value']:.3f} ({low:.3f} to {high:.3f})", flush=True)


def accuracy(options: argparse.Namespace) -> tuple[dict[str, Any], Claims]:
    """ELPV, clean labels."""
    samples, labels, splits = elpv()
    store = store_of(options, options.size, "elpv")
    runs, told = [], []
    for seed in range(options.splits):
        train, held = rows_of(splits[seed], "train"), rows_of(splits[seed], "holdout")
        right, words = contenders(store, samples, labels, train, held, labels, CLASSES, options.settings, seed)
        runs.append((held, right))
        told.append(words)
    found = compare(runs)
    tell(f"ELPV at {options.size} px", found)
    return {**found, "splits": told, "size": options.size}, [
        claim("ELPV, clean labels: holdout accuracy, mean of the splits", found["ours"]["value"], 0.88),
        claim("ELPV, clean labels: lower end of its 95 % interval", found["ours"]["ci"][0], 0.86),
        claim("ELPV: lower end of the gain over the head alone", found["gain over head"]["ci"][0], 0.0),
    ]


def noise(options: argparse.Namespace) -> tuple[dict[str, Any], Claims]:
    """CIFAR-10N's worst labels."""
    table = cifar_table(options.cifar10n, options.cache)
    with table.open(encoding="utf-8", newline="") as lines:
        entries = list(csv.DictReader(lines))
    classes = tuple(sorted({e["clean_label"] for e in entries}))
    samples = samples_of([table.parent / e["path"] for e in entries])
    truth = np.array([classes.index(e["clean_label"]) for e in entries], dtype=np.int64)
    store, found, claims = store_of(options, 112, "cifar10n"), {}, []
    for name in ("worse_label", "clean_label"):
        labels = np.array([classes.index(e[name]) for e in entries], dtype=np.int64)
        runs, told = [], []
        for seed in range(options.splits):
            order = np.random.default_rng(seed).permutation(len(entries))
            train, held = order[:NOISY], order[-MEASURED:]
            right, words = contenders(store, samples, labels, train, held, truth, classes, options.settings, seed)
            runs.append((held, right))
            told.append(words)
        compared = compare(runs)
        tell(name, compared)
        found[name] = {**compared, "splits": told}
    over = {name: values["gain over head"] for name, values in found.items()}
    claims.append(claim("worse_label: accuracy minus that of the head alone", over["worse_label"]["value"], 0))
    claims.append(claim("clean_label: lower end of the gain over the head", over["clean_label"]["ci"][0], 0))
    return found, claims


# --- what an iteration costs


def plain_pass_seconds(name: str, images: npt.NDArray[np.uint8], device: str) -> float:
    """How long timm's model takes for images (n, side, side, 3) in a program that only does this."""
    import torch

    on = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    model = create_model(name, 0).eval().to(on, memory_format=torch.channels_last)

    def normalise(batch: npt.NDArray[np.uint8]) -> torch.Tensor:
        moved = torch.from_numpy(batch).to(on).permute(0, 3, 1, 2)
        return ((moved.float() - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)

    return pass_seconds(model, normalise, images)


def pass_seconds(
    model: Any, normalise: Callable[[npt.NDArray[np.uint8]], torch.Tensor], images: npt.NDArray[np.uint8]
) -> float:
    """How long one forward pass over images (n, side, side, 3) takes, after a first batch."""
    import torch

    batch = BATCH[next(model.parameters()).device.type]

    def forward() -> None:
        with torch.inference_mode():
            for start in range(0, len(images), batch):
                model(normalise(images[start : start + batch])).float().cpu()

    with torch.inference_mode():
        model(normalise(images[:batch]))
    return seconds_of(forward)


def time_of_iterations(options: argparse.Namespace) -> tuple[dict[str, Any], Claims]:
    """A project of ELPV, answered from a file; every figure over one forward pass over the train images.

    That is a plain pass, in a program of its own; beside it stand the figures over a pass in this program, which keeps
    the memory that a pass frees (``curation/allocator.py``).
    """
    from curation.project import Project

    folder, cells = read_elpv()
    planned = [p for p in plan(cells, seed=0, limit=options.limit) if p.split != "pool"]
    backbone = load_backbone(options.backbone, weights=options.weights, size=options.size, device=options.device)
    pixels = PixelCache(options.cache / "pixels", options.size)
    train = samples_of([folder / p.cell.path for p in planned if p.split == "train"])
    images = np.array(pixels.pixels(train))
    ours = pass_seconds(backbone.model, backbone.normalise, images)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:  # where no memory is kept
        plain = apart.submit(plain_pass_seconds, options.backbone, images, options.device).result()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        rng = np.random.default_rng(0)
        given = {p.cell.path: p.cell.truth for p in planned}
        for path in rng.permutation([p.cell.path for p in planned if p.split == "train"])[: len(train) // 10].tolist():
            given[path] = CLASSES[1 - CLASSES.index(given[path])]
        with (root / "labels.csv").open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows(
                [("path", "label", "split"), *((p.cell.path, given[p.cell.path], p.split) for p in planned)]
            )
        with (root / "answers.csv").open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows([("path", "label"), *((p.cell.path, p.cell.truth) for p in planned)])
        # Fewer images would be given more epochs: as many as the whole set gets, so that the shares stay the same.
        training = replace(options.settings, epochs=4) if options.limit else options.settings
        settings = Settings(review=ReviewSettings(budget=100), training=training, report=ReportSettings(fiftyone=False))
        named = replace(settings.backbone, name=options.backbone, size=options.size, device=options.device)
        settings = replace(settings, backbone=replace(named, weights=str(options.weights or "")))
        project, _ = Project.create(root / "project", folder, root / "labels.csv", settings=settings)
        stages: dict[str, float] = {}
        project.progress = stage_clock(stages)
        began = time.time()
        first = seconds_of(lambda: project.run(1, annotator=f"replay:{root / 'answers.csv'}"))
        manifest = project.paths.iteration(0) / "train.json"
        baseline = manifest.stat().st_mtime - began - stages.get("computing features", 0.0)
        began = time.time()
        second = seconds_of(lambda: project.run(1, annotator=f"replay:{root / 'answers.csv'}"))
        # Opening the project, loading the network, scores, issues, slices and the queue, on what was changed before.
        ranking = (project.paths.iteration(2) / "score.json").stat().st_mtime - began
        changed = project.status()["iterations"][0]["labels_changed"]
        accuracies = [i["holdout"]["accuracy"] for i in project.status()["iterations"]]
    found = {
        "train_images": len(train), "forward_pass_s": plain, "our_forward_pass_s": ours, "first_s": first,
        "baseline_s": baseline, "second_s": second, "ranking_s": ranking, "stages_s": stages, "size": options.size,
        "labels_changed": changed, "accuracies": accuracies,
    }  # fmt: skip
    print(f"forward pass over {len(train)} images at {options.size} px: {plain:.1f} s, memory kept {ours:.1f} s")
    print(f"first run: {first:.1f} s = {first / plain:.2f} forward passes, of which {baseline / plain:.2f} were")
    print("  the model of the labels as given, which is trained once, to compare with; left out below")
    print(f"second, {changed} labels changed before: {second / plain:.2f}, of which {ranking / plain:.2f} were")
    print("  ranking and slices")
    kept = ", ".join(f"{seconds / ours:.2f}" for seconds in (first - baseline, second, ranking))
    print(f"over a forward pass with memory kept: {kept}", flush=True)
    return found, [
        claim(
            "first iteration, new images included, over a forward pass", (first - baseline) / plain, 6.0, at_least=False
        ),
        claim("second iteration, 100 labels changed, over a forward pass", second / plain, 4.0, at_least=False),
        claim("ranking and slices alone, over a forward pass", ranking / plain, 0.1, at_least=False),
        # What would still be seen of a slower iteration, where the plain pass is slow by its page faults.
        claim("first iteration, over a pass that keeps its memory", (first - baseline) / ours, 8.0, at_least=False),
        claim("second iteration, over a pass that keeps its memory", second / ours, 4.0, at_least=False),
        claim("ranking and slices alone, over a pass that keeps its memory", ranking / ours, 0.2, at_least=False),
    ]


def seconds_of(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def stage_clock(seconds: dict[str, float]) -> Callable[[str, int, int], None]:
    """A progress that adds up how long each kind of work took, by its words."""
    last = [time.perf_counter()]

    def note(what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if done > 0:
            seconds[what] = seconds.get(what, 0.0) + now - last[0]
        last[0] = now

    return note


# --- how busy the device is kept


def speed(options: argparse.Namespace) -> tuple[dict[str, Any], Claims]:
    """The whole network trained by four, samples/s after a first epoch, and accuracy on the holdout by the clock."""
    samples, labels, splits = elpv()
    train, held = rows_of(splits[0], "train")[: options.images], rows_of(splits[0], "holdout")[: options.images]
    store = store_of(options, options.speed_size, "elpv")
    sets = [([samples[row] for row in rows], labels[rows]) for rows in (train, held)]
    store.pixels.pixels([samples[row] for row in np.concatenate([train, held])])  # decoded once, for everybody who may
    contenders: dict[str, Callable[[], dict[str, Any]]] = {
        "ceiling": lambda: ceiling(store, len(train), options),
        "ours, whole network": lambda: ours(store, sets, options, whole=True),
        "ours, cached trunk": lambda: ours(store, sets, options, whole=False),
        "timm's own way": lambda: loop_of(store, timm_batches(store, sets[0], options), sets, options, timm_way=True),
        "plain DataLoader": lambda: loop_of(store, plain_batches(store, sets[0], options), sets, options),
    }
    found = {name: run() for name, run in contenders.items()}
    for name, figures in found.items():
        best = (
            f", best accuracy {figures['best']:.3f} after {figures['seconds_to_best']:.1f} s"
            if "best" in figures
            else ""
        )
        print(f"{name:24} {figures['samples_per_second']:9.1f} samples/s{best}", flush=True)
    rate = {name: figures["samples_per_second"] for name, figures in found.items()}
    mine = rate["ours, whole network"]
    device = describe_device(str(store.backbone.device))
    claims = [claim("ours over the ceiling, samples/s", mine / rate["ceiling"], 0.85)]
    claims.append(claim("ours over a plain DataLoader loop, samples/s", mine / rate["plain DataLoader"], 1.5))
    cached = rate["ours, cached trunk"] / rate["plain DataLoader"]
    if store.backbone.device.type == "cpu":  # the bars for the whole network are those of a GPU
        claims = [claim("on a CPU, ours by default over a plain DataLoader loop, samples/s", cached, 1.5)]
    return {"contenders": found, "device": device, "images": len(train), "size": options.speed_size}, claims


def wait(device: Any) -> None:
    """Until the device has done what it was given."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fresh(store: FeatureStore) -> Any:
    """The pretrained network with a head for two classes, all of it trainable."""
    import copy

    import torch

    model = copy.deepcopy(store.backbone.model).requires_grad_(True).eval()
    head = torch.nn.Linear(store.backbone.feature_size, 2).to(store.backbone.device)
    return torch.nn.Sequential(model, head)


def step(model: Any, optimizer: Any, images: Any, labels: Any) -> None:
    """One step, as everybody takes it: bf16 on CUDA, the gradient's norm at most 1."""
    import torch

    device = images.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        loss = torch.nn.functional.cross_entropy(model(images), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def ceiling(store: FeatureStore, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """The same model stepping on one batch that lies on the device, ready."""
    import torch

    model, device, size = fresh(store), store.backbone.device, options.settings.batch_size
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.05)
    pixels = np.random.default_rng(0).integers(0, 256, (size, options.speed_size, options.speed_size, 3), np.uint8)
    images, labels = store.backbone.normalise(pixels), torch.arange(size, device=device) % 2
    steps = max(2, rows // size)
    for _ in range(1 if device.type == "cpu" else 20):
        step(model, optimizer, images, labels)
    wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step(model, optimizer, images, labels)
    wait(device)
    return {"samples_per_second": steps * size / (time.perf_counter() - began)}


def ours(store: FeatureStore, sets: list[Any], options: argparse.Namespace, *, whole: bool) -> dict[str, Any]:
    """``fine_tune``, its samples/s between the ends of its epochs, and its accuracy at the end."""
    (train, labels), (held, truth) = sets
    ends: list[float] = []

    def note(what: str, done: int, total: int) -> None:
        if what == "fine-tuning":
            ends.append(time.perf_counter())

    store.features(train)
    began = time.perf_counter()
    settings = replace(options.settings, epochs=max(2, options.epochs))
    model = fine_tune(store, train, labels, CLASSES, settings=settings, seed=0, progress=note, whole=whole)
    seconds = time.perf_counter() - began
    best = float((model.predict(held).probabilities.argmax(axis=1) == truth).mean())
    trained = model.rows * (len(ends) - 1)
    return {"samples_per_second": trained / (ends[-1] - ends[0]), "best": best, "seconds_to_best": seconds}


def loop_of(
    store: FeatureStore, batches: Callable[[], Iterator[Any]], sets: list[Any], options: argparse.Namespace, *,
    timm_way: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """A training loop over ``batches`` as an epoch; samples/s after its first epoch, which starts the workers."""
    import torch

    model, device, (held, truth) = fresh(store), store.backbone.device, sets[1]
    scheduler = None
    if timm_way:
        from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
        from timm.scheduler import CosineLRScheduler  # type: ignore[attr-defined]

        optimizer = create_optimizer_v2(model, opt="adamw", lr=5e-4, weight_decay=0.05, layer_decay=None)
        scheduler = CosineLRScheduler(optimizer, t_initial=max(2, options.epochs), lr_min=1e-6)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    seen, training, first, accuracies = 0, 0.0, 0.0, []
    for epoch in range(max(2, options.epochs)):
        began, rows = time.perf_counter(), 0
        for images, labels in batches():
            images = images.to(device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            step(model, optimizer, images, labels.to(device, non_blocking=True))
            rows += len(labels)
        wait(device)
        spent = time.perf_counter() - began
        first = first or spent
        training += spent
        seen += rows if epoch else 0
        if scheduler is not None:
            scheduler.step(epoch + 1)
        accuracies.append((accuracy_of(model, store, held, truth), training))
    best, after = max(accuracies, key=lambda a: a[0])
    return {"samples_per_second": seen / (training - first), "best": best, "seconds_to_best": after}


def accuracy_of(model: Any, store: FeatureStore, held: Sequence[Sample], truth: Columns) -> float:
    """Accuracy on the holdout."""
    import torch

    pixels = store.pixels.pixels(held)
    with torch.inference_mode():
        found = [
            model(store.backbone.normalise(pixels[s : s + 64])).argmax(dim=1).cpu() for s in range(0, len(held), 64)
        ]
    return float((torch.cat(found).numpy() == truth).mean())


class Files:
    """Images from their files, as torch's and timm's loaders want a data set."""

    def __init__(self, samples: Sequence[Sample], labels: Columns, transform: Any) -> None:
        self.samples, self.labels, self.transform = samples, labels, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import Image

        with Image.open(self.samples[row].file) as image:
            picture = image.convert("RGB")
        return (self.transform(picture) if self.transform else picture), int(self.labels[row])


def plain_batches(store: FeatureStore, train: Any, options: argparse.Namespace) -> Callable[[], Iterator[Any]]:
    """What most people write: torchvision transforms in a torch DataLoader with a worker a core."""
    import torch
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(options.speed_size, scale=(0.64, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(store.backbone.mean, store.backbone.std),
        ]
    )
    samples, labels = train
    data: Any = Files(samples, labels, transform)
    loader = torch.utils.data.DataLoader(
        data, options.settings.batch_size, shuffle=True, num_workers=options.workers, drop_last=True,
        persistent_workers=options.workers > 0, pin_memory=store.backbone.device.type == "cuda",
    )  # fmt: skip
    return lambda: iter(loader)


def timm_batches(store: FeatureStore, train: Any, options: argparse.Namespace) -> Callable[[], Iterator[Any]]:
    """timm's loader with the augmentation that its training script takes by default, prefetched to the device."""
    from timm.data import create_loader  # type: ignore[attr-defined]

    class Readable(Files):  # timm sets ``transform`` itself
        pass

    samples, labels = train
    data: Any = Readable(samples, labels, None)
    loader = create_loader(
        data, (3, options.speed_size, options.speed_size), options.settings.batch_size,
        is_training=True, num_workers=options.workers, mean=store.backbone.mean, std=store.backbone.std,
        device=store.backbone.device, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.0,
        persistent_workers=options.workers > 0, use_prefetcher=store.backbone.device.type == "cuda",
    )  # fmt: skip
    return lambda: iter(loader)


# --- showing


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two splits, a small project, few images for speed")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone (may be given several times)")
    parser.add_argument("--cifar10n", type=Path, default=os.environ.get("CURATION_CIFAR10N"), help="zip of CIFAR-10N")
    parser.add_argument("--splits", type=int, default=5, help="how many splits")
    parser.add_argument("--size", type=int, default=224, help="side in pixels of the ELPV images")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="a timm model")
    parser.add_argument("--weights", type=Path, help="its weights, .safetensors or .pth")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--epochs", type=int, default=0, help="epochs of the speed part (2 on a CPU, 10 on CUDA)")
    parser.add_argument("--images", type=int, default=0, help="images of the speed part (all, or 256 with --quick)")
    parser.add_argument("--limit", type=int, help="ELPV images of the time part")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that load images")
    parser.add_argument("--cache", type=Path, help="keep features here for the next time")
    options = parser.parse_args(arguments)
    from curation.backbone import pick_device

    cuda = pick_device(options.device).type == "cuda"
    options.splits = min(2, options.splits) if options.quick else options.splits
    options.limit = 800 if options.quick and options.limit is None else options.limit
    options.images = options.images or (256 if options.quick or not cuda else None)
    options.epochs = options.epochs or (10 if cuda else 2)
    options.speed_size = options.size if cuda else 112
    options.settings = TrainingSettings()
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts; 1 where a claim does not hold."""
    options = read_options(arguments)
    wanted = options.only or [part for part in PARTS if part != "noise" or options.cifar10n]
    if not options.only and "noise" not in wanted:
        print("without --cifar10n FILE nothing is said of noisy labels")
    work = {"accuracy": accuracy, "noise": noise, "time": time_of_iterations, "speed": speed}
    written: dict[str, Any] = {"device": describe_device(options.device)}
    claims: Claims = []
    with tempfile.TemporaryDirectory() as temporary:
        options.cache = options.cache or Path(temporary)
        for part in wanted:
            print(f"--- {part}, {written['device']}", flush=True)
            written[part], more = work[part](options)
            claims += more
    return conclude(claims, written, options.json)


if __name__ == "__main__":
    sys.exit(main())
