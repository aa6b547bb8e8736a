"""A context answers what a feature does on the examples, and says clearly what it cannot answer."""

import shutil
import threading

import numpy as np
import pytest
from mechinterp_runner.context.bundle import Bundle
from mechinterp_runner.context.context import Context
from mechinterp_runner.context.device import Compute
from mechinterp_runner.schemas.errors import BundleError, RequestError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.spec import DatasetSlice

CPU = Compute(device="cpu")
DEAD = 3
N = 304


def opened(folder, **how) -> Context:
    return Context(folder.name, Bundle.open(folder), **{"compute": CPU} | how)


@pytest.fixture
def truth(naive_pooled, small_contents) -> np.ndarray:
    """Activation of every feature on every example in float64, from the definition: clamp(relu(h), 0, 6)."""
    sae = {name: value.astype(np.float64) for name, value in small_contents.sae_state.items()}
    hidden = np.array(
        [sae["encoder.weight"] @ (vector - sae["decoder_bias"]) + sae["encoder.bias"] for vector in naive_pooled]
    )
    return np.minimum(np.maximum(hidden, 0.0), 6.0)


@pytest.fixture
def stored_columns(small_bundle, reseal):
    """The small bundle with activations of its own: feature 1 is 0.01, 0.02, ... 2.01; feature 2 a few; none else."""
    values = [np.zeros(0)] * 12
    rows = [np.zeros(0, int)] * 12
    values[1], rows[1] = 0.01 * np.arange(1, 202), np.random.default_rng(0).permutation(N)[:201]
    values[2], rows[2] = np.array([6.0, 0.5]), np.array([303, 0])
    folder = small_bundle / "activations"
    folder.mkdir()
    np.save(folder / "indptr.npy", np.cumsum([0, *map(len, rows)]).astype(np.int64))
    np.save(folder / "rows.npy", np.concatenate(rows).astype(np.int32))
    np.save(folder / "values.npy", np.concatenate(values).astype(np.float32))
    reseal(small_bundle)
    return small_bundle, rows, values


@pytest.mark.parametrize("feature", [0, 1, 7, 11])
def test_activations_without_stored_vectors_are_what_the_network_and_the_definition_give(small_bundle, truth, feature):
    found = opened(small_bundle).activations(feature)
    assert found.dtype == np.float32
    assert found.shape == (N,)
    assert np.allclose(found, truth[:, feature], atol=1e-5)
    assert np.ptp(truth[:, feature]) > 0.05


def test_activations_from_stored_vectors_are_the_evaluation_of_the_same_sets(write_variant, naive_pooled):
    context = opened(write_variant(pooled=naive_pooled.astype(np.float32)))
    for feature in range(12):
        read = context.evaluate(context.sets(np.arange(N)), feature)
        assert np.allclose(context.activations(feature), read.activation, atol=1e-5)
        assert np.allclose(np.clip(read.pre, 0, 6), read.activation)
    assert context.seconds_per_pass() > 0


def test_stored_vectors_cost_no_pass(write_variant, naive_pooled):
    context = opened(write_variant(pooled=naive_pooled.astype(np.float32)))
    context.activations(0)
    assert context.seconds_per_pass() is None


def test_evaluation_is_the_definition_on_constructed_sets(small_bundle, truth):
    context = opened(small_bundle)
    rows = np.array([20, 5, 5, 100])
    read = context.evaluate(context.sets(rows), 7)
    assert np.allclose(read.activation, truth[rows, 7], atol=1e-5)


def test_stored_columns_are_read_as_they_were_stored(stored_columns):
    folder, rows, values = stored_columns
    context = opened(folder)
    for feature in range(12):
        expected = np.zeros(N)
        for row, value in zip(rows[feature], values[feature], strict=True):
            expected[row] = value
        assert np.allclose(context.activations(feature), expected)
    assert context.seconds_per_pass() is None


def test_stored_columns_that_do_not_fit_the_features_are_refused(stored_columns, reseal):
    folder, _, _ = stored_columns
    np.save(folder / "activations" / "indptr.npy", np.zeros(12, np.int64))
    reseal(folder)
    with pytest.raises(BundleError, match=r"activations/indptr\.npy has the shape \(12,\) where \(13,\) is expected"):
        opened(folder).activations(1)


def test_stored_vectors_of_another_shape_are_refused(write_variant, naive_pooled):
    context = opened(write_variant(pooled=naive_pooled[:-1]))
    with pytest.raises(BundleError, match=r"pooled\.npy has the shape \(303, 8\) where \(304, 8\) is expected"):
        context.activations(0)


def test_the_effective_max_is_the_995th_permille_of_the_active(stored_columns):
    context = opened(stored_columns[0])
    assert context.effective_max(1) == pytest.approx(2.0)
    assert context.min_effect(1) == pytest.approx(0.1)
    assert context.active_rate(1) == pytest.approx(201 / N)
    assert context.effective_max(2) == pytest.approx(0.5 + 0.995 * 5.5)


