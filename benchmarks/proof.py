"""Whether the proof keeps its word: coverage of its intervals over many simulated projects with real human errors.

A project is drawn from images whose truth is known: 2,000 to train on, 500 to measure on, the rest hidden as the
truth. Its labels are flagged, reviewed and decided as the toolkit does it, on frozen features with heads in closed
form. Answers are either right (``perfect``) or those of real people (``human``): where the given labels are those of
one CIFAR-10N annotator, the other two answer, never the answer key; where CIFAR-10H counts what some 51 people said of
a test image, three of these are drawn, of whom one gives the label.

    python benchmarks/proof.py --cifar10n cifar10n.zip --elpv --json proof.json
    python benchmarks/proof.py --cifar10n cifar10n.zip --projects 200 --only human --part 0/4 --json part0.json

``--projects`` are so many for each kind of answers (1,000; 60 with ``--quick``); ``--part i/n`` runs every n-th of
them, so that a long run can be divided, and ``--merge FILE...`` puts the parts' JSON together. Without data it
measures on scikit-learn's digits with planted errors and drawn people. Exit code 1 where a claim does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from benchmarks.cases import cifar_table, elpv_cases
from benchmarks.claims import conclude
from benchmarks.projects import (
    COMPONENTS,
    Columns,
    Features,
    Pool,
    Project,
    clean_accuracy,
    digits_pools,
    pool_from_counts,
    pools_from_cifar,
    reduced,
    right_rows,
)
from curation.audit import LEAST_YIELD, wilson_interval
from curation.copies import copy_weight
from curation.credit import TrainingSet, causes, credit_actions
from curation.evidence import DRAWS, doubt_of
from curation.gain import paired_interval
from curation.scaling import principal_components, scale

PROJECTS, QUICK = 1_000, 60
#: Reviews a round.
BATCH = 150
ROUNDS = 2
#: The stop rule is watched after so many rounds, in which all labels are reviewed.
STOP_ROUNDS = 20
RULES = ("ours", "cleanlab's count", "100", "200", "400", "800")


@dataclass(frozen=True)
class Outcome:
    """One project at its end: labels still wrong and gain, each with estimate, interval and truth."""

    pool: str
    answers: str
    seed: int
    reviews: int
    wrong_at_first: int
    wrong: int
    wrong_estimate: float
    wrong_low: float
    wrong_high: float
    changes_made: int
    gain: float
    gain_estimate: float
    gain_low: float
    gain_high: float
    gain_as_given: float
    gain_as_given_low: float
    gain_as_given_high: float
    null_low: float
    null_high: float
    seconds: float


# --- one project


def run_project(pool: Pool, answers: str, seed: int) -> Outcome:
    """One project from import to report."""
    began = time.perf_counter()
    project = Project(pool, answers, seed)
    for number in range(ROUNDS):
        project.score()
        project.review(BATCH)
        project.decide(DRAWS if number == ROUNDS - 1 else 0)
    wrong, low, high = project.wrong_estimate()
    before, after = (right_rows(project, labels) for labels in (project.given, project.labels))
    gain = compared(before, after, project, pool.truth)
    as_given = compared(before, after, project, pool.given)
    nulled = swapped(project) if answers == "human" else resampled(project)
    was, now = (right_rows(project, labels, rows) for labels, rows in nulled)
    null = compared(was, now, project, pool.truth)
    return Outcome(
        pool.name, answers, seed, project.reviews,
        int((project.given != project.truth).sum()), int((project.labels != project.truth).sum()), wrong, low, high,
        int((project.labels != project.given).sum()), gain[0], *gain[1:], *as_given[1:], *null[2:],
        time.perf_counter() - began,
    )  # fmt: skip


def compared(before: Columns, after: Columns, project: Project, labels: Columns) -> tuple[float, float, float, float]:
    """The gain on the hidden truth; its estimate and interval on the holdout, labeled by ``labels``."""
    hidden, held, truth = project.hidden, project.held, project.pool.truth
    gain = float((after[hidden] == truth[hidden]).mean() - (before[hidden] == truth[hidden]).mean())
    was, now = before[held] == labels[held], after[held] == labels[held]
    gained, lost = int((now & ~was).sum()), int((was & ~now).sum())
    return (gain, (gained - lost) / len(held), *paired_interval(gained, lost, len(held)))


def swapped(project: Project) -> list[tuple[Columns, Columns | None]]:
    """Nothing to gain: a tenth of the labels, at random, by another person who errs as often."""
    labels = project.given.copy()
    chosen = project.rng.choice(len(labels), len(labels) // 10, replace=False)
    labels[chosen] = project.people[chosen, 0]
    return [(project.given, None), (labels, None)]


def resampled(project: Project) -> list[tuple[Columns, Columns | None]]:
    """Nothing to gain: right labels, and two draws of the rows to train on."""
    size = len(project.truth)
    return [(project.truth, project.rng.integers(size, size=size)) for _ in range(2)]


# --- when to stop


@dataclass(frozen=True)
class Reviewed:
    """A project reviewed to its end: after each round the reviews, clean accuracy, and what the next ones promise.

    ``promised`` is how many labels a review of the next 50 is expected to put right; ``counted`` how many issues
    cleanlab's own filter counts before the first review.
    """

    answers: str
    seed: int
    reviews: tuple[int, ...]
    accuracy: tuple[float, ...]
    promised: tuple[float, ...]
    counted: int


def run_path(pool: Pool, answers: str, seed: int) -> Reviewed:
    """Review a project in rounds until every label was looked at."""
    from cleanlab.filter import find_label_issues

    project = Project(pool, answers, seed)
    reviews, accuracy, promised = [0], [clean_accuracy(project, project.labels)], [1.0]
    counted = len(
        find_label_issues(
            project.given, project.judge.left_out(project.given),
            return_indices_ranked_by="self_confidence", n_jobs=1,
        )
    )  # fmt: skip
    for _ in range(STOP_ROUNDS):
        project.score()
        project.review(round(len(project.given) / STOP_ROUNDS), beyond=True)
        project.decide()
        reviews.append(project.reviews)
        accuracy.append(clean_accuracy(project, project.labels))
        promised.append(promise(project))
    return Reviewed(answers, seed, tuple(reviews), tuple(accuracy), tuple(promised), counted)


def promise(project: Project) -> float:
    """Labels put right by a review of the next 50, as ``curation.audit.recommend`` expects."""
    assert project.beliefs is not None
    left = np.flatnonzero(project.said == 0)
    order = left[np.lexsort((project.quality[left], ~project.flags[left]))][:50]
    rates = project.beliefs.wrong_rate(doubt_of(project.confidence[order]), project.flags[order])
    return float(rates.mean() * project.beliefs.finds.mean()) if len(order) else 0.0


def stopped(path: Reviewed, rule: str) -> int:
    """The round after which a rule stops: ``ours``, ``cleanlab's count``, or a number of reviews."""
    if rule == "ours":
        return next((n for n, promised in enumerate(path.promised) if promised < LEAST_YIELD), len(path.reviews) - 1)
    budget = path.counted if rule == "cleanlab's count" else int(rule)
    return max(n for n, reviews in enumerate(path.reviews) if n == 0 or reviews <= budget)


