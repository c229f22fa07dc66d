"""Which setups fit a card, how fast they will be there, and what to do where none fits.

`candidates` compares the sets of optimisations that are worth comparing. They keep the frames as they are, and none of
them compiles, since what that gains has to be measured. What a setup asks for stays in every candidate.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from svdlab.machine import Machine, best_device
from svdlab.optimizations import OPTIMIZATIONS, in_order, parse
from svdlab.prediction.cards import CARDS, Card, parse_memory, this_card
from svdlab.prediction.estimate import Estimate, estimate
from svdlab.request import Request
from svdlab.setup import Setup


def fitting_setup(
    variant: str | None = None,
    memory: int | str | None = None,
    request: Request | None = None,
    say: Callable[[str], object] = print,
) -> Setup:
    """What `Setup.fitting` returns.

    Args:
        variant: this and the others as for `Setup.fitting`.
        memory: as there.
        request: as there.
        say: as there.
    """
    on_card = memory is not None or best_device() == "cuda"
    name = variant or ("svd-xt" if on_card else "tiny")
    memory_bytes = Machine.here().memory_bytes or 0 if memory is None else parse_memory(memory)
    if name == "tiny":
        say("tiny: the bundled model, small enough for any machine." + (" No card was found." * (not on_card)))
        return Setup(name)
    where = f"{memory_bytes / 2**30:.1f} GiB" + ("" if on_card else " of this machine's memory")
    estimates = candidates(Setup(name, dtype="fp16" if on_card else None), request, on_card=on_card)
    best = next((each for each in estimates if each.fits(memory_bytes)), None)
    if best is None:
        least = min(estimates, key=lambda each: each.needed_bytes)
        raise MemoryError(
            f"No setup of {name} fits in {where}: {least} Ask for a smaller decode_chunk_size (now "
            f"{least.request.decode_chunk_size}), fewer frames or a smaller size, or use svd, or tiny."
        )
    say(f"The fastest of {len(estimates)} exact setups predicted to fit in {where}: {best}")
    return best.setup


def candidates(
    setup: Setup,
    request: Request | None = None,
    card: Card | None = None,
    *,
    on_card: bool | None = None,
    approximate: bool = False,
) -> list[Estimate]:
    """Predictions for a setup with each set of optimisations worth comparing, the fastest first.

    Args:
        setup: what it asks for stays in every candidate, and alone is one of them.
        request: what is asked; left out, the variant's own size and frames.
        card: whose times count; left out, this machine's, or an RTX 3060.
        on_card: whether there is a card to offload from; left out, the setup's device or this machine's decides.
        approximate: list those too that change the frames.

    Example:
        >>> from svdlab import Setup, candidates
        >>> [each.setup.label for each in candidates(Setup("tiny", dtype="fp32"), on_card=False)]
        ['fp32, single-token', ...]
    """
    request = (request or Request(image="rocket")).filled(setup.variant)
    if on_card is None:
        on_card = (setup.device or best_device()) != "cpu"
    split = ("split-guidance",) if request.max_guidance_scale > 1 else ()
    chunk = next(f"forward-chunking={n}" for n in (5, 2, 1) if request.num_frames % n == 0)
    graphs = [("single-token",), ("single-token", *split), ("single-token", *split, chunk)]
    graphs += [(*graph, "lean-decode") for graph in graphs[1:]]
    placements = [(), ("model-offload",), ("group-offload",)] if on_card else [()]
    changes: list[tuple[str, ...]] = [()]
    if approximate:
        changes += [(name,) for name, o in OPTIMIZATIONS.items() if not o.exact and (on_card or not o.accelerator)]
    own = {optimization.name for optimization, _ in setup.parsed}
    setups = [setup] if setup.optimizations else []
    for graph, change, placement in itertools.product(graphs, changes, placements):
        added = [text for text in (*change, *placement, *graph) if parse(text)[0].name not in own]
        with suppress(ValueError):  # a conflict
            setups.append(replace(setup, optimizations=in_order((*setup.optimizations, *added))))
    return _fastest_first((estimate(each, request) for each in dict.fromkeys(setups)), card or _usual_card())


def _usual_card() -> Card:
    return this_card() or CARDS["RTX 3060"]


def _fastest_first(estimates: Iterable[Estimate], card: Card) -> list[Estimate]:
    return sorted(estimates, key=lambda each: (each.seconds(card).expected, len(each.setup.optimizations)))


def estimates_table(estimates: Iterable[Estimate], memory_bytes: int, card: Card | None = None) -> list[dict[str, Any]]:
    """One line for each estimate, ready for a DataFrame.

    Args:
        estimates: of one variant or several.
        memory_bytes: of the device.
        card: whose times count; left out, they are None.

    Returns:
        "setup" (the variant), "optimizations", peaks by stage and what is needed in GiB, "fits", and the floor and the
        expectation in seconds.
    """
    lines = []
    for each in estimates:
        seconds = each.seconds(card) if card else None
        lines.append(
            {"setup": each.setup.variant, "optimizations": ", ".join(each.setup.optimizations) or "none"}
            | {f"{name}_gib": round(stage.peak_bytes / 2**30, 2) for name, stage in each.stages.items()}
            | {"needed_gib": round(each.needed_bytes / 2**30, 2), "fits": each.fits(memory_bytes)}
            | {f"{name}_seconds": seconds and round(getattr(seconds, name), 1) for name in ("floor", "expected")}
        )
    return lines


def cards_table(setup: Setup, request: Request | None = None) -> list[dict[str, Any]]:
    """One line for each known card, ready for a DataFrame: the fastest candidate that fits it.

    Args:
        setup: what it asks for stays.
        request: what is asked; left out, the variant's own size and frames.

    Returns:
        The card's name, memory and source of figures, and what `estimates_table` says of the candidate: None where none
        fits.
    """
    names = ("optimizations", "needed_gib", "floor_seconds", "expected_seconds")
    lines, estimates = [], candidates(setup, request, on_card=True)
    for card in CARDS.values():
        fitting = _fastest_first((each for each in estimates if each.fits(card.memory_bytes)), card)
        best = next(iter(estimates_table(fitting[:1], card.memory_bytes, card)), {})
        line = {"card": card.name, "memory_gib": round(card.memory_bytes / 2**30, 1)}
        lines.append(line | {name: best.get(name) for name in names} | {"source": card.source})
    return lines


def smaller_chunk(setup: Setup, request: Request, memory_bytes: int) -> Estimate | None:
    """The fastest candidate at the largest decode chunk at which one fits; None where nothing fits.

    Args:
        setup: what it asks for stays.
        request: what is asked, complete.
        memory_bytes: of the device.
    """
    for chunk in range(request.decode_chunk_size - 1, 0, -1):
        if request.num_frames % chunk == 0 or chunk <= 4:  # few to try: each is another trace
            for each in candidates(setup, replace(request, decode_chunk_size=chunk), on_card=True):
                if each.fits(memory_bytes):
                    return each
    return None


def lighter(setup: Setup, request: Request, memory_bytes: int | None = None) -> str:
    """A sentence: which setups need less than this one, and what they cost in time.

    Args:
        setup: what it asks for stays where that helps; else only what changes the frames stays.
        request: what is asked, complete.
        memory_bytes: that they must fit in; left out, it is enough that they need less.
    """
    card, now = _usual_card(), estimate(setup, request)
    limit = min(now.needed_bytes - 1, memory_bytes or now.needed_bytes)
    changing = tuple(t for t, (o, _) in zip(setup.optimizations, setup.parsed, strict=True) if not o.exact)
    bases = (setup, replace(setup, optimizations=changing))
    fitting = ([each for each in candidates(base, request, card) if each.fits(limit)] for base in bases)
    texts, least = [], now.needed_bytes
    for each in next(filter(None, fitting), []):  # the fastest first, then each that needs less than all before it
        if each.needed_bytes < least:
            least = each.needed_bytes
            more = each.seconds(card).expected / now.seconds(card).expected - 1
            cost = "no slower" if more < 0.005 else f"{100 * more:.0f} % slower"
            texts.append(f"optimizations={each.setup.optimizations} ({least / 2**30:.1f} GiB, {cost})")
    predicted = f"{now.needed_bytes / 2**30:.1f} GiB were predicted"
    if texts:
        return f"{predicted}; by prediction these fit: {'; '.join(texts[:3])}."
    return (
        f"{predicted}, and no exact setup needs less: lower decode_chunk_size (now {request.decode_chunk_size}), "
        "num_frames or the size."
    )
