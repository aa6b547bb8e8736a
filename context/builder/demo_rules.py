"""The rules planted in the demo bundle, in words and as terms."""

from ...schemas.planted import Factor, PlantedRule, RuleKind, Term

SPLATTERSHOT = "40"
SPECIAL = "Crab Tank"


def _at_least(family: str, rung: int, *, absent: bool = False) -> Factor:
    """The family's level is at least the rung (or, ``absent``, is below it)."""
    return Factor(kind="level", name=family, rung=rung, absent=absent)


def _rule(kind: RuleKind, height: float, statement: str, *terms: Term) -> PlantedRule:
    """A rule whose drivers are the names that its terms read; its id is given later."""
    drivers = tuple(dict.fromkeys(factor.name for term in terms for factor in term.factors))
    return PlantedRule(feature_id=0, kind=kind, terms=terms, height=height, statement=statement, drivers=drivers)


def _product(kind: RuleKind, height: float, statement: str, *factors: Factor) -> PlantedRule:
    """A rule that is its height wherever all factors hold, and 0 elsewhere."""
    return _rule(kind, height, statement, Term(coefficient=height, factors=factors))


def _either(height: float, statement: str, first: Factor, second: Factor) -> PlantedRule:
    """A rule that is its height wherever at least one of two factors holds."""
    terms = [Term(coefficient=height, factors=(factor,)) for factor in (first, second)]
    return _rule("or", height, statement, *terms, Term(coefficient=-height, factors=(first, second)))


_RULES: tuple[PlantedRule, ...] = (
    _product(
        "threshold",
        2.0,
        "2.0 when Special Charge Up is at 29 AP or more, else 0.",
        _at_least("special_charge_up", 29),
    ),
    _rule(
        "linear_dose",
        3.0,
        "Proportional to Quick Respawn: 3.0 at 57 AP, 0 without it.",
        Term(coefficient=3.0, factors=(Factor(kind="dose", name="quick_respawn"),)),
    ),
    _product(
        "suppressor",
        2.2,
        "2.2 when Swim Speed Up is at 12 AP or more, unless Ink Resistance Up is at 6 AP or more, which mutes it.",
        _at_least("swim_speed_up", 12),
        _at_least("ink_resistance_up", 6, absent=True),
    ),
    _product(
        "and",
        2.5,
        "2.5 when Run Speed Up and Ink Resistance Up are both at 6 AP or more; neither does anything alone.",
        _at_least("run_speed_up", 6),
        _at_least("ink_resistance_up", 6),
    ),
    _product(
        "gated",
        2.4,
        "2.4 when Quick Super Jump is at 6 AP or more and Stealth Jump is worn; without Stealth Jump nothing.",
        _at_least("quick_super_jump", 6),
        _at_least("stealth_jump", 10),
    ),
    _either(
        2.0,
        "2.0 when Special Power Up or Special Saver is at 6 AP or more; both together give no more than one.",
        _at_least("special_power_up", 6),
        _at_least("special_saver", 6),
    ),
    _product(
        "modulated_pair",
        2.6,
        "2.6 when Swim Speed Up and Ink Saver (Main) are both at 6 AP or more and Comeback is not worn.",
        _at_least("swim_speed_up", 6),
        _at_least("ink_saver_main", 6),
        _at_least("comeback", 10, absent=True),
    ),
    _product(
        "special",
        1.8,
        f"1.8 for every kit whose special weapon is {SPECIAL}, whatever the abilities.",
        Factor(kind="special", name=SPECIAL),
    ),
    _product(
        "weapon",
        2.0,
        "2.0 for the Splattershot (kit 40), whatever the abilities.",
        Factor(kind="weapon", name=SPLATTERSHOT),
    ),
    _product(
        "confounded_ability",
        2.0,
        "2.0 when Ink Saver (Sub) is at 6 AP or more; the kits that favour it look like causes and are not.",
        _at_least("ink_saver_sub", 6),
    ),
    _product(
        "core",
        2.3,
        "2.3 when Sub Resistance Up and Quick Super Jump are both present, at any AP: a minimal core of two.",
        _at_least("sub_resistance_up", 3),
        _at_least("quick_super_jump", 3),
    ),
    _product(
        "gap",
        2.0,
        "2.0 when the token of Swim Speed Up at 12 AP is there and the one at 3 AP, which it implies, is missing.",
        Factor(kind="gap", name="swim_speed_up", rung=12, low=3),
    ),
    _product(
        "threshold",
        1.7,
        "1.7 when Intensify Action is at 12 AP or more, else 0.",
        _at_least("intensify_action", 12),
    ),
)


def demo_rules() -> tuple[PlantedRule, ...]:
    """The planted rules by feature id: 0 is the threshold on special_charge_up."""
    return tuple(rule.model_copy(update={"feature_id": index}) for index, rule in enumerate(_RULES))
