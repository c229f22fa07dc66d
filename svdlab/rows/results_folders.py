"""Where results go: the folder `results`, and in it one folder for each study."""

from __future__ import annotations

import itertools
import os
from pathlib import Path


def results_home() -> Path:
    """The folder `results` where one works: beside `notebooks` from inside that folder, else in the working one."""
    folder = Path.cwd()
    return (folder.parent if folder.name == "notebooks" else folder) / "results"


def no_folder(folder: Path) -> FileNotFoundError:
    """The error about a folder of results that is missing; it names the one beside `notebooks` where that is meant."""
    beside = results_home().parent / folder
    way_out = f"give {str(beside)!r}" if beside.is_dir() else "run a sweep into it first, or give another folder"
    return FileNotFoundError(f"There is no folder {folder.absolute()}: {way_out}.")


def results_folder(results: str | Path, study: str) -> Path:
    """The folder for what a notebook leaves behind; it is made where it is missing, and its path is printed.

    Args:
        results: the folder itself; "" takes `results/<study>`, beside the notebook's folder where that is called
            `notebooks`, else in the working directory.
        study: a name such as "quickstart".

    Example:
        >>> from svdlab import results_folder
        >>> results_folder("kept", "quickstart").name
        Results go to .../kept
        'kept'
    """
    folder = Path(results).expanduser() if results else results_home() / study
    folder.mkdir(parents=True, exist_ok=True)
    print(f"Results go to {folder.resolve()}")
    return folder


def unused_path(path: str | Path) -> Path:
    """The path, with a number before its ending where something lies there already: nothing is overwritten.

    Args:
        path: of a file or a folder to be written.

    Example:
        >>> from svdlab import unused_path
        >>> Path("wall.mp4").touch()
        >>> unused_path("wall.mp4").name
        'wall-2.mp4'
    """
    path = Path(path).expanduser()
    numbered = (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))
    return next(each for each in itertools.chain([path], numbered) if not os.path.lexists(each))
