"""svdlab: a laboratory for Stable Video Diffusion.

Ask for a clip (`Request`), say how the model should run (`Setup`), get frames (`Clip`):

>>> from svdlab import Setup, generate, load, show
>>> setup = Setup("tiny")
>>> clip = generate(load(setup), setup.request(image="rocket", seed=11))
>>> path = clip.save("rocket.mp4")

Importing this package loads no torch: the public names, listed in `__init__.pyi`, are imported when first used.
"""

from importlib.metadata import version

import lazy_loader

__version__ = version("svdlab")
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
