"""Draws the bundled example pictures: `python -m training.examples` writes `svdlab/examples/*.png`, 1024x576 pixels.

They show the world that the bundled model was trained on (`training.scenes`), in scenes that it never saw.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from training.scenes import HELD_OUT_END, draw

# name: (seed, world). Chosen by eye for four headings and skies that are easy to tell apart.
SCENES = {
    "rocket": (900_038, "rocket"),
    "rocket-left": (900_035, "rocket"),
    "rocket-right": (900_015, "rocket"),
    "rocket-up": (900_021, "rocket"),
    "shapes": (900_013, "photo"),
}
HEIGHT, WIDTH = 576, 1024  # SVD's own size; the tiny model's 72x128 has the same shape


def make(folder: Path = Path(__file__).parents[1] / "svdlab" / "examples") -> None:
    """Write one PNG for each scene into `folder`. Only the first frame is drawn, which no knob changes."""
    for name, (seed, world) in SCENES.items():
        assert seed < HELD_OUT_END, f"{name} would be a picture that the model was trained on"
        clips, _ = draw([seed], 127, 7, frames=1, height=HEIGHT, width=WIDTH, world=world)
        pixels = (clips[0, 0].permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    make()
