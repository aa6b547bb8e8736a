"""How core coverage is worded: what covers the range, what marks the tail only, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....context.population import Population
from ....schemas.result import Finding
from ...design.report import observed_scope, plural
from ...design.specificity import SPECIFIC
from ...stats.groups import MIN_N
from .marks import Marks, Ranges

NAMED = 3


@dataclass(frozen=True)
class Answer:
    """What was found of one feature.

    Attributes:
        feature: the feature.
        population: what it was asked of.
        tokens: marks of the tokens.
        labels: their names, as headlines write them.
        weapons: marks of the weapons; None when they were left out.
        weapon_names: their names.
    """

    feature: int
    population: Population
    tokens: Marks
    labels: Sequence[str]
    weapons: Marks | None
    weapon_names: Sequence[str]

    @property
    def ranges(self) -> Ranges:
        """The ranges of activation."""
        return self.tokens.ranges

    def enough(self) -> bool:
        """Whether there are 20 active examples."""
        return self.ranges.n_active >= MIN_N

    def covering(self) -> list[int]:
        """Tokens that cover the range beyond their base rate."""
        return self.tokens.covering() if self.enough() else []

    def tail_markers(self) -> list[int]:
        """Tail markers that are the feature's, largest share of the tail first."""
        marks = self.tokens
        found = [i for i in range(len(self.labels)) if marks.tail_marker(i) and marks.rises(i)]
        return sorted(found, key=lambda i: -float(marks.tail.share[i]))

    def covering_weapons(self) -> list[int]:
        """Weapons that cover the range together; asked only where no token says anything."""
        if self.weapons is None or not self.enough() or self.covering() or self.tail_markers():
            return []
        found = self.weapons.above_base()
        return found if float(self.weapons.range_coverage.share[found].sum()) >= self.weapons.threshold else []

    def tail_weapons(self) -> list[int]:
        """Weapons that own the tail but not the core, and are the feature's."""
        if self.weapons is None:
            return []
        return [i for i in range(len(self.weapon_names)) if self.weapons.owns_tail(i) and self.weapons.rises(i)]

    def leading(self) -> tuple[Marks, int] | None:
        """What the verdict rests on; None where nothing was found."""
        for marks, found in (
            (self.tokens, self.covering()),
            (self.tokens, self.tail_markers()),
            (self.weapons, self.covering_weapons()),
            (self.weapons, self.tail_weapons()),
        ):
            if marks is not None and found:
                return marks, found[0]
        return None

    def strongest(self) -> int | None:
        """The token with the largest known effect; None where none is known."""
        known = [i for i, status in enumerate(self.tokens.status) if status is not None]
        return max(known, key=lambda i: abs(float(self.tokens.effects.mean[i])), default=None)


def _range_words(ranges: Ranges) -> str:
    return "the core" if ranges.has_core else "the active examples"


def _item(marks: Marks, index: int, name: str) -> str:
    share, lift = float(marks.range_coverage.share[index]), marks.range_lift
    low, high = float(lift.low[index]), float(lift.high[index])
    return f"{name} (in {share:.0%}, {float(lift.value[index]):.1f} [{low:.1f}, {high:.1f}] times its base rate)"


def _listed(items: Sequence[str], total: int, noun: str) -> str:
    shown = [*items, plural(total - len(items), f"more {noun}")] if total > len(items) else list(items)
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _covering_text(answer: Answer, found: list[int]) -> str:
    marks, where = answer.tokens, _range_words(answer.ranges)
    items = [_item(marks, i, answer.labels[i]) for i in found[:NAMED]]
    verb = "covers" if len(found) == 1 else "cover"
    return f"{_listed(items, len(found), 'token')} {verb} {where} of feature {answer.feature}"


def _weapon_text(answer: Answer, marks: Marks, found: list[int]) -> str:
    """One weapon as a token is; several together, since a share of each says little."""
    where = f"{_range_words(answer.ranges)} of feature {answer.feature}"
    if len(found) == 1:
        return f"{_item(marks, found[0], answer.weapon_names[found[0]])} covers {where}, no token does"
    share, base = (float(each.share[found].sum()) for each in (marks.range_coverage, marks.everything))
    names = _listed([answer.weapon_names[i] for i in found[:NAMED]], len(found), "weapon")
    return f"{names} together cover {share:.0%} of {where} ({base:.0%} of all examples), no token does"


def _tail_text(answer: Answer) -> str:
    """What marks the tail only, or why that cannot be told."""
    ranges, marks = answer.ranges, answer.tokens
    if not ranges.has_core:
        high = ranges.n_tail >= 0.9 * ranges.n_active
        why = ": it fires near its maximum or not at all" if high else ""
        return f"tail markers cannot be told, the core has {plural(ranges.n_core, 'example')}{why}"
    if not ranges.comparable:
        return f"tail markers cannot be told, the tail has {plural(ranges.n_tail, 'example')}"
    items = [_tail_item(marks, i, answer.labels[i]) for i in answer.tail_markers()]
    if answer.weapons is not None:
        items += [_tail_item(answer.weapons, i, answer.weapon_names[i]) for i in answer.tail_weapons()]
    if not items:
        return "nothing specific marks the tail only"
    return f"{_listed(items[:NAMED], len(items), 'mark')} {'marks' if len(items) == 1 else 'mark'} the tail only"


