"""Sets that hold one rung's token of a family alone, with a lower one, or with every lower one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from ....context.context import Context
from ....schemas.errors import RequestError
from ....schemas.spec import ExperimentSpec
from ...design.interventions import Contexts, Design, admissible, draw

Kind = Literal["pair", "thermometer"]


@dataclass(frozen=True)
class Comparison:
    """One rung's token alone against the same token with lower ones.

    Attributes:
        kind: pair adds one lower rung's token, thermometer all of the vocabulary's, as the tokenizer writes.
        low: the rung that is added; None for thermometer.
        high: the rung that both sets hold.
        alone: position, among the conditions, of the higher token alone.
        both: position of the set with the lower tokens too.
        lower: position of the lower token alone; None for thermometer.
    """

    kind: Kind
    low: int | None
    high: int
    alone: int
    both: int
    lower: int | None

    def last(self) -> int:
        """The last condition it needs."""
        return max(self.alone, self.both, self.lower or 0)


def interference_design(
    spec: ExperimentSpec, ctx: Context, family: str, levels: Sequence[int]
) -> tuple[Design, list[Comparison]]:
    """Base: the contexts without the family; conditions: every distinct set that the comparisons need.

    Args:
        spec: the spec: slice, seed and constraints.
        ctx: the context.
        family: a stackable family.
        levels: rungs of the vocabulary, ascending.

    Returns:
        The design, and the comparisons whose conditions the constraints left: pairs, then thermometers, by rung.

    Raises:
        RequestError: the constraints left none.
    """
    wanted, comparisons = _comparisons(ctx, family, levels)
    contexts: Contexts = draw(spec, ctx)
    base = contexts.sets.without(family, ctx.vocabulary)
    conditions = [base.with_tokens(tokens) for tokens in wanted]
    labels = [" + ".join(ctx.vocabulary.tokens[token] for token in tokens) for tokens in wanted]
    design = admissible(contexts, base, conditions, labels, spec=spec, ctx=ctx)
    kept = [each for each in comparisons if each.last() < len(design.kept)]
    if not kept:
        why = ", ".join(f"{each.id} ({each.example})" for each in design.violations if each.hard)
        raise RequestError(
            f"the constraints leave too few contexts for any comparison of {family}: {why}. Leave the constraint out, "
            f"give lower rungs, or choose smaller builds with dataset_slice. Nothing was run."
        )
    return design, kept


def _comparisons(ctx: Context, family: str, levels: Sequence[int]) -> tuple[list[tuple[int, ...]], list[Comparison]]:
    """Token ids of each distinct condition, lowest rungs first, and the comparisons between them."""
    vocabulary = ctx.vocabulary
    token = {level: vocabulary.encode(family, level, "single") for level in levels}
    positions: dict[tuple[int, ...], int] = {}

    def position(tokens: tuple[int, ...]) -> int:
        return positions.setdefault(tokens, len(positions))

    pairs: list[Comparison] = []
    thermometers: list[Comparison] = []
    # By rising rung, so that constraints which drop conditions from the end drop the highest rungs.
    for high in levels:
        alone = position(token[high])
        for low in [level for level in levels if level < high]:
            both = position(token[low] + token[high])
            pairs.append(Comparison("pair", low, high, alone, both, position(token[low])))
        every = vocabulary.encode(family, high, "thermometer")
        if len(every) > 1:
            thermometers.append(Comparison("thermometer", None, high, alone, position(every), None))
    return list(positions), pairs + thermometers


def count_comparisons(ctx: Context, family: str, levels: Sequence[int]) -> int:
    """How many comparisons the rungs make: every pair, and a thermometer for all but the vocabulary's lowest rung."""
    lowest = ctx.vocabulary.rungs(family)[0]
    return len(list(combinations(levels, 2))) + sum(level > lowest for level in levels)
