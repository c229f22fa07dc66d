"""Fake runs of the full-size models, remembered: tests of predictions take seconds, and a changed figure is seen.

    python tests/golden_traces.py          # writes golden_traces.json anew, in some minutes

`conftest` hands them to every test. `test_prediction` runs three of them again and compares exactly.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from svdlab import Request, Setup
from svdlab.prediction import fake_run

FILE = Path(__file__).with_suffix(".json")
GRAPHS = [
    ("single-token",),
    ("single-token", "split-guidance"),
    ("single-token", "split-guidance", "lean-decode"),
]
PLAIN: list[tuple[str, ...]] = [(), ("split-guidance",)]
UNGUIDED = {"max_guidance_scale": 1.0}
FEWER = {"num_frames": 14, "decode_chunk_size": 2}


def chunked(size: int) -> list[tuple[str, ...]]:
    """The sets that `candidates` compares, with forward chunks of so many frames."""
    chunk = f"forward-chunking={size}"
    return [*GRAPHS, (*GRAPHS[1], chunk), (*GRAPHS[1], chunk, "lean-decode")]


# (variant, optimisations, fields of the request)
CASES: list[tuple[str, tuple[str, ...], dict[str, Any]]] = [
    *(("svd-xt", names, {}) for names in [*PLAIN, *chunked(5)]),
    *(("svd", names, {}) for names in [*PLAIN, *chunked(2)]),
    *(("svd-xt", names, FEWER) for names in [(), *chunked(2)]),
    *(("svd-xt", (), {"decode_chunk_size": size}) for size in (2, 8, 14, 25)),
    ("svd-xt", ("lean-decode",), {"decode_chunk_size": 25}),
    ("svd-xt", ("forward-chunking",), {}),
    ("svd-xt", ("forward-chunking=5", "split-guidance"), {}),
    ("svd-xt", ("fp8",), {}),
    ("svd-xt", ("attention=math",), {}),
    ("svd", ("forward-chunking=2",), {}),
    ("svd", ("forward-chunking=2", "split-guidance"), {}),
    ("svd-xt", (), UNGUIDED),
    ("svd", (), UNGUIDED),
]


def case(name: str, optimizations: tuple[str, ...], fields: dict[str, Any]) -> tuple[Setup, Request]:
    """A case as `fake_run` takes it."""
    setup = Setup(name, dtype="fp16", optimizations=optimizations)
    return setup, setup.request(**{"image": "rocket"} | fields)


def read() -> dict[str, dict[str, fake_run.StageTrace]]:
    """All of them, by key."""
    return {key: fake_run._from_json(json.dumps(stages)) for key, stages in json.loads(FILE.read_text()).items()}


def main() -> None:
    """Write the file, a line a trace."""
    warnings.simplefilter("ignore", UserWarning)
    lines = []
    for name, optimizations, fields in CASES:
        setup, request = case(name, optimizations, fields)
        stages = fake_run._to_json(fake_run.fake_run(setup, request))
        lines.append(f"{json.dumps(fake_run._key(setup, request))}: {stages}")
        print(fake_run._key(setup, request), flush=True)
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
