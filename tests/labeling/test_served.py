"""What browsers get of images whose format they don't show: the picture that the model is given."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curation.errors import DataError
from curation.images import read_image
from labeling.served import as_shown, place

DEEP = np.linspace(20_000, 40_000, 64).reshape(8, 8).astype(np.uint16)
PICTURES = {
    "deep grey": Image.fromarray(DEEP),
    "floating point": Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)),
    "transparent": Image.new("RGBA", (8, 8), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_labelers_see_what_the_model_is_given(tmp_path: Path, kind: str) -> None:
    PICTURES[kind].save(tmp_path / "a.tif")
    name, content = as_shown(tmp_path / "a.tif", "k")
    shown = np.asarray(Image.open(io.BytesIO(content)))
    assert (name, shown.tolist()) == ("k.png", read_image(tmp_path / "a.tif").tolist())
    assert place(tmp_path / "a.tif", tmp_path / "served", "k") == "k.png"
    assert (tmp_path / "served" / "k.png").read_bytes() == content


def test_deep_greys_keep_their_shades_and_transparency_is_white(tmp_path: Path) -> None:
    """20,000 / 256 is 78.1, 40,000 / 256 is 156.25."""
    PICTURES["deep grey"].save(tmp_path / "a.tif")
    shown = np.asarray(Image.open(io.BytesIO(as_shown(tmp_path / "a.tif", "k")[1])))
    assert (shown.min(), shown.max()) == (78, 156)
    PICTURES["transparent"].save(tmp_path / "b.tif")
    assert np.asarray(Image.open(io.BytesIO(as_shown(tmp_path / "b.tif", "k")[1]))).min() == 255


def test_what_browsers_show_is_served_as_it_is(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.PNG")
    assert as_shown(tmp_path / "a.PNG", "k") == ("k.png", (tmp_path / "a.PNG").read_bytes())


def test_an_image_is_served_as_what_it_holds_whatever_it_is_called(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    picture.save(tmp_path / "tiff.jpg", "TIFF")
    picture.save(tmp_path / "png.tif", "PNG")
    picture.save(tmp_path / "b.jpeg")
    served = [place(tmp_path / name, tmp_path / "served", f"k{n}") for n, name in enumerate(("tiff.jpg", "png.tif"))]
    assert served == ["k0.png", "k1.png"]
    for name in served:
        with Image.open(tmp_path / "served" / name) as shown:
            assert (shown.format, np.asarray(shown).tolist()) == ("PNG", np.asarray(picture).tolist())
    assert as_shown(tmp_path / "tiff.jpg", "k")[0] == "k.png"
    assert as_shown(tmp_path / "b.jpeg", "k")[0] == "k.jpeg"


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.tif"):
        place(tmp_path / "a.tif", tmp_path / "served", "k")
    assert list((tmp_path / "served").iterdir()) == []
