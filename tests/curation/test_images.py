"""Images are read as people see them, refused in one sentence where they can't be, decoded once, and measured."""

from __future__ import annotations

import hashlib
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from curation.errors import DataError
from curation.images import (
    PROPERTIES,
    PixelCache,
    inspect_image,
    measure_pixels,
    measure_properties,
    quality_issues,
    read_image,
)
from curation.records import Sample


def picture(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth coloured picture, its upper left corner the reddest."""
    red = np.linspace(250, 50, width)[None, :] * np.linspace(1, 0.4, height)[:, None]
    rest = np.full((height, width), 40 + seed % 100, dtype=np.float64)
    return Image.fromarray(np.dstack([red, rest, rest]).astype(np.uint8))


def sample_of(file: Path) -> Sample:
    facts = inspect_image(file)
    return Sample(facts.sha256, file.name, file, "train", width=facts.width, height=facts.height)


def samples_in(folder: Path, count: int) -> list[Sample]:
    made = []
    for number in range(count):
        file = folder / f"{number}.png"
        picture(60 + number, 40, seed=number).save(file)
        made.append(sample_of(file))
    return made


class TestReading:
    def test_plain_picture_comes_back_exactly(self, tmp_path: Path) -> None:
        picture().save(tmp_path / "a.png")
        read = read_image(tmp_path / "a.png")
        assert read.shape == (40, 60, 3)
        assert read.dtype == np.uint8
        assert (read == np.asarray(picture())).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_undone(self, tmp_path: Path, orientation: int) -> None:
        """The eight ways of storing the same picture, written out as numpy operations from the EXIF standard."""
        upright = np.asarray(picture())
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright, 1),
            7: upright[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
        assert (read_image(tmp_path / "a.png") == upright).all()
        facts = inspect_image(tmp_path / "a.png")
        assert (facts.width, facts.height) == (60, 40)

    def test_transparency_is_laid_on_white(self, tmp_path: Path) -> None:
        layer = Image.new("RGBA", (4, 4), (200, 0, 0, 255))
        layer.putpixel((0, 0), (200, 0, 0, 0))
        layer.putpixel((1, 0), (0, 0, 0, 51))
        layer.save(tmp_path / "a.png")
        read = read_image(tmp_path / "a.png")
        assert read[0, 0].tolist() == [255, 255, 255]
        assert read[0, 1].tolist() == [204, 204, 204]
        assert read[1, 1].tolist() == [200, 0, 0]

    def test_transparent_palette_and_grey_are_laid_on_white(self, tmp_path: Path) -> None:
        palette = Image.new("P", (4, 4), 3)
        palette.putpalette([10, 20, 30] * 8)
        palette.save(tmp_path / "p.png", transparency=3)
        Image.new("L", (4, 4), 7).save(tmp_path / "l.png", transparency=7)
        Image.new("LA", (4, 4), (0, 0)).save(tmp_path / "la.png")
        for name in ("p.png", "l.png", "la.png"):
            assert (read_image(tmp_path / name) == 255).all(), name

    def test_cmyk_becomes_rgb(self, tmp_path: Path) -> None:
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
        red, green, blue = read_image(tmp_path / "a.jpg").reshape(-1, 3).mean(axis=0)
        assert red > 240
        assert green < 15
        assert blue < 15

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_sixteen_bits_keep_their_brightness(self, tmp_path: Path, suffix: str) -> None:
        values = np.array([[0, 32768], [65535, 256]], dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        assert read_image(tmp_path / f"a.{suffix}")[:, :, 0].tolist() == [[0, 128], [255, 1]]

    def test_floating_point_and_one_bit_are_read(self, tmp_path: Path) -> None:
        Image.fromarray(np.array([[0.0, 0.5], [1.0, np.nan]], dtype=np.float32)).save(tmp_path / "f.tif")
        assert read_image(tmp_path / "f.tif")[:, :, 1].tolist() == [[0, 128], [255, 0]]
        Image.fromarray(np.array([[True, False]])).save(tmp_path / "1.png")
        assert read_image(tmp_path / "1.png")[:, :, 2].tolist() == [[255, 0]]

    @pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
    def test_first_frame_of_an_animation_is_read(self, tmp_path: Path, suffix: str) -> None:
        first, second = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
        first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
        red, _, blue = read_image(tmp_path / f"a.{suffix}").reshape(-1, 3).mean(axis=0)
        assert red > 240
        assert blue < 15

    def test_facts_are_hash_and_size(self, tmp_path: Path) -> None:
        picture().save(tmp_path / "a.bmp")
        facts = inspect_image(tmp_path / "a.bmp")
        assert facts.sha256 == hashlib.sha256((tmp_path / "a.bmp").read_bytes()).hexdigest()
        assert (facts.width, facts.height) == (60, 40)


class TestRefusing:
    def refused(self, file: Path) -> str:
        """The one sentence; the same from both ways of opening."""
        with pytest.raises(DataError) as inspected:
            inspect_image(file)
        with pytest.raises(DataError) as read:
            read_image(file)
        assert str(inspected.value) == str(read.value)
        assert str(file) in str(read.value)
        assert "\n" not in str(read.value)
        return str(read.value)

    def test_empty_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        assert "is empty" in self.refused(tmp_path / "a.png")

    def test_text_called_png_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("not a picture")
        assert "is not an image of a known format" in self.refused(tmp_path / "a.png")

    def test_folder_missing_file_and_pipe_are_named(self, tmp_path: Path) -> None:
        assert "is a folder" in self.refused(tmp_path)
        assert "does not exist" in self.refused(tmp_path / "none.png")
        os.mkfifo(tmp_path / "pipe.png")
        assert "is no regular file" in self.refused(tmp_path / "pipe.png")

    @pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
    def test_unreadable_file_is_named(self, tmp_path: Path) -> None:
        picture().save(tmp_path / "a.png")
        (tmp_path / "a.png").chmod(0)
        assert "Permission denied" in self.refused(tmp_path / "a.png")

    @pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tif", "webp"])
    def test_file_cut_in_half_is_refused(self, tmp_path: Path, suffix: str) -> None:
        file = tmp_path / f"a.{suffix}"
        Image.effect_noise((200, 200), 60).convert("RGB").save(file)
        raw = file.read_bytes()
        file.write_bytes(raw[: len(raw) // 2])
        assert "damaged or cut off" in self.refused(file) or "not an image" in self.refused(file)

    @pytest.mark.filterwarnings("ignore")  # Pillow warns of what is broken before it raises
    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "tif", "webp"])
    def test_no_broken_byte_raises_anything_but_our_error(self, tmp_path: Path, suffix: str) -> None:
        file = tmp_path / f"a.{suffix}"
        exif = Image.Exif()
        exif[0x0112] = 6
        picture(30, 20).save(file, **({} if suffix == "gif" else {"exif": exif}))
        raw = file.read_bytes()
        rng = np.random.default_rng(0)
        for _ in range(150):
            broken = bytearray(raw)
            for place in rng.integers(0, len(raw), size=3):
                broken[place] = rng.integers(256)
            file.write_bytes(bytes(broken[: rng.integers(1, len(raw) + 1)]))
            try:
                read_image(file)
            except DataError:
                continue

    def test_decompression_bomb_is_refused_before_it_is_decoded(self, tmp_path: Path) -> None:
        """A PNG of a few bytes that claims 20,000 x 20,000 pixels."""

        def chunk(kind: bytes, body: bytes) -> bytes:
            return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
        raw = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(raw)
        assert "more than 178 million pixels" in self.refused(tmp_path / "a.png")


class TestPixelCache:
    def test_pixels_are_squashed_and_in_order(self, tmp_path: Path) -> None:
        samples = samples_in(tmp_path, 5)
        cache = PixelCache(tmp_path / "cache", 16)
        forward, backward = cache.pixels(samples), cache.pixels(samples[::-1])
        assert forward.shape == (5, 16, 16, 3)
        assert (forward[::-1] == backward).all()
        expected = picture(60, 40, seed=0).resize((16, 16), Image.Resampling.LANCZOS)
        assert (forward[0] == np.asarray(expected)).all()

    def test_no_samples_give_no_pixels(self, tmp_path: Path) -> None:
        assert PixelCache(tmp_path, 16).pixels([]).shape == (0, 16, 16, 3)

    def test_repeated_sample_is_decoded_once_and_given_twice(self, tmp_path: Path) -> None:
        (one,) = samples_in(tmp_path, 1)
        pixels = PixelCache(tmp_path / "cache", 16).pixels([one, one])
        assert (pixels[0] == pixels[1]).all()
        assert (tmp_path / "cache" / "pixels-16-v1.u8").stat().st_size == 16 * 16 * 3

    def test_second_call_needs_no_file(self, tmp_path: Path) -> None:
        samples = samples_in(tmp_path, 3)
        first = np.array(PixelCache(tmp_path / "cache", 16).pixels(samples))
        for sample in samples:
            sample.file.unlink()
        assert (PixelCache(tmp_path / "cache", 16).pixels(samples) == first).all()

    def test_cache_grows_and_tells_progress(self, tmp_path: Path) -> None:
        samples = samples_in(tmp_path, 4)
        told: list[tuple[str, int, int]] = []
        cache = PixelCache(tmp_path / "cache", 16)
        cache.pixels(samples[:2])
        mixed = cache.pixels([samples[3], samples[0], samples[2]], lambda *what: told.append(what))
        assert told == [("decoding images", 2, 2)]
        alone = PixelCache(tmp_path / "other", 16).pixels([samples[3], samples[0], samples[2]])
        assert (mixed == alone).all()

    def test_torn_tail_is_ignored_and_written_over(self, tmp_path: Path) -> None:
        """A crash after rows were written, in the middle of one, and before the index."""
        samples = samples_in(tmp_path, 4)
        cache = PixelCache(tmp_path / "cache", 16)
        cache.pixels(samples[:2])
        with (tmp_path / "cache" / "pixels-16-v1.u8").open("ab") as out:
            out.write(b"\x07" * (16 * 16 * 3 + 100))
        after = cache.pixels(samples)
        assert (after == PixelCache(tmp_path / "other", 16).pixels(samples)).all()

    def test_rows_lost_from_the_file_are_decoded_again(self, tmp_path: Path) -> None:
        samples = samples_in(tmp_path, 3)
        cache = PixelCache(tmp_path / "cache", 16)
        expected = np.array(cache.pixels(samples))
        with (tmp_path / "cache" / "pixels-16-v1.u8").open("r+b") as out:
            out.truncate(16 * 16 * 3 + 5)
        assert (cache.pixels(samples) == expected).all()

    def test_what_was_decoded_before_a_bad_image_is_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("curation.images._CHUNK", 2)
        samples = samples_in(tmp_path, 4)
        samples[3].file.write_bytes(b"broken since")
        with pytest.raises(DataError, match=r"3\.png has changed since it was imported"):
            PixelCache(tmp_path / "cache", 16).pixels(samples)
        for sample in samples:
            sample.file.unlink()
        assert PixelCache(tmp_path / "cache", 16).pixels(samples[:2]).shape == (2, 16, 16, 3)

    def test_large_jpeg_is_close_to_its_full_decode(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        picture(1600, 1200).save(tmp_path / "a.jpg", quality=95, exif=exif)
        pixels = PixelCache(tmp_path / "cache", 32).pixels([sample_of(tmp_path / "a.jpg")])[0]
        full = Image.fromarray(read_image(tmp_path / "a.jpg")).resize((32, 32), Image.Resampling.LANCZOS)
        assert np.abs(pixels.astype(int) - np.asarray(full).astype(int)).max() <= 4


class TestProperties:
    def test_half_black_half_white_by_hand(self) -> None:
        pixels = np.zeros((100, 100, 3), dtype=np.uint8)
        pixels[:, 50:] = 255
        measured = measure_pixels(pixels)
        assert measured["brightness"] == 0.5
        assert measured["contrast"] == 0.5
        assert measured["highlights"] == 0.5
        assert measured["saturation"] == 0
        assert measured["noise"] == 0
        assert measured["information"] == 1  # two equally likely levels: one bit
        assert measured["busyness"] == pytest.approx(2 / 98, abs=1e-6)  # the two columns beside the edge
        assert (measured["darkest"], measured["brightest"]) == (0, 1)

    def test_noise_is_measured_in_its_own_unit(self) -> None:
        rng = np.random.default_rng(0)
        grey = np.clip(rng.normal(128, 0.03 * 255, (200, 200)), 0, 255).astype(np.uint8)
        assert measure_pixels(np.dstack([grey] * 3))["noise"] == pytest.approx(0.03, rel=0.15)

    def test_pure_red_is_fully_saturated(self) -> None:
        red = np.zeros((10, 10, 3), dtype=np.uint8)
        red[:, :, 0] = 255
        assert measure_pixels(red)["saturation"] == 1

    def test_blur_lowers_sharpness_and_contrast_does_not(self) -> None:
        rng = np.random.default_rng(0)
        blocks = np.kron(rng.integers(0, 255, (20, 20)), np.ones((10, 10))).astype(np.uint8)
        sharp = Image.fromarray(blocks).convert("RGB")
        faint = Image.fromarray((blocks // 4 + 90).astype(np.uint8)).convert("RGB")
        blurred = sharp.filter(ImageFilter.GaussianBlur(3))
        value = [measure_pixels(np.asarray(i))["sharpness"] for i in (sharp, faint, blurred)]
        assert value[0] == pytest.approx(value[1], abs=0.03)
        assert value[2] < value[0] - 0.3

    def test_resolution_changes_little(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        small = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
        for name, side in (("a.png", 300), ("b.png", 1200)):
            small.resize((side, side), Image.Resampling.BICUBIC).save(tmp_path / name)
        samples = [sample_of(tmp_path / "a.png"), sample_of(tmp_path / "b.png")]
        measured = measure_properties(samples, tmp_path / "p.parquet")
        a, b = measured.iloc[0], measured.iloc[1]
        for name in ("brightness", "contrast", "sharpness", "saturation", "busyness"):
            assert a[name] == pytest.approx(b[name], abs=0.03), name

    @pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 300), (3, 3), (2, 2)])
    def test_tiny_images_have_finite_properties(self, tmp_path: Path, size: tuple[int, int]) -> None:
        Image.new("RGB", size, (9, 9, 9)).save(tmp_path / "a.png")
        measured = measure_properties([sample_of(tmp_path / "a.png")], tmp_path / "p.parquet")
        assert np.isfinite(measured.to_numpy()).all()

    def test_frame_is_indexed_by_sample_in_order(self, tmp_path: Path) -> None:
        samples = samples_in(tmp_path, 3)
        measured = measure_properties(samples[::-1], tmp_path / "p.parquet")
        assert list(measured.index) == [s.id for s in samples[::-1]]
        assert measured.index.name == "sample_id"
        assert list(measured.columns) == list(PROPERTIES)
        assert (measured.dtypes == np.float64).all()
        assert measured["width"].tolist() == [62, 61, 60]
        assert measured["aspect"].iloc[2] == 1.5

    def test_upright_size_of_a_large_turned_jpeg_is_exact(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 8
        picture(1601, 1203).save(tmp_path / "a.jpg", exif=exif)
        measured = measure_properties([sample_of(tmp_path / "a.jpg")], tmp_path / "p.parquet").iloc[0]
        assert (measured["width"], measured["height"]) == (1203, 1601)

    def test_only_missing_images_are_measured(self, tmp_path: Path) -> None:
        samples = samples_in(tmp_path, 4)
        first = measure_properties(samples[:3], tmp_path / "p.parquet")
        for sample in samples[:3]:
            sample.file.unlink()
        told: list[tuple[str, int, int]] = []
        after = measure_properties(samples, tmp_path / "p.parquet", lambda *what: told.append(what))
        assert told == [("measuring images", 1, 1)]
        pd.testing.assert_frame_equal(after.iloc[:3], first)
        assert list(measure_properties(samples, tmp_path / "p.parquet").index) == [s.id for s in samples]

    def test_broken_cache_is_measured_anew(self, tmp_path: Path) -> None:
        samples = samples_in(tmp_path, 2)
        first = measure_properties(samples, tmp_path / "p.parquet")
        (tmp_path / "p.parquet").write_bytes(b"PAR1 torn")
        pd.testing.assert_frame_equal(measure_properties(samples, tmp_path / "p.parquet"), first)

    def test_no_samples_give_an_empty_frame(self, tmp_path: Path) -> None:
        empty = measure_properties([], tmp_path / "p.parquet")
        assert list(empty.columns) == list(PROPERTIES)
        assert len(empty) == 0
        assert quality_issues(empty) == []

    def test_fifty_cell_sized_images_take_less_than_two_seconds(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        samples = []
        for number in range(50):
            file = tmp_path / f"{number}.png"
            grey = rng.normal(140, 3, (300, 300)).clip(0, 255).astype(np.uint8)
            Image.fromarray(grey).save(file, compress_level=1)
            samples.append(sample_of(file))
        started = time.process_time()
        measure_properties(samples, tmp_path / "p.parquet")
        assert time.process_time() - started < 2


def usual(count: int = 40) -> pd.DataFrame:
    """Properties of a data set with nothing odd in it."""
    spread = np.linspace(-0.05, 0.05, count)
    columns = {
        "brightness": 0.5 + spread, "contrast": 0.2 + spread, "sharpness": 0.6 + spread, "noise": 0.01 + 0 * spread,
        "saturation": 0.3 + spread, "highlights": 0 * spread, "busyness": 0.1 + spread, "width": 300 + 0 * spread,
        "height": 200 + 0 * spread, "aspect": 1.5 + 0 * spread, "darkest": 0.2 + spread, "brightest": 0.8 + spread,
        "information": 6 + spread,
    }  # fmt: skip
    return pd.DataFrame(columns, index=[f"s{n}" for n in range(count)])


class TestQualityIssues:
    def test_usual_images_have_none(self) -> None:
        assert quality_issues(usual()) == []

    @pytest.mark.parametrize(
        ("kind", "change", "words"),
        [
            ("dark", {"brightest": 0.12}, "brightest parts reach 12% of full brightness, usual here 80%"),
            ("light", {"darkest": 0.97}, "darkest parts are 97% bright, usual here 20%"),
            ("blurry", {"sharpness": 0.21}, "sharpness 0.21, usual here 0.60"),
            ("low_information", {"information": 1.5}, "1.5 bits of information a pixel, usual here 6.0"),
            ("odd_size", {"width": 30, "height": 20}, "30 x 20 pixels, usual here 300 x 200"),
            ("odd_aspect_ratio", {"width": 800, "height": 80, "aspect": 10}, "10.00 times as wide as high"),
        ],
    )
    def test_each_kind_is_found_with_its_reason(self, kind: str, change: dict[str, float], words: str) -> None:
        properties = usual()
        properties.loc["s7", list(change)] = list(change.values())
        (issue,) = quality_issues(properties)
        assert (issue.sample_id, issue.kind) == ("s7", kind)
        assert 0 <= issue.score < 0.5
        assert words in issue.reason

    def test_data_set_that_is_dark_throughout_is_not_flagged(self) -> None:
        properties = usual()
        properties["brightest"] -= 0.6
        assert quality_issues(properties) == []

    def test_black_image_in_a_dark_set_is_flagged(self) -> None:
        properties = usual()
        properties["brightest"] = 0.15
        properties.loc["s3", "brightest"] = 0.01
        assert [(i.sample_id, i.kind) for i in quality_issues(properties)] == [("s3", "dark")]

    def test_worst_comes_first(self) -> None:
        properties = usual()
        properties.loc[["s3", "s5"], "brightest"] = [0.2, 0.1]
        assert [i.sample_id for i in quality_issues(properties)] == ["s5", "s3"]
