"""What a model computes, moves and holds, without a value: its real modules on fake tensors.

A fake tensor has a shape and a type and nothing inside, so a step of SVD-XT takes a few seconds of one core. A meter
gets every operation that PyTorch would run: its FLOP, its bytes, and which tensors live at the same time.
The fake tensors are on a "cpu" that has no end: fake CUDA tensors fail on a PyTorch without CUDA. A trace depends
neither on where weights wait nor on the number of steps. It is remembered in this process and on disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.atomic_files import atomic_write
from svdlab.optimizations.registry import WeightBytes
from svdlab.pipelines import random_weights
from svdlab.pipelines.hub import COMPONENTS
from svdlab.pipelines.vae_precision import encode_dtype
from svdlab.progress_bar import quiet_libraries
from svdlab.request import Request
from svdlab.setup import DTYPES, Setup
from svdlab.variants import variant

if TYPE_CHECKING:
    from torch import nn

_NO_TRAFFIC = ("empty", "empty_strided", "new_empty", "new_empty_strided", "empty_like", "detach", "lift_fresh")


@dataclass(frozen=True)
class StageTrace:
    """One stage of a clip as the meter counted it; of "denoise" a single step."""

    weights: dict[str, WeightBytes]  # of "image_encoder", "unet" and "vae", in the types that they have in this stage
    activation_bytes: int  # the most that lives at once beside the weights
    passes: int  # how often the stage calls its module: once, or once for each decode chunk
    operations: list[tuple[int, int, int]]  # (FLOP, bytes read and written, how often) of each kind


_traces: dict[str, dict[str, StageTrace]] = {}  # by `_key`


def trace(setup: Setup, request: Request) -> dict[str, StageTrace]:
    """The fake run of a clip, remembered where the same was run before: "encode", "denoise" (one step) and "decode".

    Args:
        setup: how the model runs. Its placement changes nothing here.
        request: what is asked, complete.
    """
    key = _key(setup, request)
    if key not in _traces:
        folder = _weights_folder(setup)
        files = [folder / name / "config.json" for name in COMPONENTS] if folder else []
        configurations = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
        digest = hashlib.sha256(" ".join((key, *configurations, _code())).encode()).hexdigest()
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        file = home / "svdlab" / "traces" / f"{digest[:32]}.json"
        try:
            _traces[key] = _from_json(file.read_text())
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            _traces[key] = fake_run(setup, request)
            with suppress(OSError), atomic_write(file) as beside:  # in a read-only home the next process traces again
                beside.write_text(_to_json(_traces[key]))
    return _traces[key]


def _key(setup: Setup, request: Request) -> str:
    """All that a trace depends on, such as "svd-xt fp16 single-token 25x576x1024 chunk 5 batch 2"."""
    names = [text for text, (o, value) in zip(setup.optimizations, setup.parsed, strict=True) if o.traced(value)]
    folder = _weights_folder(setup)
    size = f"{request.num_frames}x{request.height}x{request.width}"
    chunks = f"chunk {request.decode_chunk_size} batch {_batch(request)}"
    where = [str(folder)] if folder else []
    return " ".join((setup.variant, *where, str(setup.resolved().dtype), *names, size, chunks))


def _to_json(stages: dict[str, StageTrace]) -> str:
    return json.dumps({name: asdict(stage) for name, stage in stages.items()})


def _from_json(text: str) -> dict[str, StageTrace]:
    stages = {name: StageTrace(**fields) for name, fields in json.loads(text).items()}
    for stage in stages.values():
        stage.weights.update({name: WeightBytes(*sizes) for name, sizes in stage.weights.items()})
        stage.operations[:] = [(flops, size, times) for flops, size, times in stage.operations]
    return stages


def fake_run(setup: Setup, request: Request) -> dict[str, StageTrace]:
    """Run a clip's "encode", one step of its "denoise", and its "decode" on fake tensors.

    Args:
        setup: how the model runs.
        request: what is asked, complete.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    dtype: Any = getattr(torch, DTYPES[str(setup.resolved().dtype)])
    pipeline: Any = random_weights.blank(variant(setup.variant), _weights_folder(setup), dtype)
    unet, vae, image_encoder = modules = pipeline.unet, pipeline.vae, pipeline.image_encoder
    frames, chunk, batch = request.num_frames, request.decode_chunk_size, _batch(request)
    scale = 2 ** (len(vae.config["block_out_channels"]) - 1)
    latents = (frames, vae.config["latent_channels"], request.height // scale, request.width // scale)

    def encode() -> Any:
        edge = image_encoder.config.image_size
        embedding = image_encoder(torch.empty(1, 3, edge, edge, dtype=dtype)).image_embeds
        picture = torch.empty(1, 3, request.height, request.width, dtype=vae.dtype)
        return embedding, vae.encode(picture).latent_dist.mode()

    def denoise() -> Any:
        sample = torch.empty(batch, frames, unet.config["in_channels"], *latents[2:], dtype=dtype)
        embedding = torch.empty(batch, 1, unet.config["cross_attention_dim"], dtype=dtype)
        ids = torch.empty(batch, 3, dtype=dtype)
        return unet(sample, torch.empty(()), encoder_hidden_states=embedding, added_time_ids=ids, return_dict=False)

    def decode() -> Any:
        return pipeline.decode_latents(torch.empty(1, *latents, dtype=dtype), frames, chunk)

    for module in (module for part in modules for module in part.modules()):
        module._apply = partial(_replace_parameters, module)  # on these alone: others may be making a clip meanwhile
    with quiet_libraries(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for part in modules:
            part.to_empty(device="cpu")
        for optimization, value in setup.parsed:
            if optimization.traced(value):
                optimization.apply(pipeline, value)
                optimization.before_clip(pipeline, value, request)
        weights = {name: _weight_bytes(getattr(pipeline, name)) for name in COMPONENTS}
        growth = encode_dtype(vae).itemsize // vae.dtype.itemsize
        grown = weights | {"vae": WeightBytes(*(size * growth for size in weights["vae"]))}
        denoising = StageTrace(weights, *_meter(denoise, modules))
        decoding = StageTrace(weights, *_meter(decode, modules, passes=-(-frames // chunk)))
        vae.to(encode_dtype(vae))
        return {"encode": StageTrace(grown, *_meter(encode, modules)), "denoise": denoising, "decode": decoding}


def _batch(request: Request) -> int:
    """Videos in one call of the UNet: guidance asks it twice."""
    return 2 if request.max_guidance_scale > 1 else 1


def _weights_folder(setup: Setup) -> Path | None:
    """The folder whose configuration may differ from the variant's own."""
    return None if setup.weights in ("hub", "bundled", "random") else Path(setup.weights).expanduser()


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


def _weight_bytes(module: nn.Module) -> WeightBytes:
    def size(module: nn.Module, recurse: bool) -> int:
        tensors = (*module.parameters(recurse), *module.buffers(recurse))
        return sum(_allocated(t.numel() * t.element_size()) for t in tensors)

    lists: list[Any] = [child for child in module.children() if type(child).__name__ in ("ModuleList", "Sequential")]
    blocks = [size(block, True) for child in lists for block in child]
    return WeightBytes(
        total=size(module, True),
        largest_layer=max(size(layer, False) for layer in module.modules()),
        largest_block=max(blocks, default=0),
        outside_blocks=size(module, True) - sum(blocks),
    )


def _allocated(size: int) -> int:
    """PyTorch's allocator gives out blocks of 512 bytes."""
    return -(-size // 512) * 512


def _meter(run: Callable[[], Any], modules: Iterable[nn.Module], passes: int = 1) -> tuple[int, int, list[Any]]:
    """Activation bytes, passes and operations of one run."""
    meter = _meter_class()()
    for tensor in (tensor for module in modules for tensor in (*module.parameters(), *module.buffers())):
        meter.count_storage(tensor)
    weights = meter.live_bytes
    with meter:
        run()
    return meter.peak_bytes - weights, passes, [(*kind, times) for kind, times in meter.operations.items()]


@lru_cache(maxsize=1)
def _meter_class() -> Any:
    """`Meter`, defined at its first use, since its base class loads torch."""
    from torch import Tensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from torch.utils.flop_counter import flop_registry, sdpa_flop_count

    def tensors(values: Any) -> list[Tensor]:
        return [value for value in tree_leaves(values) if isinstance(value, Tensor)]

    def traffic(tensor: Tensor) -> int:  # one that is expanded has more elements than bytes
        return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())

    class Meter(TorchDispatchMode):
        """Gets every operation: its FLOP, its bytes, and the storages that live."""

        def __init__(self) -> None:
            super().__init__()
            self.live_bytes = self.peak_bytes = 0
            self.storages: dict[int, Any] = {}
            self.operations: Counter[tuple[int, int]] = Counter()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            out = func(*args, **kwargs)
            new = sum([self.count_storage(tensor) for tensor in tensors(out)])
            packet, flops = func.overloadpacket, 0
            if packet in flop_registry:
                flops = flop_registry[packet](*args, **kwargs, out_val=out)
            elif packet.__name__ == "_scaled_dot_product_flash_attention_for_cpu":  # torch's registry lacks it
                flops = sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
            if (new or func._schema.is_mutable) and packet.__name__ not in _NO_TRAFFIC:  # a view moves nothing
                self.operations[int(flops), sum(map(traffic, tensors((args, kwargs, out))))] += 1
            return out

        def count_storage(self, tensor: Tensor) -> bool:
            """Count the tensor's storage for as long as it lives; False where it is counted already."""
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self.storages:
                return False
            size = _allocated(storage.nbytes())

            def release(_: Any) -> None:
                self.live_bytes -= size
                self.storages.pop(key, None)

            self.storages[key] = weakref.ref(storage, release)
            self.live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            return True

    return Meter


@lru_cache(maxsize=1)
def _code() -> str:
    """What a trace on disk was made with: our own files that matter, and the libraries."""
    package = Path(__file__).parents[1]
    files = [Path(__file__), package / "variants.py", *sorted((package / "optimizations").glob("*.py"))]
    files += [package / "pipelines" / name for name in ("random_weights.py", "vae_precision.py")]
    text = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return " ".join((text, *(version(library) for library in ("torch", "diffusers", "transformers"))))
