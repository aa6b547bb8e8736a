"""What an experiment is: the base spec, the slice of the data it speaks about, its constraints and outputs.

Each file in ``runners/`` derives the typed spec of its type. ``ExperimentSpec(type=..., variables={...})`` and
`parse_spec` give the typed spec, or a RequestError with a message for people; ``ExperimentSpec.model_validate`` and the
constructors of the typed specs raise pydantic's ValidationError, as of any model.
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator

from .errors import RequestError
from .faults import Called, explain
from .manifest import Name

ConstraintId = Literal[
    "one_rung_per_family", "valid_gear_combinations", "max_ap_budget", "no_weapon_gating_if_relu_floor"
]
CONSTRAINTS: tuple[str, ...] = get_args(ConstraintId)
HARD_CONSTRAINTS: tuple[str, ...] = ("one_rung_per_family", "valid_gear_combinations")
FEWEST_CONTEXTS, MOST_CONTEXTS = 2, 1000
"""How many contexts a spec may give of its own."""
_JSON_KINDS: dict[type, str] = {list: "a list", str: "text", int: "a number", float: "a number", type(None): "null"}
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


class GivenContext(Strict):
    """A context of the user's own: a weapon and what the build holds."""

    weapon: str | int = Field(description="Kit id, weapon_id_NNNN token or name.")
    tokens: tuple[str, ...] = Field(
        default=(),
        description="What it holds: family_AP, written with every rung up to it, and main-only abilities; default: "
        "nothing.",
    )


