"""Conjunctions of conditions on whose rows losses are larger than chance would have it.

Every conjunction, of up to three conditions, is tried as sums of products of one 0/1 matrix (Sagadeeva and Boehm,
"SliceLine", SIGMOD 2021). Losses are held against those of the same stratum (Mantel and Haenszel 1959). How far the
best conjunction would stand out if losses fell on the rows of a stratum at random is found by permuting them (Westfall
and Young 1993), so that of thousands of tries only those count that are more than the best of as many on noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from curation.records import Condition
from curation.slice_words import by_looks

Mask = npt.NDArray[np.bool_]
Losses = npt.NDArray[np.float32]
Counts = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

#: Permutations: as many as this many multiplications allow, within the two bounds; so many at most where a level asks
#: for more, since fewer could tell nothing from chance.
_FEWEST, _MOST, _WORK = 200, 300, 1.5e11
_MOST_OF_ALL = 20_000
#: Of so many images the smallest losses count as none that a permutation takes more multiplications than this.
_WORK_OF_LOSSES = 1.5e9
#: Right columns of so many permutations side by side are multiplied at once.
_COLUMNS = 64
#: Pairs of conditions that are refined by a third.
_BEAM = 25
#: Scores that differ by less are equal: sums in another order differ by rounding.
_TIE = 1e-9


@dataclass(frozen=True)
class Atoms:
    """Single conditions, the field number of each, and which rows fulfil them: 0/1 of shape (rows, conditions)."""

    conditions: tuple[Condition, ...]
    fields: npt.NDArray[np.int64]
    masks: Counts


@dataclass(frozen=True)
class Candidates:
    """Conjunctions: their conditions by number, shape (candidates, depth), and their sizes, shape (candidates,)."""

    parts: npt.NDArray[np.int64]
    sizes: Scores

    @cached_property
    def depths(self) -> npt.NDArray[np.int64]:
        """How many conditions each candidate has, shape (candidates,)."""
        ordered = np.sort(self.parts, axis=1)
        return np.asarray(1 + (np.diff(ordered, axis=1) > 0).sum(axis=1), dtype=np.int64)


class Search:
    """All conjunctions of an ``Atoms`` up to a depth, to be scored for any order of losses within the strata.

    Looks are joined with classes alone: they are many, and where two of them meet has no meaning.
    """

    def __init__(self, atoms: Atoms, min_size: int, depth: int, losses: Losses, strata: Codes) -> None:
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

    def _singles_and_pairs(self) -> tuple[tuple[Codes, Codes], Candidates]:
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
        return places, Candidates(parts, sizes[places])

    def _expected(self, losses: Losses, strata: Codes) -> _Sums:
        """What losses that fall at random within strata come to in every single condition and pair."""
        sums = _Sums(len(self.flat.sizes))
        for code in np.unique(strata):
            stratum = strata == code
            inside = _joint(self.atoms.masks[stratum], self.right[stratum])
            sums.add(inside[self.places], losses[stratum])
        return sums

    def score(self, losses: Losses, chosen: Sequence[Mask] = ()) -> tuple[Candidates, Scores]:
        """Candidates and how far each stands out, shape (candidates,), in standard deviations; < 0: smaller losses.

        Within the strata that the chosen slices cut the rows into, so that what these explain counts for nothing.
        """
        return self._scored(losses, _seen(self.atoms.masks, self.right, losses), chosen)

    def scores_of(self, several: Sequence[Losses]) -> Iterator[tuple[Candidates, Scores]]:
        """The same for several orders of losses within the strata, one after the other."""
        for losses, seen in zip(several, _seen_each(self.atoms.masks, self.right, several), strict=True):
            yield self._scored(losses, seen, ())

    def _scored(self, losses: Losses, seen: Counts, chosen: Sequence[Mask]) -> tuple[Candidates, Scores]:
        strata = strata_codes(self.strata, chosen)
        expected = self._expected(losses, strata) if len(chosen) else self.expected
        scores = expected.scores(seen[self.places])
        return self._with_triples(scores, losses, strata) if self.depth > 2 else (self.flat, scores)

    def _with_triples(self, scores: Scores, losses: Losses, strata: Codes) -> tuple[Candidates, Scores]:
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
        together = Candidates(parts, np.concatenate([self.flat.sizes, sizes[row, third].astype(np.float64)]))
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


def strata_codes(strata: Codes, chosen: Sequence[Mask]) -> Codes:
    """Number the parts that these masks cut the strata into, shape (rows,)."""
    codes = strata
    for mask in chosen:
        codes = np.unique(2 * codes + mask, return_inverse=True)[1].astype(np.int64)
    return codes


def _best_by_chance(search: Search, level: float, rng: np.random.Generator) -> Scores:
    """The best score of each depth in many permutations of the losses within strata, shape (permutations, depths).

    Stops as soon as so many of them reach the scores of the losses themselves that no slice can be told from chance.
    """
    losses = search.losses
    work = float((losses > 0).sum() + 1) * search.joint.size
    count = _permutations(work, search.depth, level)
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


def _permutations(work: float, depth: int, level: float) -> int:
    """How many permutations of so many multiplications each tell a chance of ``level`` at this depth.

    >>> _permutations(1e9, 2, 0.015), _permutations(1e6, 2, 0.015), _permutations(1e9, 2, 0.004)
    (267, 300, 1000)
    """
    least = int(np.ceil(2 * depth / level))
    if depth > level * (1 + _MOST):
        return min(least, _MOST_OF_ALL)
    return int(np.clip(_WORK / work, min(max(_FEWEST, least), _MOST), _MOST))


def _permuted(losses: Losses, strata: Codes, rng: np.random.Generator) -> Losses:
    """The losses in a random order within each stratum."""
    shuffled = np.empty_like(losses)
    places = np.argsort(strata, kind="stable")
    shuffled[places] = losses[np.lexsort((rng.random(len(losses)), strata))]
    return shuffled


def _best_by_depth(candidates: Candidates, scores: Scores, depth: int) -> Scores:
    depths = candidates.depths
    return np.array([scores[depths == number].max(initial=0.0) for number in range(1, depth + 1)])


def _p_values(candidates: Candidates, scores: Scores, chance: Scores) -> Scores:
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


class Trial:
    """A search, and how well its candidates stand out beyond what chance reaches."""

    def __init__(self, search: Search, level: float, rng: np.random.Generator) -> None:
        self.search = search
        self._level = level
        self._chance = _best_by_chance(search, level, rng)
        self._price = 2 * np.log(max(len(search.atoms.conditions), 2))

    def ranked(self, chosen: Sequence[Mask]) -> tuple[Candidates, Scores, Scores]:
        """Candidates, the merit of each beyond what is chosen (-inf where chance reaches as far), and their p-values.

        A further condition must raise the squared score by twice the logarithm of how many could have been added. The
        later slices are held against what chance reaches in the first.
        """
        candidates, scores = self.search.score(self.search.losses, chosen)
        p_values = _p_values(candidates, scores, self._chance)
        merit = scores**2 - self._price * (candidates.depths - 1)
        return candidates, np.where((p_values <= self._level) & (scores > 0), merit, -np.inf), p_values