def stops_of(paths: Sequence[Reviewed]) -> list[dict[str, Any]]:
    """What each rule loses of the gain at the best stopping point, and which share of its reviews it takes.

    The best stopping point is the round after which the projects of a kind have gained most on their mean. By
    hindsight every project has a better one of its own, but that is the luckiest of a dozen noisy accuracies, which no
    rule reaches, not even to review every label; what is lost against it stands beside.
    """
    rows = []
    for kind in dict.fromkeys(p.answers for p in paths):
        own = [p for p in paths if p.answers == kind]
        gains = np.array([p.accuracy for p in own]) - np.array([p.accuracy[:1] for p in own])
        reviews = np.array([p.reviews for p in own])
        best = int(gains.mean(axis=0).argmax())
        drawn = np.random.default_rng(0).integers(len(own), size=(DRAWS, len(own)))
        for rule in RULES:
            at = np.array([stopped(p, rule) for p in own])
            gained, taken = gains[np.arange(len(own)), at], reviews[np.arange(len(own)), at]
            lost = 1 - gained[drawn].mean(axis=1) / gains[drawn, best].mean(axis=1)
            rows.append(
                {
                    "answers": kind, "rule": rule, "projects": len(own), "reviews": float(taken.mean()),
                    "lost": float(1 - gained.mean() / gains[:, best].mean()),
                    "lost_interval": np.quantile(lost, [0.025, 0.975]).tolist(),
                    "lost_by_hindsight": float(1 - gained.mean() / gains.max(axis=1).mean()),
                    "of_best_reviews": float(taken.mean() / reviews[:, best].mean()),
                    "of_all_reviews": float(taken.mean() / reviews[:, -1].mean()),
                    "best_reviews": float(reviews[:, best].mean()), "best_gain": float(gains[:, best].mean()),
                }
            )  # fmt: skip
    return rows


