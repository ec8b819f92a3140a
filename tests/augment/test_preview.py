"""A contact sheet shows each image as it is above what the recipe makes of it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from augment.preview import CAPTION, GAP, contact_sheet


def red(height: int, width: int) -> np.ndarray:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, :, 0] = 200
    return image


def to_blue(image: np.ndarray, seed: int) -> np.ndarray:
    return np.ascontiguousarray(image[:, :, ::-1])


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_before_is_above_after() -> None:
    sheet = opened(contact_sheet([red(64, 64)], to_blue, seed=0, tile=64))
    above = sheet[CAPTION : CAPTION + 64, GAP : GAP + 64]
    below = sheet[2 * CAPTION + 64 + GAP : 2 * CAPTION + 128 + GAP, GAP : GAP + 64]
    assert (above == [200, 0, 0]).all()
    assert (below == [0, 0, 200]).all()
    assert (sheet[:CAPTION] < 128).any(), "the caption is written"


def test_images_of_any_size_fill_their_tile_in_their_own_shape() -> None:
    sheet = opened(contact_sheet([red(10, 20), red(900, 300)], to_blue, seed=0, tile=64))
    wide = sheet[CAPTION : CAPTION + 64, GAP : GAP + 64]
    assert (wide == [200, 0, 0]).all(axis=2).sum() == 32 * 64
    assert (wide[:16] == 255).all()
    assert (wide[48:] == 255).all()


def test_rows_break_after_the_given_columns() -> None:
    one_row = opened(contact_sheet([red(8, 8)] * 6, to_blue, seed=0))
    two_rows = opened(contact_sheet([red(8, 8)] * 7, to_blue, seed=0))
    assert two_rows.shape[0] == 2 * one_row.shape[0]
    assert two_rows.shape[1] == one_row.shape[1]


def test_each_image_has_its_own_seed() -> None:
    seen: list[int] = []

    def note(image: np.ndarray, seed: int) -> np.ndarray:
        seen.append(seed)
        return image

    contact_sheet([red(8, 8)] * 3, note, seed=40)
    assert seen == [40, 41, 42]


def test_no_images_make_an_empty_sheet() -> None:
    assert (opened(contact_sheet([], to_blue, seed=0)) == 255).all()
