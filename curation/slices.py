"""Weak slices: groups of samples with something in common on which the model is wrong more often than by chance.

Conditions are on class, metadata and measured properties; ``slice_search`` tells which of their conjunctions are more
than chance. Errors are held against those of the same class, so that a hard class alone makes no other condition look
weak; classes that are hard throughout are reported last. An image counts as far as the model doubts its label, which
tells more than whether it is wrong: in a weak slice what is right is doubted too. Where no words fit, it is the images
that look most like one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from curation.audit import wilson_interval
from curation.config import SliceSettings
from curation.errors import RecordError
from curation.properties import PROPERTIES, QUALITY_ONLY
from curation.records import Classes, Condition, Slice
from curation.slice_search import Atoms, Candidates, Search, Trial, strata_codes
from curation.slice_words import WEAKNESSES, by_looks, look_of, name_of, number_text, told_apart, weakness_of

if TYPE_CHECKING:
    import pandas as pd

Mask = npt.NDArray[np.bool_]
Losses = npt.NDArray[np.float32]
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
#: How the name of a metadata column ends that is called like what is measured.
_GIVEN = " (given)"
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
#: Of so many candidates that stand out most, one that names a weakness is preferred to another of nearly the same rows
#: (intersection over union) and merit: first weaknesses that show at once, then any that has a recipe.
_NEAR, _SAME_ROWS, _AS_GOOD = 200, 0.7, 0.8
_PLAINEST = ("dark", "blurred", "glare", "tilted", "colour_cast", "compressed")


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
        strata = strata_codes(np.zeros_like(of_class) if alone else of_class, chosen)
        trials: list[Trial] = []
        for stage in stages:
            atoms = _find_atoms(stage, near if stage == "looks" else table, labels, classes, settings.min_size)
            if atoms.conditions and len(chosen) < MOST_SLICES:
                search = Search(
                    atoms, settings.min_size, min(settings.max_conditions, _DEEPEST[stage]), losses[stage], strata
                )
                trials.append(Trial(search, _SHARES[stage] * settings.alpha, rng))
        for conditions, mask, p_value in _pick(trials, wrong, MOST_SLICES - len(chosen)):
            chosen.append(mask)
            comparable = float(wrong[~mask].mean()) if alone else comparable_rate(wrong, mask, of_class)
            conditions = tuple(_called(c, sample_ids, paths) for c in conditions)
            made = _slice_of(conditions, mask, wrong, sample_ids, classes, p_value, comparable)
            made = told_apart(made, [other.name for other in found])
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


def _pick(trials: Sequence[Trial], wrong: Mask, most: int) -> Iterator[tuple[tuple[Condition, ...], Mask, float]]:
    """The slice that stands out most, then the one that does so beyond it, and so on, each with its p-value.

    One of an earlier search is preferred to one of a later that is not clearly better.
    """
    chosen: list[Mask] = []
    for _ in range(most):
        best: tuple[float, Search, Candidates, Scores, Scores, int] | None = None
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


def _easier_to_repair(search: Search, candidates: Candidates, merit: Scores, wrong: Mask, best: int) -> int:
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


def _is_weak(search: Search, mask: Mask, wrong: Mask) -> bool:
    """Whether a slice is clearly more often wrong than comparable images; a class alone than all others, too.

    A class may be hard beside what weak slices found before explain, and wrong less often than images with these.
    """
    usual = comparable_rate(wrong, mask, search.strata)
    if all(c.field == "class" for c in search.atoms.conditions):
        usual = max(usual, float(wrong[~mask].mean()))
    return bool(wrong[mask].mean() >= LEAST_RISE * usual)


def _first_weak(search: Search, candidates: Candidates, merit: Scores, wrong: Mask) -> int | None:
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
        name=name_of(conditions, classes),
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


def column_name(given: str) -> str:
    """What a metadata column is called in conditions: as given, but for one whose name means something else there.

    No two columns get one name, whichever a table has.

    >>> column_name("camera"), column_name("width"), column_name("class"), column_name("width (given)")
    ('camera', 'width (given)', 'class (given)', 'width (given) (given)')
    """
    own = given.split(_GIVEN)[0]
    return given + _GIVEN if own in PROPERTIES or _stage_of(own) != "words" else given


def _find_atoms(stage: str, table: pd.DataFrame, labels: Sequence[str], classes: Classes, min_size: int) -> Atoms:
    """Every single condition that a stage of the search may use, each set of rows once; none without one of its own.

    At least ``min_size`` rows fulfil it, and as many don't. Conditions on the class are in every stage.
    """
    own = table[[c for c in table.columns if _stage_of(str(c)) == stage]]
    if stage != "class" and not len(own.columns):
        return Atoms((), np.zeros(0, dtype=np.int64), np.zeros((len(table), 0), dtype=np.float32))
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
    return Atoms(tuple(kept), np.array(fields, dtype=np.int64), masks)


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


def _texts(column: pd.Series, written: Callable[[float], str] = number_text) -> npt.NDArray[np.object_]:
    """Category values as text, ``None`` where missing; 3.0 reads ``3`` so that a gap in a column changes no name."""
    import pandas as pd

    codes, values = pd.factorize(column)
    known = np.array([written(v) if isinstance(v, float) else str(v) for v in values] + [None], dtype=np.object_)
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
    most = ordered[int(0.9 * (len(ordered) - 1))] - ordered[int(0.1 * (len(ordered) - 1))]
    spread = float(most or ordered[-1] - ordered[0])  # of dates and the like: one odd value hides nothing

    def dividing(cut: float) -> float:
        return float(cut if cut > ordered[0] else ordered[np.searchsorted(ordered, cut, side="right")])

    for share in low:
        yield "<", readable(dividing(ordered[min(int(share * len(ordered)), len(ordered) - 1)]), spread)
    for share in high:
        yield ">=", readable(dividing(ordered[min(int(np.ceil(share * len(ordered))), len(ordered) - 1)]), spread)


def readable(value: float, spread: float) -> float:
    """A number with three significant digits, or as many more as it takes to tell apart what spreads so little.

    >>> readable(0.21437, 1.0), readable(1234.5, 2000.0), readable(2022.0, 13.0), readable(20240117.0, 30.0)
    (0.214, 1230.0, 2022.0, 20240117.0)
    """
    digits = 3
    if value and spread:
        digits += max(0, int(np.floor(np.log10(abs(value))) - np.floor(np.log10(spread))) - 1)
    return float(f"{value:.{min(digits, 15)}g}")


def _holds(condition: Condition, table: pd.DataFrame, labels: Sequence[str]) -> Mask:
    if condition.field == "class":
        return np.array([label == condition.value for label in labels], dtype=np.bool_)
    if condition.field not in table.columns and by_looks(condition.field):
        return np.zeros(len(table), dtype=np.bool_)  # the image that they look like is gone
    if condition.field not in table.columns:
        raise RecordError(f"a slice asks for '{condition.field}', which is no column of this table")
    column = table[condition.field]
    if condition.op == "=":
        wanted = str(condition.value)
        holds = np.array(_texts(column) == wanted, dtype=np.bool_)
        if "e+" in wanted:  # slices of before wrote large numbers in six digits
            holds |= np.array(_texts(column, "{:g}".format) == wanted, dtype=np.bool_)
        return holds
    values = _numbers(column)
    cut = float(condition.value)
    return np.asarray(values < cut if condition.op == "<" else values >= cut, dtype=np.bool_)


def _numbers(column: pd.Series) -> Scores:
    """The values of a column, NaN for what is none: rows that came later may have brought text."""
    import pandas as pd

    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def members(found: Slice, table: pd.DataFrame, labels: Sequence[str]) -> Mask:
    """Which rows of a table belong to a slice, shape (rows,); ``labels`` are class ids.

    A missing value belongs not, nor text where a number is asked for. Raises RecordError where the table lacks a
    column that the slice speaks of.
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
        values = _numbers(table[condition.field])
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
