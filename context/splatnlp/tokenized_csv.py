"""``tokenized_data.csv``: complete builds, of which partial examples are made as the network was trained on them.

Rows that are no build are counted, named by their line and skipped; equal builds are one.
"""

from __future__ import annotations

import csv
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pa_compute
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from ...schemas.errors import RequestError
from ...schemas.vocabulary import Vocabulary, WeaponVocabulary
from ..builder.examples import make_examples
from ..token_sets import TokenSets
from .rows import NO_WEAPON, ExampleWriter, Rows, check_rows
from .sources import NOTHING, ImportOptions
from .work import SCRATCH, Pieces, Report, Work

TOKENS, WEAPON = "ability_tags", "weapon_id"
BUILDS, DISTINCT = f"{SCRATCH}/builds.npy", f"{SCRATCH}/distinct.npy"
BUILDS_PER_UNIT = 5_000
_LINES_SHOWN = 5
pc: Any = pa_compute  # its functions are made when it is imported: no type checker knows them
_LIST = r"^\s*\[\s*(\d{1,9}\s*(,\s*\d{1,9}\s*)*)?\]\s*$"
_NUMBER = r"^\s*\d{1,9}\s*$"
_BYTES_PER_BLOCK = 2 << 20


def check_header(path: Path) -> None:
    """Raise RequestError unless the first line names the two columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            names = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RequestError(f"{path} cannot be read as CSV: {error}. {NOTHING}") from error
    for name in (TOKENS, WEAPON):
        if name not in names:
            have = ", ".join(names) or "none"
            raise RequestError(f"{path} has no column {name!r}; its first line names {have}. {NOTHING}")


@dataclass(slots=True)
class Skipped:
    """Rows of a table that were skipped, by reason: how many, and the first few."""

    count: dict[str, int] = field(default_factory=dict)
    first: list[tuple[int, str]] = field(default_factory=list)

    def add(self, reason: str, lines: NDArray[np.integer[Any]]) -> None:
        """Count the rows on some lines as skipped for one reason."""
        if len(lines):
            self.count[reason] = self.count.get(reason, 0) + len(lines)
            shown = [(line, reason) for line in np.sort(lines)[:_LINES_SHOWN].tolist()]
            self.first = sorted([*self.first, *shown])[:_LINES_SHOWN]

    def told(self) -> list[str]:
        """The first of them, by line, in words."""
        return [f"line {line}: {reason}" for line, reason in self.first]


@dataclass(slots=True)
class _Lines:
    """The line of each row, past those lines that were set aside as no row."""

    ragged: list[int] = field(default_factory=list)
    next: int = 2

    def of(self, n: int) -> NDArray[np.int64]:
        """Lines of the next n rows."""
        beyond = [line for line in self.ragged if line >= self.next]
        lines = np.setdiff1d(np.arange(self.next, self.next + n + len(beyond)), beyond)[:n]
        self.next = int(lines[-1]) + 1 if n else self.next
        return lines


def _read_blocks(path: Path, lines: _Lines) -> Generator[tuple[Rows, NDArray[np.int64]]]:
    """The rows of a CSV with their lines, block by block."""

    def set_aside(row: Any) -> str:  # noqa: ANN401 - pyarrow's InvalidRow has no published type
        lines.ragged.append(int(row.number))
        return "skip"

    text = {TOKENS: pa.string(), WEAPON: pa.string()}
    try:
        with pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=_BYTES_PER_BLOCK),
            parse_options=pa_csv.ParseOptions(invalid_row_handler=set_aside, ignore_empty_lines=False),
            convert_options=pa_csv.ConvertOptions(
                column_types=text, include_columns=list(text), strings_can_be_null=False
            ),
        ) as reader:
            for block in reader:
                yield parse_cells(block.column(0), block.column(1)), lines.of(block.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{path} cannot be read as CSV: {error}. {NOTHING}") from error


def parse_cells(lists: Any, weapons: Any) -> Rows:  # noqa: ANN401 - pyarrow is untyped
    """Cells such as ``[12, 5, 99]`` and ``17`` as rows."""
    readable = pc.match_substring_regex(lists, _LIST)
    plain = pc.if_else(readable, pc.replace_substring_regex(lists, r"[\[\]\s]", ""), "")
    parts = pc.split_pattern(plain, ",")
    empty = np.asarray(pc.equal(plain, ""))
    lengths = np.where(empty, 0, np.asarray(pc.list_value_length(parts))).astype(np.int64)
    words = pc.list_flatten(parts)
    tokens = np.asarray(words.filter(pc.not_equal(words, "")).cast(pa.int64()))
    numbered = pc.match_substring_regex(weapons, _NUMBER)
    weapon = np.asarray(pc.if_else(numbered, pc.utf8_trim_whitespace(weapons), str(NO_WEAPON)).cast(pa.int64()))
    return Rows(weapon, np.concatenate([[0], np.cumsum(lengths)]), tokens, ~np.asarray(readable))


@dataclass(frozen=True, slots=True)
class TokenizedCsv:
    """Complete builds of a CSV, and the examples made of them.

    Attributes:
        path: the file.
        vocabulary: ability tokens.
        weapons: weapon tokens.
        options: instances a build, and the seed.
    """

    path: Path
    vocabulary: Vocabulary
    weapons: WeaponVocabulary
    options: ImportOptions

    def grow(self, work: Work, arrays: dict[str, tuple[str, tuple[int, ...]]], report: Report) -> None:
        """Write the examples: partial sets of the distinct builds, and an empty set a weapon."""
        width = 4 + -(-len(self.vocabulary) // 8)
        work.grow("builds", {BUILDS: ("uint8", (width,))}, 1, lambda _unit: self._builds(work, width), report)
        work.grow("distinct builds", {DISTINCT: ("int64", ())}, 1, lambda _unit: self._distinct(work), report)
        n = len(work.array(DISTINCT))
        units = -(-n // BUILDS_PER_UNIT) + 1
        writer = ExampleWriter.after(self.vocabulary, work.length("examples", "examples/tokens.npy"))
        work.grow(
            "examples",
            arrays | {"examples/build_id.npy": ("int32", ())},
            units,
            lambda unit: self._examples(work, writer, unit, last=unit == units - 1),
            report,
        )

    def _builds(self, work: Work, width: int) -> Pieces:
        """Good rows as keys: 4 bytes of weapon, then a bit a token."""
        lines, skipped, used = _Lines(), Skipped(), 0
        for rows, line in _read_blocks(self.path, lines):
            checked = check_rows(rows, self.vocabulary, len(self.weapons))
            faults = checked.faults | {"no ability at all": ~checked.sets.present.any(axis=1)}
            wrong = np.zeros(len(rows), dtype=np.bool_)
            for reason, found in faults.items():
                skipped.add(reason, line[found & ~wrong])
                wrong |= found
            good = checked.sets.take(~wrong)
            used += len(good)
            yield {BUILDS: good.keys().view(np.uint8).reshape(len(good), width)}
        skipped.add("the wrong number of cells", np.array(lines.ragged, dtype=np.int64))
        if not used:
            raise RequestError(f"{self.path} holds no usable build: {'; '.join(skipped.told()) or 'no row'}. {NOTHING}")
        if sum(skipped.count.values()) > used:
            work.facts["notes"] = ["more rows were skipped than used: are the vocabularies those of this file?"]
        work.facts["csv"] = {"rows_used": used, "rows_skipped": skipped.count, "first_skipped": skipped.told()}

    def _distinct(self, work: Work) -> Pieces:
        """Rows at which each distinct build first occurs, in the order of the file."""
        keys = work.array(BUILDS)
        void = np.ascontiguousarray(keys).view(np.dtype((np.void, keys.shape[1]))).ravel()
        first = np.sort(np.unique(void, return_index=True)[1])
        work.facts["csv"]["distinct_builds"] = len(first)
        yield {DISTINCT: first}

    def _examples(self, work: Work, writer: ExampleWriter, unit: int, *, last: bool) -> Pieces:
        """Partial sets of a block of builds; of the last unit, the empty sets."""
        distinct = work.array(DISTINCT)
        if last:
            n_weapons = len(self.weapons)
            empty = np.zeros((n_weapons, len(self.vocabulary)), dtype=np.bool_)
            ids = len(distinct) + np.arange(n_weapons)
            yield writer.piece(TokenSets(np.arange(n_weapons, dtype=np.int32), empty)) | {"examples/build_id.npy": ids}
            return
        start = unit * BUILDS_PER_UNIT
        keys = work.array(BUILDS)[distinct[start : start + BUILDS_PER_UNIT]]
        weapon = np.ascontiguousarray(keys[:, :4]).view(np.int32).ravel()
        present = np.unpackbits(keys[:, 4:], axis=1, count=len(self.vocabulary)).astype(np.bool_)
        rng = np.random.default_rng([self.options.seed, unit])
        made = make_examples(TokenSets(weapon, present), self.options.instances_per_build, 0, rng)
        yield writer.piece(made.sets) | {"examples/build_id.npy": start + made.build_id}
