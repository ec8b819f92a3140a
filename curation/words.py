"""How numbers and paths are told to people."""

from __future__ import annotations

import shlex
from pathlib import Path


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun or verb.

    >>> counted(1, "image was", "images were"), counted(2000, "image was", "images were")
    ('1 image was', '2,000 images were')
    """
    return f"{number:,} {one if number == 1 else many}"


def quoted(path: Path) -> str:
    """A path as it stands in a command that people paste.

    >>> quoted(Path("solar cells"))
    "'solar cells'"
    """
    return shlex.quote(str(path))
