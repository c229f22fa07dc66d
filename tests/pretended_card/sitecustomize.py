"""Puts the pretended card into every Python that is started with this folder on its path, and `PRETENDED_CARD` set."""

import json
import os
import sys

if "svdlab.profiling.measured_process" in sys.orig_argv:
    sys.modules["scipy"] = None  # transformers would import it for its losses, which takes a second
if options := os.environ.get("PRETENDED_CARD"):
    import card

    card.insert(**json.loads(options))
