"""Skip the cross-attention that cannot choose: SVD's context is one token, so attention to it is that token.

CLIP gives one embedding of the picture. The softmax over one key is 1 whatever the query, so `attn2(x)` is
`to_out(to_v(embedding))` at every place, and queries, keys and scores need not be computed: 3.6 % of the operations of
SVD-XT's step and 6.7 % of its bytes, by computation. The frames differ by rounding alone.
"""

from __future__ import annotations

from typing import Any

from svdlab.optimizations.registry import Optimization


class SingleToken:
    """An attention processor for a context of one token. Raises where there are more."""

    def __call__(self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, **_: Any) -> Any:
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != 1:
            raise RuntimeError("single-token is for a context of one embedding, and this one has more: leave it out.")
        value = attn.to_out[1](attn.to_out[0](attn.to_v(encoder_hidden_states)))
        return (value / attn.rescale_output_factor).expand(-1, hidden_states.shape[1], -1)


def _cross_attentions(pipeline: Any) -> list[Any]:
    layers = (getattr(module, "attn2", None) for module in pipeline.unet.modules())
    return [layer for layer in layers if layer is not None]


def _apply(pipeline: Any, value: str | None) -> None:
    for attention in _cross_attentions(pipeline):
        attention.set_processor(SingleToken())


def _holds(pipeline: Any) -> bool:
    attentions = _cross_attentions(pipeline)
    return bool(attentions) and all(isinstance(attention.processor, SingleToken) for attention in attentions)


SINGLE_TOKEN = Optimization(
    "single-token",
    phase="graph",
    affects="rounding",
    what="no cross-attention where the context is one token; a few percent off every step, nothing lost",
    apply=_apply,
    holds=_holds,
)
