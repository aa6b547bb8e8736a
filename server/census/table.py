"""The census as a table: one row a feature, read and written as Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ...context.sae import CLAMP
from ...runners.census.subjects import KINDS, Kind, Subjects
from ...schemas.errors import StoreError
from .arguments import MIN_SHARE

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from ...runners.census.census import CensusBlock
    from ...runners.census.effects import Effects

Floats = NDArray[np.floating[Any]]
ArrowTable = Any
ArrowArray = Any
ArrowType = Any
"""pyarrow publishes no types."""
FORMAT = 1
TOP = 5
TOP_OUTPUT = 3
NOTHING = "nothing beyond chance"
"""The label of a feature without effects."""
_KEY = b"mechinterp_census"
_COUNTS = ("n_active", "active_builds")


class CensusMeta(BaseModel):
    """What a census is of, and how it was taken; stored in the metadata of the file.

    Attributes:
        format: version of the columns.
        bundle: name of the bundle.
        fingerprint: of the bundle's content.
        software: version of this package.
        key: digest of everything that decides the numbers.
        first: first feature.
        stop: the feature after the last.
        n_features: features of the bundle.
        n_examples: examples read.
        n_clusters: builds among them (of one weapon each), or distinct (weapon, set) pairs.
        z_threshold: a |z| that chance reaches for any subject of any feature with probability 0.05 at most.
        has_model: whether the bundle can answer interventions.
        device: where it was computed.
        names: subjects of each kind, in the order of the effects.
        families: the ability of each token.
        weapon_ids: kit id of each weapon.
        held: examples of each subject.
        notes: what is unknown, and why.
    """

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    bundle: str
    fingerprint: str
    software: str
    key: str
    first: int
    stop: int
    n_features: int
    n_examples: int
    n_clusters: int
    z_threshold: float
    has_model: bool
    device: str
    names: dict[Kind, tuple[str, ...]]
    families: tuple[str, ...]
    weapon_ids: tuple[int, ...]
    held: dict[Kind, tuple[int, ...]]
    notes: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it covers every feature."""
        return (self.first, self.stop) == (0, self.n_features)


def subject_title(kind: Kind, name: str) -> str:
    """Name of a subject, with its kind where the name alone does not tell."""
    return name if kind in {"ability", "weapon"} else f"{kind.removeprefix('weapon_')} {name}"


def to_table(block: CensusBlock, subjects: Subjects, meta: CensusMeta) -> ArrowTable:
    """The rows of a block of features."""
    import pyarrow as pa  # noqa: PLC0415 - only where a census is

    numbers = block.numbers
    dead = numbers["n_active"] == 0
    columns: dict[str, ArrowArray] = {"feature_id": pa.array(block.features.astype(np.int32))}
    columns |= {name: _scalar(values, whole=name in _COUNTS) for name, values in numbers.items()}
    columns["dead"] = pa.array(dead)
    near = block.nearest
    columns["nearest_feature"] = pa.array(near.feature.astype(np.int32), mask=near.feature < 0)
    columns |= {"nearest_cosine": _scalar(near.cosine), "nearest_correlation": _scalar(near.correlation)}
    columns |= {name: _output(block, subjects, sign) for name, sign in (("promoted", 1.0), ("suppressed", -1.0))}
    finder = _Tops(block, subjects, meta)
    tops: dict[Kind, list[list[dict[str, Any]]]] = {kind: finder.of(kind) for kind in KINDS}
    labels = ["dead" if dead[at] else _label([top[at] for top in tops.values()], meta) for at in range(len(dead))]
    columns["label"] = pa.array(labels, pa.string())
    columns |= {f"top_{kind}": pa.array(top, _top_type(kind)) for kind, top in tops.items()}
    for kind, effects in block.effects.items():
        columns[f"{kind}_effect"] = _matrix(effects.effect)
        columns[f"{kind}_z"] = _matrix(effects.z)
        if effects.adjusted is not None:
            columns[f"{kind}_adjusted"] = _matrix(effects.adjusted)
    return pa.table(columns).replace_schema_metadata({_KEY: meta.model_dump_json().encode()})


