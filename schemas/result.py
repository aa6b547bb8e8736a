"""What an experiment answers: a headline, findings, aggregates, tables, diagnostics, followups, provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from types import GenericAlias
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

Scalar = str | int | float | bool | None
Method = Literal["interventional", "observational", "both"]
Status = Literal["present", "conditional", "negligible", "unclear", "dead"]
Outcome = Literal["done", "failed", "cancelled", "interrupted"]
"""How a run ended: interrupted when its process did before it could."""


_PLAIN = frozenset({str, int, bool, type(None)})
_SEVERAL = (list, tuple, set, frozenset)


def plain(value: Any) -> Any:  # noqa: ANN401 - JSON values of any depth
    """Turn numpy scalars and arrays into plain values, and NaN and infinities, which JSON cannot hold, into None."""
    # Large tables come by here cell by cell: what most of them are is told by their type alone.
    if type(value) in _PLAIN:
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, _SEVERAL):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return value


class Record(BaseModel):
    """Base of result models: unknown keys are refused, NaN becomes null."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Row(BaseModel):
    """Base of the row models of tables; every column is a field with a description."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


@cache
def _rows_of(row_model: type[Row]) -> TypeAdapter[list[Row]]:
    """Checks and dumps all rows of a table at once."""
    return TypeAdapter(cast("type[list[Row]]", GenericAlias(list, (row_model,))))


class Table(Record):
    """A table of a result.

    ``notes`` says what a reader must know of the table as a whole, such as why it is empty.
    """

    name: str
    columns: list[str]
    rows: list[Annotated[dict[str, Any], BeforeValidator(plain)]]
    notes: list[str] = Field(default_factory=list)

    @classmethod
    def of(cls, name: str, row_model: type[Row], rows: Sequence[Row], notes: Sequence[str] = ()) -> Self:
        """Make a table of row models; the columns are the row model's own fields, then those it inherits."""
        own = [field for field in row_model.__annotations__ if field in row_model.model_fields]
        columns = own + [field for field in row_model.model_fields if field not in own]
        ordered = [{column: row[column] for column in columns} for row in _rows_of(row_model).dump_python(list(rows))]
        return cls(name=name, columns=columns, rows=ordered, notes=list(notes))

    @classmethod
    def from_columns(
        cls, name: str, row_model: type[Row], columns: Mapping[str, Any], notes: Sequence[str] = ()
    ) -> Self:
        """Make a table of equally long columns; each row is checked by the row model.

        Raises:
            ValueError: when the columns are not those of the row model or differ in length.
        """
        if set(columns) - set(row_model.model_fields):
            raise ValueError(f"table {name}: unknown columns {sorted(set(columns) - set(row_model.model_fields))}")
        lists = {key: plain(value if hasattr(value, "tolist") else list(value)) for key, value in columns.items()}
        rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        return cls.of(name, row_model, _rows_of(row_model).validate_python(rows), notes)

    @classmethod
    def from_rows(
        cls, name: str, row_model: type[Row], rows: Sequence[Mapping[str, Any]], notes: Sequence[str] = ()
    ) -> Self:
        """Make a table of rows by column; NaN becomes null, and each row is checked by the row model."""
        return cls.of(name, row_model, _rows_of(row_model).validate_python(plain(list(rows))), notes)

    def column(self, name: str) -> list[Any]:
        """Values of a column, in row order."""
        return [row[name] for row in self.rows]


class Finding(Record):
    """One statement of a result, with its uncertainty.

    ``effect`` and its simultaneous 95 % interval are in ``unit``; ``status`` is defined in docs/methods.
    """

    subject: str = Field(description="What acts: a family at a rung, an ability, a weapon, a set of units.")
    relation: str = Field(description="What it does, such as 'raises' or 'is a core of'.")
    effect: Annotated[float | None, BeforeValidator(plain)] = Field(description="Size of the effect.")
    ci_low: Annotated[float | None, BeforeValidator(plain)] = None
    ci_high: Annotated[float | None, BeforeValidator(plain)] = None
    unit: str = Field(default="activation", description="Unit of effect and interval.")
    status: Status
    responder_rate: Annotated[float | None, BeforeValidator(plain)] = None
    specificity_p: Annotated[float | None, BeforeValidator(plain)] = None
    n: int = Field(ge=0, description="Contexts or examples behind the statement.")
    method: Method
    population: str
    table: str | None = Field(default=None, description="The table that holds the numbers.")


