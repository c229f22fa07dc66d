"""Fake runs of the published sizes, which come with the package: predictions of them take no time.

    python tests/golden_traces.py                # writes svdlab/prediction/traces.json anew, in ten minutes or more
    python tests/golden_traces.py lean-decode    # only those with one of these words in their key

`test_prediction` runs some of them again and compares exactly, and all of them in the slow tests.
"""

from __future__ import annotations

import itertools
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict

from svdlab import Request, Setup
from svdlab.optimizations.registry import in_order
from svdlab.prediction import fake_run


def published_sizes() -> Iterator[tuple[Setup, Request]]:
    """What `candidates` compares at the published sizes, with and without guidance, and what else tests ask for."""
    for frames, dtype, guidance in itertools.product((25, 14), ("fp16", "bf16", "fp32"), (3.0, 1.0)):
        chunk, split = f"forward-chunking={5 if frames == 25 else 2}", ("split-guidance",) * (guidance > 1)
        graphs = [(), ("single-token",), ("single-token", *split), ("single-token", *split, chunk)]
        if dtype == "fp16" and guidance > 1:
            graphs += [("fp8", *names) for names in graphs[1:]]
            graphs += [split, (*split, chunk), ("forward-chunking",), (*split, "single-token", "forward-chunking")]
        decoding = itertools.product([(), ("lean-decode",)], sorted({1, 2, 5, 7, 8, 14, frames}))
        for names, decode_chunk in (*((names, 5) for names in graphs), *decoding):
            request = Request(
                image="rocket", num_frames=frames, decode_chunk_size=decode_chunk, max_guidance_scale=guidance
            )
            yield Setup("svd", dtype=dtype, optimizations=in_order(names)), request.filled("svd")


def main() -> None:
    """Write the file, a line a trace."""
    warnings.simplefilter("ignore", UserWarning)
    words, old, new = sys.argv[1:], json.loads(fake_run.SHIPPED.read_text()), {}
    for setup, request in published_sizes():
        keys = fake_run._keys(setup, request)
        kept_keys = [key for key in keys.values() if key in old and words and not any(word in key for word in words)]
        new |= {key: old[key] for key in kept_keys}
        stages = [name for name, key in keys.items() if key not in new]
        for name, stage in fake_run.fake_run(setup, request, stages).items():
            new[keys[name]] = asdict(stage)
            print(keys[name], flush=True)
    lines = [f"{json.dumps(key)}: {json.dumps(trace)}" for key, trace in sorted(new.items())]
    fake_run.SHIPPED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
