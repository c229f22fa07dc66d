"""Graphics cards: what a prediction needs to know of one.

A card is known by the name that its driver gives it, and by its memory where two are called alike. Any other word in
that name (Laptop, MIG, D, Max-Q) means another chip or a part of one, and is never guessed: its memory tells what fits,
and on this machine its rates are measured.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from svdlab.dtypes import safer_dtypes, torch_dtype
from svdlab.machine import Machine, free_bytes
from svdlab.messages import did_you_mean, shorten

GiB = 2**30
CONTEXT_BYTES = int(0.4 * GiB)  # what CUDA itself takes of a card for a process
DESKTOP_BYTES = int(0.7 * GiB)  # what a desktop and a browser take of a card, 0.5 to 1 GiB
VISIBLE_SHARE = 0.97  # of the memory that a card is sold with, a program sees so much, or a little more


@dataclass(frozen=True)
class Card:
    """One card, or a processor that stands in for one.

    Attributes:
        name: without "NVIDIA" and "GeForce".
        memory_bytes: as a program sees it, less than is sold.
        taken_bytes: what a desktop or other programs take of that.
        flops: floating-point operations a second by dtype, summed in 32 bits; a dtype that is missing has none.
        bandwidth_bytes: a second, of the card's own memory.
        source: of these figures.
    """

    name: str
    memory_bytes: int
    taken_bytes: int = 0
    flops: Mapping[str, float] = field(default_factory=dict)
    bandwidth_bytes: float = 0.0
    source: str = ""

    @property
    def free_bytes(self) -> int:
        """What a desktop and other programs leave."""
        return self.memory_bytes - self.taken_bytes


_SOURCES = {
    "tables": "cores and bandwidth by public tables that quote NVIDIA, boost clock from memory",
    "quoted": "NVIDIA's datasheet, as Lightning's throughput.py and github.com/gmasse/gpu-specs quote it; no sparsity",
    "recalled": "NVIDIA's datasheet, from memory; no sparsity",
}
# Times of svd-xt in eager PyTorch, 25 frames of 576x1024 and 25 steps where nothing else is said: beside predictions.
PUBLISHED = {
    "A100 80GB": "39.9 s (OneDiff's README, SXM4, 5 frames a decode)",
    "RTX 3090": "100.5 s (a public notebook, 20 steps, model offload, 8 frames a decode)",
    "RTX 4080": "83 s (stable-fast's README)",
    "T4": "about 10 minutes (users of Colab)",
}
CARDS: dict[str, Card] = {}
_BY_NAME: dict[str, dict[int, Card]] = {}  # name in capitals: GB as sold: card
# The memory that a program sees is what PyTorch's messages in public issues say, or those of a card of the same size.
# 16 bits: dense products summed in 32 bits, half of what is advertised for GeForce. 32 bits: without tensor cores.
for _line in csv.DictReader(Path(__file__).with_suffix(".csv").read_text().splitlines()):
    _name, _sold, _visible, _half, _single, _bandwidth, _source = _line.values()
    _flops = {"fp16": float(_half) * 1e12, "bf16": float(_half) * 1e12, "fp32": float(_single) * 1e12}
    if _name.startswith(("RTX 20", "T4", "V100")):  # Turing and Volta: PyTorch emulates bf16 there, and slowly
        del _flops["bf16"]
    _full = f"{_name} {_sold}GB" if _name in CARDS else _name
    _taken = DESKTOP_BYTES if _name.startswith("RTX") else 0  # the others have no socket for a monitor
    _card = Card(_full, int(float(_visible) * GiB), _taken, _flops, float(_bandwidth) * 1e9, _SOURCES[_source])
    CARDS[_full] = _BY_NAME.setdefault(_name.upper(), {})[int(_sold)] = _card


def find_card(name: str) -> Card:
    """The card that a name means, or any card of an amount of memory.

    Args:
        name: such as "RTX 3060", with or without "NVIDIA" and "GeForce"; or "12GB", as a card is sold.

    Raises:
        ValueError: no card is known by that name.

    Example:
        >>> find_card("NVIDIA GeForce RTX 3060").memory_bytes / 2**30
        11.75
        >>> find_card("RTX 3060").flops["fp16"]
        25500000000000.0
    """
    if card := match_card(name):
        return card
    if re.fullmatch(r"\s*[\d.]+\s*[GM]i?B?\s*", name, re.IGNORECASE):
        exact = "i" in name.lower()
        return Card(f"a card of {name.strip()}", parse_memory(name), 0 if exact else DESKTOP_BYTES)
    hint = did_you_mean(name.upper(), CARDS) or f": expected one of {', '.join(CARDS)}."
    others = "A laptop's chip, a MIG slice and others are named by their memory: '12GB'."
    raise ValueError(f"Unknown card {shorten(name)}{hint} {others}")


def match_card(name: str, memory_bytes: int | None = None) -> Card | None:
    """The card that a driver calls by this name, where it has that memory; None for all others.

    Args:
        name: as `torch.cuda.get_device_properties` gives it.
        memory_bytes: what a program sees; left out, the smaller of two that are called alike.
    """
    words = re.sub(r"(\d+)\s*GB\b", r"\1GB", re.sub(r"[\s_-]+", " ", name.upper())).split()
    sizes = [int(word[:-2]) for word in words if re.fullmatch(r"\d+GB", word)]
    ignored = r"NVIDIA|GEFORCE|TESLA|QUADRO|GPU|GENERATION|SXM\d|HBM\dE?|\d+GB"
    kinds = _BY_NAME.get(" ".join(word for word in words if not re.fullmatch(ignored, word)), {})
    cards = [card for sold, card in kinds.items() if not sizes or sold in sizes]
    if memory_bytes is None:
        return cards[0] if cards else None
    return next((card for card in cards if abs(memory_bytes / card.memory_bytes - 1) < 0.08), None)


def available_bytes(device: str) -> int:
    """What this process could have of a CUDA card now: what is free, what torch holds for it, and CUDA's context.

    Args:
        device: "cuda" or "cuda:1".
    """
    import torch

    return free_bytes(device) + torch.cuda.memory_reserved(torch.device(device)) + CONTEXT_BYTES


def this_card() -> Card | None:
    """This machine's card with the memory that is free on it now; None where there is none.

    What this process holds counts as free. The rates of a card that is not known by name are measured.

    Example:
        >>> if card := this_card():
        ...     fits = estimate(Setup("svd-xt")).fits_on(card)
    """
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    card, total = match_card(properties.name, properties.total_memory), properties.total_memory
    taken_bytes = max(0, total - available_bytes("cuda"))
    rates = (card.flops, card.bandwidth_bytes, card.source) if card else _measured_rates("cuda")
    return Card(card.name if card else properties.name, total, taken_bytes, *rates)


def this_device() -> Card:
    """This machine's card; without one its processor, or Apple's GPU, whose rates are measured in half a second.

    Example:
        >>> from svdlab import this_device
        >>> this_device().free_bytes > 0
        True
    """
    if card := this_card():
        return card
    here = Machine.here()
    total = here.memory_bytes or 0
    return Card(here.name, total, total - free_bytes(here.device), *_measured_rates(here.device))


@lru_cache(maxsize=1)
def _measured_rates(device: str) -> tuple[Mapping[str, float], float, str]:
    """FLOP/s by dtype, bytes a second, and how they were had: products and copies on this machine's device."""
    import torch

    on_card = device != "cpu"
    size, dtypes = (4096, ("fp16", *safer_dtypes())) if on_card else (1024, ("fp32",))

    def best_seconds(run: Callable[[], object]) -> float:
        seconds = []
        for _ in range(4):  # the first one warms up
            start = time.perf_counter()
            run()
            if on_card:
                torch.accelerator.synchronize()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    flops = {}
    for name in dtypes:
        factor = torch.ones(size, size, dtype=torch_dtype(name), device=device)
        flops[name] = 2 * size**3 / best_seconds(lambda factor=factor: factor @ factor)
    block = torch.ones(16 * size * size // 4, device=device)
    bandwidth = 2 * block.nbytes / best_seconds(block.clone)
    return flops, bandwidth, "measured here by matrix products and copies"


def parse_memory(text: str | int) -> int:
    """An amount of memory in bytes, as a program sees it.

    Args:
        text: such as "12GB" or "700MB", as cards are sold, of which a program sees 3 % less; "11.6 GiB" or a number of
            bytes, exactly.

    Raises:
        ValueError: it is no amount of memory.

    Example:
        >>> parse_memory("11.5GiB") / 2**30
        11.5
        >>> round(parse_memory("12GB") / 2**30, 2)
        11.64
    """
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GM])(i?)B?\s*", str(text)[:50], re.IGNORECASE)
    unit = {"G": GiB, "M": 2**20}[match[2].upper()] if match else 0
    size = int(float(match[1]) * unit * (1 if match[3] else VISIBLE_SHARE)) if match else 0
    if size <= 0:
        expected = "is no amount of memory: expected something like '12GB', or bytes over 0."
        raise ValueError(f"memory={shorten(text)} {expected}")
    return size
