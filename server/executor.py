"""The one place where an experiment is run: checked, answered from the store or run, timed, stored, shown."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..schemas.catalogue import Experiment, Plan, find
from ..schemas.errors import Cancelled, IdTakenError, MechinterpError, RequestError
from ..schemas.job import Job
from ..schemas.manifest import is_name
from ..schemas.result import Diagnostics, ExperimentResult, Findings, Provenance
from ..schemas.spec import ExperimentSpec, Outputs
from .store import files
from .store.index import Entry
from .store.records import same_question
from .store.store import Store

if TYPE_CHECKING:
    from ..context.context import Context

PROJECT = "mechinterp-runner"
FIGURES_WARNING = "figures are not available yet: outputs.figures was ignored"
OWN_WORDS = ("description", "parent_hypothesis", "rationale", "parent_spec_id")
"""Fields that say why a spec was asked, and change no number."""
_log = logging.getLogger(__name__)
version = cache(metadata.version)
"""The installed version of a distribution; it does not change while the process runs."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What running a spec would do.

    Attributes:
        spec: the spec with its defaults and its bundle filled in.
        plan: contexts, conditions and forward passes.
        estimated_seconds: for the forward passes, at the speed measured on this bundle; None where it is unknown.
        stored: id of the stored answer to the same question, or None.
    """

    spec: ExperimentSpec
    plan: Plan
    estimated_seconds: float | None
    stored: str | None


@dataclass(frozen=True)
class Executor:
    """Runs specs and keeps what they answer.

    Args:
        store: where specs and results go.
    """

    store: Store

    def execute(
        self,
        spec: ExperimentSpec,
        ctx: Context,
        *,
        job: Job | None = None,
        fresh: bool = False,
        output_dir: Path | None = None,
        spec_path: str | None = None,
    ) -> ExperimentResult:
        """Answer a spec: from the store when the same question was answered before, else by running it.

        The answer to a stored question comes back under the id it was first run with. A spec that was given an id of
        its own, or words of its own (description, hypothesis, ...), is stored beside it as an alias, a copy under the
        new id that says ``cached_from``. A failure and a cancelled run are stored with the tables they finished, and
        are never taken for an answer.

        Args:
            spec: the typed spec.
            ctx: the open bundle.
            job: progress, cancellation and the tables finished so far.
            fresh: run even if the answer is stored; the spec then needs an id that is free.
            output_dir: folder that gets a copy of the result's file.
            spec_path: where the spec was read from, for the record.

        Raises:
            RequestError: the request is wrong (IdTakenError: its id is another spec's); nothing was run or stored.
            BundleError: the bundle cannot be used.
            StoreError: the folder of runs cannot be used; as far as it can be known, nothing was run.
        """
        experiment = find(spec.type)
        resolved = _resolve(spec, ctx)
        digest = digest_of(resolved, ctx, experiment)
        kept = self._stored_answer(resolved, digest, fresh=fresh)
        if kept is not None:
            result = self._answer_from(kept, spec)
        else:
            self.store.check_id(resolved)
            self.store.check_writable()
            if output_dir is not None:
                files.check_writable(output_dir)
            with self.store.in_flight(resolved):
                result = _run(experiment, resolved, ctx, job or Job(), spec_path)
                result.provenance.digest = digest
                result.provenance.spec_passed = spec.model_dump(mode="json", exclude_unset=True)
                self.store.publish(resolved, result)
        if output_dir is not None:
            entry = self.store.entry(result.spec_id)
            files.replace(output_dir / entry.file, result.model_dump_json(indent=1).encode())
        return view(result, spec.outputs)

    def stored(self, spec: ExperimentSpec, ctx: Context) -> ExperimentResult | None:
        """The stored answer to a spec, exactly as `execute` would give it; None when it would have to be run."""
        found = self.look_up(spec, ctx)
        return None if found is None else self.answer_from(found, spec)

    def look_up(self, spec: ExperimentSpec, ctx: Context) -> Entry | None:
        """The entry of the stored answer to a spec; writes nothing."""
        resolved = _resolve(spec, ctx)
        return self._stored_answer(resolved, digest_of(resolved, ctx, find(spec.type)), fresh=False)

    def answer_from(self, entry: Entry, spec: ExperimentSpec) -> ExperimentResult:
        """The answer to a spec from the entry of its stored answer."""
        return view(self._answer_from(entry, spec), spec.outputs)

    def alias(self, kept: ExperimentResult, spec: ExperimentSpec) -> ExperimentResult:
        """Store a stored result under the id of a spec too, with the words of that spec.

        Raises:
            IdTakenError: the id has a result already.
            StoreError: the folder of runs cannot be used.
        """
        words = {name: getattr(spec, name) for name in OWN_WORDS}
        passed = spec.model_dump(mode="json", exclude_unset=True)
        provenance = kept.provenance.model_copy(
            update={**words, "spec_passed": passed, "started_at": datetime.now(UTC)},
        )
        alias = kept.model_copy(
            update={
                "spec_id": spec.id,
                "provenance": provenance,
                "cached": True,
                "cached_from": kept.cached_from or kept.spec_id,
            }
        )
        self.store.publish(spec.model_copy(update={"model_type": kept.provenance.bundle}), alias)
        return alias

    def accept(self, spec: ExperimentSpec, ctx: Context) -> None:
        """Raise what can be found wrong with a spec at once: its bundle, its feature, its id."""
        self.store.check_id(_resolve(spec, ctx))

    def check(self, spec: ExperimentSpec, ctx: Context) -> tuple[ExperimentSpec, Plan]:
        """Raise what running the spec would raise before it starts; returns it resolved, and its plan.

        Where the examples' pooled vectors must be computed first the plan is of that alone.
        """
        resolved = _resolve(spec, ctx)
        self.store.check_id(resolved)
        return resolved, _plan_of_owed(ctx) or find(spec.type).plan(resolved, ctx)

    def plan(self, spec: ExperimentSpec, ctx: Context) -> DryRun:
        """Find out what running the spec would do; raises what running it would raise before it starts."""
        experiment = find(spec.type)
        resolved, plan = self.check(spec, ctx)
        each = ctx.measure_pass() if plan.forward_passes else 0.0
        kept = self.store.by_digest(digest_of(resolved, ctx, experiment))
        seconds = None if each is None else each * plan.forward_passes
        return DryRun(resolved, plan, seconds, kept.spec_id if kept else None)

    def _stored_answer(self, spec: ExperimentSpec, digest: str, *, fresh: bool) -> Entry | None:
        kept = None if fresh else self.store.by_digest(digest)
        if kept is not None and not has_own_id(spec):
            return kept
        same_id = self.store.find(spec.id)
        if same_id is not None:
            self._check_reuse(same_id, spec, digest, fresh=fresh)
        return same_id or kept

    def _check_reuse(self, entry: Entry, spec: ExperimentSpec, digest: str, *, fresh: bool) -> None:
        """Raise IdTakenError unless the entry of this id is the answer to this very question."""
        advice = "Leave the id out, or choose one that is free. Nothing was run."
        if not same_question(self.store.spec(entry.spec_id), spec):
            kind = f"{entry.experiment_type} of feature {entry.feature_id}"
            raise IdTakenError(f"id {spec.id!r} is taken by another spec ({kind}). {advice}")
        if fresh:
            raise IdTakenError(f"id {spec.id!r} has a stored result, and results are never overwritten. {advice}")
        if not entry.success:
            raise IdTakenError(f"id {spec.id!r} is that of a run that failed ({entry.error_message}). {advice}")
        if entry.digest != digest:
            raise IdTakenError(
                f"id {spec.id!r} has the answer of another version, bundle content, precision or device. {advice}"
            )

    def _answer_from(self, entry: Entry, spec: ExperimentSpec) -> ExperimentResult:
        kept = self.store.load(entry)
        origin = kept.cached_from or kept.spec_id
        answer = kept.model_copy(update={"cached": True, "cached_from": origin})
        if entry.spec_id == spec.id or not has_own_record(spec):
            return answer
        return self.alias(kept, spec)


@cache
def code_digest() -> str:
    """Digest of the code that computes: what other code has answered is no answer of this one."""
    root, found = Path(__file__).resolve().parents[1], hashlib.sha256()
    for layer in ("schemas", "context", "runners"):
        for path in sorted((root / layer).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


def digest_of(spec: ExperimentSpec, ctx: Context, experiment: Experiment) -> str:
    """Digest of all that decides the numbers: question, bundle, precision, kind of device, version and code."""
    question = spec.scientific_fields()
    question["constraints"] = sorted(question["constraints"])
    parts = {
        "question": question,
        "bundle": ctx.bundle.fingerprint,
        "dtype": ctx.dtype,
        "device": device_of(spec, ctx, experiment).split(":")[0],
        "version": version(PROJECT),
        "code": code_digest(),
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def device_of(spec: ExperimentSpec, ctx: Context, experiment: Experiment) -> str:
    """Device the run computes on; "none" when it only reads what the bundle stores, so that no device is looked for."""
    stored = ctx.bundle.has("pooled.npy") or ctx.bundle.has("activations/indptr.npy")
    return ctx.device if needs_model(spec, experiment) or not stored else "none"


def needs_model(spec: ExperimentSpec, experiment: Experiment) -> bool:
    """Whether the run makes forward passes on constructed sets."""
    if experiment.cost == "data or model":
        return getattr(spec.variables, "method", None) != "observational"
    return experiment.cost == "model"


def view(result: ExperimentResult, outputs: Outputs) -> ExperimentResult:
    """The parts of a result that the outputs switches leave on; what is stored has them all."""
    hidden: dict[str, Any] = {}
    if not outputs.aggregates:
        hidden["aggregates"] = None
    if not outputs.tables:
        hidden["tables"] = {}
    if not outputs.diagnostics:
        hidden["diagnostics"] = None
    elif outputs.figures:
        kept = result.diagnostics or Diagnostics()
        hidden["diagnostics"] = kept.model_copy(update={"warnings": [*kept.warnings, FIGURES_WARNING]})
    return result.model_copy(update=hidden)


def has_own_id(spec: ExperimentSpec) -> bool:
    """Whether the spec was given its id; one that was made up is random."""
    return "id" in spec.model_fields_set


def has_own_record(spec: ExperimentSpec) -> bool:
    """Whether the spec brings an id or words (description, hypothesis, ...) that its record shall have."""
    return has_own_id(spec) or any(getattr(spec, name) is not None for name in OWN_WORDS)


def _resolve(spec: ExperimentSpec, ctx: Context) -> ExperimentSpec:
    """Fill in the bundle's name and check what can be checked before anything runs."""
    if spec.model_type is not None and spec.model_type != ctx.name:
        raise RequestError(
            f"the spec is for model_type {spec.model_type!r}, the open bundle is {ctx.name!r}. Open that bundle, or "
            f"leave model_type out. Nothing was run."
        )
    if not is_name(ctx.name):
        raise RequestError(
            f"the bundle's folder is called {ctx.name!r}, which is no name a spec can hold: rename it to letters, "
            f"digits, '.', '_' and '-' only. Nothing was run."
        )
    ctx.check_feature(spec.feature_id)
    return spec.model_copy(update={"model_type": ctx.name})


def _run(
    experiment: Experiment, spec: ExperimentSpec, ctx: Context, job: Job, spec_path: str | None
) -> ExperimentResult:
    """Run and time the experiment; a fault of the experiment becomes a failed result with its finished tables."""
    started, clock = datetime.now(UTC), time.perf_counter()
    findings, fault, status = None, None, "done"
    for note in spec.dataset_slice.notes:
        job.warn(note)
    try:
        ctx.prepare(job)
        findings = experiment.run(spec, ctx, job)
    except Cancelled:
        fault, status = job.cancelled_because, "cancelled"
    except MechinterpError:
        raise
    except Exception as error:  # noqa: BLE001 - the fault of an experiment is its result, kept there and in the log
        _log.exception("%s of feature %d failed", spec.type, spec.feature_id)
        fault, status = f"{type(error).__name__}: {error}", "failed"
    seconds = time.perf_counter() - clock
    if job.passes_made:
        _give_back()
    provenance = _provenance(experiment, spec, ctx, job)
    provenance.started_at = started
    return _result(spec, job, findings, fault).model_copy(
        update={"status": status, "duration_seconds": seconds, "provenance": provenance, "spec_path": spec_path},
    )


def _plan_of_owed(ctx: Context) -> Plan | None:
    """The passes over the examples that come before any experiment; None where it can begin at once."""
    owed = ctx.passes_owed
    if not owed:
        return None
    note = (
        f"bundle {ctx.name!r} holds no pooled vectors: those of its {owed:,} examples are computed first, once for all "
        f"experiments, and what this one does beside is planned then. Import it without --no-pooled to store them, or "
        f"name a folder with --pooled-cache to keep them"
    )
    return Plan(contexts=owed, conditions="none yet: every example as it is", forward_passes=owed, notes=(note,))


def _give_back() -> None:
    from ..context.memory import give_back  # noqa: PLC0415 - imports numpy

    give_back()


def _result(spec: ExperimentSpec, job: Job, findings: Findings | None, fault: str | None) -> ExperimentResult:
    found = findings or Findings(headline=f"{spec.type} of feature {spec.feature_id} did not finish: {fault}")
    warnings = list(dict.fromkeys([*found.diagnostics.warnings, *job.warnings]))
    tables = job.tables | {table.name: table for table in found.tables}
    order = [name for name in find(spec.type).tables if name in tables]
    tables = {name: tables[name] for name in dict.fromkeys([*order, *tables])}
    return ExperimentResult(
        spec_id=spec.id,
        feature_id=spec.feature_id,
        experiment_type=spec.type,
        headline=found.headline,
        findings=found.findings,
        aggregates=found.aggregates if findings else None,
        tables=tables,
        diagnostics=found.diagnostics.model_copy(update={"warnings": warnings}),
        followups=found.followups,
        success=findings is not None,
        error_message=fault,
        duration_seconds=0.0,
    )


def _provenance(experiment: Experiment, spec: ExperimentSpec, ctx: Context, job: Job) -> Provenance:
    return Provenance(
        spec_resolved=spec.model_dump(mode="json"),
        bundle=ctx.name,
        bundle_fingerprint=ctx.bundle.fingerprint,
        versions=_versions(),
        device=device_of(spec, ctx, experiment),
        dtype=ctx.dtype,
        threads=ctx.threads,
        seeds={"random_seed": spec.dataset_slice.random_seed},
        forward_passes_made=job.passes_made,
        forward_passes_saved=job.passes_saved,
        parent_spec_id=spec.parent_spec_id,
        parent_hypothesis=spec.parent_hypothesis,
        rationale=spec.rationale,
        description=spec.description,
    )


def _versions() -> dict[str, str]:
    loaded = {name: version(name) for name in ("numpy", "scipy", "torch", "pandas") if name in sys.modules}
    return {"python": platform.python_version(), PROJECT: version(PROJECT), **loaded}
