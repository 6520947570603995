"""Columns to Parquet and back. pyarrow is imported here only, when a file is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwspecs.errors import InputError


def parquet_bytes(columns: dict[str, np.ndarray]) -> bytes:
    """The columns as a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), sink, compression="zstd")
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
