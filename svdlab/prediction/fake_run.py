"""What a model computes, moves and holds, without a value: its real modules on fake tensors.

A fake tensor has a shape and a type and nothing inside, so a step of SVD-XT takes a few seconds of one core. A meter
gets every operation that PyTorch would run: its FLOP, its bytes, and which tensors live at the same time.
The fake tensors are on a "cpu" that has no end: fake CUDA tensors fail on a PyTorch without CUDA. A trace depends
neither on where weights wait nor on the number of steps. Those of the published sizes come with the package
(`traces.json`, which `tests/golden_traces.py` writes).
"""

from __future__ import annotations

import json
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.dtypes import torch_dtype
from svdlab.optimizations.registry import WeightBytes
from svdlab.pipelines import random_weights
from svdlab.pipelines.vae_precision import encode_dtype
from svdlab.progress_bar import quiet_libraries
from svdlab.request import Request
from svdlab.setup import Setup
from svdlab.variants import variant

if TYPE_CHECKING:
    from torch import nn

SHIPPED = Path(__file__).with_name("traces.json")
_NO_TRAFFIC = ("empty", "empty_strided", "new_empty", "new_empty_strided", "empty_like", "detach", "lift_fresh")
_CALLS = {"encode": ("image_encoder", "vae"), "denoise": ("unet",), "decode": ("vae",)}  # of components, by stage


@dataclass(frozen=True)
class StageTrace:
    """One stage of a clip as the meter counted it; of "denoise" a single step."""

    weights: dict[str, WeightBytes]  # of the components that the stage calls, in the types that they have in it
    activation_bytes: int  # the most that lives at once beside the weights
    workspace_bytes: int  # what that grows by where each convolution copies its input and output into another layout
    operations: list[tuple[int, int, int]]  # (FLOP, bytes read and written, how often); of those without FLOP the sum


def trace(setup: Setup, request: Request) -> dict[str, StageTrace]:
    """A clip's "encode", one step of its "denoise", and its "decode", on fake tensors where nobody has run them yet.

    Args:
        setup: how the model runs; its placement changes nothing here.
        request: what is asked, complete.
    """
    keys, remembered = _keys(setup, request), _remembered()
    missing = [name for name, key in keys.items() if key not in remembered]
    remembered |= {keys[name]: stage for name, stage in fake_run(setup, request, missing).items()}
    return {name: remembered[key] for name, key in keys.items()}


@lru_cache(maxsize=1)
def _remembered() -> dict[str, StageTrace]:
    """The traces that come with the package, by key, and those of this process."""
    traces = {}
    for key, fields in json.loads(SHIPPED.read_text()).items():
        weights = {name: WeightBytes(*sizes) for name, sizes in fields.pop("weights").items()}
        traces[key] = StageTrace(weights, operations=[tuple(kind) for kind in fields.pop("operations")], **fields)
    return traces


def _keys(setup: Setup, request: Request) -> dict[str, str]:
    """By stage all that its trace depends on, such as "svd 16 bits denoise single-token 25x576x1024 batch 2"."""
    dtype, r = str(setup.resolved().dtype), request
    # The published checkpoints are built alike, and half precision of either kind takes the same bytes. Only the VAE
    # encodes in 32 bits under fp16 and not under bf16.
    model = " ".join((setup.variant if setup.variant == "tiny" else "svd", *map(str, filter(None, [_folder(setup)]))))
    bits = "32 bits" if dtype == "fp32" else "16 bits"
    size = f"{r.num_frames}x{r.height}x{r.width}"
    depends = {
        "encode": (dtype, f"{r.height}x{r.width}"),
        "denoise": (bits, f"{size} batch {_batch(r)}"),
        "decode": (bits, f"{size} chunk {r.decode_chunk_size}"),
    }
    texts = sorted(zip(setup.optimizations, setup.parsed, strict=True), key=lambda pair: pair[0])
    names = {stage: [text for text, (o, v) in texts if o.traced(v) and stage in o.stages] for stage in depends}
    return {stage: " ".join((model, kind, stage, *names[stage], of)) for stage, (kind, of) in depends.items()}


