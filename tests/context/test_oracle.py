"""The intervention oracle makes each pass once, counts what it saved, and does not care for order."""

import json
import threading

import numpy as np
import pytest
import torch
from mechinterp_runner.context.bundle import MANIFEST, Bundle
from mechinterp_runner.context.device import Compute
from mechinterp_runner.context.examples import open_examples
from mechinterp_runner.context.oracle import NetworkOracle
from mechinterp_runner.context.token_sets import TokenSets, concatenate
from mechinterp_runner.schemas.errors import BundleError, Cancelled
from mechinterp_runner.schemas.job import Job
from safetensors.numpy import load_file, save_file


def oracle_of(folder, dtype="float32", cache_bytes=1 << 20) -> NetworkOracle:
    bundle = Bundle.open(folder, hash_files=False)
    compute = Compute(device="cpu", dtype=dtype)
    return NetworkOracle(bundle, bundle.manifest.model, bundle.vocabulary(), compute, cache_bytes)


def watch(oracle: NetworkOracle) -> list[list[list[int]]]:
    """Every batch of tokens the network is shown from now on."""
    shown, model = [], oracle.model()
    original = model.pooled

    def pooled(tokens, weapons):
        shown.append(tokens.tolist())
        return original(tokens, weapons)

    model.pooled = pooled
    return shown


@pytest.fixture
def sets(small_bundle) -> TokenSets:
    """All examples of the small bundle, as sets."""
    bundle = Bundle.open(small_bundle)
    examples = open_examples(bundle, bundle.vocabulary(), 4)
    return examples.sets(np.arange(len(examples)))


def distinct(sets: TokenSets) -> set[tuple[int, bytes]]:
    return {(weapon, row.tobytes()) for weapon, row in zip(sets.weapon.tolist(), sets.present, strict=True)}


def test_vectors_are_those_of_the_network_asked_one_set_at_a_time(small_bundle, sets, naive_pooled):
    assert np.allclose(oracle_of(small_bundle).pooled(sets), naive_pooled, atol=1e-5)


def test_float64_is_float64_throughout(small_bundle, sets, naive_pooled):
    vectors = oracle_of(small_bundle, "float64").pooled(sets)
    assert vectors.dtype == np.float64
    assert np.allclose(vectors, naive_pooled, rtol=0, atol=1e-12)


def test_bfloat16_is_handed_over_as_float32(small_bundle, sets, naive_pooled):
    vectors = oracle_of(small_bundle, "bfloat16").pooled(sets)
    assert vectors.dtype == np.float32
    assert 0 < np.abs(vectors - naive_pooled).max() < 0.3


def test_equal_sets_are_run_once_and_the_counts_say_so(small_bundle, sets):
    oracle, job = oracle_of(small_bundle), Job()
    shown = watch(oracle)
    four = sets.take(np.array([10, 60, 110, 160]))
    repeated = concatenate([four, four, four])
    vectors = oracle.pooled(repeated, job)
    assert sum(map(len, shown)) == len(distinct(four)) == 4
    assert (job.passes_made, job.passes_saved) == (4, 8)
    assert np.array_equal(vectors[:4], vectors[4:8])
    assert np.array_equal(vectors[:4], vectors[8:])


def test_what_was_run_before_is_not_run_again(small_bundle, sets):
    oracle, first, second = oracle_of(small_bundle), Job(), Job()
    shown = watch(oracle)
    before = oracle.pooled(sets.take(slice(0, 150)), first)
    oracle.pooled(sets, second)
    assert first.passes_made == len(distinct(sets.take(slice(0, 150))))
    assert first.passes_made + second.passes_made == len(distinct(sets)) == sum(map(len, shown))
    assert second.passes_saved == len(sets) - second.passes_made
    assert np.array_equal(oracle.pooled(sets.take(slice(0, 150))), before)


def test_the_sets_that_need_a_pass_are_those_not_yet_run(small_bundle, sets):
    oracle = oracle_of(small_bundle)
    assert len(oracle.missing(sets)) == len(distinct(sets))
    oracle.pooled(sets.take(slice(0, 100)))
    assert len(oracle.missing(sets)) == len(distinct(sets) - distinct(sets.take(slice(0, 100))))
    oracle.pooled(sets)
    assert len(oracle.missing(sets)) == 0


