"""The key of a row: a hash of the question, the same on every machine.

It hashes the setup, what is in its weights, the complete request, and the pixels that the model sees.
Fields at their default are left out, so that a field added later leaves the keys of older rows as they are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from svdlab.media.images import image_sha256
from svdlab.pipelines.fingerprint import weights_fingerprint
from svdlab.request import Request, conditioning
from svdlab.rows.typed_json import fields_of, to_plain
from svdlab.setup import Setup


def row_key(setup: Setup, request: Request, picture_sha256: str | None = None, **other_fields: Any) -> str:
    """16 hex digits: the same for the same question, wherever its picture and its weights lie.

    Args:
        setup: how the model runs. Its device does not count.
        request: what is asked. Of its image, the pixels count that the model sees.
        picture_sha256: their hash; default: computed.
        **other_fields: what else sets the question apart.
    """
    setup, request = setup.resolved(), request.filled(setup.variant)
    question = {
        "setup": _changed_fields(setup, "device", "weights"),
        "weights": weights_fingerprint(setup),
        "request": _changed_fields(request, "image", "fit", "focus"),
        "picture": picture_sha256 or image_sha256(conditioning(request)),
    } | other_fields
    return hashlib.sha256(json.dumps(to_plain(question), sort_keys=True).encode()).hexdigest()[:16]


def _changed_fields(thing: Setup | Request, *left_out: str) -> dict[str, Any]:
    defaults = {field.name: field.default for field in dataclasses.fields(thing) if field.name not in left_out}
    return {name: value for name, value in fields_of(thing).items() if value != defaults.get(name, value)}
