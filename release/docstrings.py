"""Docstrings as griffe reads them for the site: it knows `Examples:`, and here the heading is `Example:`."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class PluralExamples(Extension):
    """Give griffe the heading under which it shows lines of a Python session as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change one object's docstring, before it is read."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
