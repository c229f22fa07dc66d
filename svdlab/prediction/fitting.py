"""Which setups fit a card, how fast they will be there, and what to do where none fits.

`candidates` compares the sets of optimisations that are worth comparing. They keep the frames as they are, rounding
aside, and none of them compiles, since what that gains has to be measured. What a setup asks for stays in each.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from svdlab.dtypes import safer_dtypes
from svdlab.machine import best_device
from svdlab.optimizations.registry import in_order, only_approximate, optimizations, parse
from svdlab.prediction.cards import CARDS, PUBLISHED, Card, find_card, parse_memory, this_card, this_device
from svdlab.prediction.estimate import FITS, Estimate, estimate
from svdlab.request import Request
from svdlab.setup import Setup

LEGEND = """\
Predicted, not measured. GiB: allocated by PyTorch at each stage's peak; needed: with CUDA's context and its libraries'
workspaces. Fits: tight means only where nothing else takes memory, so close the browser. Time: between 30 % (before
Ampere 15 %) and 75 % of what the card could do, where published runs lie; nothing is said of sequential offload."""
MIN_GAIN = 1.05  # what an optimisation more must win in time: each costs something that nobody predicts


def fitting_setup(
    variant: str | None = None,
    memory: int | str | None = None,
    request: Request | None = None,
    say: Callable[[str], object] = print,
    dtype: str | None = None,
    optimizations: Iterable[str] = (),
) -> Setup:
    """`Setup.fitting`, whose help says more: the fastest setup that fits and leaves the frames as they are.

    Args:
        variant, memory, request, say, dtype, optimizations: as there.

    Example:
        >>> fitting_setup("tiny", say=lambda sentence: None).variant
        'tiny'
    """
    on_card = memory is not None or best_device() == "cuda"
    name = variant or ("svd-xt" if on_card else "tiny")
    default_dtype = "fp16" if on_card and name != "tiny" else None
    wanted = Setup(name, dtype=dtype or default_dtype, optimizations=cast(Any, optimizations))
    if name == "tiny":
        say("tiny: the bundled model, small enough for any machine." + (" No card was found." * (not on_card)))
        return wanted
    if memory is None:
        card = this_device()
    else:
        card = Card("a card", parse_memory(memory)) if isinstance(memory, int) else find_card(memory)
    estimates = candidates(wanted, request, card, on_card=on_card)
    best = recommended(estimates, card)
    if (fit := best.fits_on(card)) == "no":
        raise MemoryError(
            f"No setup of {name} fits the {card.memory_bytes / 2**30:.1f} GiB of {card.name}. The nearest is {best} "
            f"Ask for a smaller decode_chunk_size (now {best.request.decode_chunk_size}), fewer frames or a smaller "
            f"size,{' fp16,' * (dtype == 'fp32')} or use svd, or tiny."
        )
    free, seconds = f"{card.free_bytes / 2**30:.1f} GiB that {card.name} has free", best.seconds(card)
    time = f" Predicted: {seconds} a clip." if seconds else ""
    tight = "" if fit == "yes" else " That is tight: close what else uses the card."
    kind = "setups with what is asked for," if wanted.optimizations else "exact setups"
    say(f"The best of {len(estimates)} {kind} for the {free}: {best}{time}{tight}")
    return best.setup


def candidates(
    setup: Setup,
    request: Request | None = None,
    card: Card | None = None,
    *,
    on_card: bool | None = None,
    approximate: bool = False,
) -> list[Estimate]:
    """Predictions for a setup with each set of optimisations worth comparing, the best first.

    The best is the fastest, but each further optimisation has to save 5 % of the time.

    Args:
        setup: what it asks for stays in every candidate, and alone is one of them.
        request: what is asked; left out, the variant's own size and frames.
        card: whose times count; left out, or where it has no rates, this machine's, or an RTX 3060.
        on_card: whether the clip is made on a card, so that offloading helps; left out, the setup's device decides.
        approximate: list those too that change the frames.

    Example:
        >>> from svdlab import Setup, candidates
        >>> [each.setup.label for each in candidates(Setup("svd", dtype="fp32"), on_card=False)]
        ['fp32, single-token', ...]
    """
    request = (request or Request(image="rocket")).filled(setup.variant)
    if on_card is None:
        on_card = (setup.device or best_device()) != "cpu"
    split = ("split-guidance",) if request.max_guidance_scale > 1 else ()
    chunk = next(f"forward-chunking={n}" for n in (5, 2, 1) if request.num_frames % n == 0)
    graphs = [("single-token",), ("single-token", *split), ("single-token", *split, chunk)]
    graphs += [(*graph, "lean-decode") for graph in graphs]
    placements = [(), ("model-offload",), ("group-offload",)] if on_card else [()]
    changes: list[tuple[str, ...]] = [()]
    if approximate:
        changes += [(name,) for name, o in optimizations().items() if not o.exact and (on_card or not o.accelerator)]
    named = {optimization.name for optimization, _ in setup.parsed}
    setups = [setup] if setup.optimizations else []
    for graph, change, placement in itertools.product(graphs, changes, placements):
        added = [text for text in (*change, *placement, *graph) if parse(text)[0].name not in named]
        with suppress(ValueError):  # a conflict
            setups.append(replace(setup, optimizations=in_order((*setup.optimizations, *added))))
    return _best_first((estimate(each, request) for each in dict.fromkeys(setups)), card)


def recommended(estimates: Iterable[Estimate], card: Card) -> Estimate:
    """The best that fits a card, with room for a desktop where any does; where none fits, the one that needs least.

    Args:
        estimates: from `candidates`.
        card: from `find_card`, `this_card` or `this_device`.

    Example:
        >>> from svdlab import Setup, candidates, find_card
        >>> recommended(candidates(Setup("svd-xt", dtype="fp16")), find_card("RTX 3090")).setup.optimizations
        ('single-token',)
    """
    ranked = _best_first(estimates, card)
    best = min(ranked, key=lambda each: FITS.index(each.fits_on(card)))  # the first of those that fit as well
    return best if best.fits_on(card) != "no" else min(ranked, key=lambda each: each.needed_bytes)


def _card_with_rates(card: Card | None) -> Card:
    card = card or this_card()
    return card if card and card.flops else CARDS["RTX 3060"]


def _best_first(estimates: Iterable[Estimate], card: Card | None) -> list[Estimate]:
    def cost(each: Estimate) -> float:
        seconds = each.seconds(_card_with_rates(card))
        return seconds.middle * MIN_GAIN ** len(each.setup.optimizations) if seconds else float("inf")

    return sorted(estimates, key=cost)


def fitting_table(
    setup: Setup, request: Request | None = None, card: Card | None = None, *, approximate: bool = False
) -> list[dict[str, Any]]:
    """What fits, ready for a DataFrame: a line for each setup on one card, those that fit first, or the best for each.

    Args:
        setup: what it asks for stays.
        request: what is asked; left out, the variant's own size and frames.
        card: from `find_card`, `this_card` or `this_device`; left out, every card that is known.
        approximate: list setups too that change the frames.

    Returns:
        Names of the card and the optimisations, GiB of the card as a program sees it, of each stage's peak and of what
        is needed, "fits" ("yes", "tight" or "no"), the predicted range of time, one that was published for such a card,
        and the source of the card's figures.

    Example:
        >>> fitting_table(Setup("svd-xt", dtype="fp16"), card=find_card("RTX 3090"))[0]["optimizations"]
        'single-token'
    """
    estimates = candidates(setup, request, card, on_card=True, approximate=approximate)
    if card:
        estimates.sort(key=lambda each: FITS.index(each.fits_on(card)))  # stable: still best first
    pairs = [(card, e) for e in estimates] if card else [(c, recommended(estimates, c)) for c in CARDS.values()]
    return [
        {"card": on.name, "memory_gib": round(on.memory_bytes / 2**30, 1)}
        | {"optimizations": ", ".join(each.setup.optimizations) or "none"}
        | {f"{name}_gib": round(stage.peak_bytes / 2**30, 2) for name, stage in each.stages.items()}
        | {"needed_gib": round(each.needed_bytes / 2**30, 1), "fits": each.fits_on(on)}
        | {"time": str(each.seconds(on) or ""), "published": PUBLISHED.get(on.name, ""), "source": on.source}
        for on, each in pairs
    ]


def smaller_chunk(setup: Setup, request: Request, card: Card) -> Estimate | None:
    """The best candidate that fits a card at a half, a quarter, … of the decode chunk; None where nothing fits.

    Args:
        setup: what it asks for stays.
        request: what is asked, complete.
        card: what it must fit.
    """
    while request.decode_chunk_size > 1:  # by halves: each is another trace
        request = replace(request, decode_chunk_size=request.decode_chunk_size // 2)
        best = recommended(candidates(setup, request, card, on_card=True), card)
        if best.fits(card.memory_bytes):
            return best
    return None


def lighter(setup: Setup, request: Request, memory_bytes: int | None = None) -> str:
    """A sentence: which setups need less than this one, or fit in some memory, and what they cost in time.

    Args:
        setup: what it asks for stays where that helps; else only what changes the frames stays.
        request: what is asked, complete.
        memory_bytes: that they must fit in; left out, it is enough that they need less.
    """
    if setup.resolved().dtype == "bf16" and "bf16" not in safer_dtypes():
        fp16 = lighter(replace(setup, dtype="fp16"), request, memory_bytes)
        return f"This card keeps all scores of attention in bf16: use dtype='fp16', for which {fp16}"
    card, current = _card_with_rates(None), estimate(setup, request)
    limit = min(current.needed_bytes - 1, memory_bytes or current.needed_bytes)
    bases = (setup, replace(setup, optimizations=only_approximate(setup.optimizations)))
    fitting = ([each for each in candidates(base, request, card) if each.fits(limit)] for base in bases)
    texts, lowest_bytes, current_seconds = [], current.needed_bytes, current.seconds(card)
    for each in next(filter(None, fitting), []):  # the best first, then each that needs less than all before it
        if each.needed_bytes < lowest_bytes:
            lowest_bytes, seconds, cost = each.needed_bytes, each.seconds(card), ""
            if seconds and current_seconds:
                slowdown = seconds.middle / current_seconds.middle - 1
                cost = ", no slower" if slowdown < MIN_GAIN - 1 else f", about {100 * slowdown:.0f} % slower"
            texts.append(f"optimizations={each.setup.optimizations} ({lowest_bytes / 2**30:.1f} GiB{cost})")
    predicted = f"{current.needed_bytes / 2**30:.1f} GiB were predicted"
    if texts:
        return f"{predicted}; by prediction these fit: {'; '.join(texts[:3])}."
    remedy = f"lower decode_chunk_size (now {request.decode_chunk_size}), num_frames or the size"
    return f"{predicted}, and no exact setup needs less: {remedy}."
