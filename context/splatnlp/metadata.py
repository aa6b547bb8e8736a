"""The metadata of an activations folder: which tokens and weapon each row of which batch has."""

from __future__ import annotations

import re
from collections.abc import Collection, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray

from ...schemas.errors import RequestError
from ...schemas.vocabulary import Vocabulary, WeaponVocabulary
from .rows import BLOCK, Checked, ExampleWriter, Rows, check_rows, first_fault
from .sources import NOTHING
from .weights import read_json
from .work import Pieces

SUMMARY = "conversion_metadata.json"
_COLUMNS = ("batch_id", "sample_id", "ability_tokens", "weapon_id_token")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Metadata:
    """The batches of an activations folder.

    Attributes:
        folder: the activations folder.
        files: one parquet file a batch, in order.
        rows: int64 [n_batches], rows of each.
        n_features: as the summary states it, if it does.
        notes: what the user should know.
    """

    folder: Path
    files: tuple[Path, ...]
    rows: NDArray[np.int64]
    n_features: int | None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return int(self.rows.sum())

    @property
    def starts(self) -> NDArray[np.int64]:
        """Position of each batch's first row: the lengths of the batches before it, added up."""
        return np.cumsum(self.rows) - self.rows


def numbered(folder: Path, form: str) -> dict[int, Path]:
    """What a folder holds by a name such as ``batch_0000.zarr``, by number.

    Args:
        folder: the folder.
        form: regular expression of the whole name; its group is the number.

    Raises:
        RequestError: two of them have one number.
    """
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(form, path.name)
        if match and found.setdefault(int(match[1]), path) is not path:
            twice = f"{found[int(match[1])].name} and {path.name} have the same number"
            raise RequestError(f"{folder}: {twice}. Remove the one that does not belong there. {NOTHING}")
    return dict(sorted(found.items()))


def check_numbers(found: Collection[int], wanted: int, what: str, where: Path) -> None:
    """Raise RequestError unless the batches or features that were found are exactly 0 .. wanted - 1."""
    # So many numbers hold the first missing ones, however large a number is stated.
    missing = [number for number in range(min(wanted, len(found) + _SHOWN + 1)) if number not in found]
    extra = [number for number in found if number >= wanted]
    for numbers, fault in ((missing, "missing"), (extra, "too many")):
        if numbers:
            shown = ", ".join(f"{number:04d}" for number in numbers[:_SHOWN]) + (", …" if len(numbers) > _SHOWN else "")
            raise RequestError(f"{where}: of {wanted:,} {what}, {fault}: {shown}. Copy the folder again. {NOTHING}")


def open_metadata(folder: Path) -> Metadata:
    """List the batches and count their rows; no row is read.

    Raises:
        RequestError: this is no such folder, or a batch is missing or cannot be read.
    """
    if not (folder / "metadata").is_dir():
        raise RequestError(f"{folder} has no folder metadata/: give an activations_*_efficient folder. {NOTHING}")
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    found = numbered(folder / "metadata", r"batch_(\d+)\.parquet")
    n_batches = _count(folder, summary, "n_batches")
    if not found:
        raise RequestError(f"{folder / 'metadata'} holds no batch_0000.parquet. {NOTHING}")
    check_numbers(found, n_batches or max(found) + 1, "batches", folder / "metadata")
    rows = np.array([_rows_of(path) for path in found.values()], dtype=np.int64)
    notes = _check_total(folder, summary, rows)
    if n_batches is None:
        notes = (*notes, f"{SUMMARY} states no n_batches: that none is missing at the end cannot be known")
    return Metadata(folder, tuple(found.values()), rows, _count(folder, summary, "n_features"), notes)


def _count(folder: Path, summary: dict[str, Any], name: str) -> int | None:
    """A number of the summary; None where it is not stated."""
    value = summary.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise RequestError(f"{folder / SUMMARY}: {name} is {value!r}; a whole number is expected. {NOTHING}")
    return value


