"""Where the network runs: what is asked for, what is there, and what is chosen."""

import contextlib

import pytest
import torch
from mechinterp_runner.context.device import Compute, cpu_count, full_precision
from mechinterp_runner.schemas.errors import RequestError


@pytest.fixture
def machine(monkeypatch):
    """Pretend that the machine has these devices."""

    def has(*, cuda: int = 0, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return has


@pytest.mark.parametrize(
    ("there", "dtype", "chosen"),
    [
        ({"cuda": 1, "mps": True}, "float32", "cuda"),
        ({"mps": True}, "float32", "mps"),
        ({"mps": True}, "float64", "cpu"),
        ({}, "float32", "cpu"),
    ],
)
def test_auto_takes_cuda_then_mps_then_the_cpu(machine, there, dtype, chosen):
    machine(**there)
    assert Compute(dtype=dtype).resolved_device() == chosen


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1"])
def test_a_device_that_is_there_is_taken(machine, device):
    machine(cuda=2)
    assert Compute(device=device).resolved_device() == device


@pytest.mark.parametrize(
    ("device", "dtype", "there"),
    [("cuda", "float32", {}), ("mps", "float32", {}), ("cuda:2", "float32", {"cuda": 2}),
     ("mps", "float64", {"mps": True})],
)  # fmt: skip
def test_a_device_that_is_not_there_is_refused_with_those_that_are(machine, device, dtype, there):
    machine(**there)
    with pytest.raises(RequestError, match=rf"{device!r} is not available here for {dtype}: .*cpu is\. Choose"):
        Compute(device=device, dtype=dtype).resolved_device()


@pytest.mark.parametrize("device", ["gpu", "", "auto:1", "cpu:0", "cuda:", "cuda:x", "CUDA", "mps:0"])
def test_a_device_that_does_not_exist_is_refused_with_those_that_do(device):
    with pytest.raises(RequestError, match=rf"device {device!r} is not known: one of auto, cpu, cuda, mps"):
        Compute(device=device)


@pytest.mark.parametrize("dtype", ["float16", "double", ""])
def test_an_unknown_precision_is_refused_with_those_there_are(dtype):
    with pytest.raises(RequestError, match=rf"dtype {dtype!r} is not known: one of float32, float64, bfloat16"):
        Compute(dtype=dtype)


def test_every_precision_has_its_torch_dtype():
    wanted = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
    assert {name: Compute(dtype=name).torch_dtype() for name in wanted} == wanted


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_are_at_least_one(threads):
    with pytest.raises(RequestError, match=f"threads must be at least 1; got {threads}"):
        Compute(threads=threads)


def test_threads_asked_for_are_set_and_otherwise_left_alone():
    before = torch.get_num_threads()
    try:
        assert Compute(threads=before + 1).apply_threads() == before + 1 == torch.get_num_threads()
        assert Compute().apply_threads() == before + 1
    finally:
        torch.set_num_threads(before)


PRECISION = "fp32_precision" if hasattr(torch.backends.cuda.matmul, "fp32_precision") else "allow_tf32"


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_products_are_made_in_full_precision_and_what_was_set_comes_back(before):
    def now() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32

    found, inside = now(), []
    try:
        torch.set_float32_matmul_precision(before)
        own = now()
        with full_precision():
            inside.append(getattr(torch.backends.cuda.matmul, PRECISION))
        assert inside[0] in {False, "ieee"}
        assert now() == own
        with contextlib.suppress(KeyError), full_precision():
            raise KeyError
        assert now() == own
    finally:
        torch.set_float32_matmul_precision(found[0])


def test_there_is_at_least_one_core():
    assert cpu_count() >= 1
