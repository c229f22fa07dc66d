"""Choose the kernel of attention: PyTorch picks one by itself, and not always the fastest.

diffusers' `set_attention_backend()` finds none of this UNet's processors and says nothing. Here each gets one that
allows a single kernel of `torch.nn.functional.scaled_dot_product_attention`, which raises where that cannot be had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdlab.optimizations.registry import Optimization

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

KERNELS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}


class OneKernel:
    """An attention processor: diffusers' own, allowed one kernel."""

    def __init__(self, name: str) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0
        from torch.nn.attention import SDPBackend

        self.inner, self.kernel = AttnProcessor2_0(), getattr(SDPBackend, KERNELS[name])

    def __call__(self, *given: Any, **named: Any) -> Any:
        from torch.nn.attention import sdpa_kernel

        with sdpa_kernel(self.kernel):
            return self.inner(*given, **named)


def _attentions(pipeline: StableVideoDiffusionPipeline) -> list[Any]:
    from diffusers.models.attention_processor import Attention

    return [module for module in pipeline.unet.modules() if isinstance(module, Attention)]


def _apply(pipeline: StableVideoDiffusionPipeline, value: str | None) -> None:
    for attention in _attentions(pipeline):
        if type(attention.processor).__name__ != "SingleToken":  # which needs no kernel
            attention.set_processor(OneKernel(value or "flash"))


def _holds(pipeline: StableVideoDiffusionPipeline) -> bool:
    """Whether every layer has it, and the kernel runs here in the UNet's own type and head size; raises where not."""
    import torch

    kinds = [attention.processor for attention in _attentions(pipeline)]
    chosen = [kind for kind in kinds if isinstance(kind, OneKernel)]
    if not chosen or any(not isinstance(k, OneKernel) and type(k).__name__ != "SingleToken" for k in kinds):
        return False
    weight = next(pipeline.unet.parameters())
    device = "cpu" if weight.is_meta else weight.device  # under sequential offload they are elsewhere
    query = torch.zeros(1, 1, 16, 64, device=device, dtype=pipeline.unet.dtype)
    try:
        with torch.nn.attention.sdpa_kernel(chosen[0].kernel):
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
    except RuntimeError as error:
        name = next(name for name, kernel in KERNELS.items() if kernel == chosen[0].kernel.name)
        others = ", ".join(other for other in KERNELS if other != name)
        raise RuntimeError(
            f"'attention={name}' cannot be had on {device} in {str(query.dtype)[6:]}: try {others}, or leave it out."
        ) from error
    return True


ATTENTION = Optimization(
    "attention",
    phase="graph",
    exact=True,
    what="one kernel of attention instead of PyTorch's own choice; `math` asks for tens of GiB at full size",
    apply=_apply,
    holds=_holds,
    values=f"a kernel: {', '.join(KERNELS)}",
    accepts=KERNELS.__contains__,
    traced=lambda value: value == "math",  # the others keep no scores, and a card's kernels do not run elsewhere
)
