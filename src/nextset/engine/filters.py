"""The filter chain of categorical laws: each filter is a function from a law to a law.

`temperature`, `top_k`, `top_p` and `smooth` check their value when they are made, so that a bad number is refused before
anything runs. Removed ids get logit -inf. Order matters and is the system's: VAR cuts by rank first, then by mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextset.core.errors import NextsetError, check_range
from nextset.core.protocols import Filter
from nextset.heads.categorical import Categorical


def _law(dist: object, name: str) -> Categorical:
    if not isinstance(dist, Categorical):
        raise NextsetError(
            f"{name} cannot be applied to a law of kind {getattr(dist, 'kind', type(dist).__name__)!r}; leave it out"
        )
    return dist


def temperature(value: float) -> Filter:
    """Divide logits by `value` > 0."""
    check_range("temperature", value, 1e-6, None, remedy="1 leaves the law as it is")
    return lambda dist: dist if value == 1 else _law(dist, "temperature").replace(dist.logits / value)


def top_k(k: int, *, sort: bool = False) -> Filter:
    """Keep the k most likely ids; ties with the k-th stay. 0 = off, more than V = V.

    sort: leave the kept logits in order for a `top_p` behind this filter, which then sorts nothing.
    """
    check_range("top_k", k, 0, None, remedy="0 switches it off")

    def apply(dist: object) -> Categorical:
        law = _law(dist, "top_k")
        if k == 0 or k >= law.logits.shape[-1]:
            return law
        ordered = law.logits.topk(k, dim=-1, sorted=sort).values
        least = ordered[..., -1:] if sort else ordered.amin(-1, keepdim=True)
        return law.replace(law.logits.masked_fill(law.logits < least, -torch.inf), ordered=ordered if sort else None)

    return apply


def top_p(p: float) -> Filter:
    """Keep the smallest set of likely ids with mass above p: ids are removed from the least likely on while their
    cumulative mass is at most 1 - p; the likeliest always stays. Of equally likely ids the lower ones go first.
    0 or 1 = off.
    """
    check_range("top_p", p, 0, 1, remedy="0 or 1 switches it off")

    def apply(dist: object) -> Categorical:
        law = _law(dist, "top_p")
        if p in (0, 1):
            return law
        logits = law.logits
        ordered = logits.sort(dim=-1, descending=True).values if law.ordered is None else law.ordered
        total = logits.logsumexp(-1, keepdim=True)
        mass = (ordered - total).exp()
        before = mass.cumsum(-1) - mass  # mass of the likelier ids
        stays = before < p
        stays[..., 0] = True
        least = ordered.masked_fill(~stays, torch.inf).amin(-1, keepdim=True)
        # Ties with the last one that stays: as many as the mass allows, the higher ids first.
        above = mass.masked_fill(ordered <= least, 0.0).sum(-1, keepdim=True)
        allowed = ((p - above) / (least - total).exp()).ceil().clamp_min(1)
        tied = logits == least
        place = tied.flip(-1).cumsum(-1).flip(-1)
        gone = (logits < least) | (tied & (place > allowed))
        return law.replace(logits.masked_fill(gone, -torch.inf))

    return apply


def only(allowed: Tensor) -> Filter:
    """Keep the ids where allowed, bool (N, m, V) or whatever broadcasts to it, is True; each position must have one."""

    def apply(dist: object) -> Categorical:
        law = _law(dist, "only")
        return law.replace(law.logits.masked_fill(~allowed.to(law.logits.device), -torch.inf))

    return apply


def smooth(ratio: float) -> Filter:
    """Draw a mixture of codes instead of one, softer at small `ratio` in [0, 1] (the place of the scale in the plan).

    Weights softmax((logits (1 + r) + Gumbel) / max(0.27 (1 - 0.95 r), 0.005)) over the ids that survived the filters
    before it. Better to look at, not for scores. Source: sheet `var`, Sampling (`more_smooth`).
    """
    check_range("ratio", ratio, 0, 1)
    return lambda dist: _law(dist, "smooth").replace(soft=(1 + ratio, max(0.27 * (1 - 0.95 * ratio), 0.005)))


def chain(top_k_value: int = 0, top_p_value: float = 0.0, temperature_value: float = 1.0) -> list[Filter]:
    """temperature, then top-k, then top-p; filters that are off are left out."""
    on = [temperature_value != 1, top_k_value != 0, top_p_value not in (0, 1)]
    filters = [temperature(temperature_value), top_k(top_k_value, sort=on[2]), top_p(top_p_value)]
    return [f for f, used in zip(filters, on, strict=True) if used]
