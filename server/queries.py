"""Questions about what there is: types, stored results, bundles, and what a spec would do."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from ..schemas.catalogue import Experiment, catalogue, find
from ..schemas.errors import BundleError
from ..schemas.experiment_type import ExperimentType
from ..schemas.manifest import Name
from ..schemas.result import Record
from ..schemas.spec import DatasetSlice, ExperimentSpec, Strict
from .answers import Answer, RunList, RunRow, answer
from .executor import Executor
from .store.index import Entry, Query
from .store.store import Store
from .tools import schema as tool_schema
from .tools.schema import ExperimentOptions, ReadOptions, RunOptions

if TYPE_CHECKING:
    from ..context.context import Context
    from ..context.contexts import Contexts


class TypesArguments(Strict):
    """Arguments of list_experiment_types."""

    type: str | None = Field(default=None, description="Describe this type alone, dataset_slice and options included.")


class SpecArguments(Strict):
    """Arguments of run_spec."""

    spec: dict[str, Any] = Field(
        description="A spec as in its JSON file: type, feature_id, variables, and where wanted model_type, "
        "dataset_slice, constraints, outputs, id, description, parent_hypothesis, rationale, parent_spec_id."
    )
    options: RunOptions = Field(default=RunOptions(), description="wait_s, max_rows, response_format, fresh.")


class BatchArguments(Strict):
    """Arguments of run_batch."""

    specs: tuple[dict[str, Any], ...] | None = Field(default=None, description="Specs as for run_spec.")
    path: str | None = Field(default=None, description="Instead: a JSONL file of specs, inside the home folder.")
    fresh: bool = Field(default=False, description="Run even what has a stored answer.")
    wait_s: float = Field(default=0.0, ge=0, le=300, description="Seconds to wait for all of them.")


class CancelArguments(Strict):
    """Arguments of cancel_run."""

    run_id: Name = Field(description="Handle of the run.")


class ValidateArguments(Strict):
    """Arguments of validate_spec."""

    spec: dict[str, Any] = Field(description="A spec as for run_spec.")


class GetArguments(ReadOptions):
    """Arguments of get_run."""

    run_id: Name = Field(description="Handle of the run, or id of a result.")
    wait_s: float = Field(default=0.0, ge=0, le=300, description="Seconds to wait for a run that has not ended.")
    table: str | None = Field(default=None, description="Show a page of this table alone.")
    offset: int = Field(default=0, ge=0, description="First row of each table that is shown.")


class ListArguments(Strict):
    """Arguments of list_results."""

    feature_id: int | None = Field(default=None, ge=0, description="Only this feature.")
    type: str | None = Field(default=None, description="Only this experiment type.")
    model_type: Name | None = Field(default=None, description="Only this bundle.")
    parent_hypothesis: str | None = Field(default=None, description="Only runs of this hypothesis.")
    parent_spec_id: Name | None = Field(default=None, description="Only followups of this run.")
    success: bool | None = Field(default=None, description="Only successes, or only failures.")
    text: str | None = Field(default=None, description="Words that all occur in it.")
    since: datetime | None = Field(default=None, description="Stored since (ISO 8601).")
    until: datetime | None = Field(default=None, description="Stored until (ISO 8601).")
    limit: int = Field(default=20, ge=1, le=100, description="Runs shown.")
    offset: int = Field(default=0, ge=0, description="Runs skipped.")


class ContextArguments(Strict):
    """Arguments of describe_context."""

    model_type: Name | None = Field(default=None, description="Bundle to describe; default: the default bundle.")


class TypeView(Record):
    """An experiment type."""

    type: str
    command: str = Field(description="Its subcommand on the command line.")
    summary: str
    methods: list[str]
    cost: str
    tables: list[str]
    variables: dict[str, Any] = Field(description="Schema of each of its own arguments.")
    required: list[str] = Field(description="Variables that have no default.")
    dataset_slice: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class TypesView(Record):
    """The experiment types."""

    types: list[TypeView]
    not_in_this_version: list[str] = Field(description="Types that are defined but have no runner yet.")


class DryRunView(Record):
    """What running a spec would do."""

    valid: bool
    spec: dict[str, Any] = Field(description="The spec with its defaults filled in.")
    contexts: int
    conditions: str
    forward_passes: int
    saved_passes: int
    estimated_seconds: float | None = Field(description="Null while the speed of this bundle is unknown.")
    stored: str | None = Field(description="Id of the stored answer to the same question.")
    notes: list[str]


class ContextView(Record):
    """The bundles, and one of them in full."""

    bundles: list[str]
    origins: dict[str, str] = Field(description="Where each bundle came from: how it was made, of which files.")
    default: str
    open: list[str]
    context: dict[str, Any] = Field(description="Sizes, vocabulary, rungs, device, cache, planted rules.")


def describe_type(experiment: Experiment, *, full: bool = False) -> TypeView:
    """Describe a type; ``full`` adds the slice and the options that every type takes."""
    schema = tool_schema.schema_of(experiment.variables)
    part = tool_schema.schema_of(DatasetSlice)["properties"]
    if not experiment.spec.takes_contexts:
        del part["contexts"]
    return TypeView(
        type=experiment.type,
        command=experiment.cli,
        summary=experiment.summary,
        methods=list(experiment.methods),
        cost=experiment.cost,
        tables=list(experiment.tables),
        variables=schema.get("properties", {}),
        required=schema.get("required", []),
        dataset_slice=part if full else None,
        options=tool_schema.schema_of(ExperimentOptions)["properties"] if full else None,
    )


def _type_named(name: str) -> str:
    """The experiment type of that name, or of that command; raises UnknownNameError for another."""
    by_command = {experiment.cli: experiment.type for experiment in catalogue().values()}
    return by_command.get(name) or find(name).type


def describe_types(only: str | None = None) -> TypesView:
    """Describe the types this version can run."""
    if only is not None:
        return TypesView(types=[describe_type(find(only), full=True)], not_in_this_version=[])
    runnable = catalogue()
    missing = [str(member) for member in ExperimentType if str(member) not in runnable]
    return TypesView(types=[describe_type(item) for item in runnable.values()], not_in_this_version=missing)


def dry_run(executor: Executor, spec: ExperimentSpec, context: Context) -> DryRunView:
    """Find out what a spec would do."""
    planned = executor.plan(spec, context)
    notes = list(dict.fromkeys([*spec.notes, *planned.plan.notes]))
    return DryRunView(
        valid=True,
        spec=planned.spec.model_dump(mode="json"),
        contexts=planned.plan.contexts,
        conditions=planned.plan.conditions,
        forward_passes=planned.plan.forward_passes,
        saved_passes=planned.plan.saved_passes,
        estimated_seconds=planned.estimated_seconds,
        stored=planned.stored,
        notes=notes,
    )


def get_run(store: Store, given: GetArguments) -> Answer:
    """A stored result, or a page of one of its tables."""
    path = store.path(given.run_id)
    return answer(store.result(given.run_id), path, given.cut(offset=given.offset, table=given.table))


def find_results(store: Store, given: ListArguments) -> tuple[int, list[Entry]]:
    """How many stored results match, and a page of them."""
    data = given.model_dump(exclude={"type", "model_type", "since", "until"})
    query = Query(
        experiment_type=None if given.type is None else _type_named(given.type),
        bundle=given.model_type,
        since=_utc(given.since),
        until=_utc(given.until),
        **data,
    )
    return store.search(query)


def _utc(moment: datetime | None) -> str | None:
    """A time as the index writes it; one without a zone is taken as local."""
    return moment.astimezone(UTC).isoformat() if moment is not None else None


def list_results(store: Store, given: ListArguments) -> RunList:
    """A page of the stored results."""
    total, entries = find_results(store, given)
    after = given.offset + len(entries)
    more = f"offset={after} shows the next ones" if after < total else None
    hint = None
    if not entries:
        stored, _ = store.search(Query(limit=1))
        hint = f"{total:,} of {stored:,} stored results match" + (", all before this offset." if total else ".")
    rows = [RunRow.of(entry) for entry in entries]
    return RunList(total=total, offset=given.offset, runs=rows, more=more, hint=hint)


def matches(spec: ExperimentSpec, given: ListArguments) -> bool:
    """Whether a run in flight is one that a search over results is after."""
    asked = (
        (given.feature_id, spec.feature_id),
        (given.type and _type_named(given.type), spec.type),
        (given.model_type, spec.model_type or given.model_type),
        (given.parent_hypothesis, spec.parent_hypothesis),
        (given.parent_spec_id, spec.parent_spec_id),
    )
    searches_results = any(value is not None for value in (given.success, given.text, given.since, given.until))
    return not searches_results and all(wanted is None or wanted == is_ for wanted, is_ in asked)


def _origin(folder: Path) -> str:
    """Where a bundle came from, in a line; of one that cannot be read, why."""
    from ..context.bundle import read_manifest  # noqa: PLC0415 - a server answers before it has imported numpy

    try:
        return read_manifest(folder)[0].origin()
    except BundleError as error:
        return f"unknown: {error}"


def describe_context(contexts: Contexts, given: ContextArguments) -> ContextView:
    """The bundles there are, and one of them opened and described."""
    described = contexts.get(given.model_type).describe()
    names = contexts.home.bundle_names()
    return ContextView(
        bundles=list(names),
        origins={name: _origin(contexts.home.bundle_path(name)) for name in names},
        default=contexts.home.default_bundle(),
        open=list(contexts.loaded()),
        context=described,
    )
