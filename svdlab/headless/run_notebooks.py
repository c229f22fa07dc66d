"""Notebooks: a place for what they leave behind, their parameter files, and running them without a browser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import svdlab
from svdlab.messages import did_you_mean, shorten


def results_folder(results: str | Path, study: str) -> Path:
    """The folder for what a notebook leaves behind, made if it is not there: `results` where given, else
    `results/<study>` of the checkout that the package runs from, else of the working directory."""
    root = Path(svdlab.__file__).resolve().parents[1]
    home = root if (root / "pyproject.toml").is_file() else Path.cwd()
    folder = Path(results) if results else home / "results" / study
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_parameters(path: str | Path) -> dict[str, Any]:
    """What a parameter file sets: plain YAML, one `name: value` a line at the top.

    A `ValueError` for a file that is missing, no YAML, sets a name twice, or holds anything but plain values.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a name that is set twice, where YAML would quietly take the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            twice = [name for i, name in enumerate(names) if name in names[:i]]
            if twice:
                raise ValueError(f"{path} sets {twice[0]!r} twice: keep one of them.")
            return super().construct_mapping(node, deep)

    try:
        given = yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}): give a parameter file such as params/smoke.yaml."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not plain YAML ({' '.join(str(error).split())[:200]}).") from None
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{path} sets nothing: expected lines like 'seed: 11'.")
    return given


def check_parameters(notebook: str | Path, given: Iterable[str]) -> set[str]:
    """The parameters of the notebook; a `ValueError` with the nearest name for one that it does not have, of which
    papermill only warns."""
    import papermill

    if not Path(notebook).is_file():
        raise ValueError(f"There is no notebook {notebook}: give a path such as notebooks/02_micro_conditioning.ipynb.")
    known = papermill.inspect_notebook(str(notebook))
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f": it has {', '.join(known) or 'none'}."
            raise ValueError(f"{Path(notebook).name} has no parameter {shorten(name)}{hint}")
    return set(known)


def run_notebook(
    notebook: str | Path, files: Iterable[str | Path], results: str | Path = "results", **also: Any
) -> Iterator[Path]:
    """Run a notebook once for each parameter file, on one warm kernel; gives the executed copies as they are done.

    The study is the file's name: `params/motion.yaml` leaves `results/motion/02_micro_conditioning.ipynb`, and the rows
    beside it unless the file says where; `also` is set for all of them. All files are checked before the first run
    starts. Raises what the notebook raised; its copy up to there is kept.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    studies = [(Path(file).stem, read_parameters(file) | also) for file in files]
    known = check_parameters(notebook, [name for _, given in studies for name in given])
    for study, given in studies:
        folder = Path(results) / study
        folder.mkdir(parents=True, exist_ok=True)
        if "results" in known:
            given = {"results": str(folder)} | given
        copy = folder / Path(notebook).name
        try:
            papermill.execute_notebook(str(notebook), str(copy), given, engine_name="svdlab", progress_bar=False)
        except PapermillExecutionError as error:
            raise RuntimeError(f"{study}: {error.ename}: {error.evalue} (cell {error.exec_count} of {copy})") from None
        except DeadKernelError:
            raise RuntimeError(
                f"{study}: the kernel died, most likely out of memory: see {copy} for how far it came; run it again, "
                "rows that were finished are kept."
            ) from None
        yield copy
