"""Every name without an underscore says what it is, those of notebooks also what they take, and every example runs."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import os
import warnings
from pathlib import Path

import pytest

import svdlab

ROOT = Path(__file__).parents[1]
MODULES = sorted(path for path in (ROOT / "svdlab").rglob("*.py") if path.name != "__main__.py")
WITH_EXAMPLES = [path for path in MODULES if ">>>" in path.read_text()]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.REPORT_ONLY_FIRST_FAILURE
TAKES_NOTHING = ("self", "cls")


def names_of_notebooks():
    """The file and the name of each class and function that `svdlab` offers, those of its submodules too."""
    for each in (getattr(svdlab, name) for name in svdlab.__all__):
        inner = vars(each).values() if inspect.ismodule(each) else [each]
        yield from ((inspect.getsourcefile(one), one.__name__) for one in inner if hasattr(one, "__qualname__"))


def functions(path: Path):
    """The functions, classes and methods without an underscore of a file, each with its name for a reader."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def test_names_say_what_they_are_and_those_of_notebooks_what_they_take():
    lacking, offered = [], set(names_of_notebooks())
    assert len(offered) > 40
    for path in MODULES:
        for name, node in functions(path):
            text = ast.get_docstring(node) or ""
            if any("overload" in ast.unparse(each) for each in node.decorator_list):
                continue
            if not text:
                lacking.append(f"{path.name}: {name} has no docstring")
            elif isinstance(node, ast.FunctionDef):
                arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                taken = sum(a not in TAKES_NOTHING for a in arguments)
                # Everything that a notebook offers; of the rest each function of a file that takes two things or more.
                owed = taken > 0 if (str(path), name.split(".")[0]) in offered else taken > 1 and "." not in name
                if owed and "Args:" not in text:
                    lacking.append(f"{path.name}: {name} takes arguments and has no Args:")
    assert not lacking


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
