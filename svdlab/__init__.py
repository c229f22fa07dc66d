"""svdlab: a laboratory for Stable Video Diffusion.

Ask for a clip (`Request`), say how the model should run (`Setup`), get frames (`Clip`):

>>> from svdlab import Setup, generate, load, show
>>> setup = Setup("tiny")
>>> clip = generate(load(setup), setup.request(image="rocket", seed=11))
>>> path = clip.save("rocket.mp4")

The names most used, by task; `help(svdlab.NAME)` explains each. `__init__.pyi` lists all.

    one clip              Request, Setup, load, generate, chain, Clip, read, conditioning, VARIANTS
    many clips            grid, dry_run, run, read_rows, rows_table, study.findings; unload_cached frees the card
    looking and choosing  show, wall, save_wall, review, report, panel, plots
    what fits a card      Setup.fitting (one setup), fitting_table (all of them), estimate (one prediction in full)
    memory and time       ladder, profile, ladder_table, ladder_advice; measure (one setup)
    what is wrong         assess, difference, diagnose, measures; doctor (this machine)

Importing this package loads no torch: names are imported when first used.
"""

import lazy_loader

__version__ = "0.1.0"  # the one place: pyproject.toml reads it, and a checkout runs without being installed
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