# --- credit


@dataclass(frozen=True)
class Named:
    """A planted case and the causes that the credit report named."""

    case: str
    seed: int
    planted: tuple[str, ...]
    named: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Dimmed:
    """CIFAR-10N images twice: as they are, and made dark; features (images, d); columns of labels (images,)."""

    plain: Features
    dark: Features
    truth: Columns
    noisy: Columns
    another: Columns


CASES = {
    "relabeling": ("relabeling",), "augmentation": ("augmentation",), "both": ("augmentation", "relabeling"),
    "neither": (),
}  # fmt: skip


def run_credit(images: Dimmed, case: str, seed: int) -> Named:
    """A project in which this and nothing else helps, and the causes that are named.

    Where relabeling helps, the labels are CIFAR-10N's worst, of which a third is put right; elsewhere they are right,
    and relabeling exchanges a twentieth of them for what a person said at random, which is seldom better. Where
    augmentation helps, two fifths of the holdout are dark and no image of train is; it adds dark copies of half of
    train. Elsewhere the copies are added to no end.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images.truth))
    rows, held = order[:2_000], order[2_000:3_500]
    planted = CASES[case]
    given, relabeled = images.truth[rows].copy(), images.truth[rows].copy()
    if "relabeling" in planted:
        given = images.noisy[rows].copy()
        wrong = np.flatnonzero(given != images.truth[rows])
        keep = rng.permutation(wrong)[len(rows) // 3 :]
        relabeled[keep] = given[keep]
    else:
        some = rng.permutation(len(rows))[: len(rows) // 20]
        given[some], relabeled[some] = images.noisy[rows][some], images.another[rows][some]
    dark = rng.random(len(held)) < (0.4 if "augmentation" in planted else 0.0)
    measured = TrainingSet(np.where(dark[:, None], images.dark[held], images.plain[held]), images.truth[held])
    copied = rng.permutation(len(rows))[: len(rows) // 2]
    features = np.concatenate([images.plain[rows], images.dark[rows[copied]]])

    def with_copies(labels: Columns) -> TrainingSet:
        counts = np.concatenate([np.ones(len(rows)), np.full(len(copied), copy_weight(len(rows), len(copied)))])
        return TrainingSet(features, np.concatenate([labels, labels[copied]]), counts)

    credits = credit_actions(
        TrainingSet(images.plain[rows], given),
        {
            "relabeling": TrainingSet(images.plain[rows], relabeled), "augmentation": with_copies(given),
            "all": with_copies(relabeled),
        },
        measured, int(images.truth.max()) + 1,
    )  # fmt: skip
    return Named(case, seed, planted, tuple(sorted(causes(credits))))


def dimmed_images(archive: Path, cache: Path, count: int = 4_000) -> Dimmed:
    """Features at 112 px of the first images, and of the same at a fifth of their brightness."""
    import pandas as pd
    from PIL import Image

    kept = cache / f"dimmed-{count}.npz"
    table = cifar_table(archive, cache)
    images = pd.read_csv(table, dtype=str)[:count]
    if not kept.exists():
        from curation.backbone import load_backbone
        from curation.features import FeatureStore
        from curation.images import PixelCache

        store = FeatureStore(load_backbone("tf_efficientnet_lite0", size=112), PixelCache(cache, 112), cache)
        pixels = np.stack([np.asarray(Image.open(table.parent / p).resize((112, 112))) for p in images["path"]])
        both = np.concatenate([store.encode(pixels)[0], store.encode((0.2 * pixels).astype(np.uint8))[0]])
        reduced_both = principal_components(scale(both), COMPONENTS, 0)
        np.savez(kept, plain=reduced_both[:count], dark=reduced_both[count:])
    features = np.load(kept)
    names = sorted(set(images["clean_label"]))
    columns = [
        np.array([names.index(label) for label in images[name]], dtype=np.int64)
        for name in ("clean_label", "worse_label", "random_label2")
    ]
    return Dimmed(features["plain"], features["dark"], *columns)


# --- claims


def share_with_interval(hits: Sequence[bool]) -> tuple[float, tuple[float, float]]:
    """A share and its Wilson interval."""
    return float(np.mean(hits)), wilson_interval(int(np.sum(hits)), len(hits))


def claims_of(outcomes: Sequence[Outcome], paths: Sequence[Reviewed], named: Sequence[Named]) -> list[dict[str, Any]]:
    """What must hold, for each kind of answers."""
    claims: list[dict[str, Any]] = []

    def claim(name: str, hits: Sequence[bool], bar: Any, holds: Any) -> None:
        value, ci = share_with_interval(hits)
        held = bool(holds(value, ci))
        claims.append({"name": name, "value": value, "ci": ci, "bar": bar, "holds": held, "projects": len(hits)})

    def near(value: float, ci: tuple[float, float]) -> bool:
        return 0.93 <= value <= 0.97

    for kind in dict.fromkeys(o.answers for o in outcomes):
        own = [o for o in outcomes if o.answers == kind]
        claim(f"{kind}: the interval of labels still wrong holds the truth",
              [o.wrong_low <= o.wrong <= o.wrong_high for o in own], [0.93, 0.97], near)  # fmt: skip
        claim(f"{kind}: the interval of the gain holds the truth",
              [o.gain_low <= o.gain <= o.gain_high for o in own], [0.93, 0.97], near)  # fmt: skip
        claim(f"{kind}: a gain is claimed where there is none",
              [o.null_low > 0 for o in own], 0.05, lambda value, ci: ci[1] <= 0.05)  # fmt: skip
        claim(f"{kind}: reviewing made the labels worse",
              [o.wrong > o.wrong_at_first for o in own], 0.05, lambda value, ci: value <= 0.05)  # fmt: skip
    for row in stops_of(paths):
        if row["rule"] == "ours":
            for what, bar in (("lost", 0.1), ("of_best_reviews", 0.5)):
                words = {
                    "lost": "share of the best gain lost by stopping",
                    "of_best_reviews": "reviews over the best's",
                }
                ci = row["lost_interval"] if what == "lost" else None
                claims.append({"name": f"{row['answers']}: {words[what]}", "value": row[what], "bar": bar,
                               "ci": ci, "holds": bool(row[what] <= bar), "projects": row["projects"]})  # fmt: skip
    if named:
        claim("credit: the right cause is named", [n.named == n.planted for n in named], 0.9,
              lambda value, ci: value >= 0.9)  # fmt: skip
    return claims


def summary_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Means by pool and kind of answers, with where the truth lay when an interval missed it."""
    rows = []
    for pool, kind in dict.fromkeys((o.pool, o.answers) for o in outcomes):
        own = [o for o in outcomes if (o.pool, o.answers) == (pool, kind)]

        def mean(value: Any, own: Sequence[Outcome] = own) -> float:
            return float(np.mean([value(o) for o in own]))

        rows.append(
            {
                "pool": pool, "answers": kind, "projects": len(own), "reviews": mean(lambda o: o.reviews),
                "wrong_at_first": mean(lambda o: o.wrong_at_first), "wrong": mean(lambda o: o.wrong),
                "wrong_estimate": mean(lambda o: o.wrong_estimate),
                "wrong_interval": [mean(lambda o: o.wrong_low), mean(lambda o: o.wrong_high)],
                "wrong_covered": mean(lambda o: o.wrong_low <= o.wrong <= o.wrong_high),
                "wrong_above_interval": mean(lambda o: o.wrong > o.wrong_high),
                "wrong_below_interval": mean(lambda o: o.wrong < o.wrong_low),
                "gain": mean(lambda o: o.gain), "gain_estimate": mean(lambda o: o.gain_estimate),
                "gain_width": mean(lambda o: o.gain_high - o.gain_low),
                "gain_covered": mean(lambda o: o.gain_low <= o.gain <= o.gain_high),
                "gain_shown": mean(lambda o: o.gain_low > 0),
                "gain_on_holdout_as_given": mean(lambda o: o.gain_as_given),
                "gain_as_given_covered": mean(lambda o: o.gain_as_given_low <= o.gain <= o.gain_as_given_high),
                "null_claimed": mean(lambda o: o.null_low > 0),
                "labels_got_worse": mean(lambda o: o.wrong > o.wrong_at_first), "seconds": mean(lambda o: o.seconds),
            }
        )  # fmt: skip
    return rows


