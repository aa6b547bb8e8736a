"""Where censuses are: one Parquet file a bundle in the home folder, and the parts of one that is being taken."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ...context.home import Home
from ...schemas.errors import RequestError, StoreError
from ...schemas.manifest import is_name
from ..store import files
from .table import CensusTable

if TYPE_CHECKING:
    from ...context.context import Context


@dataclass(frozen=True, slots=True)
class CensusStore:
    """The censuses of one bundle, known by its name and its content's fingerprint.

    Attributes:
        home: the home folder; files are in ``census`` below it.
        bundle: name of the bundle.
        fingerprint: of its content.
    """

    home: Home
    bundle: str
    fingerprint: str

    @classmethod
    def of(cls, ctx: Context, home: Home) -> CensusStore:
        """The censuses of an open bundle.

        Raises:
            RequestError: files and specs cannot bear its name.
        """
        if not is_name(ctx.name):
            raise RequestError(
                f"the bundle's folder is called {ctx.name!r}, which is no name a spec can hold: rename it to letters, "
                f"digits, '.', '_' and '-' only. Nothing was run."
            )
        return cls(home, ctx.name, ctx.bundle.fingerprint)

    @property
    def folder(self) -> Path:
        """The folder of all censuses."""
        return self.home.root / "census"

    def path(self, part: tuple[int, int] | None = None) -> Path:
        """The file of the whole census, or of the features from ``part[0]`` up to, not including, ``part[1]``."""
        span = "" if part is None else f"-features-{part[0]}-{part[1] - 1}"
        return self.folder / f"{self.bundle}-{self.fingerprint[:12]}{span}.parquet"

    def blocks(self, key: str) -> Path:
        """The folder of the finished blocks of a census that is being taken."""
        return self.folder / f"{self.bundle}-{self.fingerprint[:12]}-{key[:12]}.blocks"

    def find(self) -> CensusTable | None:
        """The stored census: the whole one, else the newest of a part of the features; None where there is none.

        Raises:
            StoreError: a file cannot be read.
        """
        if self.path().is_file():
            return CensusTable.open(self.path())
        parts = list(self.folder.glob(f"{self.bundle}-{self.fingerprint[:12]}-features-*.parquet"))
        newest = max(parts, key=lambda path: path.stat().st_mtime, default=None)
        return None if newest is None else CensusTable.open(newest)

    def publish(self, blocks: list[Path], path: Path) -> None:
        """Join finished blocks to one file, which appears whole or not at all.

        Raises:
            StoreError: the folder cannot be written, or a block cannot be read.
        """
        import pyarrow as pa  # noqa: PLC0415 - only where a census is
        import pyarrow.parquet as pq  # noqa: PLC0415

        joined = path.with_name(f"{files.TEMPORARY}{path.name}")
        try:
            with pq.ParquetWriter(joined, pq.read_schema(blocks[0]), compression="zstd") as writer:
                for block in blocks:
                    writer.write_table(pq.read_table(block))
            with joined.open("rb+") as stream:
                os.fsync(stream.fileno())
            joined.replace(path)
            files.sync_folder(path.parent)
        except OSError as error:
            joined.unlink(missing_ok=True)
            raise files.store_error("write", path, error) from error
        except pa.ArrowException as error:
            joined.unlink(missing_ok=True)
            found = f"the finished blocks in {blocks[0].parent} cannot be joined: {error}"
            raise StoreError(f"{found}. Remove that folder and take the census again.") from error

    def forget(self, blocks: Path) -> None:
        """Remove the finished blocks of a census that was published.

        Raises:
            StoreError: they cannot be removed.
        """
        try:
            shutil.rmtree(blocks)
        except OSError as error:
            raise StoreError(f"cannot remove {blocks}: {error}. The census itself is stored; remove it.") from error
