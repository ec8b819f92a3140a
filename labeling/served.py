"""Images for browsers: put into the folder that is served, and as PNG where browsers don't show their format.

Such a PNG is the picture that the model is given. What can't be read raises DataError.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from curation.images import as_png, format_of

#: What browsers show, by Pillow's names, with the endings of such files; the first where a file has another.
_SHOWN = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "AVIF": (".avif",),
}
SHOWN_BY_BROWSERS = {suffix for suffixes in _SHOWN.values() for suffix in suffixes}


def place(file: Path, folder: Path, name: str) -> str:
    """Put an image into a served folder under ``name``: linked, else copied, or as PNG where browsers can't show it.

    Returns the file's name there. Never a symbolic link, since Label Studio would follow it anywhere.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    suffix = _suffix_as_it_is(file)
    target = folder / f"{name}{suffix or '.png'}"
    if target.exists():
        return target.name
    beside = folder / f".{name}.{os.getpid()}.new"
    try:
        if suffix is None:
            beside.write_bytes(as_png(file))
        else:
            _link_or_copy(file, beside)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target.name


def _suffix_as_it_is(file: Path) -> str | None:
    """The ending under which browsers show the file as it is, by what it holds and not its name; else ``None``."""
    suffixes = _SHOWN.get(format_of(file))
    suffix = file.suffix.lower()
    return None if suffixes is None else suffix if suffix in suffixes else suffixes[0]


def _link_or_copy(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file.resolve())
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(file, target)


def as_shown(file: Path, name: str) -> tuple[str, bytes]:
    """An image as browsers show it: file name and bytes, those of a PNG where browsers don't show what it holds."""
    suffix = _suffix_as_it_is(file)
    if suffix is None:
        return f"{name}.png", as_png(file)
    return f"{name}{suffix}", file.read_bytes()
