"""The types of numbers that a model can run in: their names, the usual one of a device, and what is safer than fp16.

fp16 and bf16 take half the memory of fp32. fp16 has no numbers over 65,504: a VAE that exceeds them gives black frames.
bf16 reaches as far as fp32 and is coarser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # our name -> torch's


def torch_dtype(name: str | None) -> torch.dtype:
    """torch's own type for one of `DTYPES`."""
    import torch

    return getattr(torch, DTYPES[str(name)])


def usual_dtype(device: str) -> str:
    """fp16 on a CUDA card, else fp32: on Apple's GPUs fp16 gave black frames (diffusers issue 6220)."""
    return "fp16" if device.startswith("cuda") else "fp32"


def safer_dtypes() -> tuple[str, ...]:
    """What to try here where fp16 overflows, the leanest first.

    Below compute capability 8 PyTorch has but its `math` attention for bf16, which asks for 39 GiB at full size.
    """
    import torch

    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 8:
        return ("fp32",)
    return ("bf16", "fp32")
