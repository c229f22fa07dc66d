"""Puts the pretended card into every Python that is started with this folder on its path, and `PRETENDED_CARD` set."""

import json
import os

if options := os.environ.get("PRETENDED_CARD"):
    import card

    card.insert(**json.loads(options))
