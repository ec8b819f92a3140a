"""What becomes of a weak slice over iterations, and what to collect for it: its shot list."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from curation.audit import wilson_interval
from curation.records import Classes, Slice, SliceStatus
from curation.slice_words import by_looks, described, marks, name_of, told_apart
from curation.slices import LEAST_RISE, comparable_rate, members

if TYPE_CHECKING:
    import pandas as pd

Mask = npt.NDArray[np.bool_]

#: Two slices are the same one where they share at least this much of all that is in either.
SAME = 0.5
#: Where more of a slice's labels than this are flagged, people look at them before anything is learnt from them.
FLAGGED_FIRST = 1 / 3
#: Fewest and most images that a shot list asks for.
FEWEST, MOST = 20, 200


# --- identity


def called_now(found: Slice, classes: Classes) -> Slice:
    """A slice under the name that it has with the classes' names of now, and the mark that tells it from another."""
    if all(c.field != "class" for c in found.conditions):
        return found
    kept = next((f" ({mark})" for mark in marks(found) if found.name.endswith(f" ({mark})")), "")
    return replace(found, name=name_of(found.conditions, classes) + kept)


def track(
    found: Sequence[Slice],
    before: Sequence[Slice],
    table: pd.DataFrame,
    errors: Mask,
    sample_ids: Sequence[str],
    labels: Sequence[str],
    iteration: int,
    judged_before: Collection[str] | None = None,
) -> list[Slice]:
    """The slices of this iteration with the names, statuses and histories that they had before.

    ``found`` are the slices of this iteration, ``before`` those of the last; ``table``, ``errors``, ``sample_ids`` and
    ``labels`` as for ``find_slices``. Of what a slice is collected for, only samples that are not among
    ``judged_before``, those of the last iteration, have arrived; by default its size tells.

    A slice that is found again, by name or else with at least half of its members, keeps its name and conditions,
    measured anew; one that was fixed is open again and asks for nothing. One that is not found again is fixed where its
    error rate is no longer clearly above that of comparable images, and stays what it was where it is, or is open again
    where it was fixed; one that holds no image any more is fixed. One that is as weak although all that was asked for
    has arrived is open again, so that something else is tried. Weak ones come first in the order found, fixed ones
    last.
    """
    wrong = np.asarray(errors, dtype=np.bool_)
    of_class = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1].astype(np.int64)
    names = {_key(new) for new in found}
    named = {_key(old): old for old in reversed(before) if _key(old) in names}
    left = [old for old in before if named.get(_key(old)) is not old]
    weak: list[Slice] = []
    for new in found:
        old = named.pop(_key(new), None)
        if old is None and (old := _same(new, left)) is not None:
            left.remove(old)
        new = told_apart(new, {other.name for other in (*before, *weak) if other is not old})
        if old is None:
            weak.append(_noted(new, iteration))
            continue
        measured = _measured(old, table, wrong, sample_ids, labels, of_class) if _can_be_asked(old, table) else None
        again = replace(measured, p_value=new.p_value) if measured is not None and measured.size else new
        known = mark(old, "open") if old.status == "fixed" else old
        again = replace(again, status=known.status, wanted=known.wanted, began=known.began)
        weak.append(_noted(_supplied(_counted(again, old, judged_before)), iteration, old.history))
    fixed: list[Slice] = []
    for old in left:
        measured = _measured(old, table, wrong, sample_ids, labels, of_class)
        now = _unrepaired(old) if measured is None else _not_found(_counted(measured, old, judged_before))
        (fixed if now.status == "fixed" else weak).append(_noted(now, iteration, old.history))
    return weak + fixed


def _not_found(measured: Slice) -> Slice:
    """A slice of before that was not found again, with the status that its figures of now give it.

    One that was fixed is open again only where that is more than chance, so that it does not come and go.
    """
    usual = (measured.errors - measured.removable) / max(measured.size, 1)
    if measured.removable <= 0 or measured.error_rate < LEAST_RISE * usual:
        return replace(mark(measured, "fixed"), repair="", proof="")
    return mark(measured, "open") if measured.status == "fixed" and measured.ci[0] > usual else _supplied(measured)


def _counted(now: Slice, old: Slice, judged_before: Collection[str] | None) -> Slice:
    """A slice that is collected for, counted from a size at which only what is new has arrived since.

    Samples that were there before come into a slice, or leave it, with their labels.
    """
    if not now.wanted or judged_before is None:
        return now
    arrived = max(old.size - old.began, 0) + len(set(now.sample_ids).difference(judged_before))
    return replace(now, began=now.size - arrived)


def _supplied(found: Slice) -> Slice:
    """A weak slice; open again, and asking for nothing, where all that it was collected for has arrived."""
    if found.status != "collecting" or not found.wanted or found.size - found.began < found.wanted:
        return found
    return replace(found, status="open", repair="", proof="", wanted=0, began=0)


def _noted(found: Slice, iteration: int, history: tuple[tuple[int, int, float], ...] = ()) -> Slice:
    if not found.size:
        return replace(found, history=history)
    return replace(found, history=(*history, (iteration, found.size, found.error_rate)))


def _key(found: Slice) -> tuple[str, ...]:
    """What a slice is found again by: its name, and its fields, which tell images apart whose paths end alike."""
    return (found.name, *(c.field for c in found.conditions))


def _same(new: Slice, old: Sequence[Slice]) -> Slice | None:
    """The old slice that shares most with a new one, and enough."""
    mine = set(new.sample_ids)
    shares = [(len(mine & set(s.sample_ids)) / max(len(mine | set(s.sample_ids)), 1), s) for s in old]
    share, best = max(shares, key=lambda pair: pair[0], default=(0.0, None))
    return best if share >= SAME else None


