"""Images are read as people see them, refused in one sentence where they can't be, and decoded once."""

from __future__ import annotations

import hashlib
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_pictures import picture, sample_of, samples_in

from curation.errors import DataError
from curation.images import (
    FilesAsSeen,
    PixelCache,
    inspect_image,
    read_image,
)
from curation.records import Sample


class TestReading:
    def test_plain_picture_comes_back_exactly(self, tmp_path: Path) -> None:
        picture().save(tmp_path / "a.png")
        read = read_image(tmp_path / "a.png")
        assert read.shape == (40, 60, 3)
        assert read.dtype == np.uint8
        assert (read == np.asarray(picture())).all()

    @pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_undone(self, tmp_path: Path, orientation: int, suffix: str) -> None:
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
        file = tmp_path / f"a.{suffix}"
        Image.fromarray(np.ascontiguousarray(stored)).save(file, exif=exif, lossless=True)
        assert np.array_equal(read_image(file), upright)
        facts = inspect_image(file)
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

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_twelve_of_sixteen_bits_fill_the_eight_that_are_read(self, tmp_path: Path, suffix: str) -> None:
        values = np.array([[0, 2048], [4095, 16], [5000, 65535]], dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        assert read_image(tmp_path / f"a.{suffix}", 12)[:, :, 0].tolist() == [[0, 128], [255, 1], [255, 255]]
        assert inspect_image(tmp_path / f"a.{suffix}").deepest == 65535

    def test_only_deep_grey_is_measured_for_how_deep_it_is(self, tmp_path: Path) -> None:
        for name, image in {"a.png": picture(8, 8), "b.png": Image.new("L", (8, 8), 200)}.items():
            image.save(tmp_path / name)
            assert inspect_image(tmp_path / name).deepest == 0

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
        with pytest.raises(DataError, match=r"3\.png has changed since it was imported; put the old one back"):
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


class TestSeen:
    def sample(self, tmp_path: Path, name: str, image: Image.Image, bits: int = 12) -> Sample:
        image.save(tmp_path / name)
        return Sample(inspect_image(tmp_path / name).sha256, name, tmp_path / name, "train", bits=bits)

    def test_people_see_deep_images_as_the_model_is_given_them_and_others_as_they_are(self, tmp_path: Path) -> None:
        deep = Image.fromarray(np.linspace(0, 4095, 64).reshape(8, 8).astype(np.uint16))
        samples = [self.sample(tmp_path, "d.png", deep), self.sample(tmp_path, "c.png", picture(8, 8))]
        files = FilesAsSeen(samples, tmp_path / "seen")
        assert (list(files), len(files), samples[0].id in files, "x" in files) == (
            [s.id for s in samples],
            2,
            True,
            False,
        )
        assert not (tmp_path / "seen").exists(), "nothing is made before it is asked for"
        seen = files[samples[0].id]
        with Image.open(seen) as shown:
            assert (shown.format, shown.mode) == ("PNG", "RGB")
            assert np.asarray(shown).tolist() == read_image(samples[0].file, 12).tolist()
        squashed = PixelCache(tmp_path / "cache", 8).pixels(samples[:1])[0]
        assert squashed.tolist() == read_image(seen).tolist()
        assert files[samples[1].id] == samples[1].file
        made = seen.stat().st_mtime_ns
        assert (files[samples[0].id], seen.stat().st_mtime_ns) == (seen, made)

    def test_images_of_sixteen_bits_and_missing_ones_are_the_files_themselves(self, tmp_path: Path) -> None:
        deep = Image.fromarray(np.full((8, 8), 60_000, dtype=np.uint16))
        one, gone = self.sample(tmp_path, "d.png", deep, 16), self.sample(tmp_path, "g.png", deep)
        gone.file.unlink()
        files = FilesAsSeen([one], tmp_path / "seen")
        assert files[one.id] == one.file
        assert FilesAsSeen([gone], tmp_path / "seen")[gone.id] == gone.file
        assert not (tmp_path / "seen").exists()

    def test_a_sample_is_handed_to_other_processes_with_its_bits(self, tmp_path: Path) -> None:
        assert pickle.loads(pickle.dumps(Sample("a", "a", Path("a"), "train", bits=12))).bits == 12
