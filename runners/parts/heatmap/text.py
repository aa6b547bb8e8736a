"""What a heatmap says in one sentence, and as findings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ....schemas.result import Finding, Method
from ...design.report import interval, number, short_name, with_short
from .effects import Effects
from .rows import Heat


def headline(heat: Heat, feature: int, method: Method, scope: str) -> str:
    """What drives the feature: the pattern, the interaction, each family alone, the peak; or that nothing does."""
    if not heat.acts:
        return f"{_nothing(heat, feature)}; {scope}"
    lead, told = _lead(heat, feature, method)
    parts = [lead, *(_alone_text(heat, which) for which in (0, 1) if which not in told)]
    if not heat.interactions.acting():
        parts.append(_no_interaction(heat))
    parts += [_peak_text(heat), scope]
    return "; ".join(part for part in parts if part)


def effect_words(effects: Effects, index: int) -> str:
    """An effect with its simultaneous interval; where it acts in some contexts only, what it does there first."""
    mean, low, high = (float(values[index]) for values in (effects.mean, effects.low, effects.high))
    bounds = "" if np.isnan(low) else f" {interval(low, high)}"
    if effects.status[index] == "conditional":
        rate, there = float(effects.responder_rate[index]), number(float(effects.mean_responders[index]))
        return f"{there} in {rate:.1%} of contexts (mean {number(mean)}{bounds})"
    return f"{number(mean)}{bounds}"


def _lead(heat: Heat, feature: int, method: Method) -> tuple[str, set[int]]:
    """Who drives the feature, and how the two go together; and which axes' own effects that has told."""
    name = f"feature {feature}"
    first, second = (with_short(family) for family in heat.grid.families)
    causal = method == "interventional"
    crossed = heat.interactions.acting()
    if crossed:
        at = _leader(heat.interactions, crossed)
        text = _pattern_text(heat, name, causal=causal)
        where = heat.grid.label(heat.pair_cell(at))
        return f"{text}: interaction {effect_words(heat.interactions, at)} at {where}", set()
    acting = [which for which in (0, 1) if heat.effects.acting([i - 1 for i in heat.grid.axis(which)])]
    if len(acting) == 2:
        return f"{first} and {second} {'drive' if causal else 'go with'} {name}, each by itself", set()
    if acting:
        which = acting[0]
        verb = "drives" if causal else "goes with"
        return f"{(first, second)[which]} {verb} {name}: {_own_text(heat, which)}", {which}
    top = _leader(heat.effects, heat.effects.acting())
    verb = "move" if causal else "go with"
    return (
        f"{first} and {second} together {verb} {name}: {effect_words(heat.effects, top)} at {heat.grid.label(top + 1)}",
        set(),
    )


def _leader(effects: Effects, among: list[int]) -> int:
    at = effects.leading(among)
    if at is None:
        raise AssertionError("what acts has a leader")
    return at


def _pattern_text(heat: Heat, name: str, *, causal: bool) -> str:
    """The pattern in words."""
    cells = heat.read.cells
    effects = cells[1:] - cells[0]
    down = effects[int(np.argmax(np.abs(effects)))] < 0
    drive = ("lower" if down else "drive") if causal else ("go with less of" if down else "go with")
    drives = ("lowers" if down else "drives") if causal else ("goes with less of" if down else "goes with")
    first, second = (with_short(family) for family in heat.grid.families)
    weaker, stronger = (second, first) if abs(effects[0]) >= abs(effects[1]) else (first, second)
    both = f"{first} and {second}"
    texts: dict[str, Callable[[], str]] = {
        "and": lambda: f"{both} {drive} {name} only together (and)",
        "or": lambda: f"either {first} or {second} {drives} {name}, both do no more (or)",
        "xor": lambda: f"{first} and {second} each {drive} {name} alone and not together (xor)",
        "suppression": lambda: f"{stronger} {drives} {name} and {weaker} takes that away (suppression)",
        "floor_artifact": lambda: (
            f"{both} {'move' if causal else 'go with'} {name}; they interact in the activation only, through its floor "
            f"(floor_artifact)"
        ),
    }
    return texts.get(str(heat.read.name), lambda: f"{both} interact on {name} (no simple pattern)")()


def _alone_text(heat: Heat, which: int) -> str:
    """What one family does without the other."""
    at = heat.alone(which)
    short = short_name(heat.grid.families[which])
    if at is None or heat.effects.status[at] is None:
        return f"{short} alone unknown"
    if heat.effects.status[at] not in {"present", "conditional"}:
        return f"{short} alone {effect_words(heat.effects, at)} at the strongest"
    return f"{short} alone {_own_text(heat, which)}"


def _own_text(heat: Heat, which: int) -> str:
    """The leading effect of one family without the other, and its level."""
    at = _leader(heat.effects, [i - 1 for i in heat.grid.axis(which)])
    level = "" if heat.grid.main_only[which] else f" at {heat.grid.cells[at + 1][which]} AP"
    return f"{effect_words(heat.effects, at)}{level}"


