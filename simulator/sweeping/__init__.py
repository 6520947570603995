"""Sweeps: grids of scenarios over Dask, kept in a parquet dataset that survives a crash."""