# --- data


def pools_of(options: argparse.Namespace, cache: Path) -> dict[str, list[Pool]]:
    """Pools to draw projects from for each kind of answers."""
    perfect: list[Pool] = []
    human: list[Pool] = []
    if options.cifar10n:
        every = pools_from_cifar(Path(options.cifar10n), cache)
        perfect += [every["random_label1"], every["aggre_label"]]
        human += [every["random_label1"], pool_from_counts(Path(options.cifar10n), cache)]
    if options.elpv:
        for case in elpv_cases(None, cache, 0)[:1]:
            nobody = case.truth[:, None]
            perfect.append(Pool(case.name, reduced(case, cache), case.given, case.truth, nobody, 2, 800, 150))
    if not perfect:
        print("no images given: measuring on scikit-learn's digits with planted errors; see --help for real ones")
        perfect = human = list(digits_pools(cache).values())
    return {"perfect": perfect, "human": human}


# --- running


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} projects a kind of answers")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--cifar10n", type=Path, default=os.environ.get("CURATION_CIFAR10N"), help="zip of CIFAR-10N")
    parser.add_argument("--elpv", action="store_true", help="ELPV with flipped labels too (package elpv-dataset)")
    parser.add_argument("--cache", type=Path, help="keep features here for the next time")
    parser.add_argument("--projects", type=int, default=PROJECTS, help="how many for each kind of answers")
    parser.add_argument("--paths", type=int, default=300, help="projects reviewed to their end, for the stop rule")
    parser.add_argument("--credits", type=int, default=100, help="projects for each planted case of credit")
    parser.add_argument("--only", choices=("perfect", "human"), help="one kind of answers")
    parser.add_argument("--part", default="0/1", help="i/n: the i-th of n parts of the projects")
    parser.add_argument("--merge", type=Path, nargs="+", help="put the JSON of parts together instead of running")
    options = parser.parse_args(arguments)
    if options.quick:
        options.projects, options.paths, options.credits = QUICK, QUICK // 3, QUICK // 4
    return options


