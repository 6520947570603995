"""`kinesim calibrate fit`: tables of measured kernels in, profiles out. Called by the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from calibration.fit import fit_profiles, profile_names
from calibration.tables import KernelTable, read_kernels
from calibration.transfer import fit_transfer
from hwspecs.errors import InputError
from simulator.files import check_writable, replace_file
from simulator.fitted import Fitted
from simulator.printing import print_json
from simulator.profilefile import to_bytes
from simulator.progress import progress_bar
from simulator.selection import TRANSFER

FILE_NAME = re.compile(r"(?=.{1,100}$)\w[\w.+-]*@\w[\w.+-]*")


def fit(
    paths: Sequence[Path],
    *,
    out: Path,
    source: str = "",
    seed: int = 0,
    jobs: int | None = None,
    force: bool = False,
    as_json: bool = False,
) -> None:
    """Fit the profiles of all GPUs and software in the tables, and `transfer` if there is more than one GPU.

    Writes `<gpu>@<software>.npz` into the folder `out`. Existing files are only replaced with `force`. Raises
    InputError.
    """
    tables = read_tables(paths)
    names = profile_names(tables)
    pooled = len({name.split("@")[0] for name in names}) > 1
    files = [f"{name}.npz" for name in [*names, *([TRANSFER] if pooled else [])]]
    for file in files:
        if (out / file).exists() and not force:
            raise InputError("is there already", file=out / file, allowed="another folder with --out, or --force")
    check_writable(out, files)
    with progress_bar("fitting") as report:
        profiles = fit_profiles(tables, source=source, seed=seed, jobs=jobs, progress=report)
    if pooled:
        with progress_bar("pooling for transfer") as report:
            profiles.append(fit_transfer(tables, profiles, source=source, seed=seed, jobs=jobs, progress=report))
    written = []
    for profile in profiles:
        path = out / f"{profile.name}.npz"
        replace_file(path, to_bytes(profile))
        written.append(path)
    rows = summary(profiles)
    if as_json:
        print_json({"schema": "kinesim.fit/1", "files": [str(p) for p in written], "profiles": rows})
    else:
        _show(rows, written)


def read_tables(paths: Sequence[Path]) -> list[KernelTable]:
    """Checked tables, one of a kind, each with something measured."""
    tables: list[KernelTable] = []
    for path in paths:
        table = read_kernels(path)
        if any(other.kind == table.kind for other in tables):
            raise InputError(f"is a second table of {table.kind}", file=path, allowed="one table of each kind")
        if not table.measured.any():
            raise InputError("has no measured row", file=path, place="latency_us", allowed="a column with latencies")
        tables.append(table)
    names = profile_names(tables)
    if not names:
        raise InputError("no kernel has enough measured rows to fit", file=paths[0], allowed="at least 8 rows a kernel")
    for name in names:
        if not FILE_NAME.fullmatch(name):
            allowed = "a bundled GPU, and a software such as vllm-0.24.0 (at most 100 letters, digits, . _ + - in all)"
            raise InputError("gpu@software cannot be a file's name", file=paths[0], found=name, allowed=allowed)
    return tables


def summary(profiles: Sequence[Fitted]) -> list[dict[str, Any]]:
    """One row a profile and kind: groups, rows, held-out errors (mean over groups of their mean, the worst group)."""
    rows = []
    for profile in profiles:
        for kind in sorted({g.kind for g in profile.groups}):
            own = [g for g in profile.groups if g.kind == kind]
            worst = max(own, key=lambda g: g.errors["all"].mape)
            total = sum(g.rows for g in own)
            rows.append(
                {
                    "profile": profile.name,
                    "kind": kind,
                    "groups": len(own),
                    "rows": total,
                    "held_out_mape": sum(g.errors["all"].mape * g.rows for g in own) / total,
                    "worst_mape": worst.errors["all"].mape,
                    "worst": " ".join(worst.label.values()),
                    "host_floors_us": sorted({round(g.floor * 1e6, 1) for g in own if g.floor}),
                    "carried": {tier: band.mape for tier, band in profile.carried.get(kind, {}).items()},
                }
            )
    return rows


def _show(rows: list[dict[str, Any]], written: list[Path]) -> None:
    table = Table(title="Fitted", title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("profile", min_width=max(len(row["profile"]) for row in rows))
    table.add_column("kernels")
    for name in ("groups", "rows", "held-out error", "worst group"):
        table.add_column(name, justify="right")
    table.add_column("which")
    for row in rows:
        table.add_row(
            row["profile"],
            row["kind"],
            str(row["groups"]),
            f"{row['rows']:,}",
            f"{row['held_out_mape']:.1%}",
            f"{row['worst_mape']:.1%}",
            row["worst"],
        )
    console = Console(markup=False)
    console.print(table)
    for row in rows:
        if row["carried"]:
            tiers = ", ".join(f"{tier} {mape:.1%}" for tier, mape in row["carried"].items())
            console.print(f"{row['kind']} carried elsewhere: {tiers}")
    few = sorted({row["profile"] for row in rows if row["rows"] < 100 * row["groups"]})
    if few:
        console.print(f"few rows, so take their errors as rough: {', '.join(few)}")
    total = sum(path.stat().st_size for path in written)
    console.print(f"{len(written)} profile{'s' * (len(written) > 1)}, {total / 2**20:.1f} MiB, in {written[0].parent}")
