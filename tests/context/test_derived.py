"""What is made of a bundle once: by one thread, without holding up the others, and no more of it than allowed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from mechinterp_runner.context.derived import Derived


def test_those_who_ask_for_the_same_wait_for_one_making_and_others_go_on():
    derived, started, may_end = Derived(1 << 20), threading.Event(), threading.Event()
    made = list[object]()

    def slow() -> object:
        started.set()
        assert may_end.wait(30)
        made.append(object())
        return made[-1]

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(derived.get, "slow", slow)
        assert started.wait(30)
        second = pool.submit(derived.get, "slow", slow)
        assert pool.submit(derived.get, "quick", lambda: 3).result(30) == 3
        assert not first.done()
        may_end.set()
        assert first.result(30) is second.result(30)
    assert len(made) == 1


def test_what_is_made_may_be_made_of_what_is_kept():
    derived = Derived(1 << 20)
    assert derived.get("sum", lambda: derived.get("one", lambda: 1) + derived.get("two", lambda: 2)) == 3
    assert derived.get("one", lambda: 0) == 1


def test_a_making_that_fails_is_tried_again():
    derived = Derived(1 << 20)
    with pytest.raises(ZeroDivisionError):
        derived.get("key", lambda: 1 // 0)
    assert derived.get("key", lambda: 5) == 5


def test_the_least_recently_used_goes_first_and_the_last_one_made_never():
    derived, made = Derived(3_000), list[str]()

    def ask(key: str, size: int) -> None:
        derived.get(key, lambda: made.append(key) or np.zeros(size, np.uint8))

    for key, size in (("a", 1_000), ("b", 1_000), ("a", 1_000), ("c", 1_500), ("a", 1_000), ("b", 1_000)):
        ask(key, size)
    assert made == ["a", "b", "c", "b"]
    ask("large", 9_000)
    ask("large", 9_000)
    ask("a", 1_000)
    assert made[4:] == ["large", "a"]
