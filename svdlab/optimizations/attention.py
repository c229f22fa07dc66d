"""Choose the kernel of attention: PyTorch picks one by itself, and not always the fastest.

diffusers' `set_attention_backend()` silently does nothing on this UNet. Here each layer gets a processor that allows a
single kernel and raises where it cannot be had. Layers whose processor is not diffusers' own any more keep theirs.
"""

from __future__ import annotations

from typing import Any

from svdlab.optimizations.registry import Optimization

KERNELS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}


class _OneKernel:
    """diffusers' own attention processor, allowed one kernel."""

    def __init__(self, name: str) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0
        from torch.nn.attention import SDPBackend

        self.name, self.inner, self.kernel = name, AttnProcessor2_0(), getattr(SDPBackend, KERNELS[name])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch.nn.attention import sdpa_kernel

        with sdpa_kernel(self.kernel):
            return self.inner(*args, **kwargs)


def _is_diffusers_own(processor: Any) -> bool:
    return type(processor).__module__.startswith("diffusers.")


def _apply(pipeline: Any, value: str | None) -> None:
    processors = pipeline.unet.attn_processors
    chosen = {name: _OneKernel(value or "flash") if _is_diffusers_own(p) else p for name, p in processors.items()}
    pipeline.unet.set_attn_processor(chosen)


def _holds(pipeline: Any) -> bool:
    """Whether no layer chooses by itself, and the kernel runs in the UNet's dtype on its device; raises where not."""
    import torch

    processors = pipeline.unet.attn_processors.values()
    chosen = next((processor for processor in processors if isinstance(processor, _OneKernel)), None)
    if chosen is None or any(map(_is_diffusers_own, processors)):
        return False
    weight = next(pipeline.unet.parameters())
    device = "cpu" if weight.is_meta else weight.device  # under sequential offload they are elsewhere
    query = torch.zeros(1, 1, 16, 64, device=device, dtype=pipeline.unet.dtype)
    try:
        with torch.nn.attention.sdpa_kernel(chosen.kernel):
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
    except RuntimeError as error:
        others = ", ".join(name for name in KERNELS if name != chosen.name)
        place = f"{device} in {str(query.dtype).removeprefix('torch.')}"
        raise RuntimeError(
            f"'attention={chosen.name}' cannot be had on {place}: try {others}, or leave it out."
        ) from error
    return True


ATTENTION = Optimization(
    "attention",
    phase="graph",
    affects="rounding",
    what="one kernel of attention instead of PyTorch's own choice; `math` asks for tens of GiB at full size",
    apply=_apply,
    holds=_holds,
    values=f"a kernel: {', '.join(KERNELS)}",
    accepts=KERNELS.__contains__,
    traced=lambda value: value == "math",  # the others keep no scores, and a card's kernels do not run elsewhere
)
