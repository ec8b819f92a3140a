"""What images look like is measured in its own units, once, and kept."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from tests_pictures import picture, sample_of, samples_in

from curation.properties import PROPERTIES, jpeg_quality, measure_pixels, measure_properties


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

    @pytest.mark.parametrize("suffix", ["jpg", "tif"])
    def test_upright_size_of_a_large_turned_picture_is_exact(self, tmp_path: Path, suffix: str) -> None:
        exif = Image.Exif()
        exif[0x0112] = 8
        picture(1601, 1203).save(tmp_path / f"a.{suffix}", exif=exif)
        measured = measure_properties([sample_of(tmp_path / f"a.{suffix}")], tmp_path / "p.parquet").iloc[0]
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


class TestColourTiltAndCompression:
    def test_red_is_warm_and_green_is_tinted(self) -> None:
        red, green = np.zeros((2, 8, 8, 3), dtype=np.uint8)
        red[:, :, 0] = 255
        green[:, :, 1] = 255
        assert (measure_pixels(red)["warmth"], measure_pixels(red)["tint"]) == (1, -0.5)
        assert (measure_pixels(green)["warmth"], measure_pixels(green)["tint"]) == (0, 1)

    @pytest.mark.parametrize("degrees", [0, 8, 20, -20, 90])
    def test_tilt_of_a_turned_grid_is_its_angle(self, degrees: int) -> None:
        grid = np.zeros((240, 240), dtype=np.uint8)
        grid[::24] = grid[:, ::24] = 255
        blurred = Image.fromarray(grid).filter(ImageFilter.GaussianBlur(1.5))
        turned = blurred.rotate(degrees, Image.Resampling.BICUBIC).crop((60, 60, 180, 180))
        measured = measure_pixels(np.asarray(turned.convert("RGB")))["tilt"]
        assert measured == pytest.approx(abs(degrees) % 90, abs=1.5)

    @pytest.mark.parametrize("quality", [10, 35, 60, 90])
    def test_jpeg_quality_is_what_the_file_was_saved_at(self, tmp_path: Path, quality: int) -> None:
        picture().save(tmp_path / "a.jpg", quality=quality)
        measured = measure_properties([sample_of(tmp_path / "a.jpg")], tmp_path / "p.parquet")
        assert measured["jpeg_quality"].iloc[0] == pytest.approx(quality, abs=1)
        assert jpeg_quality({}) == 100