def test_a_set_differs_by_its_weapon(small_bundle, sets):
    oracle, job = oracle_of(small_bundle), Job()
    one = sets.take(np.array([50]))
    vectors = oracle.pooled(concatenate([one.with_weapon(weapon) for weapon in range(4)]), job)
    assert job.passes_made == 4
    assert len(np.unique(vectors.round(6), axis=0)) == 4


def test_an_empty_set_is_shown_as_the_null_token_alone(small_bundle, sets):
    oracle = oracle_of(small_bundle)
    shown = watch(oracle)
    empty = TokenSets(np.array([2], np.int32), np.zeros((1, 20), np.bool_))
    oracle.pooled(empty)
    null = json.loads((small_bundle / "vocab.json").read_text())["<NULL>"]
    assert shown == [[[null]]]


def test_batches_hold_sets_of_one_length_without_padding(small_bundle, sets):
    oracle = oracle_of(small_bundle)
    shown = watch(oracle)
    oracle.pooled(sets)
    pad = json.loads((small_bundle / "vocab.json").read_text())["<PAD>"]
    lengths = [len(batch[0]) for batch in shown]
    assert lengths == sorted(lengths)
    assert all(len(row) == len(batch[0]) and pad not in row for batch in shown for row in batch)


def test_no_batch_is_larger_than_memory_allows(small_bundle, sets, monkeypatch):
    expected = oracle_of(small_bundle).pooled(sets)
    monkeypatch.setattr("mechinterp_runner.context.oracle._MAX_BATCH", 7)
    oracle = oracle_of(small_bundle)
    shown = watch(oracle)
    assert np.allclose(oracle.pooled(sets), expected, atol=1e-6)
    assert max(map(len, shown)) == 7


def test_vectors_are_projected_as_numpy_projects_them(small_bundle, sets, naive_pooled):
    rng = np.random.default_rng(2)
    weight, offset = rng.normal(size=(5, 8)), rng.normal(size=5)
    wanted = weight @ naive_pooled.T + offset[:, None]
    for dtype, error in (("float32", 1e-4), ("float64", 1e-11)):
        oracle = oracle_of(small_bundle, dtype)
        for _ in range(2):
            assert np.abs(oracle.project(sets, weight, offset) - wanted).max() < error


def test_weights_vectors_and_what_is_read_of_them_stay_on_the_device(small_bundle, sets, monkeypatch):
    # A device of torch that holds no data: what mixes it with the CPU fails, and so does reading anything back.
    monkeypatch.setattr(Compute, "resolved_device", lambda _self: "meta")
    oracle = oracle_of(small_bundle)
    with pytest.raises(NotImplementedError, match="meta tensor"):
        oracle.project(sets, np.ones((2, 8), np.float32), np.zeros(2))
    assert len(oracle.cache) == len(distinct(sets))
    assert oracle.cache.vectors(np.arange(3)).device.type == "meta"
    assert oracle.model().device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("float64", 1e-10)])
def test_on_a_gpu_vectors_are_those_of_the_cpu_in_float64(small_bundle, sets, naive_pooled, dtype, error):
    bundle = Bundle.open(small_bundle, hash_files=False)
    compute = Compute(device="cuda", dtype=dtype)
    oracle = NetworkOracle(bundle, bundle.manifest.model, bundle.vocabulary(), compute, 1 << 20)
    for _ in range(2):
        assert np.abs(oracle.pooled(sets) - naive_pooled).max() < error
    assert oracle.cache.vectors(np.arange(3)).device.type == "cuda"


def test_a_small_cache_projects_as_a_large_one_does(small_bundle, sets, naive_pooled):
    weight = np.random.default_rng(2).normal(size=(2, 8)).astype(np.float32)
    found = oracle_of(small_bundle, cache_bytes=3 * 8 * 4).project(sets, weight, np.zeros(2))
    assert np.allclose(found, weight @ naive_pooled.T, atol=1e-4)


def test_cached_vectors_cannot_be_changed_by_who_was_given_them(small_bundle, sets):
    oracle = oracle_of(small_bundle)
    before = oracle.pooled(sets).copy()
    oracle.pooled(sets)[:] = 0
    assert np.array_equal(oracle.pooled(sets), before)


