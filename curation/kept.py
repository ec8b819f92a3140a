"""What is kept in memory of the last work, so that the same is not worked out again while a project is open."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

#: Of how many different ones of a kind the result is kept: of the rows of train, and of these with the holdout.
PLACES = 2


class Kept:
    """Results of the last work of each kind, by what they were made from."""

    def __init__(self) -> None:
        self._results: dict[str, OrderedDict[Hashable, Any]] = {}

    def of(self, kind: str, made_from: Hashable, make: Callable[[], T], places: int = PLACES) -> T:
        """What ``make`` gives, or has given when it was last asked for this kind of the same; so many are kept.

        >>> kept = Kept()
        >>> kept.of("sorted", 1, lambda: "made"), kept.of("sorted", 1, lambda: "made again")
        ('made', 'made')
        """
        results = self._results.setdefault(kind, OrderedDict())
        if made_from not in results:
            results[made_from] = make()
            while len(results) > places:
                results.popitem(last=False)
        results.move_to_end(made_from)
        found: T = results[made_from]
        return found
