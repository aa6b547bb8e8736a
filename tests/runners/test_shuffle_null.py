"""The permutation test against enumeration, plain loops on the same shuffles, least squares, and planted rules."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
import pytest
import statsmodels.api as sm
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.contexts import load_context
from mechinterp_runner.runners.parts.shuffles.significance import SHUFFLE_STREAM
from mechinterp_runner.runners.parts.shuffles.statistics import largest, prepare
from mechinterp_runner.runners.stats import permutation
from mechinterp_runner.runners.stats.compact import CompactRows
from mechinterp_runner.runners.stats.permutation import Exchange, permutation_p, shuffled_sums, standardised
from mechinterp_runner.schemas.catalogue import find
from mechinterp_runner.schemas.errors import Cancelled, RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import parse_spec
from scipy import sparse, stats

SHUFFLE = "shuffle_null"
STATISTICS = ({}, {"statistic": "max_weapon_effect"}, {"statistic": "top_token_concentration"})
TREND = {"statistic": "family_trend", "family": "quick_respawn"}


def small_data(seed: int, k: int = 6):
    """Clusters of 1 to 3 in 3 strata, with what they hold and values that go together within clusters."""
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    stratum = rng.integers(0, 3, 60)[cluster]
    held = (rng.random((60, k))[cluster] + 0.3 * rng.random((len(cluster), k)) < 0.5).astype(float)
    value = np.maximum(rng.normal(size=60)[cluster] + 0.3 * rng.normal(size=len(cluster)), 0.0)
    return stratum, cluster, sparse.csr_matrix(held), value


def ordered(exchange: Exchange, *arrays):
    return tuple(each[exchange.order] for each in arrays)


def arrangements(exchange: Exchange, value: np.ndarray, n_shuffles: int, seed) -> np.ndarray:
    """The values [n_shuffles, n] by place after each shuffle."""
    moved = np.zeros((len(value), n_shuffles))
    for places, some, part in exchange.shuffles(value, n_shuffles, np.random.default_rng(seed)):
        moved[places, some] = part
    return moved.T


def compact(held: sparse.csr_matrix) -> CompactRows:
    return CompactRows.stacked([held[:7].tocsr(), held[7:].tocsr()])


def every_exchange(value: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """All ways to place clusters of values on clusters, and the members within each."""
    groups = value.reshape(-1, size)
    for order in permutations(range(len(groups))):
        for turns in product(permutations(range(size)), repeat=len(groups)):
            yield np.concatenate([groups[i][list(turn)] for i, turn in zip(order, turns, strict=True)])


@pytest.mark.parametrize("size", [1, 2])
def test_mean_and_deviation_of_a_sum_are_those_over_all_exchanges(size):
    rng = np.random.default_rng(size)
    n = 4 * size
    held, value = (rng.random((n, 3)) < 0.5).astype(float), rng.random(n)
    exchange = Exchange.of(np.zeros(n, int), np.repeat(np.arange(4), size))
    sums = np.array([held.T @ each for each in every_exchange(value, size)])
    columns, values = compact(sparse.csr_matrix(held)), exchange.moments(value[None])
    mean, deviation = exchange.null_moments(exchange.column_moments(columns), values, np.zeros((3, 1)))
    assert mean[:, 0] == pytest.approx(sums.mean(axis=0))
    assert deviation[:, 0] == pytest.approx(sums.std(axis=0))


@pytest.mark.parametrize("at_once", [1 << 22, 300, 1], ids=["whole", "runs", "pieces"])
def test_a_shuffle_moves_whole_clusters_within_stratum_and_size_and_turns_them(at_once, monkeypatch):
    monkeypatch.setattr(permutation, "_KEYS_AT_ONCE", at_once)
    monkeypatch.setattr(permutation, "_VALUES_AT_ONCE", at_once)
    stratum, cluster, _, value = small_data(0)
    stratum[cluster == 0] = 3
    exchange = Exchange.of(stratum, cluster)
    stratum, cluster = ordered(exchange, stratum, cluster)
    assert (exchange.group == stratum).all()
    place = np.arange(len(value))
    size, first = np.bincount(cluster)[cluster], np.searchsorted(exchange.cluster, exchange.cluster)
    came_from = arrangements(exchange, place + 1.0, 50, 0).astype(int) - 1
    assert (np.sort(came_from, axis=1) == place).all()
    for row in came_from:
        assert (stratum[row] == stratum).all()
        assert (size[row] == size).all()
        pairs = set(zip(cluster.tolist(), cluster[row].tolist(), strict=True))
        assert len(pairs) == len(set(cluster.tolist()))
        turn = (row - first[row] - (place - first)) % size
        assert all(len(set(turn[cluster == each].tolist())) == 1 for each in set(cluster.tolist()))
    still = ~exchange.movable()
    assert still.any()
    assert (came_from[:, still] == place[still]).all()


def test_every_place_of_a_block_is_equally_likely_and_shuffles_differ():
    cluster = np.repeat(np.arange(12), 2)
    exchange = Exchange.of(np.repeat([0, 1], [10, 14]), cluster)
    came_from = arrangements(exchange, np.arange(24) + 1.0, 20_000, 1).astype(int) - 1
    for place in range(24):
        block = np.arange(10) if place < 10 else np.arange(10, 24)
        counts = np.bincount(came_from[:, place], minlength=24)[block]
        assert counts.sum() == 20_000
        assert stats.chisquare(counts).pvalue > 1e-4
    partners = np.unique(came_from[:, [0, 2]], axis=0, return_counts=True)[1]
    # The first two clusters of five come from any two of them, each turned one of two ways.
    assert len(partners) == 5 * 4 * 2 * 2
    assert stats.chisquare(partners).pvalue > 1e-4
    assert len(np.unique(came_from, axis=0)) > 19_900


def test_sums_of_shuffles_equal_putting_every_value_in_its_place():
    stratum, cluster, held, value = small_data(1)
    exchange = Exchange.of(stratum, cluster)
    held, value = ordered(exchange, held, value)
    moved = arrangements(exchange, value, 30, 1)
    found = shuffled_sums(exchange, value, compact(held), 30, rng=np.random.default_rng(1))
    assert found == pytest.approx((moved @ held.toarray()).T)


def test_the_mean_and_deviation_over_exchanges_are_met_by_many_shuffles():
    stratum, cluster, held, value = small_data(2)
    exchange = Exchange.of(stratum, cluster)
    held, value = ordered(exchange, held, value)
    still = np.flatnonzero(~exchange.movable())
    fixed = np.asarray(held[still].T @ value[still])[:, None]
    columns = compact(held)
    mean, deviation = exchange.null_moments(exchange.column_moments(columns), exchange.moments(value[None]), fixed)
    sums = shuffled_sums(exchange, value, columns, 20_000, rng=np.random.default_rng(2)).T
    assert sums.mean(axis=0) == pytest.approx(mean[:, 0], abs=5 * deviation.max() / np.sqrt(20_000))
    assert sums.std(axis=0) == pytest.approx(deviation[:, 0], rel=0.05)


def test_p_is_uniform_where_values_have_nothing_to_do_with_what_is_held_however_clustered():
    p_values = []
    for seed in range(400):
        stratum, cluster, held, value = small_data(100 + seed)
        exchange = Exchange.of(stratum, cluster)
        held, value = ordered(exchange, held, value)
        still = np.flatnonzero(~exchange.movable())
        fixed = np.asarray(held[still].T @ value[still])[:, None]
        columns = compact(held)
        facts = exchange.null_moments(exchange.column_moments(columns), exchange.moments(value[None]), fixed)

        def top(sums: np.ndarray, facts=facts) -> np.ndarray:
            return largest(np.abs(standardised(sums, *np.broadcast_arrays(*facts, sums)[:2])))[0]

        sums = shuffled_sums(exchange, value, columns, 99, rng=np.random.default_rng(seed))
        observed = top(np.asarray(held.T @ value)[:, None])[0]
        p_values.append(permutation_p(float(observed), top(sums)))
    assert stats.kstest(p_values, "uniform").pvalue > 0.01
    assert 0.025 <= np.mean(np.array(p_values) <= 0.05) <= 0.085


def test_ties_count_against_the_data():
    assert permutation_p(1.0, np.array([1.0 - 1e-13, 0.2, 1.0, 3.0])) == pytest.approx(4 / 5)
    assert permutation_p(2.0, np.zeros(19)) == pytest.approx(1 / 20)


def shuffled_world(world: Context, column: int, seed: int) -> Context:
    """The same world, one feature's activations permuted over the builds."""
    ctx = Context("shuffled", Bundle.open(world.bundle.path), oracle=world.oracle)
    values = np.array(world.activations(column)).reshape(-1, 2)
    ctx._columns[column] = values[np.random.default_rng(seed).permutation(len(values))].ravel()
    return ctx