def _scalar(values: Floats, *, whole: bool = False) -> ArrowArray:
    """A column of numbers, null where unknown."""
    import pyarrow as pa  # noqa: PLC0415

    unknown = np.isnan(values)
    return pa.array(np.nan_to_num(values).astype(np.int64) if whole else values, mask=unknown)


def _matrix(values: Floats) -> ArrowArray:
    """Effects [k, b] as a list of k numbers for each feature; NaN where unknown."""
    import pyarrow as pa  # noqa: PLC0415

    flat = pa.array(np.ascontiguousarray(values.T, dtype=np.float32).ravel())
    if not len(values):
        return pa.array([[] for _ in range(values.shape[1])], pa.list_(pa.float32(), 0))
    return pa.FixedSizeListArray.from_arrays(flat, len(values))


def _output(block: CensusBlock, subjects: Subjects, sign: float) -> ArrowArray:
    """The tokens whose logit a feature raises, or lowers, the most; null where unknown."""
    import pyarrow as pa  # noqa: PLC0415

    kind = pa.list_(pa.struct([("token", pa.string()), ("contribution", pa.float64())]))
    if block.written is None:
        return pa.nulls(len(block.features), kind)
    order = np.argsort(-sign * block.written, axis=0, kind="stable")[:TOP_OUTPUT]
    rows = [
        [{"token": subjects.token_names[i], "contribution": float(column[i])} for i in chosen if sign * column[i] > 0]
        for chosen, column in zip(order.T.tolist(), block.written.T, strict=True)
    ]
    return pa.array(rows, kind)


def _top_type(kind: Kind) -> ArrowType:
    import pyarrow as pa  # noqa: PLC0415

    numbers = [(name, pa.float64()) for name in ("effect", "share", "z")]
    held = [("adjusted", pa.float64())] if kind != "ability" else [("family", pa.string())]
    return pa.list_(pa.struct([("name", pa.string()), *numbers, *held, ("n", pa.int64())]))


@dataclass(frozen=True)
class _Tops:
    """The subjects that features of a block go with most."""

    block: CensusBlock
    subjects: Subjects
    meta: CensusMeta

    def of(self, kind: Kind) -> list[list[dict[str, Any]]]:
        """For each feature the subjects of a kind with the largest effects, those beyond chance first.

        Of an ability's tokens, which hold one another, the one with the largest |z| stands for all.
        """
        effects = self.block.effects[kind]
        certainty = np.abs(np.nan_to_num(effects.z))
        strength = np.where(np.isnan(effects.z), 0.0, np.abs(effects.effect))
        strength = np.where((certainty >= self.meta.z_threshold) & (strength > 0), strength + CLAMP, strength)
        if kind == "ability":
            strength = strength * _leads_family(certainty, self.subjects.families)
        order = np.argsort(-strength, axis=0, kind="stable")[:TOP].T.tolist()
        return [
            [self._row(kind, effects, i, at) for i in chosen if strength[i, at] > 0] for at, chosen in enumerate(order)
        ]

    def _row(self, kind: Kind, effects: Effects, subject: int, at: int) -> dict[str, Any]:
        effect = float(effects.effect[subject, at])
        row = {"name": self.subjects.names(kind)[subject], "effect": effect, "z": float(effects.z[subject, at])}
        row |= {"share": effect / float(self.block.numbers["effective_max"][at]), "n": self.meta.held[kind][subject]}
        if effects.adjusted is None:
            return row | {"family": self.subjects.families[subject]}
        adjusted = float(effects.adjusted[subject, at])
        return row | {"adjusted": None if np.isnan(adjusted) else adjusted}


