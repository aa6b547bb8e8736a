"""The direct logit effect and steering against plain float64 arithmetic, and against what random directions write."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.design.specificity import null_activations
from mechinterp_runner.runners.parts.decoder.logits import contributions, family_shares, null_columns, real_tokens
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import Cancelled, RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import DatasetSlice, parse_spec
from scipy import stats

TYPE = "decoder_output_analysis"
RANDOM, DEAD = (13, 14, 15), (16, 17)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.fixture(scope="module")
def weights(demo):
    """Output weight, output bias, SAE arrays, all float64, straight from the files."""
    model, sae = (demo.bundle.tensors(f"{name}.safetensors") for name in ("model", "sae"))
    wide = {name: value.astype(np.float64) for name, value in sae.items()}
    return model["output_layer.weight"].astype(np.float64), model["output_layer.bias"].astype(np.float64), wide


def column_of(sae: dict[str, np.ndarray], feature: int) -> np.ndarray:
    column = sae["decoder.weight"][:, feature]
    return column / np.sqrt((column**2).sum())


def spec_of(feature: int, part: dict | None = None, **variables):
    fields = {"type": TYPE, "feature_id": feature, "dataset_slice": part or {}, "variables": variables}
    return parse_spec(fields)


def test_the_contributions_are_the_float64_product_of_output_row_and_unit_column(ask, demo, weights):
    weight, _, sae = weights
    answer = ask(demo, TYPE, 12, top_k=1000)
    rows = answer.rows("promoted") + answer.rows("suppressed")
    assert len(rows) == sum(family >= 0 for family in demo.vocabulary.token_family)
    for row in rows:
        index = demo.vocabulary.token_id[row["token"]]
        assert row["contribution"] == pytest.approx(float(weight[index] @ column_of(sae, 12)), rel=1e-12, abs=1e-14)
        assert row["family"] == demo.vocabulary.families[demo.vocabulary.token_family[index]]


def test_promoted_tokens_fall_suppressed_ones_rise_and_specials_are_left_out(ask, demo):
    answer = ask(demo, TYPE, 2, top_k=1000)
    up, down = (np.array([row["contribution"] for row in answer.rows(name)]) for name in ("promoted", "suppressed"))
    assert (up > 0).all()
    assert (down < 0).all()
    assert (np.diff(up) <= 0).all()
    assert (np.diff(down) >= 0).all()
    assert [row["rank"] for row in answer.rows("promoted")] == list(range(1, len(up) + 1))
    assert not any(row["token"].startswith("<") for row in answer.rows("promoted") + answer.rows("suppressed"))


def test_the_family_summary_is_worked_out_token_by_token(ask, demo):
    answer = ask(demo, TYPE, 5, top_k=1000)
    own: dict[str, list[float]] = {}
    for row in answer.rows("promoted") + answer.rows("suppressed"):
        own.setdefault(row["family"], []).append(row["contribution"])
    total = sum(np.mean(np.square(values)) for values in own.values())
    assert {row["family"] for row in answer.rows("family_summary")} == set(own)
    for row in answer.rows("family_summary"):
        values = own[row["family"]]
        assert row["mean_contribution"] == pytest.approx(np.mean(values), abs=1e-12)
        assert (row["max_contribution"], row["min_contribution"]) == (max(values), min(values))
        assert row["share"] == pytest.approx(np.mean(np.square(values)) / total, rel=1e-9)
        assert row["n_tokens"] == len(values)
    assert answer.custom["top_family"] == answer.rows("family_summary")[0]["family"]


def test_the_output_head_is_the_networks_own(demo):
    import torch

    pooled = np.asarray(demo.pooled_of(np.arange(20)))
    with torch.inference_mode():
        wanted = demo.oracle.model().logits(torch.from_numpy(pooled)).numpy()
    np.testing.assert_allclose(demo.output_head().logits(pooled), wanted, rtol=1e-4, atol=1e-4)


def test_steering_is_the_forward_pass_of_the_changed_vector_with_the_error_kept(ask, demo, weights):
    weight, bias, sae = weights
    feature, part = 9, {"sample_size": 80, "random_seed": 3}
    answer = ask(demo, TYPE, feature, slice=part, steer=[0.0, 1.5], top_k=1000)
    rows = demo.population(DatasetSlice(**part), feature).rows
    x = np.load(demo.bundle.path / "pooled.npy")[rows].astype(np.float64)
    hidden = (x - sae["decoder_bias"]) @ sae["encoder.weight"][feature] + sae["encoder.bias"][feature]
    activation = np.minimum(np.maximum(hidden, 0.0), 6.0)
    before = 1.0 / (1.0 + np.exp(-(x @ weight.T + bias)))
    for value in (0.0, 1.5):
        moved = x + np.outer(value - activation, column_of(sae, feature))
        change = 1.0 / (1.0 + np.exp(-(moved @ weight.T + bias))) - before
        shown = [row for row in answer.rows("steering") if row["value"] == value]
        assert len(shown) == sum(family >= 0 for family in demo.vocabulary.token_family)
        for row in shown:
            index = demo.vocabulary.token_id[row["token"]]
            assert row["base_probability"] == pytest.approx(before[:, index].mean(), abs=1e-9)
            assert row["mean_delta"] == pytest.approx(change[:, index].mean(), abs=1e-9)
            assert row["responder_rate"] == np.mean(np.abs(change[:, index]) > 0.01)
            assert row["sim_low"] <= row["ci_low"] <= row["mean_delta"] + 1e-4
            assert row["mean_delta"] - 1e-4 <= row["ci_high"] <= row["sim_high"]


def test_the_interval_of_a_change_is_students_with_the_finite_population_correction(ask, demo):
    answer = ask(demo, TYPE, 12, steer=[2.0])
    row = answer.rows("steering")[0]
    n, size = row["n"], len(demo.data)
    assert n == 500
    half = stats.t.ppf(0.975, n - 1) * row["std_error"]
    assert row["ci_low"] == pytest.approx(row["mean_delta"] - half, abs=1e-4)
    assert row["std_error"] < 0.5 / np.sqrt(n) * np.sqrt(1 - n / size) * 1.01


def test_setting_a_feature_to_zero_changes_nothing_where_it_is_silent(ask, demo):
    answer = ask(demo, TYPE, 0, steer=[0.0], top_k=1000, min_effect=0.001)
    active = np.mean(demo.activations(0) > 0)
    assert max(row["responder_rate"] for row in answer.rows("steering")) < active + 0.02
    assert any("setting it to 0 changes nothing" in note for note in answer.findings.diagnostics.notes)


@pytest.mark.parametrize("feature", RANDOM)
@pytest.mark.parametrize(
    ("part", "variables"), [({}, {}), ({}, {"steer": [2.0]}), ({"activation_threshold": 0}, {"steer": [0.0]})]
)
def test_a_random_direction_gets_nothing_specific(ask, demo, feature, part, variables):
    answer = ask(demo, TYPE, feature, slice=part, **variables)
    assert answer.headline.startswith("nothing specific found")
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.custom["specificity_p"] > 0.05
    assert answer.findings.followups == []


@pytest.mark.parametrize("feature", DEAD)
def test_a_dead_feature_is_called_dead_though_it_has_a_column(ask, demo, feature):
    for variables in ({}, {"steer": [1.0]}):
        answer = ask(demo, TYPE, feature, **variables)
        assert answer.headline.startswith("nothing found")
        assert answer.findings.findings[0].status == "dead"
        assert all(table.rows == [] for table in answer.findings.tables)


@pytest.mark.parametrize(("feature", "family"), [(2, "swim_speed_up"), (9, "ink_saver_sub"), (12, "intensify_action")])
def test_a_concentrated_feature_promotes_its_family_and_steering_raises_it(ask, demo, feature, family):
    direct = ask(demo, TYPE, feature)
    assert direct.custom["top_family"] == family
    assert f"promotes {family}" in direct.headline
    assert direct.rows("promoted")[0]["family"] == family
    steered = ask(demo, TYPE, feature, steer=[2.0])
    assert steered.custom["steered_token"].startswith(family)
    assert steered.custom["steered_change"] > 0.3
    assert "raises the probability" in steered.headline
    assert steered.custom["winner_confirmed"] is True
    for answer in (direct, steered):
        assert all(parse_spec(each.spec) for each in answer.findings.followups)


def test_columns_learnt_for_random_directions_pass_the_test_no_more_often_than_they_should(demo):
    columns = contributions(demo, null_columns(demo, 0, seed=0))
    family = real_tokens(demo)[1]
    largest = family_shares(columns, family, len(demo.vocabulary.families)).max(axis=0)
    p = [(1 + (largest[100:] >= own).sum()) / 101 for own in largest[:100]]
    assert np.mean(np.array(p) <= 0.05) <= 0.12


def test_a_null_column_is_the_least_squares_column_of_its_activation(demo):
    everything = demo.population(DatasetSlice(), 7)
    rows = null_activations(demo, 7, everything, 0).positions
    matched = demo.random_directions().matched(demo.active_rate(7), demo.effective_max(7))
    pooled = np.asarray(demo.pooled_of(rows), dtype=np.float64)
    design = np.column_stack([matched.activation(pooled)[:, 11], np.ones(len(rows))])
    fitted = np.linalg.lstsq(design, pooled, rcond=None)[0][0]
    cosine = float(fitted @ null_columns(demo, 7, seed=0)[:, 11] / np.linalg.norm(fitted))
    assert cosine > 0.999999


def test_the_norm_percentile_is_scipys_and_null_with_a_reason_where_all_columns_are_alike(ask, demo, small_bundle):
    small = Context("small", Bundle.open(small_bundle))
    norms = np.linalg.norm(small.sae.decoder_weight.astype(np.float64), axis=0)
    percentile = ask(small, TYPE, 0).custom["decoder_norm_percentile"]
    assert percentile == pytest.approx(stats.percentileofscore(norms, norms[0], kind="mean"))
    custom = ask(demo, TYPE, 0).custom
    assert custom["decoder_norm_percentile"] is None
    assert "same length" in custom["decoder_norm_reason"]


def test_the_contribution_percentile_ranks_the_largest_contribution_among_all_features(ask, demo, weights):
    weight, _, sae = weights
    real = np.array(demo.vocabulary.token_family) >= 0
    columns = np.stack([column_of(sae, i) for i in range(demo.n_features)], axis=1)
    largest = np.abs(weight[real] @ columns).max(axis=0)
    percentile = ask(demo, TYPE, 2).custom["contribution_percentile"]
    assert percentile == pytest.approx(stats.percentileofscore(largest, largest[2], kind="mean"), abs=0.5)


def test_the_plan_announces_the_passes_that_are_made(ask, demo, small_bundle):
    small = Context("small", Bundle.open(small_bundle))
    for ctx in (demo, small):
        for variables in ({}, {"steer": [1.0]}):
            plan = find(TYPE).plan(spec_of(0, **variables), ctx)
            answer = ask(ctx, TYPE, 0, **variables)
            assert plan.forward_passes == answer.job.passes_made
            assert plan.contexts == answer.findings.diagnostics.n_contexts_tested


def test_the_direct_effect_is_that_of_the_feature_in_a_slice_where_it_is_silent(ask, demo):
    part = {"family_exclude": ["special_charge_up"]}
    assert not (demo.population(DatasetSlice(**part), 0).activation > 0).any()
    whole, silent = ask(demo, TYPE, 0), ask(demo, TYPE, 0, slice=part)
    assert silent.headline == whole.headline
    assert not silent.headline.startswith("nothing found")
    for name in ("promoted", "suppressed", "family_summary"):
        assert silent.rows(name) == whole.rows(name)
        assert silent.rows(name)
    assert any("dataset_slice has no part" in note for note in silent.findings.diagnostics.notes)


def test_the_plan_counts_the_contexts_that_are_steered_where_the_feature_is_silent(ask, demo):
    part = {"family_exclude": ["stealth_jump"], "weapon_filter": [40], "sample_size": 20}
    assert not (demo.population(DatasetSlice(**part), 247).activation > 0).any()
    plan = find(TYPE).plan(spec_of(247, part, steer=[2.0]), demo)
    answer = ask(demo, TYPE, 247, slice=part, steer=[2.0])
    assert plan.contexts == answer.findings.diagnostics.n_contexts_tested == 20


@pytest.mark.parametrize("variables", [{}, {"steer": [2.0]}])
def test_the_plan_of_a_dead_feature_asks_nothing(demo, variables):
    plan = find(TYPE).plan(spec_of(16, **variables), demo)
    assert (plan.contexts, plan.forward_passes) == (0, 0)


def test_a_bundle_without_a_model_is_refused_with_what_is_missing(ask, world):
    for door in (lambda: ask(world, TYPE, "dose"), lambda: find(TYPE).plan(spec_of(1), world)):
        with pytest.raises(RequestError, match=r"has no model, .* Nothing was run\."):
            door()


def test_values_out_of_range_and_a_single_context_are_refused(ask, demo):
    with pytest.raises(RequestError, match="steer"):
        ask(demo, TYPE, 0, steer=[7.0])
    with pytest.raises(RequestError, match=r"at least 2 contexts .* Nothing was run\."):
        ask(demo, TYPE, 1, slice={"sample_size": 1, "activation_threshold": 0}, steer=[1.0])


def test_the_same_spec_gives_the_same_numbers(ask, demo):
    first, again = (ask(demo, TYPE, 4, steer=[1.0], slice={"sample_size": 60}) for _ in range(2))
    assert first.findings.model_dump() == again.findings.model_dump()


def test_steering_reports_progress_and_can_be_cancelled(demo):
    seen: list[tuple[int, int, str]] = []
    find(TYPE).run(spec_of(1, steer=[1.0]), demo, Job(on_progress=lambda *step: seen.append(step)))
    assert seen[-1][0] == seen[-1][1] > 0
    with pytest.raises(Cancelled):
        find(TYPE).run(spec_of(1, steer=[1.0]), demo, Job(is_cancelled=lambda: True))


def test_neither_the_direct_effect_nor_steering_loads_torch_where_vectors_are_stored(tmp_path):
    code = (
        "import sys\n"
        "from mechinterp_runner import load_context\n"
        "from mechinterp_runner.schemas.catalogue import find\n"
        "from mechinterp_runner.schemas.job import Job\n"
        "from mechinterp_runner.schemas.spec import parse_spec\n"
        f"ctx = load_context('demo', home={str(tmp_path)!r})\n"
        f"spec = parse_spec({{'type': {TYPE!r}, 'feature_id': 0, 'variables': {{'steer': [1.0]}}}})\n"
        f"find({TYPE!r}).run(spec, ctx, Job())\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
