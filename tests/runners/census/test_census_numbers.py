"""The numbers of the census agree with scipy, statsmodels and plain loops over the examples."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.device import Compute
from mechinterp_runner.context.feature_sums import RowPlan, bytes_of, sum_features
from mechinterp_runner.runners.census.census import Census, block_size, check
from mechinterp_runner.runners.census.design import make_design
from mechinterp_runner.runners.census.effects import BlockEffects, ratio
from mechinterp_runner.runners.parts.kits.contrasts import part_effects
from mechinterp_runner.runners.stats.groups import exchangeable
from mechinterp_runner.schemas.errors import Cancelled, RequestError
from mechinterp_runner.schemas.job import Job

CHUNK = 700


@pytest.fixture(scope="module")
def small(make_world, tmp_path_factory):
    """600 examples of 300 builds."""
    return make_world(tmp_path_factory.mktemp("census") / "world", n_builds=300)[0]


@pytest.fixture(scope="module")
def single(make_world, tmp_path_factory):
    """3,000 examples, each a build of its own: errors that know of no clusters are right."""
    ctx = make_world(tmp_path_factory.mktemp("census") / "single", n_builds=1500)[0]
    ctx.examples = dataclasses.replace(ctx.examples, build_id=np.arange(len(ctx.examples), dtype=np.int32))
    return ctx


def taken(ctx, chunk_rows=CHUNK):
    return Census.of(ctx, chunk_rows=chunk_rows)


def of_all(ctx, **how):
    return taken(ctx, **how).block(np.arange(ctx.n_features))


@pytest.fixture(scope="module")
def block(single):
    return of_all(single)


def tokens_of(ctx):
    return np.asarray(ctx.data.token_matrix(np.arange(len(ctx.data))).toarray())


def test_activity_is_what_the_activations_say(small):
    found, clusters = of_all(small).numbers, small.data.clusters
    for feature in range(small.n_features):
        a = small.activations(feature).astype(np.float64)
        got = {name: values[feature] for name, values in found.items()}
        assert got["n_active"] == (a > 0).sum()
        assert got["active_builds"] == len(np.unique(clusters[a > 0]))
        assert got["rate"] == pytest.approx((a > 0).mean())
        assert got["max"] == pytest.approx(a.max(), rel=1e-6)
        assert got["mean"] == pytest.approx(a.mean(), rel=1e-5)
        assert got["std"] == pytest.approx(a.std(ddof=1), rel=1e-4)


def test_the_effective_max_is_right_to_a_tenth_of_a_percent(small, block, single):
    for ctx, numbers in ((small, of_all(small).numbers), (single, block.numbers)):
        for feature in range(ctx.n_features):
            expected = ctx.effective_max(feature)
            got = numbers["effective_max"][feature]
            assert np.isnan(got) if expected is None else got == pytest.approx(expected, rel=1e-3)


def test_a_dead_feature_has_no_heights_and_no_effects(block, feature):
    dead = feature["dead"]
    assert block.numbers["n_active"][dead] == 0
    assert np.isnan(block.numbers["effective_max"][dead])
    assert np.isnan(block.numbers["mean_when_active"][dead])
    assert not np.any(np.nan_to_num(block.effects["ability"].effect[:, dead]))
    assert np.isnan(block.effects["ability"].z[:, dead]).all()
    assert np.isnan(block.nearest.correlation[dead])


def test_ability_effects_are_regressions_with_weapon_dummies_and_robust_errors(single, block):
    tokens, weapon = tokens_of(single), np.asarray(single.data.weapon)
    dummies = (weapon[:, None] == np.unique(weapon)).astype(float)
    effects, compared = block.effects["ability"], 0
    subjects = taken(single).subjects
    for feature in (0, 1, 8, 12, 17):
        a = single.activations(feature).astype(np.float64)
        for at in range(0, len(subjects.tokens), 7):
            present = tokens[:, subjects.tokens[at]]
            if (a[present > 0] > 0).sum() < 30 or np.isnan(effects.error[at, feature]):
                continue
            fit = sm.OLS(a, np.column_stack([present, dummies])).fit(cov_type="HC1")
            assert effects.effect[at, feature] == pytest.approx(fit.params[0], rel=1e-4, abs=1e-5)
            assert effects.error[at, feature] == pytest.approx(fit.bse[0], rel=2e-3)
            compared += 1
    assert compared > 20


def test_weapon_effects_are_welchs_t(single, block):
    weapon, effects, compared = np.asarray(single.data.weapon), block.effects["weapon"], 0
    for feature in (1, 3, 4, 13, 17):
        a = single.activations(feature).astype(np.float64)
        for at in range(len(single.weapons)):
            if (a[weapon == at] > 0).sum() >= 30:
                expected = scipy.stats.ttest_ind(a[weapon == at], a[weapon != at], equal_var=False)
                got = effects.effect[at, feature] / effects.error[at, feature]
                assert got == pytest.approx(expected.statistic, rel=1e-3, abs=1e-4)
                compared += 1
    assert compared > 30


def test_a_weapon_that_never_activates_a_rare_feature_is_not_certain_of_it(small, feature):
    """Its own variance is 0; the pooled one says what as many examples of any weapon would show."""
    found, weapon, rare = of_all(small), np.asarray(small.data.weapon), feature["modulated"]
    assert 0 < found.numbers["rate"][rare] < 0.05
    active = small.activations(rare) > 0
    silent = [at for at in np.unique(weapon) if not active[weapon == at].any()]
    z = found.effects["weapon"].z[silent, rare]
    assert (~np.isnan(z)).sum() > 3
    assert np.nanmax(np.abs(z)) < 3


def test_adjusted_weapon_effects_are_those_of_the_joint_regression(single, block):
    weapon = np.asarray(single.data.weapon)
    dummies = np.column_stack([weapon[:, None] == np.arange(len(single.weapons)), tokens_of(single)]).astype(float)
    share = dummies[:, : len(single.weapons)].mean(axis=0)
    for feature in (6, 8, 17):
        a = single.activations(feature).astype(np.float64)
        beta = np.linalg.lstsq(dummies, a, rcond=1e-9)[0][: len(share)]
        expected = (beta - share @ beta) / (1.0 - share)
        np.testing.assert_allclose(block.effects["weapon"].adjusted[:, feature], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["sub", "special"])
def test_parts_of_kits_are_compared_as_the_kit_sweep_does(single, block, kind):
    census = taken(single)
    subjects, design = census.subjects, census.design
    parts, effects, kits = subjects.parts[kind], block.effects[kind], subjects.kits
    n = kits.summed(design.n)
    share = (parts.member @ n) / n.sum()
    for feature in (1, 7, 12, 15, 17):
        a = single.activations(feature).astype(np.float64)
        total = kits.summed(np.bincount(single.data.weapon, a, len(single.weapons)))
        expected = part_effects(n, total, parts.member, kits.main, family=np.zeros(len(parts.names), dtype=np.intp))
        np.testing.assert_allclose(effects.effect[:, feature], expected.delta / (1.0 - share), atol=1e-5)
        known = ~np.isnan(expected.error) & (expected.kits >= 2) & (expected.error > 1e-2)
        assert known.any()
        error = (expected.error / (1.0 - share))[known]
        np.testing.assert_allclose(effects.error[known, feature], error, rtol=2e-3)
        degrees = np.broadcast_to(effects.df, effects.effect.shape)[known, feature]
        np.testing.assert_allclose(degrees, np.asarray(expected.df)[known], rtol=2e-2)


def test_a_class_is_the_difference_of_the_means_of_its_examples(single, block):
    subjects, weapon = taken(single).subjects, np.asarray(single.data.weapon)
    classes = np.array([kit.weapon_class for kit in single.weapons.facts])[weapon]
    for at, name in enumerate(subjects.names("weapon_class")):
        a = single.activations(1).astype(np.float64)
        expected = a[classes == name].mean() - a[classes != name].mean()
        assert block.effects["weapon_class"].effect[at, 1] == pytest.approx(expected, abs=1e-5)


def test_z_has_the_p_value_of_its_t(block):
    effects = block.effects["special"]
    t = ratio(effects.effect, effects.error)
    known = (np.abs(np.nan_to_num(t)) > 1e-3) & (np.abs(t) < 30)
    p = 2 * scipy.stats.t.sf(np.abs(t), np.broadcast_to(effects.df, t.shape))
    np.testing.assert_allclose(2 * scipy.stats.norm.sf(np.abs(effects.z[known])), p[known], rtol=1e-6)
    assert np.all(np.sign(effects.z[known]) == np.sign(t[known]))


def test_the_correlation_within_builds_is_that_of_residuals_about_weapons(small):
    got = of_all(small).numbers["build_correlation"]
    weapon, clusters = np.asarray(small.data.weapon), small.data.clusters
    for feature in (0, 1, 16):
        a = small.activations(feature).astype(np.float64)
        means = np.bincount(weapon, a) / np.maximum(np.bincount(weapon), 1)
        expected = exchangeable(a - means[weapon], clusters, 1)[1]
        assert got[feature] == pytest.approx(expected, abs=1e-4)


def test_clustered_squares_are_those_of_a_loop_over_builds(small):
    design = make_design(small, RowPlan.of(small, CHUNK))
    tokens, weapon, clusters = tokens_of(small), np.asarray(small.data.weapon), small.data.clusters
    tokens = tokens[:, design.subjects.tokens]
    rate = np.array([tokens[weapon == at].mean(axis=0) for at in range(len(small.weapons))])
    residual = tokens - rate[weapon]
    sums = np.array([residual[clusters == each].sum(axis=0) for each in np.unique(clusters)])
    held = np.array([tokens[clusters == each].any(axis=0) for each in np.unique(clusters)])
    full = np.array([tokens[clusters == each].all(axis=0) for each in np.unique(clusters)])
    np.testing.assert_allclose(design.clustered, (sums**2).sum(axis=0), atol=1e-8)
    np.testing.assert_allclose(design.within, (residual**2).sum(axis=0), atol=1e-8)
    np.testing.assert_array_equal(design.clusters_with, held.sum(axis=0))
    np.testing.assert_array_equal(design.clusters_without, (~full).sum(axis=0))


def test_builds_widen_the_errors_by_the_design_effect(small):
    """Two identical rows of a build are one: the variance doubles where the correlation within builds is 1."""
    pairs = dataclasses.replace(small.data, build_id=small.data.build_id)
    assert pairs.clusters.max() + 1 == 300
    clustered = of_all(small).effects["ability"]
    census = taken(small)
    sums = sum_features(small, census.plan, np.arange(small.n_features), census.subjects.tokens)
    effects = BlockEffects(sums, census.design)
    correlation = effects.correlation
    effects.correlation = np.zeros_like(correlation)
    alone = effects.abilities()
    design = census.design
    with np.errstate(invalid="ignore", divide="ignore"):
        inflation = 1 + correlation * (design.clustered / design.within - 1)[:, None]
        np.testing.assert_allclose((clustered.error / alone.error) ** 2, np.where(alone.error > 0, inflation, np.nan))


def test_the_nearest_feature_has_the_largest_cosine(single, block):
    lengths = np.linalg.norm(single.sae.decoder_weight, axis=0)
    assert lengths.min() > 0
    decoder = single.sae.decoder_weight / lengths
    cosine = decoder.T @ decoder
    np.fill_diagonal(cosine, -2)
    np.testing.assert_allclose(block.nearest.cosine, cosine.max(axis=1), atol=1e-6)
    compared = 0
    for feature, near in enumerate(block.nearest.feature.tolist()):
        assert cosine[feature, near] == pytest.approx(cosine[feature].max())
        pair = [single.activations(each) for each in (feature, near)]
        constant = any(np.ptp(each) == 0 for each in pair)
        expected = np.nan if constant else np.corrcoef(*pair)[0, 1]
        assert block.nearest.correlation[feature] == pytest.approx(expected, abs=1e-5, nan_ok=True)
        compared += not constant
    assert compared > 5


def tolerance(name):
    """The effective max is read off bins of 0.1 %, and rounding moves values over their edges."""
    return 1e-3 if name == "effective_max" else 1e-4


def assert_same(one, other, atol=2e-5):
    for name, values in one.numbers.items():
        np.testing.assert_allclose(values, other.numbers[name], rtol=tolerance(name), atol=atol, err_msg=name)
    for kind, effects in one.effects.items():
        for name in ("effect", "error", "adjusted"):
            left, right = getattr(effects, name), getattr(other.effects[kind], name)
            if left is not None:
                np.testing.assert_allclose(left, right, rtol=2e-3, atol=atol, err_msg=f"{kind} {name}")
    np.testing.assert_array_equal(one.nearest.feature, other.nearest.feature)


@pytest.mark.parametrize("chunk_rows", [1, 97, 100_000])
def test_how_many_rows_are_read_at_once_changes_nothing(small, chunk_rows):
    assert_same(of_all(small), of_all(small, chunk_rows=chunk_rows))


def test_how_many_features_are_a_block_changes_nothing(small):
    census, whole = taken(small), of_all(small)
    at = 0
    for size in (1, 5, 13):
        part = census.block(np.arange(at, at + size))
        keep = slice(at, at + size)
        for name, values in whole.numbers.items():
            np.testing.assert_allclose(part.numbers[name], values[keep], rtol=tolerance(name), atol=2e-5, err_msg=name)
        for kind, effects in whole.effects.items():
            np.testing.assert_allclose(part.effects[kind].effect, effects.effect[:, keep], rtol=1e-3, atol=2e-5)
            np.testing.assert_allclose(part.effects[kind].error, effects.error[:, keep], rtol=2e-3, atol=2e-5)
        at += size


def test_no_build_is_split_between_chunks(small):
    plan = RowPlan.of(small, 7)
    seen = [set(chunk.cluster.tolist()) for chunk in plan.chunks()]
    assert sum(map(len, seen)) == plan.n_clusters == 300
    assert sorted(plan.order.tolist()) == list(range(600))
    for chunk in plan.chunks():
        assert np.all(np.diff(chunk.weapon) >= 0)
        assert sum(stop - start for _, start, stop in chunk.weapon_runs) == len(chunk.rows)


@pytest.fixture
def stored(small, make_world, reseal, tmp_path):
    """The small world with stored activations."""
    folder = tmp_path / "stored"
    make_world(folder, n_builds=300)
    columns = np.stack([small.activations(feature) for feature in range(small.n_features)])
    held = [np.flatnonzero(column) for column in columns]
    (folder / "activations").mkdir()
    np.save(folder / "activations/indptr.npy", np.r_[0, np.cumsum([len(rows) for rows in held])].astype(np.int64))
    np.save(folder / "activations/rows.npy", np.concatenate(held).astype(np.int32))
    np.save(folder / "activations/values.npy", np.concatenate([c[r] for c, r in zip(columns, held, strict=True)]))
    reseal(folder)
    return Context("stored", Bundle.open(folder), compute=Compute(device="cpu"))


def test_stored_columns_give_what_pooled_vectors_give(small, stored):
    assert stored.bundle.has("activations/indptr.npy")
    assert_same(of_all(small), of_all(stored))


def test_stored_columns_count_towards_the_memory_of_a_block(small, stored):
    """Whichever features are a block, their columns fit: 16 bytes an entry."""
    entries = sorted((np.count_nonzero(small.activations(each)) for each in range(small.n_features)), reverse=True)
    fixed, each = bytes_of(len(small.weapons), len(small.vocabulary), stored.bundle.manifest.hidden_dim, 16)
    for size in (1, 3, small.n_features):
        enough = fixed + size * each + 16 * sum(entries[:size])
        assert block_size(stored, enough, 16) == size
        assert size == 1 or block_size(stored, enough - 1, 16) == size - 1
    assert block_size(small, enough, 16) == small.n_features


def test_the_block_follows_from_the_memory_allowed(single):
    assert block_size(single, 1 << 30, CHUNK) == single.n_features
    assert 1 <= block_size(single, 5 << 20, 16) < single.n_features
    with pytest.raises(RequestError, match=r"needs at least .* MiB.*Nothing was run"):
        block_size(single, 1 << 20, CHUNK)


@pytest.mark.parametrize("lacking", ["sae.safetensors", "pooled.npy"])
def test_a_bundle_that_tells_no_activations_is_refused(single, lacking):
    held = single.bundle.manifest.files
    bundle = SimpleNamespace(has=lambda name: name in held and name != lacking)
    ctx = SimpleNamespace(
        name="w", data=(), bundle=bundle, sae=single.sae if bundle.has("sae.safetensors") else None, has_model=False
    )
    with pytest.raises(RequestError, match=r"neither stored activations nor SAE weights with pooled.*Nothing was run"):
        check(ctx)


def test_a_cancelled_job_stops_while_the_examples_are_counted(small):
    with pytest.raises(Cancelled):
        Census.of(small, job=Job(is_cancelled=lambda: True))


def test_a_cancelled_job_stops_within_a_block(small):
    with pytest.raises(Cancelled):
        taken(small).block(np.arange(3), Job(is_cancelled=lambda: True))
