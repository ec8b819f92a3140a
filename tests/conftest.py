"""How the tests are shared out where several processes run them (``pytest -n 2``)."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file stays in one process, whose services it shares; what counts for one table does, too."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "tests/faults" if file.startswith("tests/faults/") else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several processes begin with the longest, so that none is left with them at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "/e2e/" not in item.nodeid)
