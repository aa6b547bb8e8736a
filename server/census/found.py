"""What a search of a census answers; its schema is known without the census being read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...schemas.result import Followup, Record


class EffectView(Record):
    """What one subject goes with on one feature."""

    subject: str
    effect: float = Field(description="Difference in mean activation.")
    share: float | None = Field(description="Of the feature's effective max.")
    z: float | None
    beyond_chance: bool
    adjusted: float | None = Field(description="Weapons and kits: with abilities held fixed.")
    explained_by_abilities: bool | None = Field(description="Adjusted is less than half of the effect.")
    n: int = Field(description="Examples of the subject.")


class FeatureRow(Record):
    """A feature of the census."""

    feature_id: int
    label: str = Field(description="What it goes with most.")
    rate: float = Field(description="Share of active examples.")
    active_builds: int
    effective_max: float | None
    effects: list[EffectView] = Field(default_factory=list)
    nearest_feature: int | None
    nearest_cosine: float | None


class FeatureList(Record):
    """Features that match, the strongest first."""

    headline: str
    total: int = Field(description="Features that match.")
    features: list[FeatureRow]
    warnings: list[str] = Field(default_factory=list)
    followups: list[Followup] = Field(default_factory=list, description="Specs for run_spec, each with its reason.")
    more: str | None = None


class CensusView(Record):
    """A census that was taken, or how far it is."""

    headline: str
    status: Literal["done", "running", "stopped"]
    file: str | None = Field(default=None, description="Parquet file, a row a feature.")
    features: list[FeatureRow] = Field(default_factory=list, description="Those with the largest effects.")
    hints: list[str] = Field(default_factory=list)