def _leads_family(strength: Floats, families: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each token [k, b] is the strongest of its ability."""
    _, family = np.unique(np.array(families, dtype=np.str_), return_inverse=True)
    leads = np.zeros(strength.shape, dtype=np.bool_)
    for number in range(int(family.max(initial=-1)) + 1):
        rows = np.flatnonzero(family == number)
        leads[rows[strength[rows].argmax(axis=0)], np.arange(strength.shape[1])] = True
    return leads


def _label(tops: list[list[dict[str, Any]]], meta: CensusMeta) -> str:
    """What a feature goes with most, in a few words."""
    named = [(subject_title(kind, row["name"]), row) for kind, rows in zip(KINDS, tops, strict=True) for row in rows]
    certain = [
        (title, row) for title, row in named if abs(row["z"]) >= meta.z_threshold and abs(row["share"]) >= MIN_SHARE
    ]
    certain.sort(key=lambda each: -abs(each[1]["share"]))
    return "; ".join(f"{title} {row['effect']:+.2f}" for title, row in certain[:2]) or NOTHING


class CensusTable:
    """A census to be read: its columns as arrays, each when it is asked for.

    Args:
        read: gives the table of some columns.
        columns: the columns there are.
        meta: what the census is of.
    """

    def __init__(self, read: Callable[[list[str]], ArrowTable], columns: Sequence[str], meta: CensusMeta) -> None:
        self._read, self.columns, self.meta = read, tuple(columns), meta
        self._kept: dict[str, NDArray[Any]] = {}

    @classmethod
    def of(cls, table: ArrowTable, meta: CensusMeta) -> CensusTable:
        """A census in memory."""
        return cls(table.select, table.column_names, meta)

    @classmethod
    def open(cls, path: Path) -> CensusTable:
        """Open a stored census.

        Raises:
            StoreError: the file cannot be read, is no census, or one of another format.
        """
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.parquet as pq  # noqa: PLC0415

        def read(columns: list[str]) -> ArrowTable:
            try:
                return pq.read_table(path, columns=columns)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(path, error) from error

        names, stored = _head(path)
        if stored.get("format") != FORMAT:
            found = f"{path} is a census of format {stored.get('format')}; this version reads {FORMAT}"
            raise StoreError(f"{found}. Take it again with `mechinterp-runner census`.")
        return cls(read, names, CensusMeta.model_validate(stored))

    def __len__(self) -> int:
        return self.meta.stop - self.meta.first

    def column(self, name: str) -> NDArray[Any]:
        """A column of numbers, NaN where null, or of texts; kept."""
        if name not in self._kept:
            self._kept[name] = self._read([name])[name].to_numpy()
        return self._kept[name]

    def matrix(self, name: str) -> Floats:
        """A column of effects, float32 [features, k]."""
        column = self._read([name])[name].combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(self), column.type.list_size)

    def frame(self) -> pd.DataFrame:
        """A row a feature, without the columns that hold the effects of all subjects."""
        wide = {f"{kind}_{what}" for kind in KINDS for what in ("effect", "z", "adjusted")}
        return self._read([name for name in self.columns if name not in wide]).to_pandas()


def stored_key(path: Path) -> str | None:
    """The key of a stored census, whatever its format; None where there is no file.

    Raises:
        StoreError: the file cannot be read, or is no census.
    """
    return _head(path)[1].get("key") if path.is_file() else None


def _head(path: Path) -> tuple[list[str], dict[str, Any]]:
    """Names of the columns and metadata of a stored census."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    stored = (schema.metadata or {}).get(_KEY)
    if stored is None:
        raise StoreError(f"{path} is no census. Remove it and take one with `mechinterp-runner census`.")
    return schema.names, json.loads(stored)


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} cannot be read: {error}. Remove it and take the census again.")


def to_bytes(table: ArrowTable) -> bytes:
    """A table as a Parquet file."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    stream = io.BytesIO()
    pq.write_table(table, stream, compression="zstd")
    return stream.getvalue()
