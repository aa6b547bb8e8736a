"""Open bundles: each opened once however many ask, by name, the least recently used closed first."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from mechinterp_runner.context import bundle as module
from mechinterp_runner.context.contexts import Contexts, load_context
from mechinterp_runner.context.device import Compute
from mechinterp_runner.schemas.errors import BundleError, RequestError, UnknownNameError

CPU = Compute(device="cpu")
CALLERS = 8


class Opening:
    """Stands in for `Bundle`: counts openings, and holds them until everybody has asked."""

    def __init__(self, bundle) -> None:
        self._bundle, self.opened, self.may_go_on = bundle, [], threading.Event()

    def open(self, path, **how):
        self.opened.append(path.name)
        assert self.may_go_on.wait(30)
        return self._bundle.open(path, **how)


@pytest.fixture
def opening(monkeypatch) -> Opening:
    stand_in = Opening(module.Bundle)
    monkeypatch.setattr(module, "Bundle", stand_in)
    return stand_in


class Counting:
    """A home that says when all callers have asked it for a folder."""

    def __init__(self, home, opening: Opening) -> None:
        self._home, self._opening, self.root, self._asked = home, opening, home.root, threading.Semaphore(CALLERS - 1)

    def bundle_path(self, name: str):
        if not self._asked.acquire(blocking=False):
            self._opening.may_go_on.set()
        return self._home.bundle_path(name)


def test_many_threads_that_ask_at_once_wait_for_one_opening(small_home, opening):
    contexts = Contexts(Counting(small_home, opening), compute=CPU)
    with ThreadPoolExecutor(CALLERS) as pool:
        found = list(pool.map(contexts.get, ["alpha"] * CALLERS))
    assert opening.opened == ["alpha"]
    assert len({id(context) for context in found}) == 1


def test_one_bundle_being_opened_does_not_hold_up_another(small_home, opening):
    contexts = Contexts(small_home, compute=CPU)
    opening.may_go_on.set()
    contexts.get("beta")
    opening.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(contexts.get, "alpha")
        assert contexts.get("beta").name == "beta"
        assert not slow.done()
        opening.may_go_on.set()
        assert slow.result(30).name == "alpha"


def test_the_least_recently_used_bundle_is_closed_first(small_home):
    contexts = Contexts(small_home, compute=CPU, max_open=2)
    alpha = contexts.get("alpha")
    beta = contexts.get("beta")
    assert contexts.get("alpha") is alpha
    contexts.get("gamma")
    assert contexts.loaded() == ("alpha", "gamma")
    assert contexts.get("alpha") is alpha
    assert contexts.get("beta") is not beta
    assert contexts.loaded() == ("alpha", "beta")


def test_a_bundle_that_took_the_place_of_an_open_one_is_opened(small_home):
    contexts = Contexts(small_home, compute=CPU)
    alpha, beta = contexts.get("alpha"), contexts.get("beta")
    folders = [small_home.bundles / name for name in ("alpha", "beta")]
    folders[0].rename(small_home.bundles / "kept")
    with pytest.raises(UnknownNameError, match="alpha"):
        contexts.get("alpha")
    folders[1].rename(folders[0])
    anew = contexts.get("alpha")
    assert anew is not alpha
    assert anew.bundle.fingerprint == beta.bundle.fingerprint
    assert contexts.get("alpha") is anew


def test_an_unknown_name_is_answered_with_the_nearest(small_home):
    with pytest.raises(UnknownNameError, match="unknown bundle 'alhpa': did you mean 'alpha'"):
        Contexts(small_home).get("alhpa")


@pytest.mark.parametrize("name", ["../alpha", "/tmp", "bundles/alpha"])
def test_a_name_is_never_a_path(small_home, name):
    with pytest.raises(RequestError, match="is not allowed"):
        Contexts(small_home).get(name)


def test_without_a_name_the_only_bundle_besides_demo_is_opened(small_home):
    for name in ("beta", "gamma"):
        (small_home.bundles / name).rename(small_home.root / name)
    contexts = Contexts(small_home, compute=CPU)
    assert contexts.get().name == "alpha"
    assert contexts.get() is contexts.get("alpha")


def test_a_folder_may_be_named_instead_and_is_the_same_bundle(small_home, monkeypatch):
    contexts, folder = Contexts(small_home, compute=CPU), small_home.bundles / "alpha"
    alpha = contexts.get("alpha")
    assert contexts.get(path=folder) is alpha
    assert contexts.get("alpha", path=folder / ".." / "alpha") is alpha
    monkeypatch.chdir(folder)
    assert contexts.get("alpha", path=type(folder)()) is alpha
    with pytest.raises(RequestError, match="is called 'alpha', not 'beta'"):
        contexts.get("beta", path=folder)


def test_a_bundle_that_failed_to_open_opens_once_it_is_repaired(small_home):
    contexts, path = Contexts(small_home, compute=CPU), small_home.bundles / "alpha" / "vocab.json"
    whole = path.read_bytes()
    path.unlink()
    for _ in range(2):
        with pytest.raises(BundleError, match=r"vocab\.json is missing"):
            contexts.get("alpha")
    path.write_bytes(whole)
    assert contexts.get("alpha").name == "alpha"
    assert contexts.loaded() == ("alpha",)


def test_the_memory_is_shared_by_the_bundles_that_may_be_open(small_home):
    contexts = Contexts(small_home, compute=CPU, memory_budget=4 * 8 * 4 * 10, max_open=4)
    assert contexts.get("alpha").oracle.cache.capacity == 10


def test_hashed_files_are_remembered_in_the_home(small_home):
    Contexts(small_home, compute=CPU).get("alpha")
    assert len(list((small_home.root / "verified").iterdir())) == 1


def test_a_context_is_loaded_in_one_call(small_home, monkeypatch):
    folder = small_home.bundles / "alpha"
    context = load_context("alpha", home=small_home.root, device="cpu", dtype="float64", threads=1)
    assert (context.name, context.device, context.dtype, context.threads) == ("alpha", "cpu", "float64", 1)
    assert load_context(bundle=str(folder), home=small_home.root).name == "alpha"
    monkeypatch.setenv("MECHINTERP_HOME", str(small_home.root))
    assert load_context("beta").bundle.path == small_home.bundles / "beta"
