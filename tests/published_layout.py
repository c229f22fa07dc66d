"""The hub's repositories of SVD as they are: names, configurations, sizes; values empty (sparse files) or random.

>>> write_repository(VARIANTS["svd-xt"], folder)                  # 33 GB by its list, some kilobytes on disk
>>> write_weights(VARIANTS["svd-xt"], folder, shard_bytes=10**9, random=True)   # 4.5 GB on disk, fp16, in shards
>>> write_animatelcm(folder)                                      # two UNets of SVD-XT, and no pipeline
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from svdlab.pipelines.hub import COMPONENTS
from svdlab.pipelines.random_weights import blank
from svdlab.variants import VARIANTS, Variant

OTHER_FILES = {  # what lies beside the pipeline's own files: the same weights for other programs, texts and pictures
    "svd": {"svd.safetensors": 9_559_625_980, "svd_image_decoder.safetensors": 9_503_255_628},
    "svd-xt": {"svd_xt.safetensors": 9_559_625_564, "svd_xt_image_decoder.safetensors": 9_503_255_044},
    "svd-xt-1.1": {"svd_xt_1_1.safetensors": 4_779_984_940},
}
ANIMATELCM = "wangfuyun/AnimateLCM-SVD-xt"
ANIMATELCM_BYTES = 6_098_682_464  # of its first file
TEXTS = (".gitattributes", "LICENSE.md", "README.md", "output_tile.gif", "comparison.png")
_FILE_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "image_encoder": "model"}


def write_repository(variant: Variant, folder: Path) -> Path:
    """Everything that a variant's repository lists, at its true size and with nothing in it."""
    write_weights(variant, folder)
    write_weights(variant, folder, half=False)
    for name, size in (OTHER_FILES[variant.name] | dict.fromkeys(TEXTS, 4096)).items():
        _truncate(folder / name, size)
    return folder


def write_weights(
    variant: Variant, folder: Path, *, half: bool = True, shard_bytes: int = 0, random: bool = False
) -> Path:
    """The pipeline's own files: configurations, and safetensors with every tensor's name, shape and type."""
    pipeline = _blank(variant.name)
    pipeline.save_config(folder)
    pipeline.scheduler.save_config(folder / "scheduler")
    pipeline.feature_extractor.save_pretrained(folder / "feature_extractor")
    for component in COMPONENTS:
        module = getattr(pipeline, component)
        component_folder = folder / component
        component_folder.mkdir(parents=True, exist_ok=True)
        module.config.save_pretrained(component_folder) if component == "image_encoder" else module.save_config(
            component_folder
        )
        tensors = {name: list(tensor.shape) for name, tensor in module.named_parameters()}
        _write_component(
            component_folder, _FILE_STEMS[component] + (".fp16" if half else ""), tensors, half, shard_bytes, random
        )
    return folder


def write_animatelcm(folder: Path) -> Path:
    """AnimateLCM's repository: a UNet in fp32 for SVD-XT and one for XT-1.1, side by side."""
    tensors = {name: list(tensor.shape) for name, tensor in _blank("svd-xt").unet.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("AnimateLCM-SVD-xt", "AnimateLCM-SVD-xt-1.1"):
        _write_safetensors(folder / f"{name}.safetensors", tensors, half=False, random=False)
    return folder


_blank = cache(lambda name: blank(VARIANTS[name]))


def _write_component(
    folder: Path, stem: str, tensors: dict[str, list[int]], half: bool, shard_bytes: int, random: bool
) -> None:
    shards: list[dict[str, list[int]]] = [{}]
    shard_size = 0
    for name, shape in tensors.items():
        shard_size += (size := _bytes(shape, half))
        if shard_bytes and shard_size > shard_bytes:
            shards.append({})
            shard_size = size
        shards[-1][name] = shape
    if len(shards) == 1:
        return _write_safetensors(folder / f"{stem}.safetensors", shards[0], half, random)
    weight_map = {}
    for index, shard in enumerate(shards, 1):
        file = f"{stem}-{index:05}-of-{len(shards):05}.safetensors"
        _write_safetensors(folder / file, shard, half, random)
        weight_map |= dict.fromkeys(shard, file)
    total = sum(_bytes(shape, half) for shape in tensors.values())
    index_file = f"{stem.removesuffix('.fp16')}.safetensors.index{'.fp16' if half else ''}.json"
    (folder / index_file).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return None


def _write_safetensors(file: Path, tensors: dict[str, list[int]], half: bool, random: bool) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        begin, end = end, end + _bytes(shape, half)
        header[name] = {"dtype": "F16" if half else "F32", "shape": shape, "data_offsets": [begin, end]}  # pyright: ignore
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        out.writelines(_random_blocks(end) if random else ())
    _truncate(file, 8 + len(text) + end)


def _random_blocks(size: int) -> Iterable[bytes]:
    import numpy as np

    block = (np.random.default_rng(0).standard_normal(2**24) * 0.01).astype("<f2").tobytes()
    for start in range(0, size, len(block)):
        yield block[: size - start]


def _bytes(shape: list[int], half: bool) -> int:
    size = 2 if half else 4
    for length in shape:
        size *= length
    return size


def _truncate(file: Path, size: int) -> None:
    with file.open("ab") as out:
        out.truncate(size)
