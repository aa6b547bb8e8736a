"""Planted rules are immutable records that survive JSON."""

import pytest
from mechinterp_runner.schemas.planted import Factor, Fidelity, FidelityCell, PlantedRule, Term
from pydantic import ValidationError

SWIM = Factor(kind="level", name="swim_speed_up", rung=12)
INK = Factor(kind="level", name="ink_resistance_up", rung=6)


def suppressor() -> PlantedRule:
    cell = FidelityCell(cell={"swim_speed_up": 12, "worn": True, "share": 0.5}, expected=2, mean=1.9, error_of_height=0)
    return PlantedRule(
        feature_id=2,
        kind="suppressor",
        terms=(Term(coefficient=2.0, factors=(SWIM, INK.model_copy(update={"absent": True}))),),
        height=2.0,
        statement="2.0 with Swim Speed Up and without Ink Resistance Up.",
        drivers=("swim_speed_up", "ink_resistance_up"),
        fidelity=Fidelity(r2_held_out=0.99, n_contexts=300, active_rate=0.1, cells=(cell,), worst_cell_error=0.05),
    )


def test_a_rule_survives_json_with_the_types_of_its_cells() -> None:
    again = PlantedRule.model_validate_json(suppressor().model_dump_json())
    assert again == suppressor()
    assert again.fidelity is not None
    assert [type(v) for v in again.fidelity.cells[0].cell.values()] == [int, bool, float]


def test_factors_are_distinct_and_without_negation() -> None:
    terms = (Term(coefficient=1.0, factors=(SWIM, INK)), Term(coefficient=-1.0, factors=(INK,)))
    rule = suppressor().model_copy(update={"terms": (*terms, *suppressor().terms)})
    assert rule.factors() == (SWIM, INK)


def test_rules_are_frozen_and_forbid_unknown_keys() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        suppressor().height = 3.0  # type: ignore[misc]
    with pytest.raises(ValidationError, match="extra"):
        Factor.model_validate({"kind": "level", "name": "swim_speed_up", "rungs": 3})


def test_a_dead_feature_has_no_terms() -> None:
    rule = PlantedRule(feature_id=9, kind="dead", height=0.0, statement="Dead.")
    assert rule.factors() == ()
    assert rule.fidelity is None


def test_a_term_needs_a_factor() -> None:
    with pytest.raises(ValidationError):
        Term(coefficient=1.0, factors=())
