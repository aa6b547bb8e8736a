"""Planted rules: features of a bundle whose meaning is known because the network was trained to have them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

FactorKind = Literal["level", "dose", "special", "weapon", "gap"]
RuleKind = Literal[
    "threshold",
    "linear_dose",
    "suppressor",
    "and",
    "gated",
    "or",
    "modulated_pair",
    "special",
    "weapon",
    "confounded_ability",
    "core",
    "gap",
    "random_direction",
    "dead",
]


class _Frozen(BaseModel):
    """An immutable record that knows all its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Factor(_Frozen):
    """One condition on a token set and its weapon, with a value in [0, 1].

    ``level``: 1 when the family's level is at least ``rung``. ``dose``: level / 57. ``special``, ``weapon``: 1 when the
    kit has that special weapon, or is that weapon. ``gap``: 1 when the token of ``rung`` is present and that of ``low``
    is not.
    """

    kind: FactorKind
    name: str = Field(description="Family, special weapon, or weapon id as text.")
    rung: int | None = Field(default=None, description="AP from which a level counts; 10 for a main-only ability.")
    low: int | None = Field(default=None, description="The lower rung (AP) that a gap lacks.")
    absent: bool = Field(default=False, description="Whether the factor is negated: 1 - value.")


class Term(_Frozen):
    """A coefficient times the product of its factors' values."""

    coefficient: float
    factors: tuple[Factor, ...] = Field(min_length=1)


class FidelityCell(_Frozen):
    """One cell of a rule's full factorial, averaged over contexts."""

    cell: dict[str, float | int | bool] = Field(description="Factor -> the value it was set to.")
    expected: float = Field(description="Mean of what the rule says of the constructed sets.")
    mean: float = Field(description="Mean activation of the network on them.")
    error_of_height: float = Field(description="|mean - expected| as a share of the rule's height.")


class Fidelity(_Frozen):
    """How well the network follows a planted rule."""

    r2_held_out: float | None = Field(
        description="R2 of the activation on natural examples of builds never trained on; null if the rule is constant."
    )
    n_contexts: int = Field(description="Natural contexts of such builds that every cell was constructed from.")
    active_rate: float = Field(description="Share of the stored examples in which the feature is active.")
    cells: tuple[FidelityCell, ...]
    worst_cell_error: float = Field(description="Largest error_of_height over the cells.")


class PlantedRule(_Frozen):
    """A feature and the rule it follows: activation = max(0, sum over terms of coefficient * product of factors)."""

    feature_id: int = Field(ge=0)
    kind: RuleKind
    terms: tuple[Term, ...] = Field(default=(), description="Empty for random directions and dead features.")
    height: float = Field(ge=0.0, description="Largest activation the rule asks for.")
    statement: str = Field(description="The rule as one sentence.")
    drivers: tuple[str, ...] = Field(default=(), description="Families, specials and weapons that the rule reads.")
    confounded_weapons: tuple[str, ...] = Field(
        default=(), description="Weapon ids that look like causes because their builds favour the driver."
    )
    fidelity: Fidelity | None = None

    def factors(self) -> tuple[Factor, ...]:
        """The distinct factors of the rule, negation taken off, in order of appearance."""
        plain = (factor.model_copy(update={"absent": False}) for term in self.terms for factor in term.factors)
        return tuple(dict.fromkeys(plain))
