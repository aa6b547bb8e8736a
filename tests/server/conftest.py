"""A toy experiment, a bundle that is not there, and everything built on them."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from mechinterp_runner.context.bundle import BundleContents, write_bundle
from mechinterp_runner.context.home import Home
from mechinterp_runner.context.token_sets import from_csr, levels_of
from mechinterp_runner.schemas import catalogue as catalogue_module
from mechinterp_runner.schemas.catalogue import Experiment, Plan
from mechinterp_runner.schemas.errors import RequestError, UnknownNameError
from mechinterp_runner.schemas.job import Job
from mechinterp_runner.schemas.result import (
    Aggregates,
    Diagnostics,
    Finding,
    Findings,
    Followup,
    Row,
    Table,
)
from mechinterp_runner.schemas.spec import ExperimentSpec, Variables, parse_spec
from mechinterp_runner.schemas.vocabulary import Vocabulary
from mechinterp_runner.server.executor import Executor
from mechinterp_runner.server.store.store import Store
from pydantic import Field


class ToyVariables(Variables):
    family: str = Field(description="Family to sweep.")
    rungs: tuple[int, ...] = Field(default=(3, 57), description="Rungs.")
    include_absent: bool = Field(default=True, description="Whether absent is a row.")
    mode: Literal["fine", "fail", "refuse", "wait", "long", "nan"] = Field(default="fine", description="What to do.")
    method: Literal["interventional", "observational"] = Field(default="interventional", description="How.")


class ToySpec(ExperimentSpec):
    type: Literal["family_1d_sweep"] = "family_1d_sweep"
    variables: ToyVariables


class ToyRow(Row):
    rung: int
    mean_delta: float | None
    note: str = ""


@dataclass
class Toy:
    """The toy experiment, and what its runs did."""

    runs: int = 0
    started: threading.Event = field(default_factory=threading.Event)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, spec: ToySpec, ctx: Any, job: Job) -> Findings:
        self.runs += 1
        mode = spec.variables.mode
        if mode == "refuse":
            raise UnknownNameError("family", spec.variables.family, ["special_charge_up", "swim_speed_up"])
        values = [float("nan") if mode == "nan" else 0.123456789 * rung for rung in spec.variables.rungs]
        rows = [ToyRow(rung=r, mean_delta=v) for r, v in zip(spec.variables.rungs, values, strict=True)]
        if mode == "long":
            rows = [ToyRow(rung=index, mean_delta=index / 7, note="x" * 400) for index in range(300)]
        table = job.partial(Table.of("rung_deltas", ToyRow, rows))
        job.warn("a warning of the run")
        job.count_passes(7, 3)
        job.progress(1, 2, "halfway")
        if mode == "fail":
            raise ZeroDivisionError("the experiment's own fault")
        if mode == "wait":
            self._wait(job)
        return self._findings(spec, table)

    def _wait(self, job: Job) -> None:
        self.started.set()
        never = threading.Event()
        try:
            while not never.wait(0.005):
                job.check()
        finally:
            self.stopped.set()

    @staticmethod
    def _findings(spec: ToySpec, table: Table) -> Findings:
        values = table.column("mean_delta")
        finding = Finding(
            subject=spec.variables.family, relation="raises", effect=values[-1], status="present", n=500,
            method="interventional", population="all examples", table="rung_deltas",
        )  # fmt: skip
        follow = Followup(
            reason="look closer",
            spec={"type": spec.type, "feature_id": spec.feature_id, "variables": {"family": "swim_speed_up"},
                  "parent_spec_id": spec.id},
        )  # fmt: skip
        return Findings(
            headline=f"{spec.variables.family} drives feature {spec.feature_id}",
            findings=[finding],
            aggregates=Aggregates(mean_delta=values[-1], n_samples=500, custom={"method": spec.variables.method}),
            tables=[table],
            diagnostics=Diagnostics(relu_floor_rate=0.7, n_contexts_tested=500),
            followups=[follow],
        )

    @staticmethod
    def plan(spec: ToySpec, ctx: Any) -> Plan:
        return Plan(contexts=500, conditions="2 rungs", forward_passes=1000, notes=("a note",))

    def experiment(self) -> Experiment:
        return Experiment(
            type="family_1d_sweep",
            cli="family-sweep",
            summary="A toy.",
            spec=ToySpec,
            run=self.run,
            plan=self.plan,
            tables={"rung_deltas": ToyRow},
            methods=("interventional", "observational"),
            cost="data or model",
            aliases={"fam": "family"},
        )


class FakeContext:
    """What the executor reads of a context, without a bundle."""

    def __init__(self, name: str = "demo", fingerprint: str = "f" * 64) -> None:
        self.name = name
        self.bundle = SimpleNamespace(fingerprint=fingerprint, has=lambda name: name == "pooled.npy")
        self.dtype, self.device, self.threads, self.n_features = "float32", "cpu", 2, 100

    def check_feature(self, feature: int) -> int:
        if feature >= self.n_features:
            raise RequestError(f"feature_id {feature} is out of range. Nothing was run.")
        return feature

    passes_owed = 0

    def prepare(self, job: Job) -> None:
        """Nothing is owed."""

    def measure_pass(self) -> float | None:
        return 0.001

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "n_features": self.n_features}


class FakeContexts:
    """Contexts that knows one bundle."""

    def __init__(self, home: Home) -> None:
        self.home, self.context = home, FakeContext()

    def get(self, name: str | None = None, *, path: Path | None = None) -> FakeContext:
        if name not in {None, "demo"}:
            raise UnknownNameError("bundle", name, ["demo"])
        return self.context

    def loaded(self) -> tuple[str, ...]:
        return ("demo",)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    """The only experiment there is, under the name of a real one."""
    made = Toy()
    experiment = made.experiment()
    monkeypatch.setattr(catalogue_module, "runner_names", lambda: (experiment.type,))
    monkeypatch.setattr(catalogue_module, "_load", lambda _name: experiment)
    return made


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("MECHINTERP_HOME", str(tmp_path / "home"))
    return Home.find()


@pytest.fixture
def store(home: Home) -> Store:
    return Store(home.runs)


@pytest.fixture
def executor(store: Store) -> Executor:
    return Executor(store)


@pytest.fixture
def ctx() -> FakeContext:
    return FakeContext()


@pytest.fixture
def data_bundle(home: Home) -> Path:
    """A small bundle without a model, which serves observational experiments: 600 examples, 8 features."""
    rng = np.random.default_rng(0)
    names = ["<NULL>", "<PAD>", "comeback", *(f"swim_speed_up_{rung}" for rung in (3, 6, 12))]
    kits = [40, 50, 60]
    n, hidden, features = 600, 4, 8
    tokens = [sorted(rng.choice(np.arange(2, 6), rng.integers(1, 4), replace=False)) for _ in range(n)]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in tokens])])
    vocabulary = Vocabulary(tuple(names))
    flat = np.concatenate(tokens).astype(np.int16)
    weapon = rng.integers(0, len(kits), n).astype(np.int32)
    sets = from_csr(weapon, indptr, flat, vocabulary)
    contents = BundleContents(
        model_params=None,
        model_state=None,
        sae_state={
            "encoder.weight": rng.normal(size=(features, hidden)).astype(np.float32),
            "encoder.bias": np.zeros(features, np.float32),
            "decoder.weight": rng.normal(size=(hidden, features)).astype(np.float32),
            "decoder_bias": np.zeros(hidden, np.float32),
        },
        vocabulary={name: index for index, name in enumerate(names)},
        weapon_vocabulary={f"weapon_id_{kit}": index for index, kit in enumerate(kits)},
        weapon=weapon,
        indptr=indptr.astype(np.int64),
        tokens=flat,
        levels=levels_of(sets.present, vocabulary),
        build_id=np.arange(n, dtype=np.int32),
        pooled=(rng.normal(size=(n, hidden)) + weapon[:, None]).astype(np.float32),
    )
    folder = home.bundles / "toy"
    write_bundle(folder, contents)
    return folder


@pytest.fixture
def contexts(home: Home) -> FakeContexts:
    return FakeContexts(home)


@pytest.fixture
def make_spec(toy: Toy) -> Any:
    """Make a typed toy spec; keywords of the spec, the rest are variables."""

    def make(**given: Any) -> ExperimentSpec:
        outer = {key: given.pop(key) for key in list(given) if key in ExperimentSpec.model_fields}
        data = {"type": "family_1d_sweep", "feature_id": 7, "variables": {"family": "special_charge_up", **given}}
        return parse_spec(data | outer)

    return make
