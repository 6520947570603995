"""Columns to files and back. pyarrow, and pandas for CSV, are imported here only, when a file is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwspecs.errors import InputError
from simulator.files import check_writable, replace_file

SUFFIXES = (".csv", ".parquet")


def parquet_bytes(columns: dict[str, np.ndarray], repeated: list[str] | None = None) -> bytes:
    """The columns as a Parquet file. `repeated` : those whose values are looked for again and kept once; None: all,
    which takes twice as long.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(table, sink, compression="zstd", use_dictionary=True if repeated is None else repeated)
    return sink.getvalue().to_pybytes()


def read_parquet(path: Path) -> dict[str, np.ndarray]:
    """The columns of a Parquet file. Raises InputError if there is none or it is broken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError("no such file", file=path) from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"is not a readable Parquet file: {str(error).splitlines()[0]}", file=path) from None
    return {name: table.column(name).to_numpy() for name in table.column_names}


def check_table_path(path: Path, place: str = "--out") -> None:
    """InputError if no table could be written to `path`. To be asked before long work."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            "not the name of a table", place=place, found=str(path), allowed="a file ending in .csv or .parquet"
        )
    check_writable(path.parent, [path.name], place)


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """The columns as a table, CSV or Parquet by the name's ending. InputError as of `check_table_path`."""
    check_table_path(path)
    if path.suffix.lower() == ".parquet":
        content = parquet_bytes(columns, [name for name, values in columns.items() if values.dtype.kind in "OUi"])
    else:
        import pandas as pd

        content = pd.DataFrame(columns).to_csv(index=False).encode()
    replace_file(path, content)