def fake_run(setup: Setup, request: Request, stages: Iterable[str] = tuple(_CALLS)) -> dict[str, StageTrace]:
    """Run stages of a clip on fake tensors.

    Args:
        setup: how the model runs.
        request: what is asked, complete.
        stages: of "encode", "denoise" (one step) and "decode".
    """
    stages = set(stages)
    if not stages:
        return {}
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    dtype = torch_dtype(setup.resolved().dtype)
    pipeline: Any = random_weights.blank(variant(setup.variant), _folder(setup), dtype)
    unet, vae, image_encoder = modules = pipeline.unet, pipeline.vae, pipeline.image_encoder
    frames, batch = request.num_frames, _batch(request)
    scale = 2 ** (len(vae.config["block_out_channels"]) - 1)
    latents = (frames, vae.config["latent_channels"], request.height // scale, request.width // scale)

    def denoise() -> Any:
        sample = torch.empty(batch, frames, unet.config["in_channels"], *latents[2:], dtype=dtype)
        embedding = torch.empty(batch, 1, unet.config["cross_attention_dim"], dtype=dtype)
        ids = torch.empty(batch, 3, dtype=dtype)
        return unet(sample, torch.empty(()), encoder_hidden_states=embedding, added_time_ids=ids, return_dict=False)

    def decode() -> Any:
        return pipeline.decode_latents(torch.empty(1, *latents, dtype=dtype), frames, request.decode_chunk_size)

    def encode() -> Any:
        edge = image_encoder.config.image_size
        embedding = image_encoder(torch.empty(1, 3, edge, edge, dtype=dtype)).image_embeds
        picture = torch.empty(1, 3, request.height, request.width, dtype=vae.dtype)
        return embedding, vae.encode(picture).latent_dist.mode()

    for module in (module for part in modules for module in part.modules()):
        module._apply = partial(_replace_parameters, module)  # on these alone: others may be making a clip meanwhile
    with quiet_libraries(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for part in modules:
            part._apply(lambda blank: torch.empty(blank.shape, dtype=blank.dtype))  # twice as quick as `to_empty`
        for optimization, value in setup.parsed:
            if optimization.traced(value) and stages.intersection(optimization.stages):
                optimization.apply(pipeline, value)
                optimization.before_clip(pipeline, value, request)
        traces = {}
        for name, run in {"denoise": denoise, "decode": decode, "encode": encode}.items():
            if name == "encode":  # last, since what grows does not shrink again
                vae.to(encode_dtype(vae))
            if name in stages:
                traces[name] = _meter(run, modules, {part: getattr(pipeline, part) for part in _CALLS[name]})
        return traces


def _batch(request: Request) -> int:
    """Videos in one call of the UNet: guidance asks it twice."""
    return 2 if request.max_guidance_scale > 1 else 1


def _folder(setup: Setup) -> Path | None:
    """The folder whose configuration may differ from the variant's own."""
    return None if setup.weights in ("hub", "bundled", "random") else Path(setup.weights).expanduser()


def _replace_parameters(module: nn.Module, change: Callable[[Any], Any], recurse: bool = True) -> nn.Module:
    """In place of `Module._apply`, which exchanges what a fake parameter holds: that fails if anything refers to it."""
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


@contextmanager
def _counted_calls(modules: Iterable[nn.Module]) -> Iterator[Counter[nn.Module]]:
    """How often each module, or one within it, is called meanwhile."""
    calls: Counter[nn.Module] = Counter()
    with ExitStack() as hooks:
        for module in {module for part in modules for module in part.modules()}:
            hooks.enter_context(module.register_forward_pre_hook(lambda module, _: calls.update((module,))))
        yield calls


def _weight_bytes(module: nn.Module, calls: Counter[nn.Module]) -> WeightBytes:
    def size(module: nn.Module, recurse: bool) -> int:
        tensors = (*module.parameters(recurse), *module.buffers(recurse))
        return sum(_allocated(t.numel() * t.element_size()) for t in tensors)

    lists: list[Any] = [child for child in module.children() if type(child).__name__ in ("ModuleList", "Sequential")]
    blocks = {block: size(block, True) for child in lists for block in child}
    layers = {layer: size(layer, False) for layer in module.modules()}
    outside = sum(layers.values()) - sum(blocks.values())
    # What is outside of blocks comes with the component's own call, however often its layers are called within it.
    return WeightBytes(
        total=sum(layers.values()),
        largest_layer=max(layers.values()),
        largest_block=max(blocks.values(), default=0),
        outside_blocks=outside,
        layer_traffic=sum(calls[layer] * each for layer, each in layers.items()),
        block_traffic=calls[module] * outside + sum(calls[block] * each for block, each in blocks.items()),
    )


def _allocated(size: int) -> int:
    """PyTorch's allocator gives out blocks of 512 bytes."""
    return -(-size // 512) * 512


def _meter(run: Callable[[], Any], modules: Iterable[nn.Module], called: dict[str, nn.Module]) -> StageTrace:
    meter = meter_class()()
    meter.count_modules(modules)
    weights = meter.live_bytes
    with _counted_calls(called.values()) as calls, meter:
        run()
    operations = [(0, sum(size * n for (flops, size), n in meter.operations.items() if not flops), 1)]
    operations += [(flops, size, n) for (flops, size), n in meter.operations.items() if flops]
    sizes = {name: _weight_bytes(module, calls) for name, module in called.items()}
    workspace = max(0, meter.workspace_peak_bytes - meter.peak_bytes)
    return StageTrace(sizes, meter.peak_bytes - weights, workspace, operations)


@lru_cache(maxsize=1)
def meter_class() -> Any:
    """`Meter`, which follows torch's tensors; defined at its first use, since its base class loads torch."""
    logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it warns of a missing triton: on Windows
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
            self.live_bytes = self.peak_bytes = self.workspace_peak_bytes = 0
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
            if packet.__name__ == "convolution":
                copies = traffic(args[0]) + traffic(out)
                self.workspace_peak_bytes = max(self.workspace_peak_bytes, self.live_bytes + copies)
            return out

        def count_modules(self, modules: Iterable[nn.Module]) -> None:
            """Count weights that live already."""
            for module in modules:
                for tensor in (*module.parameters(), *module.buffers()):
                    self.count_storage(tensor)

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
