"""Docstrings as griffe reads them for the site: it knows `Examples:`, and here the heading is `Example:`."""

from __future__ import annotations

import inspect
import re
from typing import Any

from griffe import Extension, Object

from svdlab import Setup


class PluralExamples(Extension):
    """Give griffe the heading under which it shows lines of a Python session as code."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change one object's docstring, before it is read."""
        if obj.path == "svdlab.setup.Setup" and obj.docstring:
            obj.docstring.value = inspect.getdoc(Setup) or ""  # its optimisations are filled in when it is imported
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
