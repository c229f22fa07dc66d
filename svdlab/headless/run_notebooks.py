"""Running notebooks without a browser: their parameter files, and a folder for what they leave behind.

A notebook has one cell tagged `parameters`. A parameter file is plain YAML that sets some of them, and stands for one
study: `params/motion.yaml` leaves its rows, its clips and the executed notebook in `results/motion`. All files are
checked before the first notebook runs, since a misspelled name should not be noticed after an hour.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from svdlab.messages import did_you_mean, first_line, shorten
from svdlab.request import Request
from svdlab.rows.results_folders import unused_path

MAX_BYTES = 1_000_000  # of a parameter file; PyYAML reads about 100 kB a second


def unknown_parameter(names: Iterable[Any], known: Iterable[str]) -> str:
    """The end of a sentence about the first name that is no parameter of a notebook; "" where all are.

    Args:
        names: those that somebody sets.
        known: those that the notebook has.
    """
    known = list(known)
    for name in names:
        if name not in known:
            if isinstance(name, bool):
                return 'a name that YAML takes for "true" or "false": write it in quotes, as in "on": ray'
            hint = did_you_mean(name, known)
            if not hint and "fixed" in known and (hint := did_you_mean(name, (f.name for f in fields(Request)))):
                hint += " That is a field of the request: it goes into fixed, or into axes."
            hint = hint or f": it has {', '.join(known) or 'none'}."
            return f"{shorten(name)}, which is no parameter of the notebook{hint}"
    return ""


def read_parameters(path: str | Path, known: Iterable[str] | None = None) -> dict[str, Any]:
    """What a parameter file sets: values by name.

    Args:
        path: a file of plain YAML without aliases, at most 1 MB.
        known: the names that may be set; None allows any.

    Raises:
        ValueError: the file cannot be read, is not plain YAML, or sets an unknown name or one name twice.

    Example:
        >>> size = Path("seeds.yaml").write_text("seed: 11")
        >>> read_parameters("seeds.yaml")
        {'seed': 11}
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a name that is set twice, and aliases: a few lines of them can stand for billions of values."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it uses an alias: write the value itself in its place")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            for key, _ in node.value:
                if key.tag.endswith(":bool"):  # `on`, which YAML 1.1 reads as true, is a parameter of notebooks
                    key.tag = "tag:yaml.org,2002:str"
            names = [self.construct_object(key, deep=True) for key, _ in node.value]
            if repeated := [name for i, name in enumerate(names) if name in names[:i]]:
                raise ValueError(f"it sets {shorten(repeated[0])} twice: keep one of them")
            return super().construct_mapping(node, deep)

    path = Path(path).expanduser()
    try:
        if not path.is_file():
            raise OSError("there is no such file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has over {MAX_BYTES / 1e6:.0f} MB")
        values = yaml.load(path.read_text(encoding="utf-8"), Loader)
        json.dumps(values)  # a date, bytes or a set is no value that a notebook's cell could be given
    except OSError as error:
        reason = first_line(error.strerror or error)
        raise ValueError(f"{path} cannot be read ({reason}): give a file such as params/smoke.yaml.") from None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = shorten(" ".join(str(error).split()))[1:-1]
        raise ValueError(f"{path} is not a parameter file of plain YAML ({reason}).") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path} sets nothing: expected lines like 'seed: 11'.")
    if known is not None and (unknown := unknown_parameter(values, known)):
        raise ValueError(f"{path} sets {unknown}")
    return values


def run_notebook(
    notebook: str | Path, files: Iterable[str | Path], results: str | Path = "results", **parameters: Any
) -> Iterator[Path]:
    """Run a notebook once for each parameter file, all on one warm kernel.

    Args:
        notebook: a path such as "notebooks/02_micro_conditioning.ipynb".
        files: parameter files; a file's name is its study's name.
        results: the folder in which each study gets its own.
        **parameters: set for all studies, over what the files say.

    Returns:
        The executed copies, each as soon as it is done: `results/<study>/<notebook>`.

    Raises:
        ValueError: a file is wrong or missing; nothing was run.
        RuntimeError: a notebook failed; its copy up to there is kept.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    notebook, results = Path(notebook).expanduser(), Path(results).expanduser()
    if not notebook.is_file():
        raise ValueError(f"There is no notebook {notebook}: give a path such as notebooks/02_micro_conditioning.ipynb.")
    known = papermill.inspect_notebook(str(notebook))
    studies = [(Path(file).stem, read_parameters(file, known) | parameters) for file in files]
    for study, values in studies:
        folder = results / study
        folder.mkdir(parents=True, exist_ok=True)
        if "results" in known:
            values = {"results": str(folder)} | values
        copy = unused_path(folder / notebook.name)
        try:
            papermill.execute_notebook(str(notebook), str(copy), values, engine_name="svdlab", progress_bar=False)
        except PapermillExecutionError as error:
            reason = f"{error.ename}: {first_line(error.evalue)}"
            raise RuntimeError(f"{study}: {reason} (cell {error.exec_count} of {copy})") from None
        except DeadKernelError:
            raise RuntimeError(
                f"{study}: the kernel died, most likely out of memory: see {copy} for how far it came; run it again, "
                "rows that were finished are kept."
            ) from None
        yield copy
