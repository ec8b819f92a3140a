"""What a run is to reach: kept on disk until it has, so that a stopped run goes on as it was begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from curation.config import Settings, is_annotator
from curation.errors import ConfigError
from curation.runs import ProjectPaths, read_json, write_json


def goal_of(
    paths: ProjectPaths,
    settings: Settings,
    current: int,
    *,
    iterations: int | None = None,
    annotator: str | None = None,
    budget: int | None = None,
    seed: int | None = None,
    trial: bool | None = None,
) -> dict[str, Any]:
    """What the run is to reach, whose iteration ``current`` is under way; what is ``None`` stays as it was begun.

    ``iterations`` count from where the run began, so that the same call again adds none; ``current`` is among them.
    Raises ConfigError for a value out of range.
    """
    kept = _kept(paths)
    if kept.get("until", 0) < current:
        kept = {"began": current, "until": current}
    began = kept.get("began", current)
    review = settings.review
    goal = {
        "began": began,
        "until": kept["until"] if iterations is None else max(began + iterations - 1, current),
        "annotator": annotator or kept.get("annotator") or review.annotator,
        "budget": budget if budget is not None else kept.get("budget", review.budget),
        "seed": seed if seed is not None else kept.get("seed", settings.seed),
        "trial": trial if trial is not None else kept.get("trial", settings.slices.trial),
    }
    settings_for(settings, goal)  # checks their ranges
    if not is_annotator(goal["annotator"]):
        raise ConfigError(f"annotator must be 'label-studio', 'files' or 'replay:FILE', got '{goal['annotator']}'")
    return goal


def keep_goal(paths: ProjectPaths, goal: Mapping[str, Any]) -> None:
    """Keep what the run is to reach, once it is known that it can begin."""
    write_json(_file(paths), goal)


def annotator_of(paths: ProjectPaths, settings: Settings) -> str:
    """Who answers the run that is under way, or the next one where none is."""
    return str(_kept(paths).get("annotator") or settings.review.annotator)


def _kept(paths: ProjectPaths) -> dict[str, Any]:
    """The goal of the run that is under way; nothing where none is."""
    kept: dict[str, Any] = read_json(_file(paths)) if _file(paths).exists() else {}
    return kept


def _file(paths: ProjectPaths) -> Path:
    return paths.home / "run.json"


def settings_for(settings: Settings, goal: Mapping[str, Any]) -> Settings:
    """A project's settings, with those of a run's goal in place of its own."""
    review = replace(settings.review, budget=goal["budget"])
    slices = replace(settings.slices, trial=goal.get("trial", settings.slices.trial))
    return replace(settings, seed=goal["seed"], review=review, slices=slices)


def forget_goal(paths: ProjectPaths) -> None:
    """Keep it no longer: the run has reached it."""
    _file(paths).unlink(missing_ok=True)