def _can_be_asked(found: Slice, table: pd.DataFrame) -> bool:
    """Whether the table has the columns that a slice speaks of; one on looks is empty where its image is gone."""
    needed = [c.field for c in found.conditions if c.field != "class"]
    return all(f in table.columns and not (by_looks(f) and table[f].isna().all()) for f in needed)


def _measured(
    old: Slice,
    table: pd.DataFrame,
    wrong: Mask,
    sample_ids: Sequence[str],
    labels: Sequence[str],
    of_class: npt.NDArray[np.int64],
) -> Slice | None:
    """An old slice with what is in it now; ``None`` where its conditions can't be asked or all is in it."""
    if _can_be_asked(old, table):
        mask = members(old, table, labels)
    elif any(by_looks(c.field) for c in old.conditions):  # the image that they look like is gone
        own = set(old.sample_ids)
        mask = np.array([s in own for s in sample_ids], dtype=np.bool_)
    else:
        return None
    if mask.all():
        return None
    size, errors = int(mask.sum()), int(wrong[mask].sum())
    there = set(sample_ids)
    alone = all(c.field == "class" for c in old.conditions) or not size
    usual = float(wrong[~mask].mean()) if alone else comparable_rate(wrong, mask, of_class)
    return replace(
        _unrepaired(old),
        sample_ids=tuple(sample_ids[row] for row in np.flatnonzero(mask)),
        size=size,
        errors=errors,
        error_rate=errors / max(size, 1),
        ci=wilson_interval(errors, size),
        rest_error_rate=float(wrong[~mask].mean()),
        removable=max(errors - size * usual, 0.0),
        typical=tuple(s for s in old.typical if s in there),
    )


def _unrepaired(old: Slice) -> Slice:
    """A slice without what an earlier iteration did about it, which is done anew, or no more; collecting goes on."""
    if old.status == "collecting" and old.repair == "collect":
        return replace(old, recipe=None)
    return replace(old, recipe=None, repair="", proof="")


def review_first(found: Slice, flagged: Collection[str]) -> Slice | None:
    """The slice as to be reviewed before it is repaired; ``None`` where few of its labels are flagged.

    ``flagged`` are samples whose label is suspected, and that nobody has judged. A recipe would teach what they say.
    """
    suspected = len(set(found.sample_ids) & set(flagged))
    if suspected <= FLAGGED_FIRST * len(found.sample_ids):
        return None
    words = (
        f"{suspected} of its {len(found.sample_ids)} labels are flagged, and nobody has judged them: review these "
        "first. Copies would teach what they say."
    )
    return replace(found, recipe=None, repair="review", proof=words)


# --- what to collect


@dataclass(frozen=True)
class Shot:
    """What is asked for: ``wanted`` images for a slice, of which ``arrived`` are there; ``pool`` has the nearest
    unlabeled ones, nearest first.
    """

    slice: str
    words: str
    wanted: int
    arrived: int
    pool: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether as many have arrived as were asked for."""
        return self.arrived >= self.wanted


def mark(found: Slice, status: SliceStatus) -> Slice:
    """The slice with another status; what is collected for asks for a number, a fixed one that is reopened anew."""
    marked = replace(found, status=status)
    if found.status == "fixed" and status != "fixed":
        marked = replace(marked, wanted=0, began=0)
    return start_collecting(marked) if status == "collecting" and not marked.wanted else marked


def start_collecting(found: Slice) -> Slice:
    """The slice as being collected for: how many more, counted from its size now.

    So many that its errors would come down to those of comparable images if they fell as one over the number of
    images, in tens, between 20 and 200.
    """
    usual = max(found.errors - found.removable, 1.0)
    more = found.size * (found.errors / usual - 1)
    wanted = int(min(max(10 * round(more / 10), FEWEST), MOST))
    return replace(found, status="collecting", wanted=wanted, began=found.size)


def shot_list(
    slices: Sequence[Slice], classes: Classes, nearest: Mapping[str, Sequence[str]] | None = None
) -> list[Shot]:
    """What to collect or label next, in words and numbers, for every slice that is being collected, weakest first.

    For one that is fixed there is nothing left to collect; it is told of where all has arrived. ``nearest`` maps a
    slice's name to the nearest unlabeled samples.
    """
    shots = []
    for found in slices:
        if not found.wanted or found.status not in ("collecting", "fixed"):
            continue
        arrived = max(found.size - found.began, 0)
        left = max(found.wanted - arrived, 0)
        if left and found.status == "fixed":
            continue
        what = described(found.conditions, classes, numbers=True)
        about = "" if arrived else "about "  # what is left of a round number is none
        words = f"{about}{left} more {what}" if left else f"{found.wanted} {what}: arrived"
        shots.append(Shot(found.name, words, found.wanted, arrived, tuple((nearest or {}).get(found.name, ()))))
    return shots


def nearest_unlabeled(
    found: Slice,
    features: npt.NDArray[np.float32],
    inside: Mask,
    pool_features: npt.NDArray[np.float32],
    pool_ids: Sequence[str],
    fulfils: Mask,
) -> list[str]:
    """Samples of the pool, those first that fulfil the slice's conditions (``fulfils``), then by looks.

    ``features`` (samples, d) and ``inside`` (samples,) are of the labeled images, ``pool_features`` (pool, d) of the
    others; looks are the cosine with the middle of the slice.
    """
    if not len(pool_ids) or not inside.any():
        return []
    mean = features.mean(axis=0)
    middle = features[inside].mean(axis=0) - mean
    around = pool_features - mean
    cosines = around @ middle / (np.linalg.norm(around, axis=1) * np.linalg.norm(middle) + 1e-9)
    order = np.lexsort((-cosines, ~fulfils))
    return [pool_ids[row] for row in order]
