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


def notebook_api() -> set[tuple[str, str]]:
    """The file and the name of what `svdlab` and its submodules offer, and of the classes that its functions return."""
    members = [getattr(svdlab, name) for name in svdlab.__all__]
    members += [inner for each in members if inspect.ismodule(each) for inner in vars(each).values()]
    members = [each for each in members if str(getattr(each, "__module__", "")).startswith("svdlab")]
    returned_types = " ".join(
        str(inspect.signature(each).return_annotation) for each in members if inspect.isfunction(each)
    )
    names = {(str(inspect.getsourcefile(each)), each.__name__) for each in members if hasattr(each, "__qualname__")}
    classes = {
        (str(path), name) for path in MODULES for name, node in definitions(path) if isinstance(node, ast.ClassDef)
    }
    return names | {(path, name) for path, name in classes if name in re.findall(r"\w+", returned_types)}


def definitions(path: Path):
    """The functions, classes and methods without an underscore of a file, each with its name for a reader.

    Of a function with overloads it is the one that does the work: `help` shows its docstring.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and "overload" in map(ast.unparse, node.decorator_list):
            continue
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def required_section(node: ast.FunctionDef | ast.ClassDef, name: str, in_notebooks: bool) -> str:
    """What the docstring of a definition has to have beside its sentence."""
    if isinstance(node, ast.ClassDef):
        decorators = " ".join(map(ast.unparse, node.decorator_list))
        return "Args: or Attributes:" if in_notebooks and "dataclass" in decorators else ""
    count = sum(isinstance(each, ast.arg) and each.arg not in ("self", "cls") for each in ast.walk(node.args))
    # Of what no notebook uses, each function of a file that takes two things or more.
    required = count > 0 if in_notebooks else count > 1 and "." not in name
    return "Args:" if required else ""


def test_names_say_what_they_are_and_those_of_notebooks_what_they_take():
    problems, api = [], notebook_api()
    assert len(api) > 60
    for path in MODULES:
        for name, node in definitions(path):
            text, section = (
                ast.get_docstring(node) or "",
                required_section(node, name, (str(path), name.split(".")[0]) in api),
            )
            if not text:
                problems.append(f"{path.name}: {name} has no docstring")
            elif section and not any(f"\n{heading}" in text for heading in section.split(" or ")):
                problems.append(f"{path.name}: {name} has no {section}")
    public = {name: getattr(svdlab, name) for name in svdlab.__all__ if callable(getattr(svdlab, name))}
    problems += [
        f"{name} has no example"
        for name, each in public.items()
        if ">>>" not in (each.__doc__ or "") and not (isinstance(each, type) and issubclass(each, Exception))
    ]
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="module")
def notebook_names(tmp_path_factory):
    """What an example may take for granted, as if a notebook had made it: a pipeline, a clip, rows in a folder."""
    from svdlab import Request, Setup, generate, grid, ladder, load, profile, run

    folder, home = tmp_path_factory.mktemp("notebook"), Path.cwd()
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
    os.chdir(home)


@pytest.mark.xdist_group("examples")  # what they share takes a while to make
@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_run(path, notebook_names, capsys):
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    tests = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=notebook_names)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    for test in tests:
        runner.run(test)
    assert not runner.failures, capsys.readouterr().out
