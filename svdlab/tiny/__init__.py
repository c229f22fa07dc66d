"""The bundled model: a small Stable Video Diffusion that moves as told, and the scenes it was taught on.

`WEIGHTS` is a folder in the hub's layout; plain diffusers loads it. Nothing heavy is imported here: the scenes are in
`svdlab.tiny.scenes`, the training in `svdlab.tiny.train`, the measuring in `svdlab.tiny.evaluate`.
"""

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"

__all__ = ["WEIGHTS"]
