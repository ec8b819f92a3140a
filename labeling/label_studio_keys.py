"""A few keys more on the labeling screen of our own Label Studio; only its own process can import this.

Label Studio has no key that goes back to the image before, and asks for two keys at once to send an answer. The script
in ``keys.js`` adds Backspace and Enter, and tells how many images are done.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

_SCRIPT = (files("labeling") / "keys.js").read_text(encoding="utf-8")


class AddKeys:
    """Django middleware: puts our script at the end of the pages on which people label."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Answer a request as Label Studio does, with the script where the answer is a page of a project."""
        response = self._get_response(request)
        is_page = response.get("Content-Type", "").startswith("text/html") and not response.streaming
        if is_page and request.path.startswith("/projects") and b"</body>" in response.content:
            nonce = getattr(request, "csp_nonce", "")
            script = f'<script nonce="{nonce}">{_SCRIPT}</script></body>'
            response.content = response.content.replace(b"</body>", script.encode(), 1)
            if response.has_header("Content-Length"):
                response["Content-Length"] = str(len(response.content))
        return response
