"""What was worked out before is kept, and is what it would be if it were worked out again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from curation import assembly, regression
from curation.config import BackboneSettings, Settings, TrainingSettings
from curation.kept import PLACES, Kept
from curation.project import Project
from curation.regression import Inputs, kept_inputs
from curation.scoring import score_inputs, score_out_of_sample


def test_the_last_results_of_a_kind_are_kept_and_older_ones_made_again() -> None:
    kept, made = Kept(), []

    def ask(kind: str, number: int) -> int:
        return kept.of(kind, number, lambda: made.append((kind, number)) or number)

    assert [ask("rows", n) for n in (1, 2, 1, 2)] == [1, 2, 1, 2]
    assert ask("pairs", 1) == 1
    assert made == [("rows", 1), ("rows", 2), ("pairs", 1)]
    ask("rows", 1)  # used last, so it is the other one that goes
    ask("rows", 3)
    ask("rows", 1)
    assert PLACES == 2
    assert made[3:] == [("rows", 3)]
    ask("rows", 2)
    assert made[4:] == [("rows", 2)]


class TestInputs:
    def judged(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        labels = np.arange(150, dtype=np.int64) % 3
        features = (3 * np.eye(200)[labels] + rng.normal(size=(150, 200))).astype(np.float32)
        return features, labels, np.where(rng.random(150) < 0.2, (labels + 1) % 3, labels)

    def test_rows_may_take_the_place_of_the_features(self) -> None:
        features, _, groups = self.judged()
        apart = Inputs(features, 3, groups, seed=0).rows
        assert not np.shares_memory(apart, features)
        together = Inputs(features, 3, groups, seed=0, overwrite=True).rows
        assert np.shares_memory(together, features)
        assert np.array_equal(apart, together)

    def test_other_labels_are_judged_as_if_nothing_had_been_kept(self) -> None:
        features, before, after = self.judged()
        groups = np.arange(150)
        inputs = Inputs(features, 3, groups, seed=0)
        for labels in (before, after, before):
            anew = score_out_of_sample(features, labels, 3, groups=groups, seed=0)
            again = score_inputs(inputs, labels)
            np.testing.assert_array_equal(again.probabilities, anew.probabilities)
            assert again.settings == anew.settings

    def test_what_was_learned_before_does_not_change_with_the_next_labels(self) -> None:
        features, before, _ = self.judged()
        inputs = Inputs(features, 3, np.arange(150), seed=0)
        first = regression.choose_regressions(inputs, before)
        assert first.kernel is not None
        expected = first.kernel.values(before)
        random = np.random.default_rng(1).integers(0, 3, 150)
        second = regression.choose_regressions(inputs, random)
        assert second.settings["noise"] > first.settings["noise"]
        np.testing.assert_array_equal(first.kernel.values(before), expected)

    def test_they_are_kept_for_the_same_samples_in_the_same_groups_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        features, _, _ = self.judged()
        read: list[int] = []

        def inputs(kept: Kept, ids: list[str], groups: np.ndarray) -> Inputs:
            def rows() -> np.ndarray:
                read.append(len(ids))
                return features[: len(ids)]

            return kept_inputs(kept, ids, rows, 3, groups, seed=0, widths=())

        kept, ids, alone = Kept(), [str(n) for n in range(150)], np.arange(150)
        assert inputs(kept, ids, alone) is inputs(kept, ids, alone)
        assert read == [150]
        assert inputs(kept, ids[:140], alone[:140]) is not inputs(kept, ids, alone // 2)
        assert read == [150, 140, 150]
        monkeypatch.setattr(regression, "LANDMARKS", 100)  # there is too much of larger sets to keep
        assert inputs(kept, ids[:120], alone[:120]) is not inputs(kept, ids[:120], alone[:120])


class TestNetwork:
    def test_it_is_loaded_once_while_a_project_is_open_and_its_settings_stay(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "curation.toml").write_text("name = 'shapes'\n")
        project = Project(tmp_path)
        loaded: list[Settings] = []

        def load(_: object, settings: Settings) -> assembly.Encoders:
            loaded.append(settings)
            return assembly.Encoders(None, None, assembly.made_from(settings))  # type: ignore[arg-type]

        monkeypatch.setattr("curation.project.load_encoders", load)
        settings = Settings(backbone=BackboneSettings(weights=str(tmp_path / "weights.pth")))
        (tmp_path / "weights.pth").write_bytes(b"old")
        assert project._encoders(settings) is project._encoders(replace(settings, seed=7))
        assert len(loaded) == 1
        project._encoders(replace(settings, training=TrainingSettings(method="head")))
        assert len(loaded) == 2
        project._encoders(settings)
        (tmp_path / "weights.pth").write_bytes(b"a newer one")
        project._encoders(settings)
        assert len(loaded) == 4
