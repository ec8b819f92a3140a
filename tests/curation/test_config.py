"""Settings are checked when they are read, and an error says what was meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from curation.config import (
    ReviewSettings,
    Settings,
    SliceSettings,
    TrainingSettings,
    model_settings,
    read_settings,
    settings_from_dict,
    settings_to_toml,
)
from curation.errors import ConfigError


def test_settings_written_come_back_the_same(tmp_path: Path) -> None:
    settings = Settings(
        name="Zellen 'π'", images="/bilder", review=ReviewSettings(budget=7), slices=SliceSettings(ignore=("grade",))
    )
    file = tmp_path / "curation.toml"
    file.write_text(settings_to_toml(settings), encoding="utf-8")
    assert read_settings(file) == settings


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"review": {"buget": 5}}, "unknown setting 'review.buget'; did you mean 'review.budget'"),
        ({"review": {"budget": "many"}}, "setting 'review.budget' must be of type int, got 'many'"),
        ({"review": {"budget": True}}, "setting 'review.budget' must be of type int, got True"),
        ({"review": {"budget": -1}}, "setting 'review.budget' must be 0 or more, got -1"),
        ({"review": 3}, "'review' is a table of settings, got 3"),
        ({"holdout_share": 1.5}, "setting 'holdout_share' must be in \\(0, 1\\), got 1.5"),
        ({"slices": {"ignore": "grade"}}, "setting 'slices.ignore' must be a list of texts, got 'grade'"),
        ({"slices": {"stability": "yes"}}, "setting 'slices.stability' must be 'auto', 'on' or 'off', got yes"),
        ({"slices": {"effort": float("inf")}}, "setting 'slices.effort' must be 0 to 100, got inf"),
        ({"review": {"blind_share": 0.7, "control_share": 0.7}}, "at most 1, got 1.4"),
        (
            {"review": {"people": ["Ann", "Bob", "Ann"]}},
            "'review.people' must be different names, got Ann more than once",
        ),
        ({"review": {"people": ["Ann", " "]}}, "'review.people' must be names, none empty, got"),
        ({"review": {"annotator": "nobody"}}, "'review.annotator' must be 'label-studio', 'files' or 'replay:FILE'"),
        ({"review": {"annotator": "replay:"}}, "'review.annotator' must be 'label-studio', 'files' or 'replay:FILE'"),
        ({"training": {"batch_size": 70_000}}, "'training.batch_size' must be 1 to 65536, got 70000"),
        ({"training": {"head_rate": -1.0}}, "'training.head_rate' must be 0 or more, and finite, got -1.0"),
        ({"training": {"tail_rate": float("nan")}}, "'training.tail_rate' must be 0 or more, and finite, got nan"),
        (
            {"training": {"weight_decay": float("inf")}},
            "'training.weight_decay' must be 0 or more, and finite, got inf",
        ),
        ({"costs": {"miss": float("inf")}}, "'costs.miss' must be above 0, and finite, got inf"),
        ({"costs": {"false_alarm": 10**400}}, "'costs.false_alarm' is a number of too many digits"),
        ({"review": {"people": ["Ann"], "opinions": 2}}, "got 1 for review.opinions = 2"),
    ],
)
def test_a_wrong_setting_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_from_dict(values)


def test_a_whole_number_serves_where_a_fraction_may_stand() -> None:
    assert settings_from_dict({"training": {"head_rate": 1}}).training.head_rate == 1.0


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "curation.toml"
    file.write_text("name = ", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"curation\.toml is not valid TOML"):
        read_settings(file)


def test_a_missing_file_says_how_to_make_a_project(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="make a project with `curate init`"):
        read_settings(tmp_path / "curation.toml")


@pytest.mark.parametrize(
    "ledger",
    [
        "postgresql://ann:secret@host/db",
        "postgresql://ann:sec/ret@host/db",
        "postgresql://ann:sec?ret@host/db",
        "postgresql://ann@host/db?password=secret",
        "postgresql://ann@host/db?sslmode=require&sslpassword=secret",
        "postgresql://ann@host/db?pass%77ord=secret",
    ],
)
def test_a_password_in_the_ledgers_address_is_refused_and_not_shown(ledger: str) -> None:
    with pytest.raises(ConfigError, match="'ledger' must not hold a password") as refused:
        settings_from_dict({"ledger": ledger})
    assert "ret" not in str(refused.value)


@pytest.mark.parametrize("ledger", ["postgresql://ann@host:5432/db?sslmode=require", "sqlite:////here/a@b:c.db", ""])
def test_a_ledgers_address_without_a_password_is_taken(ledger: str) -> None:
    assert settings_from_dict({"ledger": ledger}).ledger == ledger


def test_a_model_hangs_on_all_settings_but_those_that_say_where_and_how_fast() -> None:
    plain = Settings()
    elsewhere = replace(
        plain, engine="ray", backbone=replace(plain.backbone, device="cuda"),
        training=replace(plain.training, compile="off", processes=2), review=replace(plain.review, budget=7),
    )  # fmt: skip
    assert model_settings(elsewhere) == model_settings(plain)
    for other in (
        replace(plain, seed=1), replace(plain, bits=12), replace(plain, backbone=replace(plain.backbone, size=32)),
        replace(plain, training=replace(plain.training, epochs=3)),
        replace(plain, detection=replace(plain.detection, views="one")),
    ):  # fmt: skip
        assert len(set(model_settings(other).items()) - set(model_settings(plain).items())) == 1
    heads = [replace(plain, training=TrainingSettings(method="head", epochs=n)) for n in (1, 2)]
    assert model_settings(heads[0]) == model_settings(heads[1])