class DatasetSlice(Strict):
    """Which examples the experiment speaks about. The default is all of them, inactive ones included.

    An intervention can be run on ``contexts`` of the user's own instead, among which nothing else here chooses.
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
    contexts: tuple[GivenContext, ...] | None = Field(
        default=None,
        max_length=MOST_CONTEXTS,
        description='Run interventions on these instead of examples, such as {"weapon": "Splattershot", "tokens": '
        '["special_charge_up_12", "haunt"]}; at least 2.',
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.percentile_min >= self.percentile_max:
            raise ValueError(
                f"percentile_min {self.percentile_min} must be below percentile_max {self.percentile_max} (both 0-100)"
            )
        return self

    @model_validator(mode="after")
    def _contexts_alone(self) -> Self:
        if self.contexts is None:
            return self
        if len(self.contexts) < FEWEST_CONTEXTS:
            raise ValueError(
                f"contexts holds {len(self.contexts)}: give at least {FEWEST_CONTEXTS}, as effects on fewer have no "
                f"error, or leave it out"
            )
        chosen = self.model_dump(exclude_defaults=True, exclude={"contexts", "random_seed"})
        if chosen:
            raise ValueError(
                f"contexts are used as they are given, and {', '.join(chosen)} would choose among examples: leave out "
                f"one or the other"
            )
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """How percentiles that look like fractions are read: as the percentages they are."""
        low, high = self.percentile_min, self.percentile_max
        doubtful = [("percentile_min", low)] if 0 < low < 1 else []
        doubtful += [("percentile_max", high)] if high <= 1 else []
        return tuple(
            f"{name} {value:g} was read as {value:g} %, as percentiles run from 0 to 100: for the fraction, give "
            f"{100 * value:g}"
            for name, value in doubtful
        )

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

    @property
    def notes(self) -> tuple[str, ...]:
        """Which percentiles the type reads as the fractions that older specs give: those below 1."""
        given = {name: getattr(self, name) for name in self.model_fields_set if name.endswith("_percentile")}
        return tuple(
            f"{name} {value:g} was read as a fraction: the {100.0 * value:g}th percentile of the active"
            for name, value in given.items()
            if value < 1.0
        )


def new_id() -> str:
    """A fresh spec id: UTC time to the second and a random suffix."""
    return f"{datetime.now(UTC):%Y%m%d_%H%M%S}_{secrets.token_hex(4)}"


class ExperimentSpec(Strict):
    """A request for one experiment on one feature.

    Called directly it gives the typed spec of its ``type``.

    Attributes:
        takes_contexts: whether the type intervenes on contexts that the slice gives; says so itself.

    Raises:
        RequestError: when called directly with what makes no spec; every fault is named, as by `parse_spec`.
    """

    takes_contexts: ClassVar[bool] = False

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
            return cast("Self", object.__new__(type(parse_spec(data))))
        return object.__new__(cls)

    @model_validator(mode="wrap")
    @classmethod
    def _dispatch(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:  # noqa: ANN401
        if cls is not ExperimentSpec or isinstance(data, ExperimentSpec):
            return handler(data)
        inner: object = data.get("spec") if isinstance(data, dict) else getattr(data, "spec", None)
        if isinstance(inner, dict) and not (isinstance(data, dict) and "type" in data):
            raise ValueError("this is not a spec but what holds one, such as a followup: pass its `spec`")
        if not isinstance(data, dict):
            raise ValueError(f"a spec is a JSON object; got {_JSON_KINDS.get(type(data), type(data).__name__)}")  # noqa: TRY004
        fields = cast("dict[str, Any]", data)
        if "type" not in fields and "experiment_type" in fields:
            raise ValueError("this is a stored result, not a spec: its spec is the file of the same name in runs/specs")
        return cast("Self", _typed(fields.get("type")).model_validate(fields))

    @model_validator(mode="after")
    def _contexts_of_use(self) -> Self:
        if self.dataset_slice.contexts is None:
            return self
        if not self.takes_contexts:
            raise ValueError(no_contexts(self.type))
        method = getattr(self.variables, "method", "interventional")
        if method != "interventional":
            raise ValueError(
                f"dataset_slice.contexts: method {method!r} groups the examples there are, and contexts are what is "
                f"intervened on. Set method to 'interventional', or leave contexts out"
            )
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """How numbers were read that can be taken in two ways, for dry runs; a run warns of its variables itself."""
        return (*self.dataset_slice.notes, *self.variables.notes)

    def scientific_fields(self) -> dict[str, Any]:
        """The fields that decide the numbers, resolved: what two specs must share to be the same question."""
        fields = self.model_dump(mode="json", exclude=_BOOKKEEPING)
        if self.dataset_slice.contexts is None:
            del fields["dataset_slice"]["contexts"]  # answers stored before there were any stay the same question's
        return fields

    def file_name(self) -> str:
        """File name of the spec in the store; names are written so, never parsed."""
        return f"{self.id}__f{self.feature_id}__{self.type.replace('_', '-')}.json"


def no_contexts(type_name: str) -> str:
    """What to say where a type that has no use for contexts is given some."""
    from .catalogue import catalogue  # noqa: PLC0415 - the catalogue imports this module

    takers = [name for name, each in catalogue().items() if each.spec.takes_contexts]
    return (
        f"dataset_slice.contexts: {type_name} works on the bundle's examples. Leave contexts out and choose examples "
        f"with the other fields of dataset_slice, or ask a type that intervenes on contexts: {', '.join(takers)}"
    )


def _typed(name: object) -> type[ExperimentSpec]:
    from .catalogue import find, runner_names  # noqa: PLC0415 - the catalogue imports this module

    if name is None:
        raise ValueError(f"a spec needs a type; allowed: {', '.join(runner_names())}")
    try:
        return find(str(name)).spec
    except RequestError as error:
        raise ValueError(str(error)) from error


def parse_spec(data: Any, *, flat: bool = False, called: Called | None = None) -> ExperimentSpec:  # noqa: ANN401
    """Validate a spec in the JSON form into the typed spec; ``flat`` and ``called`` as in `explain`.

    Raises:
        RequestError: with every fault, the value got, what is allowed, and the nearest name.
    """
    try:
        return ExperimentSpec.model_validate(data)
    except ValidationError as error:
        raise RequestError(explain(error, data, flat=flat, called=called)) from error


def parse_spec_json(text: str | bytes, source: str) -> ExperimentSpec:
    """Validate the text of a spec file; ``source`` names it in messages.

    Raises:
        RequestError: the text is not JSON, or no spec.
    """
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{source} is not JSON: {_why_no_json(text, error)}. Nothing was run.") from error
    try:
        return parse_spec(data)
    except RequestError as error:
        raise RequestError(f"{source}: {error}") from error


def _why_no_json(text: str | bytes, error: Exception) -> str:
    if not text.strip():
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not text (byte 0x{error.object[error.start]:02x} at position {error.start})"
    return str(error)