@pytest.mark.parametrize("variables", [*STATISTICS, TREND], ids=lambda given: given.get("statistic", "default"))
def test_permuted_activations_are_rarely_significant(variables, ask, world, feature):
    p_values = [
        ask(shuffled_world(world, feature["or"], seed), SHUFFLE, "or", n_shuffles=39, **variables).custom["p_value"]
        for seed in range(20)
    ]
    # With 20 uniform p values, 5 below 0.05 or a mean outside these bounds happens once in 400.
    assert sum(p <= 0.05 for p in p_values) <= 4
    assert 0.3 < np.mean(p_values) < 0.72


def plain_statistic(variables: dict, held: np.ndarray, value: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Concentration or slopes of one arrangement, by plain means and least squares."""
    if variables["statistic"] == "top_token_concentration":
        return held[value > 0].mean(axis=0) - held[value == 0].mean(axis=0)
    x, y = held[:, 0].copy(), value.copy()
    for each in np.unique(group):
        own = group == each
        x[own] -= x[own].mean()
        y[own] -= y[own].mean()
    return np.abs(np.array([x @ y / (x @ x)]))


@pytest.mark.parametrize("variables", [STATISTICS[2], TREND], ids=lambda given: given["statistic"])
def test_p_equals_a_plain_loop_over_the_same_shuffles(variables, ask, fresh_world, feature):
    ctx, _ = fresh_world
    answer = ask(ctx, SHUFFLE, "threshold", n_shuffles=40, high_percentile=60, **variables)
    value = np.asarray(ctx.activations(feature["threshold"]), dtype=float)
    if variables["statistic"] == "top_token_concentration":
        value = (value >= answer.custom["high_threshold"]).astype(float)
    prepared = prepare(ctx, np.arange(len(ctx.data)), variables["statistic"], "weapon", variables.get("family"))
    held, value = prepared.columns.rows(0, len(value)).toarray(), value[prepared.exchange.order]
    group = prepared.exchange.group
    null = [
        plain_statistic(variables, held, moved, group).max()
        for moved in arrangements(prepared.exchange, value, 40, [0, SHUFFLE_STREAM])
    ]
    observed = plain_statistic(variables, held, value, group).max()
    row = answer.rows("null_distribution")[0]
    assert row["observed"] == pytest.approx(observed)
    assert row["p_value"] == pytest.approx((1 + np.sum(np.array(null) >= observed - 1e-12)) / 41)
    assert row["null_mean"] == pytest.approx(np.mean(null))
    assert row["null_std"] == pytest.approx(np.std(null, ddof=1))
    assert [row["q50"], row["q90"], row["q95"], row["q99"]] == pytest.approx(np.quantile(null, [0.5, 0.9, 0.95, 0.99]))
    assert row["z"] == pytest.approx((observed - np.mean(null)) / np.std(null, ddof=1))


@pytest.mark.parametrize("variables", STATISTICS[:2], ids=["tokens", "weapons"])
def test_the_largest_t_equals_a_plain_loop_that_standardises_every_sum(variables, ask, fresh_world, feature):
    ctx, _ = fresh_world
    answer = ask(ctx, SHUFFLE, "and", n_shuffles=40, **variables)
    statistic = variables.get("statistic", "max_token_effect")
    within = "none" if variables else "weapon"
    prepared = prepare(ctx, np.arange(len(ctx.data)), statistic, within)
    value = np.asarray(ctx.activations(feature["and"]), dtype=float)[prepared.exchange.order]
    held = prepared.columns.rows(0, len(value)).toarray()
    group = np.asarray(ctx.data.weapon)[prepared.exchange.order] if within == "weapon" else np.zeros(len(value), int)
    # Every build has two examples here, so a stratum is a group and its clusters are consecutive pairs.
    mean, variance = np.zeros(held.shape[1]), np.zeros(held.shape[1])
    for each in np.unique(group):
        x, y = held[group == each].reshape(-1, 2, held.shape[1]), value[group == each].reshape(-1, 2)
        m = len(y)
        mean += x.sum(axis=(0, 1)) * y.sum() / (2 * m)
        between = x.sum(axis=1) - x.sum(axis=1).mean(axis=0)
        variance += (between**2).sum(axis=0) * ((y.sum(axis=1) - y.sum(axis=1).mean()) ** 2).sum() / (4 * (m - 1))
        inner = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=(0, 1))
        variance += inner * ((y - y.mean(axis=1, keepdims=True)) ** 2).sum() / m
    every = [value, *arrangements(prepared.exchange, value, 40, [0, SHUFFLE_STREAM])]
    t = [np.abs(moved @ held - mean) / np.sqrt(variance) for moved in every]
    observed, *null = (each.max() for each in t)
    assert answer.custom["observed"] == pytest.approx(observed)
    assert answer.custom["unit"] == prepared.labels[int(t[0].argmax())]
    assert answer.custom["p_value"] == pytest.approx((1 + np.sum(np.array(null) >= observed)) / 41)
    assert answer.custom["null_mean"] == pytest.approx(np.mean(null))


def test_the_slope_equals_least_squares_with_a_dummy_for_each_weapon(ask, fresh_world, feature):
    ctx, _ = fresh_world
    answer = ask(ctx, SHUFFLE, "dose", n_shuffles=19, **TREND)
    weapon = np.asarray(ctx.data.weapon)
    level = np.asarray(ctx.data.levels[:, ctx.vocabulary.family_index["quick_respawn"]], dtype=float)
    design = np.hstack([level[:, None], weapon[:, None] == np.unique(weapon)])
    fit = sm.OLS(np.asarray(ctx.activations(feature["dose"]), dtype=float), design).fit()
    assert answer.custom["effect"] == pytest.approx(fit.params[0], rel=1e-5)
    assert answer.custom["observed"] == pytest.approx(abs(fit.params[0]), rel=1e-5)


def test_the_weapon_effect_is_its_mean_less_that_of_the_others(ask, world, feature):
    answer = ask(world, SHUFFLE, "weapon", statistic="max_weapon_effect", n_shuffles=50)
    own = np.asarray(world.data.weapon) == [facts.name for facts in world.weapons.facts].index(answer.custom["unit"])
    value = np.asarray(world.activations(feature["weapon"]), dtype=float)
    assert answer.custom["effect"] == pytest.approx(value[own].mean() - value[~own].mean())
    assert answer.custom["stratify_by"] == "none"
    assert answer.custom["verdict"] == "present"
    assert answer.findings.followups[0].spec["type"] == "weapon_sweep"


@pytest.mark.parametrize(
    ("rule", "family"), [("threshold", "special_charge_up"), ("dose", "quick_respawn"), ("main_only", "comeback")]
)
def test_a_rule_of_a_token_is_found_and_asks_for_its_cause(rule, family, ask, world):
    answer = ask(world, SHUFFLE, rule, n_shuffles=50)
    assert answer.custom["unit"].startswith(family)
    assert answer.custom["p_value"] == pytest.approx(1 / 51)
    assert answer.custom["significant"] is True
    assert answer.custom["verdict"] == "present"
    assert answer.headline.startswith(answer.custom["unit"])
    assert "CORRELATIONAL" in answer.headline
    assert answer.findings.followups[0].spec["variables"] == {"family": family}
    assert answer.findings.findings[0].status == "present"


@pytest.mark.parametrize("variables", STATISTICS, ids=lambda given: given.get("statistic", "default"))
@pytest.mark.parametrize("rule", ["random_0", "random_1"])
def test_random_directions_differ_from_shuffled_data_and_nothing_specific_is_found(rule, variables, ask, world):
    answer = ask(world, SHUFFLE, rule, n_shuffles=50, **variables)
    assert answer.headline.startswith("nothing")
    assert answer.custom["verdict"] == "nothing_specific"
    if answer.custom["significant"]:
        assert answer.headline.startswith("nothing specific found")
        assert "as random directions do" in answer.headline
        assert answer.custom["specificity_p"] > 0.05


def test_a_weapon_rule_shows_no_token_and_asks_for_the_weapons(ask, world):
    answer = ask(world, SHUFFLE, "weapon", n_shuffles=99)
    assert answer.custom["verdict"] == "nothing_specific"
    assert answer.headline.startswith("nothing found")
    assert answer.findings.followups[0].spec["variables"] == {"statistic": "max_weapon_effect"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"statistic": "family_trend"}, "needs family"),
        ({"family": "comeback"}, "for statistic 'family_trend' only"),
        ({"statistic": "max_weapon_effect", "stratify_by": "weapon"}, "changes no weapon's mean"),
        ({"n_shuffles": 5}, "n_shuffles"),
    ],
)
def test_variables_that_do_not_fit_are_refused(variables, message):
    with pytest.raises(RequestError, match=message):
        parse_spec({"type": SHUFFLE, "feature_id": 0, "variables": variables})


def test_an_unknown_family_is_refused_by_run_and_plan(ask, world):
    fields = {"type": SHUFFLE, "feature_id": 0, "variables": {"statistic": "family_trend", "family": "swim_speed"}}
    with pytest.raises(RequestError, match="swim_speed_up"):
        find(SHUFFLE).run(parse_spec(fields), world, Job())
    with pytest.raises(RequestError, match="swim_speed_up"):
        find(SHUFFLE).plan(parse_spec(fields), world)


def test_a_feature_that_is_the_same_everywhere_has_nothing_to_shuffle(ask, world):
    for variables in STATISTICS:
        answer = ask(world, SHUFFLE, "constant", n_shuffles=19, **variables)
        assert answer.headline.startswith("nothing found")
        row = answer.rows("null_distribution")[0]
        assert (row["observed"], row["p_value"]) == (None, None)
        assert row["reason"]


def test_too_few_builds_give_nulls_with_the_reason(ask, world):
    answer = ask(world, SHUFFLE, "constant", slice={"sample_size": 5})
    assert answer.custom["p_value"] is None
    assert answer.custom["reason"] == "fewer than 10 builds"


def test_without_random_directions_nothing_specific_is_found(ask, world, monkeypatch):
    monkeypatch.setattr(world, "random_directions", lambda: None)
    answer = ask(world, SHUFFLE, "dose", n_shuffles=30)
    assert answer.custom["significant"] is True
    assert (answer.custom["specificity_p"], answer.custom["verdict"]) == (None, "nothing_specific")
    assert answer.headline.startswith("nothing specific found")


def test_a_dead_feature_is_called_dead(ask, world):
    answer = ask(world, SHUFFLE, "dead")
    assert answer.custom["dead"] is True
    assert answer.rows("null_distribution") == []


def test_examples_that_cannot_be_exchanged_are_announced(ask, world):
    answer = ask(world, SHUFFLE, "dose", n_shuffles=19, slice={"sample_size": 30}, **TREND)
    assert any("no build of their size" in warning for warning in answer.job.warnings)
    assert answer.custom["share_movable"] < 0.9


def test_the_same_seed_gives_the_same_shuffles_and_another_others(ask, world):
    runs = [ask(world, SHUFFLE, "or", n_shuffles=30, slice={"random_seed": seed}).custom for seed in (0, 0, 4)]
    assert runs[0] == runs[1]
    assert runs[0]["null_mean"] != runs[2]["null_mean"]
    assert runs[0]["observed"] == runs[2]["observed"]


def test_a_run_stops_when_asked(world):
    spec = parse_spec({"type": SHUFFLE, "feature_id": 0, "variables": {"n_shuffles": 1000}})
    with pytest.raises(Cancelled):
        find(SHUFFLE).run(spec, world, Job(is_cancelled=lambda: True))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return load_context("demo", home=tmp_path_factory.mktemp("home"), device="cpu")


@pytest.mark.parametrize("rule", [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12])
def test_planted_token_rules_are_significant_and_specific(rule, ask, demo):
    answer = ask(demo, SHUFFLE, rule, n_shuffles=100)
    assert answer.custom["p_value"] == pytest.approx(1 / 101)
    assert answer.custom["specificity_p"] <= 0.05
    planted = next(each for each in demo.bundle.manifest.planted if each.feature_id == rule)
    assert answer.custom["unit"].rsplit("_", 1)[0] in str(planted.model_dump(mode="json"))


@pytest.mark.parametrize("rule", [7, 8])
def test_planted_weapon_rules_are_significant_and_specific_among_weapons(rule, ask, demo):
    answer = ask(demo, SHUFFLE, rule, n_shuffles=100, statistic="max_weapon_effect")
    assert answer.custom["p_value"] == pytest.approx(1 / 101)
    assert answer.custom["specificity_p"] <= 0.05
    assert answer.headline.startswith(answer.custom["unit"])


@pytest.mark.parametrize("rule", [13, 14, 15, 16, 17])
def test_random_and_dead_features_of_the_demo_give_nothing(rule, ask, demo):
    assert ask(demo, SHUFFLE, rule, n_shuffles=100).headline.startswith("nothing")