@dataclass(frozen=True)
class Found:
    """All that was measured."""

    outcomes: list[Outcome]
    paths: list[Reviewed]
    named: list[Named]


def run(options: argparse.Namespace) -> Found:
    """Everything of this part."""
    part, parts = map(int, options.part.split("/"))
    found = Found([], [], [])
    with tempfile.TemporaryDirectory() as temporary:
        cache = options.cache or Path(temporary)
        pools = pools_of(options, cache)
        images = dimmed_images(Path(options.cifar10n), cache) if options.cifar10n and options.credits else None
    for kind, among in pools.items():
        if options.only in (None, kind):
            for seed in range(part, options.projects, parts):
                found.outcomes.append(run_project(among[seed % len(among)], kind, seed))
                if len(found.outcomes) % 50 == 0:
                    print(f"{len(found.outcomes)} projects", file=sys.stderr, flush=True)
            found.paths.extend(run_path(among[0], kind, seed) for seed in range(part, options.paths, parts))
    if images is not None and options.only in (None, "perfect"):
        found.named.extend(run_credit(images, case, s) for s in range(part, options.credits, parts) for case in CASES)
    return found


def merged(files: Sequence[Path]) -> Found:
    """What the parts of a run have found."""
    parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def lists(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    return Found(
        [Outcome(**values) for part in parts for values in part["outcomes"]],
        [Reviewed(**lists(values)) for part in parts for values in part["paths"]],
        [Named(**lists(values)) for part in parts for values in part["named"]],
    )


def show(rows: Sequence[Mapping[str, Any]], stops: Sequence[Mapping[str, Any]], named: Sequence[Named]) -> None:
    """The tables."""
    for row in rows:
        print(f"{row['pool']}, {row['answers']} answers, {row['projects']} projects:")
        for name, value in list(row.items())[3:]:
            said = " to ".join(f"{v:.1f}" for v in value) if isinstance(value, list) else f"{value:.3f}"
            print(f"    {name:36}{said}")
    for row in stops:
        print(
            f"stopping, {row['answers']} answers, {row['rule']:16} {row['reviews']:6.0f} reviews, "
            f"{row['of_best_reviews']:.2f} of the best's {row['best_reviews']:.0f}, "
            f"{row['of_all_reviews']:.2f} of all; "
            f"loses {row['lost']:.1%} ({row['lost_interval'][0]:.1%} to {row['lost_interval'][1]:.1%}) of "
            f"{100 * row['best_gain']:.1f}, by hindsight {row['lost_by_hindsight']:.1%}"
        )
    for case in dict.fromkeys(n.case for n in named):
        right, (low, high) = share_with_interval([n.named == n.planted for n in named if n.case == case])
        print(f"credit where it is {case}: the right cause named in {right:.3f} ({low:.3f} to {high:.3f})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; 1 where a claim does not hold."""
    options = read_options(arguments)
    found = merged(options.merge) if options.merge else run(options)
    rows, stops = summary_of(found.outcomes), stops_of(found.paths)
    show(rows, stops, found.named)
    claims = claims_of(found.outcomes, found.paths, found.named)
    return conclude(claims, {"summary": rows, "stops": stops, **asdict(found)}, options.json)


if __name__ == "__main__":
    sys.exit(main())
