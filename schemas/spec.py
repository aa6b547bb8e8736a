"""What an experiment is: the base spec, the slice of the data it speaks about, its constraints and outputs.

Each file in ``runners/`` derives the typed spec of its type. ``ExperimentSpec(type=..., variables={...})`` and
``ExperimentSpec.model_validate`` give the typed spec; `parse_spec` does the same with messages for people.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import Any, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from .errors import RequestError, nearest
from .manifest import Name

ConstraintId = Literal[
    "one_rung_per_family", "valid_gear_combinations", "max_ap_budget", "no_weapon_gating_if_relu_floor"
]
CONSTRAINTS: tuple[str, ...] = get_args(ConstraintId)
HARD_CONSTRAINTS: tuple[str, ...] = ("one_rung_per_family", "valid_gear_combinations")
_BOOKKEEPING = {
    "id",
    "model_type",
    "outputs",
    "description",
    "parent_hypothesis",
    "rationale",
    "parent_spec_id",
    "created_at",
}


class Strict(BaseModel):
    """Base of everything in a spec: frozen, unknown keys refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


class DatasetSlice(Strict):
    """Which examples the experiment speaks about. The default is all of them, inactive ones included.

    Threshold, weapon and family filters act first, then the percentiles (which rank the active examples and leave the
    inactive out as soon as either differs from its default), then the sample.
    """

    activation_threshold: float | None = Field(
        default=None, ge=0, description="Keep examples whose activation is above this (0 keeps the active ones)."
    )
    weapon_filter: tuple[str | int, ...] = Field(
        default=(), description="Keep these weapons only: kit ids, weapon_id_NNNN tokens or names."
    )
    weapon_exclude: tuple[str | int, ...] = Field(
        default=(), description="Leave these weapons out: kit ids, weapon_id_NNNN tokens or names."
    )
    family_filter: tuple[str, ...] = Field(
        default=(), description="Keep examples that hold all of these families or main-only abilities."
    )
    family_exclude: tuple[str, ...] = Field(
        default=(), description="Keep examples that hold none of these families or main-only abilities."
    )
    percentile_min: float = Field(
        default=0.0, ge=0, le=100, description="Lowest percentile (0-100) among the active examples that is kept."
    )
    percentile_max: float = Field(
        default=100.0, ge=0, le=100, description="Highest percentile (0-100) among the active examples that is kept."
    )
    sample_size: int | None = Field(
        default=None, ge=1, description="Draw this many examples at random without replacement."
    )
    random_seed: int = Field(default=0, ge=0, le=2**32 - 1, description="Seed of every random choice of the run.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.percentile_min >= self.percentile_max:
            raise ValueError(
                f"percentile_min {self.percentile_min} must be below percentile_max {self.percentile_max} (both 0-100)"
            )
        return self

    @property
    def selects_on_activation(self) -> bool:
        """Whether the slice selects on the outcome (threshold or percentiles)."""
        return self.activation_threshold is not None or (self.percentile_min, self.percentile_max) != (0.0, 100.0)


class Outputs(Strict):
    """Which parts of the stored result the answer shows; everything is stored whatever they say."""

    aggregates: bool = Field(default=True, description="Show the aggregates.")
    tables: bool = Field(default=True, description="Show the tables.")
    diagnostics: bool = Field(default=True, description="Show the diagnostics.")
    figures: bool = Field(default=False, description="Draw figures (not available yet: a warning says so).")


class Variables(Strict):
    """Base of the variables of a type."""


def new_id() -> str:
    """A fresh spec id: UTC time to the second and a random suffix."""
    return f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{secrets.token_hex(4)}"


class ExperimentSpec(Strict):
    """A request for one experiment on one feature.

    Called directly it gives the typed spec of its ``type``.
    """

    id: Name = Field(default_factory=new_id, description="Name of the spec and of its result; made up when not given.")
    type: str = Field(description="Experiment type.")
    feature_id: int = Field(ge=0, description="Index of the SAE feature.")
    model_type: Name | None = Field(
        default=None, description="Name of the bundle; default: the only one besides demo, else demo."
    )
    dataset_slice: DatasetSlice = Field(default=DatasetSlice(), description="Which examples the experiment is about.")
    variables: Variables = Field(description="The type's own variables.")
    constraints: tuple[ConstraintId, ...] = Field(
        default=("one_rung_per_family",),
        description="Constraints on constructed sets; valid_gear_combinations always holds, the soft ones only count "
        "unless they are listed.",
    )
    outputs: Outputs = Field(default=Outputs(), description="Which parts of the stored result the answer shows.")
    description: str | None = Field(default=None, max_length=2000, description="What this run is for, in words.")
    parent_hypothesis: str | None = Field(default=None, max_length=200, description="Hypothesis this run belongs to.")
    rationale: str | None = Field(default=None, max_length=2000, description="Why this experiment was chosen.")
    parent_spec_id: Name | None = Field(default=None, description="Spec whose result led to this one.")
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC), description="When the spec was made.")

    @classmethod
    def __pydantic_init_subclass__(cls, **_kwargs: object) -> None:
        """Let a field that a typed spec narrows keep its description."""
        base = ExperimentSpec.model_fields
        narrowed = [name for name, field in cls.model_fields.items() if name in base and field.description is None]
        for name in narrowed:
            cls.model_fields[name].description = base[name].description
        if narrowed:
            cls.model_rebuild(force=True)

    def __new__(cls, *_args: object, **data: object) -> Self:
        """Make the typed spec when the base class is called."""
        if cls is ExperimentSpec:
            return cast("Self", object.__new__(_typed(data.get("type"))))
        return object.__new__(cls)

    @model_validator(mode="wrap")
    @classmethod
    def _dispatch(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401
        if cls is not ExperimentSpec or isinstance(data, ExperimentSpec):
            return handler(data)
        if not isinstance(data, dict):
            raise ValueError(f"a spec is a JSON object; got {type(data).__name__}")  # noqa: TRY004
        fields = cast("dict[str, Any]", data)
        return cast("Self", _typed(fields.get("type")).model_validate(fields))

    def scientific_fields(self) -> dict[str, Any]:
        """The fields that decide the numbers, resolved: what two specs must share to be the same question."""
        return self.model_dump(mode="json", exclude=_BOOKKEEPING)

    def file_name(self) -> str:
        """File name of the spec in the store; names are written so, never parsed."""
        return f"{self.id}__f{self.feature_id}__{self.type.replace('_', '-')}.json"


def _typed(name: object) -> type[ExperimentSpec]:
    from .catalogue import find, runner_names  # noqa: PLC0415 - the catalogue imports this module

    if name is None:
        raise ValueError(f"a spec needs a type; allowed: {', '.join(runner_names())}")
    try:
        return find(str(name)).spec
    except RequestError as error:
        raise ValueError(str(error)) from error


def parse_spec(data: Any, *, flat: bool = False) -> ExperimentSpec:  # noqa: ANN401 - JSON of any shape
    """Validate a spec in the JSON form into the typed spec; ``flat`` as in `explain`.

    Raises:
        RequestError: with every fault, the value got, what is allowed, and the nearest name.
    """
    try:
        return ExperimentSpec.model_validate(data)
    except ValidationError as error:
        raise RequestError(explain(error, data, flat=flat)) from error


def parse_spec_json(text: str | bytes, source: str) -> ExperimentSpec:
    """Validate the text of a spec file; ``source`` names it in messages."""
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{source} is not JSON: {error}. Nothing was run.") from error
    return parse_spec(data)


def explain(error: ValidationError, data: Any, *, flat: bool = False) -> str:  # noqa: ANN401
    """Say in words what is wrong with a spec.

    Args:
        error: what validation found.
        data: the spec as it was given.
        flat: name the type's variables as the flat doors do, without ``variables.`` before them.
    """
    lines = [_explain_one(item, data, flat=flat) for item in error.errors()]
    return "; ".join(dict.fromkeys(lines)) + ". Nothing was run."


def _explain_one(item: Any, data: Any, *, flat: bool) -> str:  # noqa: ANN401
    where = [part for part in item["loc"] if not str(part).startswith(("function-", "lax-or", "json-or"))]
    shown = where[1:] if flat and where[:1] == ["variables"] else where
    path = ".".join(str(part) for part in shown)
    got = item.get("input")
    if item["type"] == "extra_forbidden":
        allowed = allowed_keys(data, where[:-1])
        near = nearest(str(where[-1]), allowed)
        guess = f": did you mean {near!r}?" if near else "."
        return f"unknown argument {path!r}{guess} Allowed: {', '.join(allowed)}"
    if item["type"] == "missing":
        return f"missing argument {path!r}"
    if item["type"] == "value_error":
        message = str(item["msg"]).removeprefix("Value error, ").rstrip(".").removesuffix(". Nothing was run")
        return f"{path}: {message}" if path else message
    return f"{path}: {item['msg']}; got {got!r}"


def allowed_keys(data: Any, where: list[str | int]) -> list[str]:  # noqa: ANN401
    """Field names allowed at a place of a spec, for messages."""
    fields = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    model: Any = _typed(fields["type"]) if "type" in fields else ExperimentSpec
    for part in where:
        field = model.model_fields.get(str(part))
        if field is None or not hasattr(field.annotation, "model_fields"):
            return []
        model = field.annotation
    return list(model.model_fields)
