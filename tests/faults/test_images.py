"""Every odd file is either used rightly or set aside with its reason; none stops the good ones."""

from __future__ import annotations

import os
import pwd
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from faults.conftest import Tally
from PIL import Image
from tests_faults import settings_of
from tests_stand_ins import draw

from curation import Project
from curation.config import settings_from_dict
from curation.dataset import inspect_rows, rows_of_folder, rows_of_table
from curation.errors import DataError, ProjectError
from curation.images import read_image

RED = (250, 10, 10)


def red(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """A red picture."""
    return Image.new("RGB", (width, height), RED).convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9000)) + chunk(b"IEND", b"")
    )


def corpus(folder: Path) -> dict[str, str]:
    """Write odd files; name to what must become of it: ``red`` (read as a red picture), ``used``, or its reason."""
    folder.mkdir()
    red().save(folder / "whole.jpg", quality=95)
    whole = (folder / "whole.jpg").read_bytes()
    raw = {
        "truncated.jpg": (whole[: len(whole) // 2], "damaged or cut off"),
        "one byte short.png": (_png()[:-1], "used"),  # the picture itself is all there
        "half.png": (_png()[: len(_png()) // 2], "damaged or cut off"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"not an image\n" * 50, "not an image of a known format"),
        "html.jpg": (b"<html><body>404 Not Found</body></html>", "not an image of a known format"),
        "zeros.png": (bytes(5000), "not an image of a known format"),
        "only a header.png": (b"\x89PNG\r\n\x1a\n", "not an image of a known format|damaged or cut off"),
        "flipped bytes.png": (_png().replace(b"IDAT", b"IDAX"), "damaged or cut off|not an image"),
        "20000 x 20000.png": (png_header(20_000, 20_000), "million pixels"),
        "bomb.png": (png_header(60_000, 60_000), "million pixels"),
        "0 x 0.png": (png_header(0, 0), "damaged or cut off|not an image"),
        "claims more than it has.png": (png_header(3000, 3000), "damaged or cut off"),
        "really a jpeg.png": (whole, "red"),
        "with rubbish behind it.jpg": (whole + b"rubbish" * 100, "red"),
    }
    made = {"whole.jpg": "red"}
    for name, (content, wanted) in raw.items():
        (folder / name).write_bytes(content)
        made[name] = wanted
    return made | _modes(folder) | _names(folder, _png()) | _links(folder)


def _png() -> bytes:
    from io import BytesIO

    out = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(out, "PNG")
    return out.getvalue()


def _modes(folder: Path) -> dict[str, str]:
    red(mode="CMYK").save(folder / "cmyk.jpg", quality=95)
    red(mode="CMYK").save(folder / "cmyk.tif")
    red(mode="P").save(folder / "palette.png")
    red(mode="RGBA").save(folder / "alpha.png")
    Image.new("RGBA", (40, 30), (0, 0, 0, 0)).save(folder / "transparent.png")
    red(mode="1").save(folder / "one bit.png")
    Image.fromarray(np.full((30, 40), 40_000, dtype=np.uint16)).save(folder / "16 bit.png")
    Image.fromarray(np.full((30, 40), 0.5, dtype=np.float32)).save(folder / "floating point.tif")
    red().save(folder / "animated.gif", save_all=True, append_images=[Image.new("RGB", (40, 30), "blue")])
    red().save(
        folder / "animated.webp", save_all=True, append_images=[Image.new("RGB", (40, 30), "blue")], lossless=True
    )
    turned = Image.new("RGB", (40, 30), "blue")
    turned.paste(RED, (0, 0, 40, 15))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "turned.png", exif=exif)
    red().save(folder / "broken exif.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff", quality=95)
    red(1, 1).save(folder / "1 x 1.png")
    red(4000, 1).save(folder / "4000 x 1.png")
    return {
        "cmyk.jpg": "red", "cmyk.tif": "red", "palette.png": "red", "alpha.png": "red", "transparent.png": "used",
        "one bit.png": "used", "16 bit.png": "used", "floating point.tif": "used", "animated.gif": "red",
        "animated.webp": "red", "turned.png": "used", "broken exif.jpg": "red", "1 x 1.png": "red",
        "4000 x 1.png": "red",
    }  # fmt: skip


def _names(folder: Path, content: bytes) -> dict[str, str]:
    names = [
        "line\nbreak.png", "tab\tname.png", "quo\"te's.png", "<b>markup<b>&amp;.png", "=cmd|' C calc'!A0.png",
        "emoji 🐈.png", "猫.png", "e\u0301 decomposed.png", "\x1b[31mred.png", "%s%n%d.png", "-rf.png", " space .png",
        "a,b;c.png", "'; DROP TABLE samples; --.png", "x" * 251 + ".png", "UPPER.PNG",
    ]  # fmt: skip
    for number, name in enumerate(names):
        (folder / name).write_bytes(content + bytes([number]))  # each its own content
    (folder / os.fsdecode(b"not \xff text.png")).write_bytes(content + b"last")
    return dict.fromkeys(names, "used") | {os.fsdecode(b"not \xff text.png"): "name that is no UTF-8 text"}


def _links(folder: Path) -> dict[str, str]:
    outside = folder.parent / "outside"
    outside.mkdir()
    red(41, 31).save(outside / "there.png")
    red(42, 32).save(outside / "deeper.png")
    (folder / "link out.png").symlink_to(outside / "there.png")
    (folder / "link to text.png").symlink_to("/etc/passwd")
    (folder / "broken link.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "loop folder").symlink_to(folder)
    (folder / "folder outside").symlink_to(outside)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    return {
        "link out.png": "red", "link to text.png": "not an image of a known format",
        "broken link.png": "does not exist", "loop.png": "can't be read", "loop folder": "read already",
        "folder outside/deeper.png": "red", "folder outside/there.png": "red", "pipe.png": "no regular file",
    }  # fmt: skip


@pytest.mark.timeout(120)
def test_each_odd_file_is_used_rightly_or_set_aside_with_its_reason(tmp_path: Path, tally: Tally) -> None:
    wanted = corpus(tmp_path / "images")
    rows = rows_of_folder(tmp_path / "images")
    assert sorted(r.path for r in rows) == sorted(wanted)
    found = inspect_rows(rows)
    used = {row.path for row, _ in found.rows}
    aside = {a.where: a.reason for a in found.set_aside}
    assert len(used) + len(aside) == len(wanted)
    for name, what in wanted.items():
        if what in ("red", "used"):
            assert name in used, f"{name!r}: {list(aside.values())}"
            pixels = read_image(tmp_path / "images" / name)
            assert (pixels.dtype, pixels.ndim, pixels.shape[2]) == (np.uint8, 3, 3)
            if what == "red":
                assert np.abs(pixels.reshape(-1, 3).mean(axis=0) - RED).max() < 25, name
        else:
            reasons = [r for w, r in aside.items() if any(part in r for part in what.split("|"))]
            assert name not in used, name
            assert reasons, (name, what, aside)
            assert all(r.isprintable() for r in reasons)
        good = what in ("red", "used")
        tally.count("odd image files", tried=1, used=good, **{"set aside": not good})
    tally.whole.add("odd image files")


def test_what_a_picture_looks_like_survives_its_form(tmp_path: Path) -> None:
    corpus(tmp_path / "images")
    assert read_image(tmp_path / "images" / "turned.png").shape == (40, 30, 3)
    assert (read_image(tmp_path / "images" / "transparent.png") == 255).all()
    assert (read_image(tmp_path / "images" / "16 bit.png") == 40_000 >> 8).all()
    assert (read_image(tmp_path / "images" / "turned.png")[:, 15:] == RED).all()  # the upper half is on the right


def test_a_file_that_may_not_be_read_is_set_aside() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        folder = Path(temporary)
        red().save(folder / "a.png")
        red(41).save(folder / "b.png")
        (folder / "b.png").chmod(0)
        folder.chmod(0o755)
        rows = rows_of_folder(folder)
        inspect_rows(rows[:1])  # everything is loaded
        user = os.geteuid()
        try:
            if user == 0:  # root may read everything: ask as somebody else
                os.seteuid(pwd.getpwnam("nobody").pw_uid)
            found = inspect_rows(rows, workers=1)
        finally:
            os.seteuid(user)
    (aside,) = found.set_aside
    assert "b.png can't be read (Permission denied)" in aside.reason


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../../../../../../../../etc/passwd", "leads out of the folder"), ("../there.png", "leads out of the folder"),
        ("sub/../../there.png", "leads out of the folder"), ("/etc/passwd", "not an image of a known format"),
        ("a.png\0.txt", "no file name"), ("/dev/zero", "no regular file"), ("~/a.png", "does not exist"),
        ("C:\\images\\a.png", "does not exist"), ("http://localhost/a.png", "does not exist"), (".", "is a folder"),
        ("x" * 5000, "can't be read"),
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_set_aside(tmp_path: Path, tally: Tally, path: str, said: str) -> None:
    (tmp_path / "images" / "sub").mkdir(parents=True)
    red().save(tmp_path / "images" / "a.png")
    red().save(tmp_path / "there.png")
    (tmp_path / "t.csv").write_text(f"path,label\na.png,cat\nsub/../a.png,cat\n{tmp_path}/there.png,dog\n{path},cat\n")
    found = inspect_rows(rows_of_table(tmp_path / "t.csv", tmp_path / "images"))
    assert len(found.rows) == 3  # by name, by a way round, and absolute
    (aside,) = found.set_aside
    assert aside.where == "t.csv row 5"
    assert said in aside.reason
    tally.count("odd paths in tables", tried=1, **{"set aside": 1})
    tally.whole |= {"odd paths in tables"} if tally.rows["odd paths in tables"]["tried"] == 11 else set()


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "x" * 201, "\u202egnp"])
def test_a_class_that_people_could_not_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    from curation.dataset import Found, Row, check_classes, gather
    from curation.images import ImageFacts

    rows = [Row(f"{n}.png", tmp_path, ("cat", name)[n % 2], "train", None, {}, str(n)) for n in range(4)]
    found = Found(tuple((row, ImageFacts(row.path, 4, 4)) for row in rows))
    images = gather(found, known_splits={}, seed=0, holdout_share=0.2)
    with pytest.raises(DataError, match="can't be shown to people"):
        check_classes(images)


@pytest.mark.e2e
def test_images_that_go_or_change_after_import_are_set_aside_and_the_loop_goes_on(tmp_path: Path, tally: Tally) -> None:
    truth = draw(tmp_path / "images", 60)
    answers = "".join(f"{path},{name},ann\n" for path, name in truth.items())
    (tmp_path / "answers.csv").write_text("path,label,annotator\n" + answers)
    flipped = {p: {"left": "right", "right": "left"}[n] if i % 10 == 0 else n for i, (p, n) in enumerate(truth.items())}
    rows = "".join(f"{path},{name},{'holdout' if i % 5 == 4 else 'pool' if i % 5 == 3 else 'train'}\n"
                   for i, (path, name) in enumerate(flipped.items()))  # fmt: skip
    (tmp_path / "labels.csv").write_text("path,label,split\n" + rows)
    said: list[str] = []
    small = settings_from_dict(settings_of("head"))  # type: ignore[arg-type]
    Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv", settings=small)
    project = Project(tmp_path / "p", say=said.append)
    (tmp_path / "images" / "000.png").unlink()  # train, flipped
    Image.new("RGB", (24, 24)).save(tmp_path / "images" / "004.png")  # holdout
    (tmp_path / "images" / "003.png").write_bytes(b"")  # pool
    project.run(1, annotator=f"replay:{tmp_path / 'answers.csv'}")
    assert {a.path for a in project.aside} == {"000.png", "004.png", "003.png"}
    assert len([s for s in said if s.startswith("Set aside: ")]) == 3
    assert any("000.png is gone" in s for s in said)
    assert any("004.png has changed since it was imported" in s for s in said)

    shutil.copy(tmp_path / "images" / "001.png", tmp_path / "kept.png")
    stamp = (tmp_path / "images" / "001.png").stat()
    (tmp_path / "images" / "001.png").write_bytes(b"\0" * stamp.st_size)  # same size and time: found when it is read
    os.utime(tmp_path / "images" / "001.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    draw(tmp_path / "images", 1, seed=0)  # the first image is back
    shutil.rmtree(project.paths.cache / "pixels")
    shutil.rmtree(project.paths.cache / "features")
    (project.paths.cache / "properties.parquet").unlink()
    status = Project(tmp_path / "p", say=said.append).run(1, annotator=f"replay:{tmp_path / 'answers.csv'}")
    assert [i["state"] for i in status["iterations"]] == ["done", "done"]
    again = Project(tmp_path / "p")
    judged = set(again.flag()["path"])
    assert "000.png" in judged
    assert not judged & {"001.png", "003.png", "004.png"}
    assert {a.path for a in again.aside} >= {"003.png", "004.png"}
    tally.count("images gone or changed after import", tried=4, **{"set aside": 4})
    tally.whole.add("images gone or changed after import")


def test_where_no_image_is_left_one_sentence_says_so(tmp_path: Path) -> None:
    truth = draw(tmp_path / "images", 10)
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in truth.items()))
    project, _ = Project.create(tmp_path / "p", tmp_path / "images", tmp_path / "labels.csv", say=lambda _: None)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(
        ProjectError, match=r"not one of 10 images is as it was at import: .*\.png is gone; put it back"
    ):
        project.flag()
