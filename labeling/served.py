"""Images for browsers: put into the folder that is served, and as PNG where browsers don't show their format.

Such a PNG is the picture that the model is given. What can't be read raises DataError.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from curation.images import read_image

SHOWN_BY_BROWSERS = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif"}


def place(file: Path, folder: Path, name: str) -> str:
    """Put an image into a served folder under ``name``: linked, else copied, or as PNG where browsers can't show it.

    Returns the file's name there. Never a symbolic link, since Label Studio would follow it anywhere.
    """
    suffix = file.suffix.lower()
    target = folder / f"{name}{suffix if suffix in SHOWN_BY_BROWSERS else '.png'}"
    if target.exists():
        return target.name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = folder / f".{name}.{os.getpid()}.new"
    try:
        if suffix not in SHOWN_BY_BROWSERS:
            beside.write_bytes(_as_png(file))
        else:
            _link_or_copy(file, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target.name


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file.resolve())
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(file, target)


def as_shown(file: Path, name: str) -> tuple[str, bytes]:
    """An image as browsers show it: file name and bytes, those of a PNG where browsers don't show the format."""
    suffix = file.suffix.lower()
    if suffix in SHOWN_BY_BROWSERS:
        return f"{name}{suffix}", file.read_bytes()
    return f"{name}.png", _as_png(file)


def _as_png(file: Path) -> bytes:
    import io

    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(read_image(file)).save(out, "PNG")
    return out.getvalue()
