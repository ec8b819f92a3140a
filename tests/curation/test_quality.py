"""Images that are unusual in a data set are issues with a reason; a set that is odd throughout is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from curation.quality import quality_issues


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
