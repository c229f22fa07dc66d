"""The key of a row: a hash of what was asked, the same on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import TYPE_CHECKING, Any

from svdlab.media.images import image_sha256
from svdlab.request import Request, conditioning
from svdlab.setup import Setup

if TYPE_CHECKING:
    pass
from svdlab.pipelines.fingerprint import weights_fingerprint
from svdlab.rows.row import _fields, _plain


def row_key(setup: Setup, request: Request, picture: str | None = None, **also: Any) -> str:
    """16 hex digits, the same for the same question on any machine, wherever its picture and its weights lie.

    They hash the setup (`resolved`, less its device), what is in its weights, every field of the complete request, and
    in place of the picture and its crop the pixels that the model sees; `picture` is their digest where it is known.
    `also` is what else sets the question apart.
    """
    asked = request.filled(setup.variant)
    question = {
        "setup": _changed(setup.resolved(), "device", "weights"),
        "weights": weights_fingerprint(setup.resolved()),
        "request": _changed(asked, "image", "fit", "focus"),
        "picture": picture or image_sha256(conditioning(asked)),
    } | also
    return hashlib.sha256(json.dumps(_plain(question), sort_keys=True).encode()).hexdigest()[:16]


def _changed(thing: Setup | Request, *left_out: str) -> dict[str, Any]:
    """The fields that are not at their default: so a field added later leaves the keys of older rows as they are."""
    defaults = {f.name: f.default for f in dataclasses.fields(thing)}
    return {name: value for name, value in _fields(thing, *left_out).items() if value != defaults[name]}