def test_the_order_of_the_sets_does_not_matter(small_bundle, sets):
    order = np.random.default_rng(0).permutation(len(sets))
    there = oracle_of(small_bundle, "float64").pooled(sets)
    back = oracle_of(small_bundle, "float64").pooled(sets.take(order))
    assert np.allclose(back, there[order], rtol=0, atol=1e-12)


def test_no_sets_give_no_vectors_in_the_same_precision(small_bundle, sets):
    nothing = oracle_of(small_bundle, "float64").pooled(sets.take(slice(0, 0)))
    assert (nothing.shape, nothing.dtype) == ((0, 8), np.float64)


def test_a_cache_that_is_too_small_costs_passes_and_no_exactness(small_bundle, sets, naive_pooled):
    oracle = oracle_of(small_bundle, cache_bytes=3 * 8 * 4)
    for _ in range(2):
        assert np.allclose(oracle.pooled(sets), naive_pooled, atol=1e-5)
    assert len(oracle.cache) == oracle.cache.capacity == 3


def test_cancelling_between_batches_keeps_and_counts_what_was_computed(small_bundle, sets):
    oracle = oracle_of(small_bundle)
    shown = watch(oracle)
    asked = []
    job = Job(is_cancelled=lambda: asked.append(1) or len(asked) > 2)
    with pytest.raises(Cancelled):
        oracle.pooled(sets, job)
    computed = sum(map(len, shown))
    assert len(shown) == 2
    assert job.passes_made == computed == len(oracle.cache)
    later = Job()
    oracle.pooled(sets, later)
    assert later.passes_made == len(distinct(sets)) - computed


def test_progress_rises_to_the_number_of_passes(small_bundle, sets):
    seen = []
    oracle_of(small_bundle).pooled(sets, Job(on_progress=lambda done, total, _message: seen.append((done, total))))
    total = len(distinct(sets))
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_the_cost_of_a_pass_is_unknown_before_the_first(small_bundle, sets):
    oracle = oracle_of(small_bundle)
    assert oracle.seconds_per_pass() is None
    oracle.pooled(sets)
    assert oracle.seconds_per_pass() > 0


# -- weights that do not fit ------------------------------------------------------------------------------------------

KEY = "transformer_layers.0.set_transformer.enc_layer1.inducing_points"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(KEY), f"has no '{KEY}'"),
        (lambda state: state.update(surplus=np.zeros(3, np.float32)), "has an unexpected 'surplus'"),
        (lambda state: state.update({KEY: np.zeros((5, 8), np.float32)}), rf"'{KEY}' is \(5, 8\) .* need \(3, 8\)"),
    ],
)
def test_weights_that_do_not_fit_the_manifest_are_refused_by_key(small_bundle, reseal, sets, change, message):
    path = small_bundle / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    reseal(small_bundle)
    with pytest.raises(BundleError, match=rf"model\.safetensors.*{message}"):
        oracle_of(small_bundle).pooled(sets)


def test_sizes_that_no_network_can_have_are_refused(small_bundle, reseal, sets):
    params = json.loads((small_bundle / MANIFEST).read_text())["model"]
    reseal(small_bundle, model=params | {"num_heads": 3})
    with pytest.raises(BundleError, match=r"bundle\.json: model: hidden_dim 8 is not a multiple of num_heads 3"):
        oracle_of(small_bundle).pooled(sets)


def test_who_asks_what_is_missing_does_not_wait_for_the_network(small_bundle, sets):
    oracle, inside, go_on, asked = oracle_of(small_bundle), threading.Event(), threading.Event(), []

    def hold(_done, _total, _message):
        inside.set()
        assert go_on.wait(20)

    computing = threading.Thread(target=oracle.pooled, args=(sets, Job(on_progress=hold)))
    asking = threading.Thread(target=lambda: asked.append(len(oracle.missing(sets))))
    computing.start()
    try:
        assert inside.wait(20)
        asking.start()
        asking.join(20)
        assert asked == [len(distinct(sets))]
    finally:
        go_on.set()
        computing.join(20)
