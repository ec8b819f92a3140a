"""How a benchmark ends: its claims told, everything written, and an exit status for whoever runs it by script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: ``name``, ``value``, ``bar`` and ``holds``; where there are, ``ci``, the 95 % interval, and ``estimate``, what that
#: is about where it is not the value.
Claim = dict[str, Any]


def conclude(claims: Sequence[Claim], measured: Mapping[str, Any], file: Path | None) -> int:
    """Print every claim, write claims and all that was measured to ``file``; 1 where a claim does not hold, else 0."""
    for claim in claims:
        ci = " ({:.4g} to {:.4g})".format(*claim["ci"]) if claim.get("ci") else ""
        about = f", estimate {claim['estimate']:.4g}" if "estimate" in claim else ""
        held = "holds" if claim["holds"] else "FAILS"
        print(f"{held}: {claim['name']} = {claim['value']:.4g}{about}{ci} (bar {claim['bar']})")
    if file:
        file.write_text(json.dumps({"claims": list(claims), **measured}, indent=1) + "\n", encoding="utf-8")
    return 0 if all(claim["holds"] for claim in claims) else 1