class Aggregates(Record):
    """Summary numbers; ``custom`` holds the type's own."""

    mean_delta: Annotated[float | None, BeforeValidator(plain)] = None
    std_delta: Annotated[float | None, BeforeValidator(plain)] = None
    min_delta: Annotated[float | None, BeforeValidator(plain)] = None
    max_delta: Annotated[float | None, BeforeValidator(plain)] = None
    median_delta: Annotated[float | None, BeforeValidator(plain)] = None
    n_samples: int = Field(default=0, ge=0)
    custom: Annotated[dict[str, Any], BeforeValidator(plain)] = Field(default_factory=dict)


class ConstraintViolation(Record):
    """How often constructed sets broke a constraint, and one that did."""

    id: str
    hard: bool = Field(description="Whether the contexts were skipped for it.")
    contexts: int = Field(ge=0)
    example: str | None = None


class Diagnostics(Record):
    """What a reader must know before believing the numbers."""

    relu_floor_detected: bool | None = None
    relu_floor_rate: Annotated[float | None, BeforeValidator(plain)] = None
    clamp_rate: Annotated[float | None, BeforeValidator(plain)] = None
    n_contexts_tested: int = Field(default=0, ge=0)
    n_population: int = Field(default=0, ge=0)
    population: str = ""
    min_effect: Annotated[float | None, BeforeValidator(plain)] = None
    effective_max: Annotated[float | None, BeforeValidator(plain)] = None
    constraint_violations: list[ConstraintViolation] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list, description="Readings and defaults that were applied.")
    warnings: list[str] = Field(default_factory=list)


class Followup(Record):
    """A next experiment, ready to run, and why."""

    reason: str
    spec: dict[str, Any]
    runnable: bool = Field(default=True, description="False when this version has no runner for the type.")


class Provenance(Record):
    """Where the numbers come from."""

    spec_passed: dict[str, Any] = Field(default_factory=dict)
    spec_resolved: dict[str, Any] = Field(default_factory=dict)
    digest: str = ""
    bundle: str = ""
    bundle_fingerprint: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    device: str = ""
    dtype: str = ""
    threads: int | None = None
    seeds: dict[str, int] = Field(default_factory=dict)
    forward_passes_made: int = Field(default=0, ge=0)
    forward_passes_saved: int = Field(default=0, ge=0)
    started_at: datetime | None = None
    parent_spec_id: str | None = None
    parent_hypothesis: str | None = None
    rationale: str | None = None
    description: str | None = None


class Findings(Record):
    """What a runner returns; the executor turns it into a stored `ExperimentResult`."""

    headline: str
    findings: list[Finding] = Field(default_factory=list)
    aggregates: Aggregates = Field(default_factory=Aggregates)
    tables: list[Table] = Field(default_factory=list)
    diagnostics: Diagnostics = Field(default_factory=Diagnostics)
    followups: list[Followup] = Field(default_factory=list)


class ExperimentResult(Record):
    """The stored answer to a spec."""

    spec_id: str
    spec_path: str | None = None
    feature_id: int
    experiment_type: str
    headline: str = ""
    findings: list[Finding] = Field(default_factory=list)
    aggregates: Aggregates | None = None
    tables: dict[str, Table] = Field(default_factory=dict)
    diagnostics: Diagnostics | None = None
    followups: list[Followup] = Field(default_factory=list)
    provenance: Provenance = Field(default_factory=Provenance)
    success: bool
    status: Outcome = "done"
    error_message: str | None = None
    duration_seconds: float = Field(ge=0)
    cached: bool = Field(default=False, description="True when the stored answer to the same question was returned.")
    cached_from: str | None = Field(default=None, description="Id of the run whose numbers these are, when cached.")

    @model_validator(mode="before")
    @classmethod
    def _status_of_earlier_files(cls, data: object) -> object:
        """Results stored before there was a status say by ``success`` how they ended."""
        if not isinstance(data, dict) or "status" in data or data.get("success", True):
            return cast("object", data)
        told = cast("dict[str, object]", data)
        return told | {"status": "cancelled" if told.get("error_message") == "cancelled" else "failed"}

    def get_summary(self) -> str:
        """The headline with the warnings below it, or what went wrong."""
        if not self.success:
            return f"{self.experiment_type} of feature {self.feature_id} failed: {self.error_message}"
        warnings = self.diagnostics.warnings if self.diagnostics else []
        return "\n".join([self.headline, *(f"warning: {warning}" for warning in warnings)])
