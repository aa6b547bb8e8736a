"""Tail probabilities, quantiles and multiplicity, from scipy.special (scipy.stats takes half a second to import)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]
Numbers = float | NDArray[Any]


def t_two_sided(statistic: Numbers, df: Numbers) -> Floats:
    """Two-sided p of a t statistic; NaN stays NaN."""
    return np.asarray(2.0 * special.stdtr(df, -np.abs(np.asarray(statistic, dtype=np.float64))), dtype=np.float64)


def t_quantile(probability: Numbers, df: Numbers) -> Floats:
    """Quantile of Student's t."""
    return np.asarray(special.stdtrit(np.asarray(df, dtype=np.float64), probability), dtype=np.float64)


def sidak_level(level: float, k: int) -> float:
    """Level of each of ``k`` intervals whose joint level is ``level`` if they are independent (Sidak 1967)."""
    return float(level ** (1.0 / max(k, 1)))


def clopper_pearson(count: Numbers, n: int, level: float = 0.95) -> tuple[Floats, Floats]:
    """Exact interval of a rate, two-sided (Clopper and Pearson 1934), from the beta quantiles."""
    k = np.asarray(count, dtype=np.float64)
    tail = (1.0 - level) / 2.0
    low = np.where(k > 0, special.betaincinv(np.maximum(k, 1.0), n - k + 1.0, tail), 0.0)
    high = np.where(k < n, special.betaincinv(k + 1.0, np.maximum(n - k, 1.0), 1.0 - tail), 1.0)
    return low.astype(np.float64), high.astype(np.float64)


def sign_test(n_positive: Numbers, n_negative: Numbers) -> Floats:
    """Exact two-sided sign test; 1 where nothing is non-zero."""
    positive, negative = np.asarray(n_positive, dtype=np.int64), np.asarray(n_negative, dtype=np.int64)
    smaller, total = np.minimum(positive, negative), positive + negative
    p = 2.0 * special.bdtr(smaller.astype(np.float64), total, 0.5)
    return np.minimum(np.where(total > 0, p, 1.0), 1.0)


def benjamini_hochberg(p_values: Numbers) -> Floats:
    """q values (Benjamini and Hochberg 1995); NaN p values take no part and stay NaN."""
    p = np.asarray(p_values, dtype=np.float64)
    q = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    if not len(known):
        return q
    order = known[np.argsort(-p[known], kind="stable")]
    ranks = np.arange(len(known), 0, -1)
    q[order] = np.minimum(np.minimum.accumulate(p[order] * len(known) / ranks), 1.0)
    return q


def hypergeometric_tail(hits: int, drawn: int, marked: int, total: int) -> float:
    """P(at least ``hits`` marked) when ``drawn`` of ``total`` are drawn at random, ``marked`` of them marked."""
    counts = np.arange(hits, min(drawn, marked) + 1)
    counts = counts[drawn - counts <= total - marked]
    if not len(counts):
        return 0.0
    log = _log_choose(marked, counts) + _log_choose(total - marked, drawn - counts) - _log_choose(total, drawn)
    return float(min(1.0, np.exp(log).sum()))


def _log_choose(n: Any, k: Any) -> Any:  # noqa: ANN401 - scalars and arrays alike
    return special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(n - k + 1.0)
