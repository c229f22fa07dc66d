"""Which setups fit a card, and what to do where none does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from svdlab.machine import Machine, best_device
from svdlab.prediction import cards
from svdlab.prediction.cards import Card, parse_memory, this_card
from svdlab.prediction.estimate import Estimate, estimate
from svdlab.request import Request
from svdlab.setup import Setup


def fitting_setup(
    variant: str | None = None,
    memory: int | str | None = None,
    request: Request | None = None,
    say: Callable[[str], object] = print,
) -> Setup:
    """The fastest exact setup predicted to fit: see `Setup.fitting`."""

    on_card = memory is not None or best_device() == "cuda"
    name = variant or ("svd-xt" if on_card else "tiny")
    size = Machine.here().memory_bytes or 0 if memory is None else parse_memory(memory)
    where = f"{size / 2**30:.1f} GiB" + ("" if on_card else " of this machine's memory")
    base = Setup(name, dtype="fp16" if on_card and name != "tiny" else None)
    if name == "tiny":
        say("tiny: the bundled model, small enough for any machine." + (" No card was found." * (not on_card)))
        return base
    found = candidates(base, request, on_card=on_card)
    fitting = [estimate for estimate in found if estimate.fits(size)]
    if not fitting:
        least = min(found, key=lambda estimate: estimate.needed_bytes)
        raise MemoryError(
            f"No setup of {name} fits in {where}: {least} Ask for a smaller decode_chunk_size (now "
            f"{least.request.decode_chunk_size}), fewer frames or a smaller size, or use svd, or tiny."
        )
    say(f"The fastest of {len(found)} exact setups predicted to fit in {where}: {fitting[0]}")
    return fitting[0].setup


def candidates(
    setup: Setup, request: Request | None = None, card: Card | None = None, *, on_card: bool | None = None
) -> list[Estimate]:
    """`setup` with each set of exact optimisations worth comparing, the fastest predicted on `card` first.

    None of them compiles: what that gains has to be measured. `on_card` says whether there is a card to offload from;
    left out, it is looked for.
    """
    if on_card is None:
        on_card = (setup.device or best_device()) != "cpu"
    return _fastest_first(_candidates(setup, request, on_card), card or this_card() or cards.CARDS["RTX 3060"])


def _candidates(setup: Setup, request: Request | None, on_card: bool) -> list[Estimate]:
    asked = (Request(image="rocket") if request is None else request).filled(setup.variant)
    split = ("split-guidance",) if asked.max_guidance_scale > 1 else ()
    chunk = next(f"forward-chunking={n}" for n in (5, 2, 1) if asked.num_frames % n == 0)
    thrifty = [("single-token", *split), ("single-token", *split, chunk)]
    graphs = dict.fromkeys([("single-token",), *thrifty, *((*graph, "lean-decode") for graph in thrifty)])
    placements = [(), ("model-offload",), ("group-offload",)] if on_card else [()]
    return [estimate(replace(setup, optimizations=(*p, *graph)), asked) for graph in graphs for p in placements]


def _fastest_first(found: Iterable[Estimate], card: Card) -> list[Estimate]:
    return sorted(found, key=lambda e: (e.seconds(card).expected, len(e.setup.optimizations)))


def estimates_table(found: Iterable[Estimate], memory_bytes: int, card: Card | None = None) -> list[dict[str, Any]]:
    """One line for each estimate, ready for a DataFrame: what it needs by stage (GiB), whether that fits, and seconds
    on `card`, where one is named: the floor, and the expectation at `UTILISATION` of what operations take at best."""
    lines = []
    for one in found:
        line: dict[str, Any] = {
            "setup": one.setup.variant,
            "optimizations": ", ".join(one.setup.optimizations) or "none",
        }
        line |= {f"{name}_gib": round(stage.peak_bytes / 2**30, 2) for name, stage in one.stages.items()}
        line |= {"needed_gib": round(one.needed_bytes / 2**30, 2), "fits": one.fits(memory_bytes)}
        seconds = card and one.seconds(card)
        line |= {f"{name}_seconds": seconds and round(getattr(seconds, name), 1) for name in ("floor", "expected")}
        lines.append(line)
    return lines


def cards_table(setup: Setup, request: Request | None = None) -> list[dict[str, Any]]:
    """One line for each known card, ready for a DataFrame: the fastest of the `choices` that fits it, or None."""
    lines, names = [], ("optimizations", "needed_gib", "floor_seconds", "expected_seconds")
    found = _candidates(setup, request, on_card=True)
    for card in cards.CARDS.values():
        fitting = [one for one in found if one.fits(card.memory_bytes)]
        best = estimates_table(_fastest_first(fitting, card)[:1], card.memory_bytes, card)
        line: dict[str, Any] = {"card": card.name, "memory_gib": round(card.memory_bytes / 2**30, 1)}
        line |= {name: best[0][name] if best else None for name in names}
        lines.append(line | {"source": card.source})
    return lines


def smaller_chunk(setup: Setup, request: Request, memory_bytes: int) -> Estimate | None:
    """Where nothing fits: the fastest choice at the largest decode chunk at which one does. It changes the picture."""
    for chunk in range(request.decode_chunk_size - 1, 0, -1):
        if request.num_frames % chunk == 0 or chunk <= 4:  # few to try: each is another trace
            for found in candidates(setup, replace(request, decode_chunk_size=chunk), on_card=True):
                if found.fits(memory_bytes):
                    return found
    return None


def lighter(setup: Setup, request: Request, memory_bytes: int | None = None) -> str:
    """A sentence: which setups need less than `setup` does and fit in `memory_bytes`, and what they cost in time."""
    card = this_card() or cards.CARDS["RTX 3060"]
    now = estimate(setup, request)
    limit = min(now.needed_bytes - 1, memory_bytes or now.needed_bytes)
    fitting = [other for other in candidates(setup, request, card) if other.fits(limit)]
    thrifty = [e for i, e in enumerate(fitting) if all(e.needed_bytes < faster.needed_bytes for faster in fitting[:i])]
    said = []
    for other in thrifty[:3]:
        more = other.seconds(card).expected / now.seconds(card).expected - 1
        cost = "no slower" if more < 0.005 else f"{100 * more:.0f} % slower"
        said.append(f"optimizations={other.setup.optimizations} ({other.needed_bytes / 2**30:.1f} GiB, {cost})")
    if said:
        return f"{now.needed_bytes / 2**30:.1f} GiB were predicted; by prediction these fit: {'; '.join(said)}."
    return (
        f"{now.needed_bytes / 2**30:.1f} GiB were predicted, and no exact setup needs less: lower decode_chunk_size "
        f"(now {request.decode_chunk_size}), num_frames or the size."
    )
