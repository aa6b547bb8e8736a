"""What may be asked of a census; nothing heavy is imported for it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...schemas.manifest import Name
from ...schemas.spec import Strict

Sort = Literal["effect", "z", "rate", "max", "cosine"]
Direction = Literal["raises", "lowers"]
MIN_SHARE = 0.05
"""Smallest effect of interest, in shares of the effective max."""


class FindArguments(Strict):
    """Arguments of find_features."""

    query: str | None = Field(default=None, description="Any of the names below.")
    ability: str | None = Field(default=None, description="Ability, or token.")
    weapon: str | None = Field(default=None, description="Name or id.")
    sub: str | None = Field(default=None, description="Name.")
    special: str | None = Field(default=None, description="Name.")
    weapon_class: str | None = Field(default=None, description="Name.")
    direction: Direction | None = Field(default=None, description="Default: both.")
    min_share: float = Field(default=MIN_SHARE, ge=0, description="Least |effect| / effective max (0.05).")
    min_z: float | None = Field(default=None, ge=0, description="Least |z|; default: beyond chance.")
    min_rate: float = Field(default=0.0, ge=0, le=1, description="Least activity (0-1).")
    max_rate: float = Field(default=1.0, ge=0, le=1, description="Most activity (0-1).")
    dead: bool = Field(default=False, description="Only dead ones.")
    redundant_with: int | None = Field(default=None, ge=0, description="Nearest to this feature.")
    min_cosine: float | None = Field(default=None, ge=-1, le=1, description="Least cosine to the nearest.")
    sort: Sort | None = Field(default=None, description="Default: effect, or rate without a name.")
    limit: int = Field(default=10, ge=1, le=50, description="Default 10.")
    model_type: Name | None = Field(default=None, description="Bundle.")


class TakeArguments(Strict):
    """Arguments of take_census."""

    model_type: Name | None = Field(default=None, description="Bundle.")
    wait_s: float = Field(default=45.0, ge=0, le=300, description="Seconds to wait; it goes on after them.")
    stop: bool = Field(default=False, description="Stop it; finished features are kept.")
