"""What a model computes, moves and holds, without a value: its real modules on fake tensors.

A fake tensor has a shape and a type and nothing inside, so SVD-XT's step takes a second or two of one core. They are
on a "cpu" that has no end: fake CUDA tensors fail on a PyTorch without CUDA.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.atomic_files import atomic_write
from svdlab.optimizations import parse
from svdlab.optimizations.registry import Weights
from svdlab.pipelines import random_weights as architecture
from svdlab.pipelines.hub import COMPONENTS
from svdlab.pipelines.vae_precision import encode_dtype, encode_growth
from svdlab.setup import DTYPES
from svdlab.variants import variant

if TYPE_CHECKING:
    from torch import nn

_NO_TRAFFIC = ("empty", "empty_strided", "new_empty", "new_empty_strided", "empty_like", "detach", "lift_fresh")


def trace(
    name: str, folder: str | None, dtype: str, names: tuple[str, ...], size: tuple[int, int, int, int], batch: int
) -> dict[str, Any]:
    """What of a clip does not depend on where weights wait, nor on the number of steps.

    `folder`: of weights whose configuration is not the variant's. `names`: optimisations that change what is computed.
    `size`: height, width, frames, decode chunk. `batch`: 2 with guidance, else 1.

    Gives `weights`, bytes of each component as `Weights` holds them, and `stages`, for each of "encode", "denoise"
    (one step) and "decode": `activation_bytes` (the most beside the weights), `flops`, `least_bytes`, `passes`,
    `operations` [(flops, bytes, how often)] and `upcast`, by which the stage multiplies the VAE's weights.
    """
    asked = (name, folder, dtype, names, size, batch)
    if asked not in _known:
        known = repr((*asked, _configuration(folder), _code()))
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svdlab" / "traces"
        file = home / f"{hashlib.sha256(known.encode()).hexdigest()[:32]}.json"
        try:
            _known[asked] = json.loads(file.read_text())
        except (OSError, ValueError):
            _known[asked] = _traced(*asked)
            with (
                suppress(OSError),
                atomic_write(file) as beside,
            ):  # in a home that is read-only the next process traces again
                beside.write_text(json.dumps(_known[asked]))
    return _known[asked]


_known: dict[Any, dict[str, Any]] = {}


def _traced(
    name: str, folder: str | None, dtype: str, names: tuple[str, ...], size: tuple[int, int, int, int], batch: int
) -> dict[str, Any]:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    height, width, frames, chunk = size
    kind: Any = getattr(torch, DTYPES[dtype])
    pipeline: Any = architecture.blank(variant(name), None if folder is None else Path(folder), kind)
    unet, vae, eyes = pipeline.unet, pipeline.vae, pipeline.image_encoder
    scale = 2 ** (len(vae.config["block_out_channels"]) - 1)
    latents = (frames, vae.config["latent_channels"], height // scale, width // scale)

    def encode() -> Any:
        edge = eyes.config.image_size
        seen = eyes(torch.empty(1, 3, edge, edge, dtype=kind)).image_embeds
        return seen, vae.encode(torch.empty(1, 3, height, width, dtype=vae.dtype)).latent_dist.mode()

    def denoise() -> Any:
        sample = torch.empty(batch, frames, unet.config["in_channels"], *latents[2:], dtype=kind)
        seen = torch.empty(batch, 1, unet.config["cross_attention_dim"], dtype=kind)
        times = torch.empty(batch, 3, dtype=kind)
        return unet(sample, torch.empty(()), encoder_hidden_states=seen, added_time_ids=times, return_dict=False)

    def decode() -> Any:
        return pipeline.decode_latents(torch.empty(1, *latents, dtype=kind), frames, chunk)

    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    for module in [*unet.modules(), *vae.modules(), *eyes.modules()]:
        module._apply = partial(_replace_parameters, module)  # on these alone: others may be making a clip meanwhile
    with architecture.quiet_libraries(), fakes, torch.no_grad():
        for part in (unet, vae, eyes):
            part.to_empty(device="cpu")
        for text in names:
            optimization, value = parse(text)
            optimization.apply(pipeline, value)
        weights = {part: _weights(getattr(pipeline, part)) for part in COMPONENTS}
        modules = [unet, vae, eyes]
        stages = {"denoise": _metered(denoise, modules), "decode": _metered(decode, modules)}
        upcast = encode_growth(vae)
        vae.to(encode_dtype(vae))
        stages = {"encode": _metered(encode, modules), **stages}
    for stage, found in stages.items():
        found["passes"] = -(-frames // chunk) if stage == "decode" else 1
        found["upcast"] = upcast if stage == "encode" else 1
    return {"weights": weights, "stages": stages}


def _replace_parameters(module: nn.Module, change: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
    """`Module._apply`, which swaps a fake parameter's inside for another's, and fails where anybody refers to it."""
    from torch.nn import Parameter

    for child in module.children() if recurse else ():
        child._apply(change)
    for name, parameter in module._parameters.items():
        if parameter is not None:
            module._parameters[name] = Parameter(change(parameter), parameter.requires_grad)  # PyTorch folds by it
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def _weights(module: nn.Module) -> Weights:
    def size(tensors: Iterable[Any]) -> int:
        return sum(_allocated(t.numel() * t.element_size()) for t in tensors)

    def held(module: nn.Module, recurse: bool) -> int:
        return size(module.parameters(recurse)) + size(module.buffers(recurse))

    lists: list[Any] = [child for child in module.children() if type(child).__name__ in ("ModuleList", "Sequential")]
    blocks = [held(block, True) for child in lists for block in child]
    return Weights(
        whole=held(module, True),
        largest_leaf=max(held(leaf, False) for leaf in module.modules()),
        largest_block=max(blocks, default=0),
        beside_blocks=held(module, True) - sum(blocks),
    )


def _allocated(size: int) -> int:
    """PyTorch's allocator gives out blocks of 512 bytes."""
    return -(-size // 512) * 512


def _metered(run: Callable[[], Any], modules: Iterable[nn.Module]) -> dict[str, Any]:
    """What running it allocates beside the weights, computes and moves."""
    meter = _meter()()
    for module in modules:
        for tensor in [*module.parameters(), *module.buffers()]:
            meter.hold(tensor)
    weights = meter.live
    with meter:
        run()
    return {
        "activation_bytes": meter.peak - weights,
        "flops": sum(flops * n for (flops, _), n in meter.operations.items()),
        "least_bytes": sum(size * n for (flops, size), n in meter.operations.items() if flops),
        "operations": [(flops, size, n) for (flops, size), n in meter.operations.items()],
    }


@lru_cache(maxsize=1)
def _meter() -> Any:
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    def tensors(values: Any) -> list[Tensor]:
        return [value for value in tree_leaves(values) if isinstance(value, Tensor)]

    def read(tensor: Tensor) -> int:  # one that is expanded has more elements than bytes
        return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())

    class Meter(TorchDispatchMode):
        """Sees every operation: its FLOP, its bytes, and the storages that live."""

        def __init__(self) -> None:
            super().__init__()
            self.live = self.peak = 0
            self.storages: dict[int, Any] = {}
            self.operations: Counter[tuple[int, int]] = Counter()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            new = sum([self.hold(tensor) for tensor in tensors(out)])
            packet = func.overloadpacket
            if packet in flop_registry:
                flops = flop_registry[packet](*args, **kwargs, out_val=out)
            elif packet.__name__ == "_scaled_dot_product_flash_attention_for_cpu":  # torch's registry lacks it
                flops = sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
            else:
                flops = 0
            if (new or func._schema.is_mutable) and packet.__name__ not in _NO_TRAFFIC:  # a view moves nothing
                size = sum(read(tensor) for tensor in tensors((args, kwargs, out)))
                self.operations[int(flops), size] += 1
            return out

        def hold(self, tensor: Tensor) -> bool:
            """Count the tensor's storage until it is gone; False where it is counted already."""
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self.storages:
                return False
            size = _allocated(storage.nbytes())

            def gone(_: Any) -> None:
                self.live -= size
                self.storages.pop(key, None)

            self.storages[key] = weakref.ref(storage, gone)
            self.live += size
            self.peak = max(self.peak, self.live)
            return True

    return Meter


def _configuration(folder: str | None) -> str:
    files = [Path(folder or "") / part / "config.json" for part in COMPONENTS] if folder else []
    return " ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


@lru_cache(maxsize=1)
def _code() -> str:
    """What a trace remembered on disk was made with: our own files that matter, and the libraries."""
    package = Path(__file__).parents[1]
    files = [
        Path(__file__),
        package / "pipelines" / "random_weights.py",
        package / "variants.py",
        *sorted((package / "optimizations").iterdir()),
    ]
    text = hashlib.sha256(b"".join(file.read_bytes() for file in files if file.suffix == ".py")).hexdigest()
    return " ".join((text, *(version(library) for library in ("torch", "diffusers", "transformers"))))