def _check_total(folder: Path, summary: dict[str, Any], rows: NDArray[np.int64]) -> tuple[str, ...]:
    """Compare the rows with the stated total; one that counts every batch as full is a known slip, and noted."""
    total, counted = _count(folder, summary, "total_samples"), int(rows.sum())
    if total is None or total == counted:
        return ()
    told = f"{SUMMARY} states {total:,} samples, the batches hold {counted:,}"
    if total == len(rows) * int(rows.max()):
        return (f"{told}: it counts the last batch as full; the rows were counted",)
    raise RequestError(f"{folder}: {told}. Copy the folder again. {NOTHING}")


def _rows_of(path: Path) -> int:
    """Rows of a parquet file, from its footer; the columns must be there."""
    try:
        file = pa_parquet.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise RequestError(f"{path} cannot be read as parquet: {error}. {NOTHING}") from error
    with file:
        missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
        if missing:
            have = ", ".join(file.schema_arrow.names)
            raise RequestError(f"{path} has no column {missing[0]!r}; its columns are {have}. {NOTHING}")
        return file.metadata.num_rows


def read_batch(metadata: Metadata, batch: int, vocabulary: Vocabulary, weapons: WeaponVocabulary) -> Generator[Checked]:
    """The token sets of a batch in the order of ``sample_id``, in blocks; ``global_index`` is not looked at.

    Raises:
        RequestError: a row is no token set, or the batch's numbers are not its own.
    """
    path = metadata.files[batch]
    try:
        table: Any = pa_parquet.read_table(path, columns=list(_COLUMNS))
        rows, order = _rows(path, table, batch)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{path} cannot be read: {error}. {NOTHING}") from error
    for start in range(0, len(rows), BLOCK):
        block = check_rows(rows.take(order[start : start + BLOCK]), vocabulary, len(weapons))
        fault = first_fault(block, lambda row, start=start: f"{path}: sample_id {start + row}")
        if fault:
            raise RequestError(f"{fault}. {NOTHING}")
        yield block


def _rows(path: Path, table: Any, batch: int) -> tuple[Rows, NDArray[np.intp]]:  # noqa: ANN401 - pyarrow is untyped
    """The rows as they are in the file, and the order that ``sample_id`` puts them in."""
    lists = table.column("ability_tokens").combine_chunks()
    if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
        raise RequestError(f"{path}: ability_tokens holds {lists.type}, and lists of ids are expected. {NOTHING}")
    numbers = {name: _whole(path, table, name) for name in ("batch_id", "sample_id", "weapon_id_token")}
    if (numbers["batch_id"] != batch).any():
        stray = int(numbers["batch_id"][numbers["batch_id"] != batch][0])
        raise RequestError(f"{path}: a row says that it is of batch {stray}: was the file renamed? {NOTHING}")
    order = np.argsort(numbers["sample_id"], kind="stable")
    if not np.array_equal(numbers["sample_id"][order], np.arange(len(order))):
        raise RequestError(f"{path}: sample_id does not number its {len(order):,} rows from 0. {NOTHING}")
    values = lists.flatten()
    unreadable = np.asarray(lists.is_null()) | _lists_with_null(lists, values)
    tokens = np.asarray(values.fill_null(0).cast(pa.int64()))
    lengths = np.asarray(lists.value_lengths().fill_null(0)).astype(np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return Rows(numbers["weapon_id_token"], indptr, tokens, unreadable), order


def _lists_with_null(lists: Any, values: Any) -> NDArray[np.bool_]:  # noqa: ANN401 - pyarrow is untyped
    """Which lists hold a missing element."""
    row = np.asarray(lists.value_parent_indices())
    return np.bincount(row[np.asarray(values.is_null())], minlength=len(lists)) > 0


def _whole(path: Path, table: Any, name: str) -> NDArray[np.int64]:  # noqa: ANN401 - pyarrow is untyped
    """A column of whole numbers, none missing."""
    column = table.column(name)
    if column.null_count or not pa.types.is_integer(column.type):
        what = f"{column.null_count} missing values" if column.null_count else f"{column.type}"
        raise RequestError(f"{path}: {name} holds {what}, and whole numbers are expected. {NOTHING}")
    return column.to_numpy().astype(np.int64)


def example_pieces(
    metadata: Metadata, batch: int, vocabulary: Vocabulary, weapons: WeaponVocabulary, writer: ExampleWriter
) -> Pieces:
    """The pieces of a batch's examples."""
    for block in read_batch(metadata, batch, vocabulary, weapons):
        yield writer.piece(block.sets)
