"""Every field of the slice acts in every type, on exactly the examples it should."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.context.population import Population
from mechinterp_runner.schemas.experiment_type import runner_names

FEATURE = "dose"
EVERYTHING = "random_0"
"""A feature to which every part of a build matters, so that no two samples give the same numbers."""
VARIABLES: dict[str, dict[str, Any]] = {
    "family_1d_sweep": {"family": "quick_respawn", "rungs": [12, 57]},
    "family_2d_heatmap": {"family_x": "quick_respawn", "family_y": "comeback", "rungs_x": [12, 57]},
    "pairwise_interactions": {"candidate_tokens": ["quick_respawn", "swim_speed_up", "comeback"]},
    "conditional_interactions": {
        "candidate_tokens": ["quick_respawn", "swim_speed_up"],
        "modulator_token": "comeback",
    },
    "within_family_interference": {"family": "quick_respawn", "rungs": [3, 12]},
    "minimal_cores": {"max_examples": 12},
    "binary_presence_effect": {"binary_tokens": ["comeback", "haunt"]},
    "token_influence_sweep": {"method": "observational", "min_samples": 20},
    "split_half": {"n_splits": 3},
    "shuffle_null": {"n_shuffles": 20},
}
Keep = Callable[[Context, np.ndarray], np.ndarray]


def family(ctx: Context, name: str) -> np.ndarray:
    return np.asarray(ctx.data.levels[:, ctx.vocabulary.family_index[name]]) > 0


def percentile_ranks(activation: np.ndarray) -> np.ndarray:
    """Percentile of each active example among the active, by counting; -1 for inactive ones."""
    active = activation[activation > 0]
    below = (active[None, :] < activation[:, None]).sum(axis=1)
    equal = (active[None, :] == activation[:, None]).sum(axis=1)
    return np.where(activation > 0, 100.0 * (below + equal / 2.0) / len(active), -1.0)


SLICES: dict[str, tuple[dict[str, Any], Keep]] = {
    "activation_threshold": ({"activation_threshold": 0.3}, lambda ctx, a: a > 0.3),
    "weapon_filter": (
        {"weapon_filter": [0, "weapon_id_10", 40, 50, 60]},
        lambda ctx, a: np.isin(ctx.data.weapon, [ctx.weapons.resolve(w) for w in (0, 10, 40, 50, 60)]),
    ),
    "weapon_exclude": (
        {"weapon_exclude": [11, 20]},
        lambda ctx, a: ~np.isin(ctx.data.weapon, [ctx.weapons.resolve(w) for w in (11, 20)]),
    ),
    "family_filter": ({"family_filter": ["swim_speed_up"]}, lambda ctx, a: family(ctx, "swim_speed_up")),
    "family_exclude": ({"family_exclude": ["ink_saver_main"]}, lambda ctx, a: ~family(ctx, "ink_saver_main")),
    "percentile_min": ({"percentile_min": 30}, lambda ctx, a: percentile_ranks(a) >= 30),
    "percentile_max": ({"percentile_max": 60}, lambda ctx, a: (a > 0) & (percentile_ranks(a) <= 60)),
}


TYPES = [name for name in runner_names() if name != "decoder_output_analysis"]
"""A decoder column needs an output layer, which the world has not: that type is asked on the demo bundle, below."""


class Spy:
    """Remembers the populations that a run read."""

    def __init__(self, ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Population] = []
        select = ctx.population

        def population(*given: Any, **named: Any) -> Population:
            found = select(*given, **named)
            self.seen.append(found)
            return found

        monkeypatch.setattr(ctx, "population", population)

    def rows(self) -> list[list[int]]:
        return [population.rows.tolist() for population in self.seen]


def numbers(answer: Any) -> str:
    return str([table.rows for table in answer.findings.tables]) + str(answer.custom)


@pytest.fixture(scope="module")
def whole(world, ask):
    """The answers about all examples, by type."""
    answers: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in answers:
            answers[name] = ask(world, name, FEATURE, **VARIABLES.get(name, {}))
        return answers[name]

    return get


@pytest.mark.parametrize("field", SLICES)
@pytest.mark.parametrize("name", TYPES)
def test_a_filter_leaves_exactly_its_examples_and_changes_the_numbers(
    name, field, world, ask, feature, whole, monkeypatch
):
    before = numbers(whole(name))
    given, keep = SLICES[field]
    wanted = np.flatnonzero(keep(world, np.asarray(world.activations(feature[FEATURE]))))
    spy = Spy(world, monkeypatch)
    answer = ask(world, name, FEATURE, slice=given, **VARIABLES.get(name, {}))
    assert all(rows == wanted.tolist() for rows in spy.rows())
    assert spy.seen
    diagnostics = answer.findings.diagnostics
    assert diagnostics.n_population == len(wanted)
    assert diagnostics.population == spy.seen[0].description
    assert diagnostics.population != "all examples"
    assert diagnostics.population in answer.headline
    assert numbers(answer) != before


@pytest.mark.parametrize("name", TYPES)
def test_a_sample_is_drawn_without_replacement_and_another_seed_draws_another(name, world, ask, monkeypatch):
    spy = Spy(world, monkeypatch)
    first = ask(world, name, EVERYTHING, slice={"sample_size": 900}, **VARIABLES.get(name, {}))
    samples = [rows for rows in spy.rows() if len(rows) == 900]
    assert samples
    assert all(len(set(rows)) == 900 for rows in samples)
    again = ask(world, name, EVERYTHING, slice={"sample_size": 900}, **VARIABLES.get(name, {}))
    other = ask(world, name, EVERYTHING, slice={"sample_size": 900, "random_seed": 5}, **VARIABLES.get(name, {}))
    assert numbers(again) == numbers(first)
    assert numbers(other) != numbers(first)
    assert sorted(spy.rows()[-1]) != samples[0]
    assert first.findings.diagnostics.n_population == len(world.data)


@pytest.mark.parametrize("name", TYPES)
def test_a_slice_on_the_outcome_is_named_in_headline_and_warning(name, world, ask):
    answer = ask(world, name, FEATURE, slice={"percentile_min": 10}, **VARIABLES.get(name, {}))
    assert "selected on the outcome" in answer.headline
    assert any("selects on the outcome" in warning for warning in answer.job.warnings)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize("field", SLICES)
def test_steering_sets_the_feature_on_exactly_the_examples_that_a_filter_leaves(field, demo, ask, monkeypatch):
    given, keep = SLICES[field]
    wanted = np.flatnonzero(keep(demo, np.asarray(demo.activations(2))))
    before = ask(demo, "decoder_output_analysis", 2, steer=[0])
    spy = Spy(demo, monkeypatch)
    answer = ask(demo, "decoder_output_analysis", 2, slice=given, steer=[0])
    assert wanted.tolist() in spy.rows()
    assert answer.findings.diagnostics.n_population == len(wanted)
    assert answer.rows("steering") != before.rows("steering")
    assert answer.rows("promoted") == before.rows("promoted")
