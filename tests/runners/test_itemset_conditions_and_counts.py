"""Frequent itemsets: conditions that cannot be, very few examples, and counts of all sets found."""

from __future__ import annotations

import numpy as np
import pytest
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec

TYPE = "frequent_itemsets"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


def test_a_condition_at_zero_ap_is_refused_with_the_slice_field_that_says_it(world, feature):
    spec = parse_spec({"type": TYPE, "feature_id": feature["and"], "variables": {"condition_on": ["run_speed_up_0"]}})
    for act in (find(TYPE).plan, lambda spec, ctx: find(TYPE).run(spec, ctx, Job())):
        with pytest.raises(RequestError, match=r"dataset_slice\.family_exclude: \['run_speed_up'\].*Nothing was run"):
            act(spec, world)


def test_a_condition_that_is_no_rung_is_resolved_with_a_warning(ask, world):
    answer = ask(world, TYPE, "and", condition_on=["run_speed_up_14"])
    text = "run_speed_up_14: rung 14 is no rung of the vocabulary: 12 is used, as the tokenizer does"
    assert text in answer.job.warnings
    assert "run_speed_up at 12 AP or more" in answer.findings.diagnostics.population


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_examples_give_nulls_with_a_reason(ask, demo, n):
    answer = ask(demo, TYPE, 3, slice={"sample_size": n, "activation_threshold": 0})
    summary = answer.findings.aggregates
    assert answer.headline.startswith("nothing")
    assert (summary.mean_delta, summary.max_delta, summary.n_samples) == (None, None, n)
    assert "no itemset has an effect" in answer.custom["delta_reason"]
    assert any(text.startswith("every example is high: no baseline") for text in answer.job.warnings)


def test_counts_are_of_all_itemsets_found_and_a_mean_of_some_is_null_with_a_reason(ask, world):
    given = {
        "min_support": 0.025,
        "max_size": 3,
        "n_permutations": 20,
        "collapse_families": False,
        "rung_tokens": "all",
    }
    part, whole = ask(world, TYPE, "dose", **given), ask(world, TYPE, "dose", top_k=100_000, **given)
    rows = whole.rows("itemsets")
    assert len(rows) == whole.custom["n_itemsets"] == part.custom["n_itemsets"] > len(part.rows("itemsets")) == 1000
    for answer in (part, whole):
        assert answer.custom["n_closed"] == sum(row["closed"] for row in rows)
        assert answer.custom["n_maximal"] == sum(row["maximal"] for row in rows)
        assert answer.custom["n_significant"] == sum(row["p_adjusted"] < 0.05 for row in rows)
    assert part.findings.aggregates.mean_delta is None
    assert "effects are estimated for 1,000 of" in part.custom["delta_reason"]
    effects = [row["within_weapon_delta"] for row in rows if row["within_weapon_delta"] is not None]
    assert whole.findings.aggregates.mean_delta == pytest.approx(np.mean(effects))
