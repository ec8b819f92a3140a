"""How well weak slices are found: slices are planted in real images, and ours is held against what a user would pick.

A share of the images is darkened, blurred, tilted, covered with glare or shrunk, a rare subgroup gets wrong labels, or
a coloured frame that goes with one class is put around another. Files are altered in their own size and seen and judged
as `curate run` does it: features of three views, and each image judged by models that have not seen its label (those of
held-out images help to judge train images; the search sees train images alone). Everyone gets the same features,
predictions and errors of the train rows; what they report is judged on held-out rows. Data: ``--cifar10n`` or the
variable CURATION_CIFAR10N names a zip with ``train.csv`` that holds ``path`` and ``clean_label``; ``--elpv`` adds the
photovoltaic cells of package elpv-dataset.

    python benchmarks/slices.py --cifar10n cifar10n.zip --elpv --seeds 3 --json slices.json

A planted slice counts where it has at least 30 held-out rows and at least twice the error of the rest; the others are
reported beside. So is how many of those that count the search reports when it looks for nothing but what was planted:
the others can't be told from chance by their train rows. A slice is found where, of the ten most typical held-out
members of one of the first three slices, at least half are planted, and that slice holds a third of it. ``--images``
takes the first so many of CIFAR-10N. ``--quick`` takes 2,000, what is altered most, slices of 5 and 10 % (smaller ones
have too few held-out rows), one seed and 25 runs with nothing planted. What is computed of images, altered ones among
them, and how these are judged is kept in ``--cache``. Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from benchmarks.altered import ALTERED
from benchmarks.claims import conclude
from benchmarks.images import Columns, Features, Floats, Mask, cifar, elpv
from benchmarks.planting import HELD_OUT, Planted, Subject, plant
from curation.config import SliceSettings
from curation.neighbours import group_near_duplicates
from curation.properties import PROPERTIES
from curation.records import Classes
from curation.scaling import principal_components, scale
from curation.scoring import label_quality, score_out_of_sample
from curation.slices import find_slices, looks_columns, typical_rows

if TYPE_CHECKING:
    import pandas as pd


QUICK = 2_000
SIZES = (0.01, 0.02, 0.05, 0.10)
NULL_RUNS, QUICK_NULL_RUNS = 100, 25
#: Rows and properties of the search that is timed.
WIDE = (100_000, 30)
BARS = {"found": 0.9, "precision at 10": 0.9, "quiet": 0.95, "seconds": 60.0}
OURS = "ours"


@dataclass(frozen=True)
class Case:
    """A planted data set, judged out of sample, and which rows are held out; ``space`` are the views, scaled."""

    table: pd.DataFrame
    looks: Features
    space: Features
    probabilities: Floats
    labels: Columns
    wrong: Mask
    held: Mask

    @property
    def doubts(self) -> Floats:
        """One minus the probability of each label."""
        return 1 - label_quality(self.probabilities, self.labels)

    @cached_property
    def features(self) -> Features:
        """The 256 main directions of the views."""
        return principal_components(self.space, 256, 0)


@dataclass(frozen=True)
class Figures:
    """How a contender did on one planted slice."""

    data: str
    kind: str
    strength: float
    size: float
    seed: int
    contender: str
    counts: bool
    told: bool
    held_out: int
    error_rate: float
    rest_error_rate: float
    found: bool
    precision_at_10: float
    first: str
    reported: int
    seconds: float


#: Share of wrong labels in the rare subgroup.
WRONG_LABELS = (0.4, 0.7)


# --- judging what was planted


def judged(subject: Subject, planted: Planted, space: Features, seed: int) -> Floats:
    """Probabilities of all rows by the toolkit's scorer, each row by models without it and its near-duplicates."""
    digest = hashlib.sha256(repr((seed, len(subject.images.names))).encode())
    for array in (space, planted.labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    file = subject.cache / f"judged-{digest.hexdigest()[:16]}.npy"
    if not file.exists():
        groups = group_near_duplicates(planted.seen.looks)
        found = score_out_of_sample(
            planted.seen.views, planted.labels, len(subject.images.names), groups=groups, seed=seed,
            widths=subject.eyes.views.widths,
        )  # fmt: skip
        np.save(file, found.probabilities)
    return np.asarray(np.load(file), dtype=np.float64)


def judge(subject: Subject, planted: Planted, seed: int) -> Case:
    """The errors of all rows as `curate run` counts them, and which rows are held out from the search."""
    import pandas as pd

    held = np.random.default_rng([seed, 1]).random(len(planted.labels)) < HELD_OUT
    space = scale(planted.seen.views, subject.eyes.views.widths)
    probabilities = judged(subject, planted, space, seed)
    table = pd.DataFrame(planted.seen.properties, columns=list(PROPERTIES)).assign(site=planted.site)
    wrong = probabilities.argmax(axis=1) != planted.labels
    return Case(table, planted.seen.looks, space, probabilities, planted.labels, wrong, held)


# --- contenders: slices in order, each as rows of all images, the most typical first


def ours(case: Case, classes: Classes, seed: int) -> list[tuple[str, Columns]]:
    """The project's own search on train rows; its conditions choose among the held-out rows."""
    train = np.flatnonzero(~case.held)
    labels = [classes.ids[column] for column in case.labels]
    found = find_slices(
        case.table.iloc[train], case.wrong[train], [str(row) for row in train],
        settings=SliceSettings(), classes=classes, labels=[labels[row] for row in train],
        looks=case.looks[train], doubts=case.doubts[train], seed=seed,
    )  # fmt: skip
    table = case.table.assign(**looks_columns(found, case.looks[train], [str(row) for row in train], case.looks))
    return [(s.name, typical_rows(s, table, labels)) for s in found]


def domino_like(case: Case, classes: Classes, seed: int) -> list[tuple[str, Columns]]:
    """A mixture of Gaussians over embedding, label and prediction (as Domino does), components by their error rate."""
    from sklearn.mixture import GaussianMixture

    given = np.eye(len(classes))[case.labels]
    space = case.features[:, :32] / case.features[:, :32].std()
    inputs = np.concatenate([space, 10 * given, 10 * case.probabilities], axis=1)
    train = ~case.held
    mixture = GaussianMixture(15, covariance_type="diag", random_state=seed, reg_covar=1e-3).fit(inputs[train])
    shares = mixture.predict_proba(inputs)
    return by_error_rate(shares.argmax(axis=1), shares.max(axis=1), case)


def sliceguard_like(case: Case, classes: Classes, seed: int) -> list[tuple[str, Columns]]:
    """Clusters of embeddings alone, those whose error rate lies ten points above the average, worst first."""
    from sklearn.cluster import KMeans

    train = ~case.held
    space = case.features[:, :64]
    fitted = KMeans(max(2, int(train.sum()) // 80), n_init=1, random_state=seed).fit(space[train])
    distance = fitted.transform(space)
    found = by_error_rate(distance.argmin(axis=1), -distance.min(axis=1), case)
    usual = case.wrong[train].mean()
    return [(name, rows) for name, rows in found if case.wrong[rows][train[rows]].mean() > usual + 0.1]


def by_error_rate(group: Columns, typical: Floats, case: Case) -> list[tuple[str, Columns]]:
    """Groups of at least 20 train rows, the highest error rate first; rows by how typical they are."""
    train = ~case.held
    rated = []
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        if train[rows].sum() >= 20:
            rate = float(case.wrong[rows][train[rows]].mean())
            rated.append((rate, f"group {number}", rows[np.argsort(-typical[rows], kind="stable")]))
    return [(name, rows) for _, name, rows in sorted(rated, key=lambda r: -r[0])]


def cleanlab_group(case: Case, classes: Classes, seed: int) -> list[tuple[str, Columns]]:
    """cleanlab's underperforming group; it is given the held-out rows too, since it names rows and no rule."""
    from cleanlab import Datalab

    lab = Datalab({"y": case.labels}, label_name="y", verbosity=0)
    with open(os.devnull, "w") as nowhere:
        before, sys.stdout = sys.stdout, nowhere
        try:
            lab.find_issues(
                features=case.features[:, :64].astype(np.float64), pred_probs=case.probabilities,
                issue_types={"underperforming_group": {}},
            )  # fmt: skip
        finally:
            sys.stdout = before
    flagged = lab.get_issues("underperforming_group")["is_underperforming_group_issue"].to_numpy(dtype=bool)
    return [("underperforming group", np.flatnonzero(flagged))] if flagged.any() else []


CONTENDERS: Mapping[str, Callable[[Case, Classes, int], list[tuple[str, Columns]]]] = {
    OURS: ours,
    "Domino-like mixture": domino_like,
    "sliceguard-like clusters": sliceguard_like,
    "cleanlab underperforming_group": cleanlab_group,
}


# --- measuring


def could_be_told(case: Case, inside: Mask, classes: Classes) -> bool:
    """Whether the search reports the planted slice, by itself or within a class, where it looks for nothing else."""
    import pandas as pd

    train = np.flatnonzero(~case.held)
    labels = [classes.ids[column] for column in case.labels[train]]
    table = pd.DataFrame({"planted": np.where(inside[train], "yes", "no")})
    ids = [str(row) for row in train]
    found = find_slices(
        table, case.wrong[train], ids, settings=SliceSettings(), classes=classes, labels=labels,
        doubts=case.doubts[train],
    )  # fmt: skip
    return any((c.field, c.value) == ("planted", "yes") for s in found for c in s.conditions)


def figures_of(case: Case, inside: Mask, found: Sequence[tuple[str, Columns]], seconds: float, **about: Any) -> Figures:
    """Hold what was reported against what was planted, on held-out rows."""
    held_in, held_out = case.held & inside, case.held & ~inside
    rate, rest = float(case.wrong[held_in].mean()), float(case.wrong[held_out].mean())
    best, hit = 0.0, False
    for _, rows in found[:3]:
        rows = rows[case.held[rows]]
        if not len(rows):
            continue
        precision = float(inside[rows[:10]].mean())
        best = max(best, precision)
        hit |= precision >= 0.5 and inside[rows].sum() >= held_in.sum() / 3
    return Figures(
        **about, counts=bool(held_in.sum() >= 30 and rate >= 2 * rest), held_out=int(held_in.sum()),
        error_rate=rate, rest_error_rate=rest, found=bool(hit), precision_at_10=best,
        first="; ".join(name for name, _ in found[:3]), reported=len(found), seconds=seconds,
    )  # fmt: skip


def planted_runs(subject: Subject, seeds: Sequence[int], contenders: Sequence[str], quick: bool) -> Iterator[Figures]:
    """All kinds, strengths, sizes and seeds, by every contender."""
    images = subject.images
    classes = Classes(tuple(f"c{n}" for n in range(len(images.names))), images.names)
    kinds = {kind: strengths for kind, (_, strengths) in ALTERED.items()}
    kinds |= {"wrong labels, named": WRONG_LABELS, "wrong labels, look-alikes": WRONG_LABELS}
    for kind, strengths in kinds.items():
        for strength in strengths[-1:] if quick else strengths:
            for size in SIZES[2:] if quick else SIZES:
                for seed in seeds:
                    rng = np.random.default_rng([seed, round(1000 * size), round(1000 * strength)])
                    planted = plant(subject, kind, strength, size, rng)
                    case = judge(subject, planted, seed)
                    told = could_be_told(case, planted.inside, classes)
                    for contender in contenders:
                        began = time.perf_counter()
                        found = CONTENDERS[contender](case, classes, seed)
                        yield figures_of(
                            case, planted.inside, found, time.perf_counter() - began, data=images.name, kind=kind,
                            strength=strength, size=size, seed=seed, contender=contender, told=told,
                        )  # fmt: skip


def quiet_runs(subject: Subject, runs: int, contenders: Sequence[str]) -> dict[str, float]:
    """Share of runs in which each contender reports nothing: errors and doubts are dealt at random among all images."""
    images = subject.images
    classes = Classes(tuple(f"c{n}" for n in range(len(images.names))), images.names)
    site = np.random.default_rng(0).choice([f"s{n}" for n in range(8)], len(images.labels))
    inside = np.zeros(len(images.labels), dtype=np.bool_)
    case = judge(subject, Planted(subject.plain, images.labels, inside, site), 0)
    quiet = dict.fromkeys(contenders, 0)
    every, other = np.arange(len(case.labels)), np.where(case.labels == 0, 1, 0)
    for run in range(runs):
        drawn = np.random.default_rng([run, 5]).permutation(every)
        wrong, doubts = case.wrong[drawn], case.doubts[drawn]
        probabilities = np.repeat(np.where(wrong, 0, doubts / (len(classes) - 1))[:, None], len(classes), axis=1)
        probabilities[every, other] += np.where(wrong, doubts, 0)
        probabilities[every, case.labels] = 1 - doubts
        dealt = replace(case, probabilities=probabilities, wrong=wrong)
        for contender in contenders:
            quiet[contender] += not CONTENDERS[contender](dealt, classes, run)
    return {contender: count / runs for contender, count in quiet.items()}


def search_seconds(rows: int, columns: int) -> float:
    """Seconds that the search takes on this many images and given properties, a tenth wrong, one slice planted."""
    import pandas as pd

    rng = np.random.default_rng(0)
    table = pd.DataFrame({f"p{n}": rng.normal(size=rows) for n in range(columns)})
    labels = [f"c{n}" for n in rng.integers(0, 10, rows)]
    weak = np.where(table["p3"] < -1.9, 0.4, 0.1)
    doubts = rng.beta(4 * weak, 4 * (1 - weak))
    classes = Classes(tuple(f"c{n}" for n in range(10)), tuple(f"class {n}" for n in range(10)))
    began = time.perf_counter()
    found = find_slices(
        table, doubts > 0.5, [str(row) for row in range(rows)], settings=SliceSettings(), classes=classes,
        labels=labels, doubts=doubts,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    if not found or found[0].conditions[0].field != "p3":
        raise SystemExit("the timed search did not find the slice that was planted in p3")
    return seconds


def summary(
    figures: Sequence[Figures], quiet: Mapping[str, Mapping[str, float]], seconds: float
) -> list[dict[str, Any]]:
    """Claims against their bars."""
    mine = [f for f in figures if f.contender == OURS and f.counts]
    values = {
        "found": float(np.mean([f.found for f in mine])) if mine else 0.0,
        "precision at 10": float(np.mean([f.precision_at_10 for f in mine])) if mine else 0.0,
        "quiet": min(shares[OURS] for shares in quiet.values()),
        "seconds": seconds,
    }
    words = {
        "found": f"planted slice among the first three, {len(mine)} cases that count",
        "precision at 10": "precision at 10 of the planted slice on held-out rows, mean of the cases that count",
        "quiet": "runs with nothing planted in which nothing is reported, the worse data set",
        "seconds": f"seconds to search {WIDE[0]:,} images by {WIDE[1]} properties, at most",
    }
    return [
        {
            "name": words[key], "value": round(value, 4), "bar": BARS[key],
            "holds": value <= BARS[key] if key == "seconds" else value >= BARS[key],
        }
        for key, value in values.items()
    ]  # fmt: skip


def print_table(figures: Sequence[Figures], quiet: Mapping[str, Mapping[str, float]]) -> None:
    """Shares found and precision at 10 by data set, kind and contender."""
    contenders = list(dict.fromkeys(f.contender for f in figures))
    mine = [f for f in figures if f.contender == OURS and f.counts]
    told = [f.found for f in mine if f.told]
    print(f"\n{len(told)} of {len(mine)} cases that count can be told from chance by their train rows:")
    print(f"of these {sum(told)} are found by ours among the first three")
    print(f"\n{'planted':44}{'cases':>6}  " + "".join(f"{c:>32}" for c in contenders))
    for data in dict.fromkeys(f.data for f in figures):
        for counts in (True, False):
            for kind in dict.fromkeys(f.kind for f in figures):
                chosen = [f for f in figures if (f.data, f.kind, f.counts) == (data, kind, counts)]
                if chosen:
                    name = f"{data}, {kind}" + ("" if counts else " (beside)")
                    print(
                        f"{name:44}{len(chosen) // len(contenders):6}  " + "".join(_cell(chosen, c) for c in contenders)
                    )
    for data, shares in quiet.items():
        print(f"{data + ', nothing planted: quiet':52}" + "".join(f"{shares[c]:>32.2f}" for c in contenders))


def _cell(figures: Sequence[Figures], contender: str) -> str:
    own = [f for f in figures if f.contender == contender]
    found, precision = np.mean([f.found for f in own]), np.mean([f.precision_at_10 for f in own])
    return f"{found:>16.2f} found, P@10 {precision:.2f}"


# --- running


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cifar10n", type=Path, default=os.environ.get("CURATION_CIFAR10N"), help="zip of CIFAR-10N")
    parser.add_argument("--elpv", action="store_true", help="ELPV (package elpv-dataset); also where no zip is named")
    parser.add_argument("--images", type=int, help="the first so many of CIFAR-10N (all)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of each planted slice (3)")
    parser.add_argument("--first-seed", type=int, default=0, help="the first of the draws (0)")
    parser.add_argument("--only-ours", action="store_true", help="leave the contenders out")
    parser.add_argument("--null-runs", type=int, default=NULL_RUNS, help=f"runs with nothing planted ({NULL_RUNS})")
    parser.add_argument("--quick", action="store_true", help="less of everything: see above")
    parser.add_argument("--cache", type=Path, help="folder that keeps features (a temporary one)")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and the claims, write JSON; 1 where a claim does not hold."""
    options = read_options(arguments)
    contenders = [OURS] if options.only_ours else list(CONTENDERS)
    rows = options.images or (QUICK if options.quick else None)
    null_runs = min(options.null_runs, QUICK_NULL_RUNS) if options.quick else options.null_runs
    figures: list[Figures] = []
    quiet: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        sets = [cifar(options.cifar10n, rows, cache)] if options.cifar10n else []
        sets += [elpv(cache)] if options.elpv or not sets else []
        for images, eyes in sets:
            subject = Subject(images, eyes, cache)
            seeds = range(options.first_seed, options.first_seed + (1 if options.quick else options.seeds))
            for row in planted_runs(subject, seeds, contenders, options.quick):
                figures.append(row)
                print_row(row)
            heard = [c for c in contenders if c in (OURS, "sliceguard-like clusters", "cleanlab underperforming_group")]
            few = {c: quiet_runs(subject, min(null_runs, 10), [c])[c] for c in heard if c != OURS}
            quiet[images.name] = dict.fromkeys(contenders, float("nan")) | few
            quiet[images.name] |= quiet_runs(subject, null_runs, [OURS])
    claims = summary(figures, quiet, search_seconds(*WIDE))
    print_table(figures, quiet)
    return conclude(claims, {"planted": [asdict(f) for f in figures], "quiet": quiet}, options.json)


def print_row(row: Figures) -> None:
    """One line a case, as it comes."""
    mark = "found" if row.found else "-"
    print(
        f"{row.data} {row.kind} {row.strength:g} size {row.size:.0%} seed {row.seed} {row.contender}: {mark}, P@10 "
        f"{row.precision_at_10:.1f}, error {row.error_rate:.2f} rest {row.rest_error_rate:.2f} ({row.held_out})"
        f"{'' if row.counts else ' beside'}, {row.seconds:.1f} s: {row.first}", flush=True,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
