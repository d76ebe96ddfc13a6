"""A table in a work folder to which rows are only added: each addition is a file of its own, so an addition costs what it adds.

    NAME-NNNNN.arrow         the rows of one addition
    NAME-NNNNN-whole.arrow   all rows until then, in place of the files before it

For what can be made again: whoever reads it must be content with none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.core.errors import DataError
from pipelines.core.tables import read_arrows, write_arrow

MAX_PARTS = 64
SPARE_ROWS = 4096  # rows that nobody asks for and that are kept all the same
_WHOLE = "-whole"


class GrowingTable:
    """The table NAME in `folder`, with the columns of `schema`."""

    def __init__(self, folder: Path, name: str, schema: Mapping[str, Any]) -> None:
        self._folder, self._name, self._schema = folder, name, pl.Schema(schema)

    def read(self) -> pl.DataFrame:
        """All rows in the order in which they came; none where there is no file.

        Raises:
            DataError: a file is not readable or has other columns.
        """
        paths = self._parts()
        whole = [place for place, path in enumerate(paths) if path.stem.endswith(_WHOLE)]
        return read_arrows(paths[whole[-1] if whole else 0 :], self._schema) if paths else pl.DataFrame(schema=self._schema)

    def read_or_clear(self) -> pl.DataFrame:
        """All rows; none where they cannot be read, and then its files are gone."""
        try:
            return self.read()
        except DataError:
            for path in self._parts():
                path.unlink()
            return self.read()

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows."""
        self._write(rows, "")

    def replace(self, rows: pl.DataFrame) -> None:
        """Have `rows` in place of all that there are."""
        old = self._parts()
        self._write(rows, _WHOLE)
        for path in old:
            path.unlink()

    def is_bulky(self, rows: int, wanted: int) -> bool:
        """Whether it is time to `replace` its `rows` rows, of which `wanted` are asked for: most are not, or they lie in many files."""
        return rows > 2 * wanted + SPARE_ROWS or len(self._parts()) >= MAX_PARTS

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._name}-*.arrow"))

    def _write(self, rows: pl.DataFrame, suffix: str) -> None:
        have = self._parts()
        number = int(have[-1].stem.removesuffix(_WHOLE).rpartition("-")[2]) + 1 if have else 0
        write_arrow(self._folder / f"{self._name}-{number:05d}{suffix}.arrow", rows.select(list(self._schema)))
