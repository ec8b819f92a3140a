"""Curation Toolkit: hold the code fixed, improve the labels and images, and prove what it gained.

>>> from curation import Project
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curation.errors import CurationError
    from curation.project import Project

__version__ = "0.1.0"
__all__ = ["CurationError", "Project", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the public names on first use, so that importing the package does no work."""
    if name == "Project":
        from curation.project import Project

        return Project
    if name == "CurationError":
        from curation.errors import CurationError

        return CurationError
    raise AttributeError(f"module 'curation' has no attribute '{name}'")