def _no_interaction(heat: Heat) -> str:
    """The largest interaction when none acts."""
    at = heat.interactions.largest()
    if at is None:
        return "interaction unknown"
    found = heat.interactions
    where = heat.grid.label(heat.pair_cell(at))
    size = effect_words(found, at)
    if {"present", "conditional"} & set(found.status):
        return f"no interaction beyond that of random directions ({size} at {where})"
    return f"no interaction found (the strongest {size} at {where})"


def _peak_text(heat: Heat) -> str:
    peak, plateau = heat.peak, heat.plateau
    if peak is None or plateau is None:
        return ""
    text = f"peak {heat.mean[peak]:.2f} at {heat.grid.label(peak)}"
    return text if plateau == peak else f"{text}, 95 % of it from {heat.grid.label(plateau)}"


def _nothing(heat: Heat, feature: int) -> str:
    """What to say when neither an effect nor an interaction is both there and specific."""
    first, second = (with_short(family) for family in heat.grid.families)
    subject, name = f"{first} and {second}", f"feature {feature}"
    found = {"effect": heat.effects, "interaction": heat.interactions}
    seen = [
        (kind, each, [i for i, status in enumerate(each.status) if status in {"present", "conditional"}])
        for kind, each in found.items()
    ]
    certain = [
        f"{kind} {effect_words(each, at)}, p = {each.specificity[at]:.2f}"
        for kind, each, where in seen
        if where and (at := each.leading(where)) is not None
    ]
    if certain:
        return f"nothing specific found: {subject} move {name} no more than random directions ({'; '.join(certain)})"
    tops = [(kind, each, each.largest()) for kind, each in found.items()]
    known = [f"the strongest {kind} {effect_words(each, at)}" for kind, each, at in tops if at is not None]
    if not known:
        return f"nothing can be said of {subject} and {name}: no cell has 20 examples in 10 builds beside (0, 0)"
    large = any(at is not None and abs(float(each.mean[at])) > heat.min_effect for _, each, at in tops)
    sparse = _unjudged_text(heat)
    certain_word = "nothing certain" if large or sparse else "nothing"
    return f"{certain_word} above {heat.min_effect:.2f} found for {subject} on {name}: {', '.join(known)}{sparse}"


def _unjudged_text(heat: Heat) -> str:
    """Cells whose delta exceeds min_effect, of too few examples for a verdict; empty without any."""
    found = heat.effects
    size = np.where([status is None for status in found.status], np.abs(np.nan_to_num(found.mean)), 0.0)
    if not len(size) or size.max() <= heat.min_effect:
        return ""
    at, count = int(np.argmax(size)), int((size > heat.min_effect).sum())
    where = f"{number(float(found.mean[at]))} at {heat.grid.label(at + 1)}, n = {int(heat.n[at + 1])}"
    cells = "1 cell above it has" if count == 1 else f"{count} cells above it have"
    return f"; {cells} too few examples to judge ({where})"


def heat_findings(heat: Heat, feature: int, method: Method, population: str) -> list[Finding]:
    """The leading interaction and each family alone."""
    crossed = heat.interactions.leading() if heat.interactions.acting() else heat.interactions.largest()
    entries: list[tuple[Effects, int, int]] = []
    if crossed is not None:
        entries.append((heat.interactions, crossed, heat.pair_cell(crossed)))
    entries += [(heat.effects, at, at + 1) for which in (0, 1) if (at := heat.alone(which)) is not None]
    return [
        _finding(
            found,
            at,
            f"{'interaction of ' if found is heat.interactions else ''}{heat.grid.label(cell)}",
            crossed=found is heat.interactions,
            feature=feature,
            method=method,
            population=population,
            n=int(heat.n[cell]),
        )
        for found, at, cell in entries
    ]


def _finding(
    found: Effects, at: int, subject: str, *, crossed: bool, feature: int, method: Method, population: str, n: int
) -> Finding:
    effect, acts = float(found.mean[at]), at in found.acting()
    direction = float(found.mean_responders[at]) if found.status[at] == "conditional" else effect
    certain = found.status[at] in {"present", "conditional"}
    nothing = "does nothing specific to" if certain else "does nothing detectable to"
    if crossed:
        side = "is more than the sum of its parts" if direction > 0 else "is less than the sum of its parts"
        relation = f"{side if acts else 'is not detectably there'} on"
    elif method == "observational":
        relation = "goes with" if acts else "does not detectably go with"
    else:
        relation = ("raises" if direction > 0 else "lowers") if acts else nothing
    return Finding(
        subject=subject,
        relation=f"{relation} feature {feature}",
        effect=effect,
        ci_low=float(found.low[at]),
        ci_high=float(found.high[at]),
        status=found.status[at] or "unclear",
        responder_rate=float(found.responder_rate[at]),
        specificity_p=float(found.specificity[at]),
        n=n,
        method=method,
        population=population,
        table="heatmap",
    )