def _tail_item(marks: Marks, index: int, name: str) -> str:
    return f"{name} ({marks.tail.share[index]:.0%} of the tail, {marks.core.share[index]:.0%} of the core)"


def headline(answer: Answer) -> str:
    """What covers the core beyond its base rate and what marks the tail only, with sizes and population."""
    ranges, feature = answer.ranges, f"feature {answer.feature}"
    scope = f"core {ranges.n_core:,}, tail {ranges.n_tail:,} of {observed_scope(answer.population)}"
    if not answer.enough():
        return f"nothing can be said of {feature}: only {plural(ranges.n_active, 'active example')}; {scope}"
    tokens, weapons, marks = answer.covering(), answer.covering_weapons(), answer.weapons
    if tokens:
        return f"{_covering_text(answer, tokens)}; {_tail_text(answer)}; {scope}"
    if marks is not None and weapons:
        return f"{_weapon_text(answer, marks, weapons)}; {_tail_text(answer)}; {scope}"
    if answer.leading() is not None:
        return f"{_tail_text(answer)} of {feature}; no token specific to it covers {_range_words(ranges)}; {scope}"
    return f"nothing specific found: {_nothing_text(answer)}; {scope}"


def _nothing_text(answer: Answer) -> str:
    marks, top = answer.tokens, answer.strongest()
    where, feature = _range_words(answer.ranges), f"feature {answer.feature}"
    if top is None:
        return f"no token has {MIN_N} examples in enough builds to say whether it covers {where} of {feature}"
    share, base = float(marks.range_coverage.share[top]), float(marks.everything.share[top])
    p = float(marks.specificity[top])
    beside = f", random directions have effects as large (p = {p:.2f})" if p > SPECIFIC else ""
    return (
        f"no token specific to {feature} covers {where}; largest effect: {answer.labels[top]}, in {share:.0%} "
        f"there against {base:.0%} of all examples{beside}"
    )


def finding(answer: Answer, marks: Marks, index: int, name: str, relation: str) -> Finding:
    """One token or weapon as a finding: its effect on activation, and what it covers in the relation."""
    table = "token_coverage" if marks is answer.tokens else "weapon_coverage"
    return Finding(
        subject=name,
        relation=relation,
        effect=float(marks.effects.mean[index]),
        ci_low=float(marks.effects.low[index]),
        ci_high=float(marks.effects.high[index]),
        status=marks.status[index] or "unclear",
        specificity_p=float(marks.specificity[index]),
        n=int(marks.everything.count[index]),
        method="observational",
        population=answer.population.description,
        table=table,
    )


def findings(answer: Answer) -> list[Finding]:
    """What was found; the strongest token, as nothing, where nothing was."""
    where, feature = _range_words(answer.ranges), f"feature {answer.feature}"
    tail_only = f"marks the tail only of {feature}"
    found: list[Finding] = []
    for marks, names, covering, tail in (
        (answer.tokens, answer.labels, answer.covering(), answer.tail_markers()),
        (answer.weapons, answer.weapon_names, answer.covering_weapons(), answer.tail_weapons()),
    ):
        if marks is None:
            continue
        for index in covering[:5]:
            share = float(marks.range_coverage.share[index])
            relation = f"covers {share:.0%} of {where} of {feature}"
            found.append(finding(answer, marks, index, names[index], relation))
        found += [finding(answer, marks, index, names[index], tail_only) for index in tail[:5]]
    top = answer.strongest()
    if not found and top is not None:
        found.append(finding(answer, answer.tokens, top, answer.labels[top], f"does not mark {feature}"))
    return found


def numbers(answer: Answer, tokens: Sequence[str]) -> dict[str, Any]:
    """The numbers of ``custom``; tokens are the units' names as they are given to other experiments."""
    ranges, leading, top = answer.ranges, answer.leading(), answer.strongest()
    few = [f"{name} has {n}" for name, n in (("core", ranges.n_core), ("tail", ranges.n_tail)) if n < MIN_N]
    p = np.nan if top is None else answer.tokens.specificity[top]
    if leading is not None:
        p = leading[0].specificity[leading[1]]
    return {
        "method": "observational",
        "range": "core" if ranges.has_core else "active",
        "n_core": ranges.n_core,
        "n_tail": ranges.n_tail,
        "n_active": ranges.n_active,
        "core_from": ranges.lower,
        "core_to": ranges.upper,
        "tail_from": ranges.tail_from,
        "effective_max": ranges.effective_max,
        "covering_tokens": [tokens[i] for i in answer.covering()],
        "tail_markers": [tokens[i] for i in answer.tail_markers()],
        "covering_weapons": [answer.weapon_names[i] for i in answer.covering_weapons()],
        "flanderized_weapons": [answer.weapon_names[i] for i in answer.tail_weapons()],
        "specificity_p": p,
        "verdict": "nothing_specific" if leading is None else leading[0].status[leading[1]],
        "tail_reason": None if ranges.comparable else f"fewer than {MIN_N} examples: {' and '.join(few)}",
    }
