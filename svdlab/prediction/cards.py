"""Graphics cards as their makers describe them: what a prediction needs to know of one.

A card is known by the name that its maker or its driver gives it. Laptops' chips are other chips under the same names,
so they are not listed.
"""

from __future__ import annotations

import re
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace

from svdlab.messages import did_you_mean, shorten

GiB = 2**30


@dataclass(frozen=True)
class Card:
    """One card, as it is sold."""

    name: str  # without "NVIDIA" and "GeForce"
    memory_bytes: int
    flops: float  # a second: dense 16-bit multiply-adds with 32-bit sums, half of what GeForce cards advertise
    bandwidth_bytes: float  # a second, of the card's own memory
    source: str  # of these figures


_AMPERE = "NVIDIA GA102 white paper, appendix A; twice the 32-bit rate at boost clock"
_ADA = "NVIDIA Ada white paper, appendix A; twice the 32-bit rate at boost clock"
_BLACKWELL = "NVIDIA RTX Blackwell white paper, appendix A; twice the 32-bit rate at boost clock"
_TURING = "NVIDIA Turing white paper, appendix A; four times the 32-bit rate at boost clock"

_FIGURES: dict[str, tuple[float, float, float, str]] = {  # name: (GiB, TFLOP/s, GB/s, source)
    "RTX 2060": (6, 25.8, 336, _TURING),
    "RTX 2070": (8, 29.9, 448, _TURING),
    "RTX 2080": (8, 40.3, 448, _TURING),
    "RTX 2080 Ti": (11, 53.8, 616, _TURING),
    "RTX 3050": (8, 18.2, 224, _AMPERE),
    "RTX 3060": (12, 25.5, 360, _AMPERE),
    "RTX 3060 Ti": (8, 32.4, 448, _AMPERE),
    "RTX 3070": (8, 40.6, 448, _AMPERE),
    "RTX 3080": (10, 59.5, 760, _AMPERE),
    "RTX 3090": (24, 71, 936, _AMPERE),
    "RTX 4060": (8, 30.2, 272, _ADA),
    "RTX 4060 Ti": (8, 44.1, 288, _ADA),
    "RTX 4060 Ti 16GB": (16, 44.1, 288, _ADA),
    "RTX 4070": (12, 58.3, 504, _ADA),
    "RTX 4070 Ti": (12, 80.2, 504, _ADA),
    "RTX 4070 Ti SUPER": (16, 88.2, 672, _ADA),
    "RTX 4080": (16, 97.5, 717, _ADA),
    "RTX 4090": (24, 165.2, 1008, _ADA),
    "RTX 5060": (8, 38.4, 448, _BLACKWELL),
    "RTX 5060 Ti": (16, 47.4, 448, _BLACKWELL),
    "RTX 5070": (12, 61.7, 672, _BLACKWELL),
    "RTX 5070 Ti": (16, 87.9, 896, _BLACKWELL),
    "RTX 5080": (16, 112.6, 960, _BLACKWELL),
    "RTX 5090": (32, 209.5, 1792, _BLACKWELL),
    "RTX A6000": (48, 154.8, 768, "NVIDIA RTX A6000 datasheet"),
    "T4": (15, 65, 320, "NVIDIA T4 datasheet; 15 of its 16 GB are left beside error correction"),
    "V100": (16, 125, 900, "NVIDIA V100 datasheet (SXM2)"),
    "A10G": (22.5, 70, 600, "NVIDIA A10G datasheet"),
    "L4": (22.5, 121, 300, "NVIDIA L4 datasheet, without sparsity"),
    "L40S": (44.5, 362, 864, "NVIDIA L40S datasheet, without sparsity"),
    "A100": (40, 312, 1555, "NVIDIA A100 datasheet"),
    "A100 80GB": (80, 312, 2039, "NVIDIA A100 datasheet (SXM4)"),
    "H100": (80, 989, 3350, "NVIDIA H100 datasheet (SXM5), without sparsity"),
    "H100 PCIe": (80, 756, 2000, "NVIDIA H100 datasheet (PCIe), without sparsity"),
    "H200": (141e9 / GiB, 989, 4800, "NVIDIA H200 datasheet (SXM5), without sparsity"),
    "B200": (180e9 / GiB, 2250, 8000, "NVIDIA DGX B200 datasheet, without sparsity"),
}
CARDS: dict[str, Card] = {
    name: Card(name, int(gib * GiB), tflops * 1e12, gb * 1e9, source)
    for name, (gib, tflops, gb, source) in _FIGURES.items()
}


def find_card(name: str) -> Card:
    """The card that a name means.

    Args:
        name: such as "RTX 3060", with or without "NVIDIA" and "GeForce".

    Raises:
        ValueError: no card is known by that name.

    Example:
        >>> find_card("NVIDIA GeForce RTX 3060").memory_bytes / 2**30
        12.0
    """
    card = match_card(name)
    if card is None:
        hint = did_you_mean(name.upper(), CARDS) or f": expected one of {', '.join(CARDS)}."
        raise ValueError(f"Unknown card {shorten(name)}{hint} Name others by memory: '12GB'.")
    return card


def match_card(name: str) -> Card | None:
    """The card that a driver calls by this name: the longest known name that begins it; None for all others.

    Args:
        name: as `torch.cuda.get_device_properties` gives it.
    """
    words = re.sub(r"\b(NVIDIA|GeForce|Tesla|Quadro|GPU|Generation)\b", " ", name, flags=re.IGNORECASE)
    words = re.sub(r"[\s_-]+", " ", words).strip().upper()
    best = max((card for card in CARDS if re.match(rf"{re.escape(card.upper())}(?!\w)", words)), key=len, default=None)
    if best is None or re.search(r"\b(LAPTOP|MAX Q|MOBILE)\b", words):
        return None
    return None if {"TI", "SUPER"} & set(words[len(best) :].split()) else CARDS[best]


def this_card() -> Card | None:
    """This machine's card, with the memory that it really has; None where it has none that is known."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    card = match_card(properties.name)
    return card and replace(card, name=properties.name, memory_bytes=properties.total_memory)


def this_processor() -> Card:
    """This machine's processor as if it were a card: the FLOP/s and the bandwidth that it reaches in half a second."""
    import torch

    from svdlab.machine import Machine

    def least_seconds(act: Callable[[], object]) -> float:
        return min(timeit.repeat(act, number=1, repeat=5))  # whatever else runs makes it slower

    square, long = torch.rand(1024, 1024), torch.rand(2**23)
    flops = 2 * 1024**3 / least_seconds(lambda: square @ square)
    bandwidth = 2 * long.nbytes / least_seconds(long.clone)
    machine = Machine.here()
    return Card(machine.name, machine.memory_bytes or 0, flops, bandwidth, "measured here")


def parse_memory(text: str | int) -> int:
    """An amount of memory in bytes.

    Args:
        text: such as "12GB", "7.5 GiB" or "700M", or a number of bytes. As cards are sold, a GB here is 2**30 bytes.

    Raises:
        ValueError: it is no amount of memory.

    Example:
        >>> parse_memory("12GB") / 2**30
        12.0
    """
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:(G)|M)(?:B|iB)?\s*", str(text)[:50], re.IGNORECASE)
    size = int(float(match[1]) * (GiB if match[2] else 2**20)) if match else 0
    if size <= 0:
        expected = "is no amount of memory: expected something like '12GB', or bytes over 0."
        raise ValueError(f"memory={shorten(text)} {expected}")
    return size