def test_a_dead_feature_has_zeros_and_no_effective_max(small_bundle):
    context = opened(small_bundle)
    assert not context.activations(DEAD).any()
    assert context.active_rate(DEAD) == 0
    assert context.effective_max(DEAD) is None
    assert context.min_effect(DEAD) is None
    assert context.population(DatasetSlice(), DEAD).dead


@pytest.mark.parametrize("feature", [-1, 12, 24_576])
def test_a_feature_out_of_range_is_refused_with_the_range(small_bundle, feature):
    context = opened(small_bundle)
    for ask in (
        context.check_feature,
        context.activations,
        lambda feature: context.evaluate(context.sets(np.arange(3)), feature),
    ):
        with pytest.raises(RequestError, match=f"feature_id {feature} is out of range: bundle 'small' has .* 0 to 11"):
            ask(feature)


def test_activations_are_read_once_and_cannot_be_written_to(small_bundle):
    context = opened(small_bundle)
    column = context.activations(4)
    assert context.activations(4) is column
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 1


def test_a_bundle_without_a_model_serves_the_data_and_refuses_interventions(write_variant, naive_pooled, truth):
    folder = write_variant(model_params=None, model_state=None, pooled=naive_pooled.astype(np.float32))
    context = opened(folder)
    assert np.allclose(context.activations(7), truth[:, 7], atol=1e-5)
    assert (context.has_model, context.device, context.describe()["model"]) == (False, "cpu", None)
    with pytest.raises(RequestError, match=r"needs the model, and bundle 'variant' has none .* 'observational'"):
        context.evaluate(context.sets(np.arange(3)), 7)


def test_a_bundle_with_neither_model_nor_vectors_says_what_is_missing(write_variant):
    context = opened(write_variant(model_params=None, model_state=None))
    with pytest.raises(RequestError, match="needs the model"):
        context.activations(7)


def test_a_bundle_without_examples_serves_interventions_and_refuses_data(
    write_variant, without_examples, small_bundle, truth
):
    context = opened(write_variant(**without_examples))
    sets = opened(small_bundle).sets(np.arange(50))
    assert np.allclose(context.evaluate(sets, 7).activation, truth[:50, 7], atol=1e-5)
    assert context.random_directions() is None
    assert context.effective_max(7) is None
    for ask in (
        lambda: context.activations(7),
        lambda: context.sets(np.arange(1)),
        lambda: context.population(DatasetSlice(), 7),
    ):
        with pytest.raises(RequestError, match="bundle 'variant' holds no examples"):
            ask()


def test_a_bundle_without_an_autoencoder_serves_its_stored_columns_alone(stored_columns, reseal):
    folder, _, _ = stored_columns
    (folder / "sae.safetensors").unlink()
    reseal(folder)
    context = opened(folder)
    assert context.activations(2).max() == 6
    assert not context.has_model
    with pytest.raises(RequestError, match="Nothing was run"):
        context.evaluate(context.sets(np.arange(2)), 2)


def test_a_test_world_can_answer_in_place_of_the_network(small_bundle):
    class Constant:
        def pooled(self, sets, job=None):
            return np.full((len(sets), 8), 0.25)

        def missing(self, sets):
            return np.empty(0, np.void)

        def seconds_per_pass(self):
            return None

    context = opened(small_bundle, oracle=Constant())
    read = context.evaluate(context.sets(np.arange(3)), 0)
    assert np.ptp(read.pre) == 0
    assert np.ptp(context.activations(0)) == 0


def test_the_second_feature_of_the_same_sets_costs_no_pass(small_bundle):
    context, first, second = opened(small_bundle), Job(), Job()
    sets = context.sets(np.arange(100))
    context.evaluate(sets, 0, first)
    context.evaluate(sets, 5, second)
    assert first.passes_made > 0
    assert (second.passes_made, second.passes_saved) == (0, 100)


@pytest.mark.parametrize("oracle", ["network", "test world"])
def test_features_read_together_are_those_read_one_by_one(small_bundle, truth, oracle, naive_pooled):
    class Known:
        def pooled(self, sets, job=None):
            return naive_pooled[: len(sets)]

    context = opened(small_bundle, **({} if oracle == "network" else {"oracle": Known()}))
    sets, features = context.sets(np.arange(50)), [7, 0, 11]
    together = context.evaluate_many(sets, features)
    assert together.pre.shape == together.activation.shape == (3, 50)
    assert np.allclose(together.activation, truth[:50, features].T, atol=1e-5)
    for row, feature in enumerate(features):
        assert np.allclose(together.pre[row], context.evaluate(sets, feature).pre, atol=1e-6)


