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
    """Whether no layer chooses by itself, and the kernel runs where the UNet will, in its dtype; raises where not."""
    import torch

    layers = [module for module in pipeline.unet.modules() if hasattr(module, "processor")]
    chosen = [layer for layer in layers if isinstance(layer.processor, _OneKernel)]
    if not chosen or any(_is_diffusers_own(layer.processor) for layer in layers):
        return False
    kernel, device = chosen[0].processor, pipeline._execution_device  # the weights may wait elsewhere
    for layer in chosen:
        shape, dtype = (1, 1, 16, layer.inner_dim // layer.heads), pipeline.unet.dtype
        query = torch.zeros(shape, device=device, dtype=dtype)
        key = query[:, :, :1] if layer.is_cross_attention else query  # to the picture's one embedding
        try:
            with torch.no_grad(), torch.nn.attention.sdpa_kernel(kernel.kernel):
                torch.nn.functional.scaled_dot_product_attention(query, key, key)
        except RuntimeError as error:
            others = [name for name in KERNELS if name != kernel.name]
            others += ["add 'single-token'"] * (layer.is_cross_attention and kernel.name == "cudnn")
            keys = "one key" if layer.is_cross_attention else "many keys"
            place = f"{device} in {str(dtype).removeprefix('torch.')} with {keys}"
            raise RuntimeError(
                f"'attention={kernel.name}' cannot be had on {place}: try {', '.join(others)}, or leave it out."
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
    stages=("denoise",),
)
