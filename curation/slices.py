"""Weak slices: groups of samples with something in common on which the model is wrong more often than by chance.

The search tries every conjunction of up to ``max_conditions`` conditions on class, metadata and measured properties,
as sums of products of one 0/1 matrix (Sagadeeva and Boehm, "SliceLine", SIGMOD 2021). Errors are counted against those
of the same class (Mantel and Haenszel 1959), so that a hard class alone makes no other condition look weak; classes
that are hard throughout are reported last. An image counts as far as the model doubts its label, which tells more than
whether it is wrong: in a weak slice what is right is doubted too. How far the best conjunction would stand out if these
doubts fell on the samples of a class at random is found by permuting them (Westfall and Young 1993), so a slice is
reported only where it is more than the best of thousands of tries on noise. Where no words fit, it is the images that
look most like one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from curation.audit import wilson_interval
from curation.config import SliceSettings
from curation.errors import RecordError
from curation.properties import PROPERTIES, QUALITY_ONLY
from curation.records import Classes, Condition, Slice
from curation.slice_words import WEAKNESSES, by_looks, condition_name, look_of, weakness_of

if TYPE_CHECKING:
    import pandas as pd

Mask = npt.NDArray[np.bool_]
Losses = npt.NDArray[np.float32]
Counts = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]

#: Numeric columns are cut at these quantiles: below the first, at or above the second.
LOW_CUTS, HIGH_CUTS = (0.01, 0.02, 0.04, 0.07, 0.12, 0.25), (0.75, 0.88, 0.93, 0.96, 0.98, 0.99)
#: Images that look alike are so many at most: a quarter of all no longer have anything in common that can be seen.
_LOOK_CUTS = (0.82, 0.88, 0.93, 0.96, 0.98)
#: Of at most so many images the nearest are tried; of fewer where all are so many that it would take too much memory.
_MOST_CENTRES, _NEARNESSES = 1_000, 12_800_000
#: A whole-number column of metadata with no more values than this is read as categories.
FEW_VALUES = 10
#: Values of a category beyond the most frequent ones are not tried, nor are more slices reported than people can use.
MOST_VALUES, MOST_SLICES = 50, 10
#: How many typical members of a slice are named.
MOST_TYPICAL = 20
#: A slice whose error rate is less than this times that of comparable images is no weakness, however sure it is.
LEAST_RISE = 1.2
#: How the chance of a false slice is divided: conditions with words, looks, classes alone; the rest is for later ones.
_SHARES = {"words": 0.3, "looks": 0.2, "class": 0.1}
#: Most conditions of a slice of each kind.
_DEEPEST = {"words": 3, "looks": 2, "class": 1}
#: Permutations: as many as this many multiplications allow, within the two bounds.
_FEWEST, _MOST, _WORK = 200, 300, 1.5e11
#: Of so many images the smallest losses count as none that a permutation takes more multiplications than this.
_WORK_OF_LOSSES = 1.5e9
#: Right columns of so many permutations side by side are multiplied at once.
_COLUMNS = 64
#: Pairs of conditions that are refined by a third.
_BEAM = 25
#: Of so many candidates that stand out most, one that names a weakness is preferred to another of nearly the same rows
#: (intersection over union) and merit: first weaknesses that show at once, then any that has a recipe.
_NEAR, _SAME_ROWS, _AS_GOOD = 200, 0.7, 0.8
_PLAINEST = ("dark", "blurred", "glare", "tilted", "colour_cast", "compressed")
#: Scores that differ by less are equal: sums in another order differ by rounding.
_TIE = 1e-9


@dataclass(frozen=True)
class _Atoms:
    """Single conditions, the field number of each, and which rows fulfil them: 0/1 of shape (rows, conditions)."""

    conditions: tuple[Condition, ...]
    fields: npt.NDArray[np.int64]
    masks: Counts


@dataclass(frozen=True)
class _Candidates:
    """Conjunctions: their conditions by number, shape (candidates, depth), and their sizes, shape (candidates,)."""

    parts: npt.NDArray[np.int64]
    sizes: Scores

    @cached_property
    def depths(self) -> npt.NDArray[np.int64]:
        """How many conditions each candidate has, shape (candidates,)."""
        ordered = np.sort(self.parts, axis=1)
        return np.asarray(1 + (np.diff(ordered, axis=1) > 0).sum(axis=1), dtype=np.int64)


# --- finding


def find_slices(
    table: pd.DataFrame,
    errors: Mask,
    sample_ids: Sequence[str],
    *,
    settings: SliceSettings,
    classes: Classes,
    labels: Sequence[str],
    looks: Features | None = None,
    paths: Sequence[str] | None = None,
    doubts: Floats | None = None,
    seed: int = 0,
) -> list[Slice]:
    """Find where the model is weak: the slices whose repair would remove most errors first, none on pure chance.

    Slices with words come first, then groups that look alike, then classes that are hard throughout, each kind in the
    order of ``removable``: what has a name can be repaired or collected, and of a class no comparable images tell what
    could be repaired.

    ``table`` holds metadata and properties, one row a sample in the order of ``errors`` (shape (samples,), bool:
    the out-of-sample prediction differs from the label), ``sample_ids`` and ``labels`` (class ids). ``looks``, features
    of shape (samples, dimensions), tell what looks alike: the nearest of each of many images are tried too, and
    reported where no words fit nearly as well; ``looks_columns`` makes the columns that their conditions ask for, and
    ``paths``, one a row, is what such an image is called in names.

    ``doubts`` (samples,) are one minus the out-of-sample probability of each label; slices stand out by them, where
    they are given, else by errors alone (``_losses``). Sizes, rates and order are of errors all the same, and no slice
    is reported that has no more of these than comparable images.

    The chance that any slice at all is reported where losses fall at random within each class is at most
    ``settings.alpha``; ``p_value`` is corrected for everything that was tried. Of slices that overlap, a further one is
    reported only where it stands out beyond what those before it explain. Raises RecordError where lengths differ, and
    for doubts that are not from 0 to 1.
    """
    wrong = np.asarray(errors, dtype=np.bool_)
    _check_lengths(len(table), wrong, sample_ids, labels)
    losses = _losses(wrong, wrong.astype(np.float64) if doubts is None else np.asarray(doubts, dtype=np.float64))
    if looks is not None and len(looks) != len(table):
        raise RecordError(f"looks must have one row of features a row of the table ({len(table)}), got {len(looks)}")
    if not wrong.any() or wrong.all():
        return []
    rng = np.random.default_rng(seed)
    near = _near_some(looks, sample_ids, rng)
    of_class = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1].astype(np.int64)
    chosen: list[Mask] = []
    found: list[Slice] = []
    for stages in (("words", "looks"), ("class",)):
        alone = stages == ("class",)
        strata = _strata_codes(np.zeros_like(of_class) if alone else of_class, chosen)
        trials: list[_Trial] = []
        for stage in stages:
            atoms = _find_atoms(stage, near if stage == "looks" else table, labels, classes, settings.min_size)
            if atoms.conditions and len(chosen) < MOST_SLICES:
                search = _Search(
                    atoms, settings.min_size, min(settings.max_conditions, _DEEPEST[stage]), losses[stage], strata
                )
                trials.append(_Trial(search, _SHARES[stage] * settings.alpha, rng))
        for conditions, mask, p_value in _pick(trials, wrong, MOST_SLICES - len(chosen)):
            chosen.append(mask)
            comparable = float(wrong[~mask].mean()) if alone else comparable_rate(wrong, mask, of_class)
            conditions = tuple(_called(c, sample_ids, paths) for c in conditions)
            made = _slice_of(conditions, mask, wrong, sample_ids, classes, p_value, comparable)
            own = [c.field for c in conditions if by_looks(c.field)]
            rows = typical_rows(made, table.assign(**{field: near[field].to_numpy() for field in own}), labels)
            found.append(replace(made, typical=tuple(sample_ids[row] for row in rows[:MOST_TYPICAL])))
    return sorted(found, key=lambda s: (_kind(s), -s.removable, s.name))


def _called(condition: Condition, sample_ids: Sequence[str], paths: Sequence[str] | None) -> Condition:
    """The condition with the path of the image that it speaks of, where it does and there are paths."""
    if paths is None or not by_looks(condition.field):
        return condition
    path = next((p for s, p in zip(sample_ids, paths, strict=True) if look_of(s) == condition.field), "")
    return replace(condition, shown=path)


def _kind(found: Slice) -> int:
    """0 for a slice with words, 1 where images look alike, 2 for a class alone."""
    stages = {_stage_of(c.field) for c in found.conditions}
    return 1 if "looks" in stages else 0 if "words" in stages else 2


def _stage_of(field: str) -> str:
    """Where in the search a condition on a field is tried: with words, by looks, or classes alone at the end."""
    return "class" if field == "class" else "looks" if by_looks(field) else "words"


def looks_columns(
    slices: Sequence[Slice], features: Features, sample_ids: Sequence[str], others: Features
) -> dict[str, Features]:
    """The columns that conditions of slices on looks ask for, of images with features ``others``, (images, dimensions).

    ``features``, (samples, dimensions), and ``sample_ids`` are those among which the slices were found.
    """
    from curation.neighbours import nearness

    row_of = {look_of(sample_id): row for row, sample_id in enumerate(sample_ids)}
    fields = list(dict.fromkeys(c.field for s in slices for c in s.conditions if c.field in row_of))
    near = nearness(features, np.array([row_of[field] for field in fields], dtype=np.int64), others)
    return {field: near[:, place] for place, field in enumerate(fields)}


def _losses(wrong: Mask, doubts: Floats) -> dict[str, Losses]:
    """What an image counts in each stage of the search; RecordError for doubts that are not one from 0 to 1 a row.

    For conditions with words the mean of error and doubt. Images that look alike are doubted alike, wherever the model
    is unsure: there an error counts by its doubt, and what is right for nothing. A class is hard by its errors.
    """
    if doubts.shape != wrong.shape or not ((doubts >= 0) & (doubts <= 1)).all():
        raise RecordError(f"doubts must be {len(wrong)} numbers from 0 to 1, one a row of the table")
    errors = wrong.astype(np.float32)
    own = doubts.astype(np.float32)
    return {"words": (errors + own) / 2, "looks": errors * own, "class": errors}


def _near_some(looks: Features | None, sample_ids: Sequence[str], rng: np.random.Generator) -> pd.DataFrame:
    """How near all samples are to some of them, drawn at random; a column each."""
    import pandas as pd

    from curation.neighbours import nearness

    if looks is None:
        return pd.DataFrame(index=range(len(sample_ids)))
    count = max(min(len(looks), _MOST_CENTRES, _NEARNESSES // max(len(looks), 1)), 1)
    centres = np.sort(rng.permutation(len(looks))[:count])
    return pd.DataFrame(nearness(looks, centres), columns=[look_of(sample_ids[row]) for row in centres])


def comparable_rate(wrong: Mask, mask: Mask, of_class: Codes) -> float:
    """The error rate outside ``mask`` of images with its mix of classes; of all others for a class with none outside.

    >>> wrong, inside = np.array([True, False, True, False, False]), np.array([True, False, False, True, False])
    >>> comparable_rate(wrong, inside, np.array([0, 0, 0, 1, 1]))
    0.25
    """
    outside = float(wrong[~mask].mean())
    total = 0.0
    for code in np.unique(of_class[mask]):
        others = (of_class == code) & ~mask
        total += int((of_class[mask] == code).sum()) * (float(wrong[others].mean()) if others.any() else outside)
    return total / int(mask.sum())


def _check_lengths(rows: int, errors: Mask, sample_ids: Sequence[str], labels: Sequence[str]) -> None:
    if not (errors.shape == (rows,) and len(sample_ids) == rows and len(labels) == rows):
        raise RecordError(
            f"slices need one error, sample id and label a row of the table ({rows} rows), "
            f"got {errors.shape}, {len(sample_ids)} and {len(labels)}"
        )


class _Search:
    """All conjunctions of an ``_Atoms`` up to a depth, to be scored for any order of losses within the strata.

    Looks are joined with classes alone: they are many, and where two of them meet has no meaning.
    """

    def __init__(self, atoms: _Atoms, min_size: int, depth: int, losses: Losses, strata: Codes) -> None:
        self.atoms = atoms
        self.min_size = min_size
        self.depth = depth
        self.strata = strata
        self.rows = len(atoms.masks)
        self.partners = np.flatnonzero([not by_looks(c.field) for c in atoms.conditions])
        #: Second conditions: all of them, else those that may be one and, last, none.
        self.right = atoms.masks
        if len(self.partners) < len(atoms.conditions):
            none = np.ones((self.rows, 1), dtype=np.float32)
            self.right = np.concatenate([atoms.masks[:, self.partners], none], axis=1)
        self.joint = _joint(atoms.masks, self.right)
        self.places, self.flat = self._singles_and_pairs()
        self.losses = _largest(losses, int(_WORK_OF_LOSSES / max(self.joint.size, 1)))
        # The same for every permutation within the strata.
        self.expected = self._expected(self.losses, strata)

    def _singles_and_pairs(self) -> tuple[tuple[Codes, Codes], _Candidates]:
        """Single conditions (repeated as a pair with themselves), and pairs of different fields that add something.

        Also where in ``joint`` they stand.
        """
        sizes, fields, partners = self.joint.astype(np.float64), self.atoms.fields, self.partners
        numbers = np.arange(len(fields))
        place = np.full(len(fields), -1)
        place[partners] = np.arange(len(partners))
        alone = place if len(partners) == len(fields) else np.full(len(fields), len(partners))
        own = sizes[numbers, alone]
        both = sizes[:, : len(partners)]
        pairs = (both >= self.min_size) & (both < own[:, None]) & (both < own[None, partners]) & (self.depth > 1)
        pairs &= fields[:, None] != fields[None, partners]
        pairs &= (place[:, None] < 0) | (place[:, None] < place[None, partners])  # of two partners, each pair once
        first, column = np.nonzero(pairs)
        kept = numbers[(own >= self.min_size) & (own <= self.rows - self.min_size)]
        parts = np.stack([np.append(kept, first), np.append(kept, partners[column])], axis=1)
        places = np.append(kept, first), np.append(alone[kept], column)
        return places, _Candidates(parts, sizes[places])

    def _expected(self, losses: Losses, strata: Codes) -> _Sums:
        """What losses that fall at random within strata come to in every single condition and pair."""
        sums = _Sums(len(self.flat.sizes))
        for code in np.unique(strata):
            stratum = strata == code
            inside = _joint(self.atoms.masks[stratum], self.right[stratum])
            sums.add(inside[self.places], losses[stratum])
        return sums

    def score(self, losses: Losses, chosen: Sequence[Mask] = ()) -> tuple[_Candidates, Scores]:
        """Candidates and how far each stands out, shape (candidates,), in standard deviations; < 0: smaller losses.

        Within the strata that the chosen slices cut the rows into, so that what these explain counts for nothing.
        """
        return self._scored(losses, _seen(self.atoms.masks, self.right, losses), chosen)

    def scores_of(self, several: Sequence[Losses]) -> Iterator[tuple[_Candidates, Scores]]:
        """The same for several orders of losses within the strata, one after the other."""
        for losses, seen in zip(several, _seen_each(self.atoms.masks, self.right, several), strict=True):
            yield self._scored(losses, seen, ())

    def _scored(self, losses: Losses, seen: Counts, chosen: Sequence[Mask]) -> tuple[_Candidates, Scores]:
        strata = _strata_codes(self.strata, chosen)
        expected = self._expected(losses, strata) if len(chosen) else self.expected
        scores = expected.scores(seen[self.places])
        return self._with_triples(scores, losses, strata) if self.depth > 2 else (self.flat, scores)

    def _with_triples(self, scores: Scores, losses: Losses, strata: Codes) -> tuple[_Candidates, Scores]:
        """The best pairs, each with every condition of a third field that makes it smaller but not too small."""
        pairs = np.flatnonzero(self.flat.parts[:, 0] != self.flat.parts[:, 1])
        best = pairs[np.argsort(-scores[pairs], kind="stable")[:_BEAM]]
        first, second = self.flat.parts[best].T
        masks, fields = self.atoms.masks, self.atoms.fields
        both: Counts = masks[:, first] * masks[:, second]
        sizes = _joint(both, masks)
        keep = (sizes >= self.min_size) & (sizes < self.flat.sizes[best][:, None])
        keep &= (fields[first][:, None] != fields[None, :]) & (fields[second][:, None] != fields[None, :])
        row, third = np.nonzero(keep)
        sums = _Sums(len(row))
        for code in np.unique(strata):
            stratum = strata == code
            inside = _joint(both[stratum], masks[stratum])
            sums.add(inside[row, third], losses[stratum])
        flat = np.concatenate([self.flat.parts, self.flat.parts[:, 1:]], axis=1)
        parts = np.concatenate([flat, np.stack([first[row], second[row], third], axis=1)])
        together = _Candidates(parts, np.concatenate([self.flat.sizes, sizes[row, third].astype(np.float64)]))
        return together, np.concatenate([scores, sums.scores(_seen(masks, both, losses)[third, row])])

    def conditions(self, parts: npt.NDArray[np.int64]) -> tuple[Condition, ...]:
        """The conditions of a candidate, in the order of fields."""
        return tuple(self.atoms.conditions[number] for number in sorted(set(parts.tolist())))

    def mask(self, parts: npt.NDArray[np.int64]) -> Mask:
        """Which rows a candidate holds."""
        members: Mask = np.logical_and.reduce([self.atoms.masks[:, number] > 0 for number in set(parts.tolist())])
        return members


class _Sums:
    """Losses expected of candidates, and their variance, summed over strata (Mantel and Haenszel 1959)."""

    def __init__(self, candidates: int) -> None:
        self.expected = np.zeros(candidates)
        self.variance = np.zeros(candidates)
        self._sum = self._squares = 0.0

    def add(self, sizes: Counts, losses: Losses) -> None:
        """A stratum with these ``losses`` of its rows; candidates have ``sizes`` rows there."""
        rows, exact = len(losses), losses.astype(np.float64)
        self._sum += float(exact.sum())
        self._squares += float((exact**2).sum())
        self.expected += sizes * exact.mean()
        if rows > 1:
            self.variance += sizes * (exact.var() / (rows - 1)) * (rows - sizes)

    def scores(self, seen: Counts) -> Scores:
        """How far candidates whose losses come to ``seen`` stand out; in units of a loss, which for errors is one."""
        unit = self._squares / self._sum if self._sum else 1.0
        return standing_out((seen - self.expected) / unit, self.variance / unit**2)


def standing_out(surplus: Scores, variance: Scores) -> Scores:
    """How far counts lie above what is expected, in standard deviations of a normal: a signed root of a deviance.

    The deviance is that of a Poisson count of this variance, which has the long tail upwards of small counts; a plain
    (seen - expected) / deviation would let tiny slices look too strong.

    >>> standing_out(np.array([0.0, 30.0]), np.array([4.0, 10_000.0])).round(2).tolist()
    [0.0, 0.3]
    >>> bool(standing_out(np.array([5.0]), np.array([1.0]))[0] < 5 / 1)
    True
    """
    safe = np.maximum(variance, 1e-12)
    ratio = np.maximum(surplus / safe, -1 + 1e-12)
    deviance = 2 * safe * ((1 + ratio) * np.log1p(ratio) - ratio)
    scores: Scores = np.where(variance > 1e-9, np.sign(surplus) * np.sqrt(np.maximum(deviance, 0)), 0.0)
    return scores


def _seen(left: Counts, right: Counts, losses: Losses) -> Counts:
    """Sum of the losses in each pair of a left and a right column; of both the same by half of the products."""
    rows = np.flatnonzero(losses)
    if right is left:
        root = left[rows] * np.sqrt(losses[rows, None])
        return _joint(root, root)
    return _joint(left[rows], right[rows] * losses[rows, None])


def _seen_each(left: Counts, right: Counts, several: Sequence[Losses]) -> Iterator[Counts]:
    """The same of several losses, at once where there are few right columns: the left ones are then read once."""
    if right is left:
        yield from (_seen(left, right, losses) for losses in several)
        return
    wide = right.shape[1]
    together = np.concatenate([right * losses[:, None] for losses in several], axis=1)
    found = _joint(left, together)
    yield from (found[:, start : start + wide] for start in range(0, found.shape[1], wide))


def _joint(left: Counts, right: Counts) -> Counts:
    """How many rows hold each pair of a left and a right column."""
    counts: Counts = left.T @ right
    return counts


def _strata_codes(strata: Codes, chosen: Sequence[Mask]) -> Codes:
    """Number the parts that these masks cut the strata into, shape (rows,)."""
    codes = strata
    for mask in chosen:
        codes = np.unique(2 * codes + mask, return_inverse=True)[1].astype(np.int64)
    return codes


def _best_by_chance(search: _Search, level: float, rng: np.random.Generator) -> Scores:
    """The best score of each depth in many permutations of the losses within strata, shape (permutations, depths).

    Stops as soon as so many of them reach the scores of the losses themselves that no slice can be told from chance.
    """
    losses = search.losses
    work = float((losses > 0).sum() + 1) * search.joint.size
    count = int(np.clip(_WORK / work, max(_FEWEST, np.ceil(2 * search.depth / level)), _MOST))
    seen = _best_by_depth(*search.score(losses), search.depth)
    best = np.full((count, search.depth), np.inf)
    reached = np.zeros(search.depth)
    at_once = max(1, _COLUMNS // search.right.shape[1])
    for start in range(0, count, at_once):
        if ((1 + reached) * search.depth > level * (1 + count)).all():
            break
        several = [_permuted(losses, search.strata, rng) for _ in range(min(at_once, count - start))]
        for turn, found in enumerate(search.scores_of(several), start):
            best[turn] = _best_by_depth(*found, search.depth)
            reached += best[turn] >= seen - _TIE
    return best


def _permuted(losses: Losses, strata: Codes, rng: np.random.Generator) -> Losses:
    """The losses in a random order within each stratum."""
    shuffled = np.empty_like(losses)
    places = np.argsort(strata, kind="stable")
    shuffled[places] = losses[np.lexsort((rng.random(len(losses)), strata))]
    return shuffled


def _best_by_depth(candidates: _Candidates, scores: Scores, depth: int) -> Scores:
    depths = candidates.depths
    return np.array([scores[depths == number].max(initial=0.0) for number in range(1, depth + 1)])


def _p_values(candidates: _Candidates, scores: Scores, chance: Scores) -> Scores:
    """Chance that some candidate of the same depth scores as high, times how many depths there are; at most 1.

    Single conditions are far fewer than pairs, so they need not stand out against what pairs reach by chance.
    """
    depths = candidates.depths
    found: Scores = np.ones(len(scores), dtype=np.float64)
    for number in range(1, chance.shape[1] + 1):
        ordered = np.sort(chance[:, number - 1])
        reached = len(ordered) - np.searchsorted(ordered, scores - _TIE, side="left")
        p_values = chance.shape[1] * (1 + reached) / (1 + len(ordered))
        found[depths == number] = np.minimum(p_values, 1.0)[depths == number]
    return found


def _largest(losses: Losses, count: int) -> Losses:
    """The losses, of which only about so many of the largest count: what they lie above the next one.

    >>> _largest(np.array([0.2, 1.0, 0.6], dtype=np.float32), 2).round(2).tolist()
    [0.0, 1.0, 0.5]
    """
    if count >= len(losses):
        return losses
    least = float(np.partition(losses, len(losses) - count - 1)[len(losses) - count - 1])
    if least >= 1:
        return np.asarray(losses >= 1, dtype=np.float32)
    return np.asarray(np.clip((losses - least) / (1 - least), 0, 1), dtype=np.float32)


class _Trial:
    """A search, and how well its candidates stand out beyond what chance reaches."""

    def __init__(self, search: _Search, level: float, rng: np.random.Generator) -> None:
        self.search = search
        self._level = level
        self._chance = _best_by_chance(search, level, rng)
        self._price = 2 * np.log(max(len(search.atoms.conditions), 2))

    def ranked(self, chosen: Sequence[Mask]) -> tuple[_Candidates, Scores, Scores]:
        """Candidates, the merit of each beyond what is chosen (-inf where chance reaches as far), and their p-values.

        A further condition must raise the squared score by twice the logarithm of how many could have been added. The
        later slices are held against what chance reaches in the first.
        """
        candidates, scores = self.search.score(self.search.losses, chosen)
        p_values = _p_values(candidates, scores, self._chance)
        merit = scores**2 - self._price * (candidates.depths - 1)
        return candidates, np.where((p_values <= self._level) & (scores > 0), merit, -np.inf), p_values


def _pick(trials: Sequence[_Trial], wrong: Mask, most: int) -> Iterator[tuple[tuple[Condition, ...], Mask, float]]:
    """The slice that stands out most, then the one that does so beyond it, and so on, each with its p-value.

    One of an earlier search is preferred to one of a later that is not clearly better.
    """
    chosen: list[Mask] = []
    for _ in range(most):
        best: tuple[float, _Search, _Candidates, Scores, Scores, int] | None = None
        for trial in trials:
            candidates, merit, p_values = trial.ranked(chosen)
            number = _first_weak(trial.search, candidates, merit, wrong)
            if number is not None and (best is None or best[0] < _AS_GOOD * merit[number]):
                best = (float(merit[number]), trial.search, candidates, merit, p_values, number)
        if best is None:
            return
        _, search, candidates, merit, p_values, number = best
        chosen.append(search.mask(candidates.parts[number]))
        number = _easier_to_repair(search, candidates, merit, wrong, number)
        mask = search.mask(candidates.parts[number])
        if (mask != chosen[-1]).any():
            chosen.append(mask)  # neither what the other explains is reported again
        yield search.conditions(candidates.parts[number]), mask, float(p_values[number])


def _easier_to_repair(search: _Search, candidates: _Candidates, merit: Scores, wrong: Mask, best: int) -> int:
    """Of candidates that hold nearly the same rows and stand out nearly as much, one that names a known weakness.

    Dark images are also plain and of little contrast; ``brightness < 0.1`` says what to do about them.
    """
    if weakness_of(search.conditions(candidates.parts[best])) in _PLAINEST:
        return best
    mask = search.mask(candidates.parts[best])
    near = np.argsort(-merit, kind="stable")[:_NEAR]
    for known in (_PLAINEST, tuple(WEAKNESSES.values())):
        for number in near[merit[near] >= _AS_GOOD * merit[best]]:
            if weakness_of(search.conditions(candidates.parts[number])) not in known:
                continue
            other = search.mask(candidates.parts[number])
            if (mask & other).sum() >= _SAME_ROWS * (mask | other).sum() and _is_weak(search, other, wrong):
                return int(number)
    return best


def _is_weak(search: _Search, mask: Mask, wrong: Mask) -> bool:
    return bool(wrong[mask].mean() >= LEAST_RISE * comparable_rate(wrong, mask, search.strata))


def _first_weak(search: _Search, candidates: _Candidates, merit: Scores, wrong: Mask) -> int | None:
    """The candidate of most merit whose error rate is also clearly above that of comparable images."""
    for number in np.argsort(-merit, kind="stable"):
        if merit[number] == -np.inf:
            return None
        mask = search.mask(candidates.parts[number])
        if _is_weak(search, mask, wrong):
            return int(number)
    return None


def _slice_of(
    conditions: tuple[Condition, ...],
    mask: Mask,
    wrong: Mask,
    sample_ids: Sequence[str],
    classes: Classes,
    p_value: float,
    comparable: float,
) -> Slice:
    size, errors = int(mask.sum()), int(wrong[mask].sum())
    return Slice(
        name=" and ".join(condition_name(c, classes) for c in conditions),
        conditions=conditions,
        sample_ids=tuple(sample_ids[row] for row in np.flatnonzero(mask)),
        size=size,
        errors=errors,
        error_rate=errors / size,
        ci=wilson_interval(errors, size),
        rest_error_rate=float(wrong[~mask].mean()),
        p_value=p_value,
        weakness=weakness_of(conditions),
        removable=max(errors - size * comparable, 0.0),
    )


# --- conditions


def _find_atoms(stage: str, table: pd.DataFrame, labels: Sequence[str], classes: Classes, min_size: int) -> _Atoms:
    """Every single condition that a stage of the search may use, each set of rows once; none without one of its own.

    At least ``min_size`` rows fulfil it, and as many don't. Conditions on the class are in every stage.
    """
    own = table[[c for c in table.columns if _stage_of(str(c)) == stage]]
    if stage != "class" and not len(own.columns):
        return _Atoms((), np.zeros(0, dtype=np.int64), np.zeros((len(table), 0), dtype=np.float32))
    kept: list[Condition] = []
    fields: list[int] = []
    columns: list[Mask] = []
    seen: set[bytes] = set()
    # By name, out of the table: there may be a thousand, each asked for several times.
    near = dict(zip(map(str, own.columns), own.to_numpy(dtype=np.float64).T, strict=True)) if stage == "looks" else {}
    for number, condition in _conditions(own, labels, classes, min_size):
        nearness = near.get(condition.field)
        mask = _holds(condition, own, labels) if nearness is None else nearness >= float(condition.value)
        key = np.packbits(mask).tobytes()
        if key in seen or not min_size <= mask.sum() <= len(mask) - min_size:
            continue
        seen.add(key)
        kept.append(condition)
        fields.append(number)
        columns.append(mask)
    if all(_stage_of(c.field) != stage for c in kept):
        kept, fields, columns = [], [], []
    masks = np.zeros((len(table), len(columns)), dtype=np.float32)
    for place, mask in enumerate(columns):
        masks[:, place] = mask
    return _Atoms(tuple(kept), np.array(fields, dtype=np.int64), masks)


def _conditions(
    table: pd.DataFrame, labels: Sequence[str], classes: Classes, min_size: int
) -> Iterator[tuple[int, Condition]]:
    """Conditions to try, each with the number of its field: class first, then categories, then numbers."""
    present = set(labels)
    for class_id in classes.ids:
        if class_id in present:
            yield 0, Condition("class", "=", class_id)
    names = [str(c) for c in table.columns if c != "class" and c not in QUALITY_ONLY]
    numeric = {name for name in names if by_looks(name) or _is_numeric(table[name])}
    for number, name in enumerate([n for n in names if n not in numeric], start=1):
        for value in _frequent(_texts(table[name]), min_size):
            yield number, Condition(name, "=", value)
    for number, name in enumerate([n for n in names if n in numeric], start=1 + len(names)):
        low, high = ((), _LOOK_CUTS) if by_looks(name) else (LOW_CUTS, HIGH_CUTS)
        for op, cut in _cuts(table[name].to_numpy(dtype=np.float64, na_value=np.nan), low, high):
            yield number, Condition(name, op, cut)


def _is_numeric(column: pd.Series) -> bool:
    if column.dtype.kind not in "iuf":
        return False
    if column.name in PROPERTIES:
        return True
    values = np.asarray(column.dropna().unique(), dtype=np.float64)
    return len(values) > FEW_VALUES or bool((values != np.floor(values)).any())


def _texts(column: pd.Series) -> npt.NDArray[np.object_]:
    """Category values as text, ``None`` where missing; 3.0 reads ``3`` so that a gap in a column changes no name."""
    import pandas as pd

    def text(value: object) -> str:
        return f"{value:g}" if isinstance(value, float) else str(value)

    codes, values = pd.factorize(column)
    known = np.array([text(v) for v in values] + [None], dtype=np.object_)
    return known[codes]


def _frequent(texts: npt.NDArray[np.object_], min_size: int) -> list[str]:
    values, counts = np.unique(texts[texts != None].astype(str), return_counts=True)  # noqa: E711 — elementwise
    order = np.argsort(-counts, kind="stable")[:MOST_VALUES]
    return [str(values[place]) for place in order if counts[place] >= min_size]


def _cuts(values: Scores, low: Sequence[float], high: Sequence[float]) -> Iterator[tuple[Literal["<", ">="], float]]:
    """Readable cut points near the quantiles; where a value is very frequent, the next one that divides the rows."""
    ordered = np.sort(values[np.isfinite(values)])
    if not len(ordered) or ordered[0] == ordered[-1]:
        return
    for share in low:
        cut = ordered[min(int(share * len(ordered)), len(ordered) - 1)]
        yield "<", readable(float(cut if cut > ordered[0] else ordered[np.searchsorted(ordered, cut, side="right")]))
    for share in high:
        cut = ordered[min(int(np.ceil(share * len(ordered))), len(ordered) - 1)]
        yield ">=", readable(float(cut if cut > ordered[0] else ordered[np.searchsorted(ordered, cut, side="right")]))


def readable(value: float) -> float:
    """A number with three significant digits.

    >>> readable(0.21437), readable(1234.5), readable(0.0)
    (0.214, 1230.0, 0.0)
    """
    return float(f"{value:.3g}")


def _holds(condition: Condition, table: pd.DataFrame, labels: Sequence[str]) -> Mask:
    if condition.field == "class":
        return np.array([label == condition.value for label in labels], dtype=np.bool_)
    if condition.field not in table.columns and by_looks(condition.field):
        return np.zeros(len(table), dtype=np.bool_)  # the image that they look like is gone
    if condition.field not in table.columns:
        raise RecordError(f"a slice asks for '{condition.field}', which is no column of this table")
    column = table[condition.field]
    if condition.op == "=":
        return np.array(_texts(column) == str(condition.value), dtype=np.bool_)
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    cut = float(condition.value)
    return np.asarray(values < cut if condition.op == "<" else values >= cut, dtype=np.bool_)


def members(found: Slice, table: pd.DataFrame, labels: Sequence[str]) -> Mask:
    """Which rows of a table belong to a slice, shape (rows,); ``labels`` are class ids. A missing value belongs not.

    Raises RecordError where the table lacks a column that the slice speaks of.
    """
    mask = np.ones(len(table), dtype=np.bool_)
    for condition in found.conditions:
        mask &= _holds(condition, table, labels)
    return mask


def typical_rows(found: Slice, table: pd.DataFrame, labels: Sequence[str]) -> npt.NDArray[np.int64]:
    """Rows of a table that belong to a slice, the most typical first: those farthest beyond its cut points.

    How far is told by ranks within the table, the least far of a slice's conditions counts; equals keep their order.
    """
    inside = np.flatnonzero(members(found, table, labels))
    depth: Scores = np.ones(len(inside), dtype=np.float64)
    for condition in found.conditions:
        if condition.op == "=":
            continue
        values = table[condition.field].to_numpy(dtype=np.float64, na_value=np.nan)
        beyond = values[inside] if condition.op == ">=" else -values[inside]
        ranks = np.searchsorted(np.sort(beyond), beyond, side="left") / max(len(beyond), 1)
        np.minimum(depth, ranks, out=depth)
    return np.asarray(inside[np.argsort(-depth, kind="stable")], dtype=np.int64)


# --- confirming


def confirm_slices(
    slices: Sequence[Slice],
    table_holdout: pd.DataFrame,
    errors_holdout: Mask,
    labels_holdout: Sequence[str],
    classes: Classes,
) -> list[Slice]:
    """The same slices with their size, error rate and 95 % interval on the holdout, which had no say in finding them.

    Rates are ``None`` where the holdout has no member. ``classes`` must know every label; raises RecordError.
    """
    wrong = np.asarray(errors_holdout, dtype=np.bool_)
    _check_lengths(len(table_holdout), wrong, labels_holdout, labels_holdout)
    unknown = sorted(set(labels_holdout) - set(classes.ids))
    if unknown:
        raise RecordError(f"labels of the holdout must be class ids of {list(classes.ids)}, got '{unknown[0]}'")
    return [_confirmed(found, members(found, table_holdout, labels_holdout), wrong) for found in slices]


def _confirmed(found: Slice, mask: Mask, wrong: Mask) -> Slice:
    size, errors = int(mask.sum()), int(wrong[mask].sum())
    if not size:
        return replace(found, holdout_size=0, holdout_error_rate=None, holdout_ci=None)
    return replace(found, holdout_size=size, holdout_error_rate=errors / size, holdout_ci=wilson_interval(errors, size))