def test_features_read_together_cost_the_passes_of_one(small_bundle):
    context, one, many = opened(small_bundle), Job(), Job()
    context.evaluate(context.sets(np.arange(100)), 0, one)
    context.oracle.cache.clear()
    context.evaluate_many(context.sets(np.arange(100)), range(12), many)
    assert many.passes_made == one.passes_made > 0


def test_reading_no_sets_or_no_features_gives_arrays_of_that_shape(small_bundle):
    context = opened(small_bundle, compute=Compute("cpu", "float64"))
    none = context.sets(np.arange(0))
    assert context.evaluate(none, 0).pre.shape == (0,)
    assert context.evaluate_many(none, [0, 1]).pre.shape == (2, 0)
    assert context.evaluate_many(context.sets(np.arange(3)), []).pre.shape == (0, 3)
    assert context.evaluate(none, 0).pre.dtype == np.float64


def test_columns_are_forgotten_when_they_take_too_much(small_bundle, monkeypatch):
    monkeypatch.setattr("mechinterp_runner.context.context._COLUMN_BYTES", 3 * 4 * N)
    context = opened(small_bundle)
    first = context.activations(0)
    for feature in (1, 2, 0, 4):
        context.activations(feature)
    assert context.activations(0) is first
    for feature in (5, 6, 7):
        context.activations(feature)
    assert context.activations(0) is not first
    assert np.array_equal(context.activations(0), first)


def test_one_column_is_kept_however_large(small_bundle, monkeypatch):
    monkeypatch.setattr("mechinterp_runner.context.context._COLUMN_BYTES", 1)
    context = opened(small_bundle)
    assert context.activations(1) is context.activations(1)


def test_derived_matrices_are_forgotten_when_they_take_too_much(small_bundle, monkeypatch):
    monkeypatch.setattr("mechinterp_runner.context.context._DERIVED_BYTES", 2_000)
    context, made = opened(small_bundle), []

    def derive(name, size):
        return context.derived(name, lambda: made.append(name) or np.zeros(size, np.uint8))

    for name in ("a", "b", "a", "c", "a", "b"):
        derive(name, 900)
    derive("huge", 10_000)
    derive("huge", 10_000)
    assert made == ["a", "b", "c", "b", "huge"]


@pytest.mark.parametrize(("dtype", "measured"), [("float32", False), ("float64", False), ("bfloat16", True)])
def test_what_bfloat16_costs_is_measured_and_said(small_bundle, naive_pooled, small_contents, dtype, measured):
    context, job = opened(small_bundle, compute=Compute("cpu", dtype)), Job()
    context.evaluate(context.sets(np.arange(100)), 0, job)
    said = context.describe()["differs_from_float32"]
    assert (said is not None) == measured
    assert bool(job.warnings) == measured
    if said is not None:
        vectors = context.oracle.pooled(context.sets(np.arange(N)))
        weights = small_contents.sae_state["encoder.weight"]
        assert 0 < said["pooled"] <= np.abs(vectors - naive_pooled).max() + 1e-5
        assert 0 < said["pre_activation"] <= np.abs((vectors - naive_pooled) @ weights.T).max() + 1e-4
        assert said["largest_pooled"] <= np.abs(naive_pooled).max() + 1e-5
        assert f"up to {said['pooled']:.2g}" in job.warnings[0]


def test_bfloat16_is_compared_on_single_tokens_where_there_are_no_examples(write_variant, without_examples):
    context = opened(write_variant(**without_examples), compute=Compute("cpu", "bfloat16"))
    assert context.describe()["differs_from_float32"]["pooled"] > 0


def test_derived_matrices_are_made_once_even_when_many_ask(small_bundle):
    context, made = opened(small_bundle), []
    start = threading.Barrier(6)

    def ask() -> None:
        start.wait()
        context.derived("key", lambda: made.append(1))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_the_description_says_what_the_bundle_is(small_bundle, small_contents):
    said = opened(small_bundle).describe()
    assert (said["name"], said["n_features"], said["n_examples"]) == ("small", 12, N)
    assert said["stackable_families"]["swim_speed_up"] == [3, 6, 12, 29, 57]
    assert said["main_only_abilities"] == {"comeback": "head", "ninja_squid": "clothes", "stealth_jump": "shoes"}
    assert said["weapons_outside_the_table"] == ["weapon_id_9999"]
    assert (said["device"], said["dtype"], said["builds_known"]) == ("cpu", "float32", True)
    assert said["model"]["hidden_dim"] == small_contents.model_params.hidden_dim


def test_a_context_keeps_serving_after_its_folder_was_replaced(small_bundle, truth):
    context = opened(small_bundle)
    context.activations(7)
    shutil.rmtree(small_bundle)
    assert np.allclose(context.activations(7), truth[:, 7], atol=1e-5)
