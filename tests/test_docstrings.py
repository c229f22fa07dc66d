"""Every name without an underscore says what it is, those of notebooks also what they take, and every example runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import re
import warnings
from pathlib import Path

import pytest

import svdlab

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "svdlab").rglob("*.py") if path.name != "__main__.py")
WITH_EXAMPLES = [path for path in MODULES if ">>>" in path.read_text()]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.REPORT_ONLY_FIRST_FAILURE


def names_of_notebooks() -> set[tuple[str, str]]:
    """The file and the name of what `svdlab` and its submodules offer, and of the classes that its functions return."""
    offered = [getattr(svdlab, name) for name in svdlab.__all__]
    offered += [inner for each in offered if inspect.ismodule(each) for inner in vars(each).values()]
    offered = [each for each in offered if str(getattr(each, "__module__", "")).startswith("svdlab")]
    returned = " ".join(str(inspect.signature(each).return_annotation) for each in offered if inspect.isfunction(each))
    names = {(str(inspect.getsourcefile(each)), each.__name__) for each in offered if hasattr(each, "__qualname__")}
    classes = {
        (str(path), name) for path in MODULES for name, node in definitions(path) if isinstance(node, ast.ClassDef)
    }
    return names | {(path, name) for path, name in classes if name in re.findall(r"\w+", returned)}


def definitions(path: Path):
    """The functions, classes and methods without an underscore of a file, each with its name for a reader."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def owes(node: ast.FunctionDef | ast.ClassDef, name: str, in_notebooks: bool) -> str:
    """What the docstring of a definition has to have beside its sentence."""
    decorators = " ".join(map(ast.unparse, node.decorator_list))
    if isinstance(node, ast.ClassDef):
        return "Args: or Attributes:" if in_notebooks and "dataclass" in decorators else ""
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, (given.vararg, given.kwarg))]
    count = sum(argument.arg not in ("self", "cls") for argument in arguments)
    # Of what no notebook uses, each function of a file that takes two things or more.
    owed = count > 0 if in_notebooks else count > 1 and "." not in name
    return "Args:" if owed and "overload" not in decorators else ""


def test_names_say_what_they_are_and_those_of_notebooks_what_they_take():
    lacking, offered = [], names_of_notebooks()
    assert len(offered) > 60
    for path in MODULES:
        for name, node in definitions(path):
            text, owed = ast.get_docstring(node) or "", owes(node, name, (str(path), name.split(".")[0]) in offered)
            if not text:
                lacking.append(f"{path.name}: {name} has no docstring")
            elif owed and not any(f"\n{section}" in text for section in owed.split(" or ")):
                lacking.append(f"{path.name}: {name} has no {owed}")
    public = {name: getattr(svdlab, name) for name in svdlab.__all__ if callable(getattr(svdlab, name))}
    lacking += [
        f"{name} has no example"
        for name, each in public.items()
        if ">>>" not in (each.__doc__ or "") and not (isinstance(each, type) and issubclass(each, Exception))
    ]
    assert not lacking, "\n".join(lacking)


@pytest.fixture(scope="module")
def notebook_names(tmp_path_factory):
    """What an example may take for granted, as if a notebook had made it: a pipeline, a clip, rows in a folder."""
    from svdlab import Request, Setup, generate, grid, ladder, load, profile, run

    folder, before = tmp_path_factory.mktemp("notebook"), Path.cwd()
    os.chdir(folder)
    setup = Setup("tiny")
    small = {"num_frames": 2, "num_inference_steps": 1, "decode_chunk_size": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        request = Request(image="rocket", **small)
        pipeline = load(setup)
        clip = generate(pipeline, setup.request(image="rocket", **small), progress=False)
        rows = run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion", progress=False)
        measured = profile(ladder("tiny", ["single-token"], request), "results/ladder", repeats=1, progress=False)
        yield {"pipeline": pipeline, "clip": clip, "rows": rows, "measured": measured}
    os.chdir(before)


@pytest.mark.xdist_group("examples")  # what they share takes a while to make
@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(path, notebook_names, capsys):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=notebook_names)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in tests:
        runner.run(test)
    assert not runner.failures, capsys.readouterr().out
