"""What the tests of this folder count, for the table in ``docs/reliability.md``."""

from __future__ import annotations

from collections import Counter

import pytest


class Tally:
    """Counts by row and column; a row is told only when its whole set of cases was run."""

    def __init__(self) -> None:
        self.rows: dict[str, Counter[str]] = {}
        self.whole: set[str] = set()

    def count(self, row: str, **columns: int) -> None:
        """Add to the columns of a row."""
        self.rows.setdefault(row, Counter()).update(columns)


_TALLY = Tally()


@pytest.fixture(scope="session")
def tally() -> Tally:
    """The counts of this session."""
    return _TALLY
