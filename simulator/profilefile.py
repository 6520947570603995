"""Files of fitted profiles: an archive of arrays with one JSON text, `<gpu>@<software>.npz` or `transfer.npz`.

`meta` (UTF-8 JSON) holds everything for people and, for each group, where its trees lie in the arrays:

    features, codes : uint8 [all trees x depth], features and indices into the group's `cuts`
    cuts : float32, all thresholds one after the other, sorted per group and feature
    leaves : int8 [all trees x leaves], times the tree's `scale` (float32)

Written without dates, so that the same groups give the same bytes.
"""

from __future__ import annotations

import io
import json
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from simulator.fitted import ErrorBand, Fitted, Group
from simulator.kernels.registry import MODELS
from simulator.trees import Trees

VERSION = 1
BROKEN = (
    ValueError, TypeError, LookupError, AttributeError, OverflowError, EOFError, RuntimeError, MemoryError, zlib.error,
    zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip
"""What NumPy, zip and JSON raise for files that are none of theirs, or damaged (an array's header is Python text)."""


def to_bytes(profile: Fitted) -> bytes:
    """The file of a profile."""
    groups, parts = [], {"features": [], "codes": [], "cuts": [], "leaves": [], "scale": []}  # type: ignore[var-annotated]
    at = dict.fromkeys(parts, 0)
    for group in profile.groups:
        forests = []
        for trees in (group.trees, group.host):
            if trees is None:
                continue
            packed, cut_sizes = _pack(trees)
            forests.append({"base": trees.base, "shape": list(trees.features.shape), "cuts": cut_sizes, "at": dict(at)})
            for name, array in packed.items():
                parts[name].append(array)
                at[name] += len(array)
        groups.append(
            {
                "kind": group.kind,
                "label": dict(group.label),
                "constants": {k: float(v) for k, v in group.constants.items()},
                "ranges": {k: list(v) for k, v in group.ranges.items()},
                "lattice": {k: v.tolist() for k, v in group.lattice.items()},
                "floor": group.floor,
                "rows": group.rows,
                "errors": {k: _band(v) for k, v in group.errors.items()},
                "trees": forests,
            }
        )
    meta = {
        "version": VERSION,
        "name": profile.name,
        "description": profile.description,
        "fitted_on": profile.fitted_on,
        "gpu": profile.gpu,
        "software": profile.software,
        "carried": {
            kind: {tier: _band(band) for tier, band in tiers.items()} for kind, tiers in profile.carried.items()
        },
        "models": {kind: _signature(kind) for kind in sorted({g.kind for g in profile.groups})},
        "groups": groups,
    }
    arrays = {name: np.concatenate(pieces) for name, pieces in parts.items()}
    arrays["meta"] = np.frombuffer(json.dumps(meta, separators=(",", ":"), sort_keys=True).encode(), dtype=np.uint8)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            # A fixed date: the same profile gives the same bytes.
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue(), zipfile.ZIP_DEFLATED
            )
    return out.getvalue()


def _signature(kind: str) -> dict[str, list[str]]:
    """What trees and constants refer to: a profile is of no use to kernel models that changed since."""
    model = MODELS[kind]
    return {"constants": sorted(model.constants), "features": list(model.names)}


def _band(band: ErrorBand) -> list[float]:
    return [round(band.low, 5), round(band.high, 5), round(band.mape, 5), band.rows]


def _read_band(band: list[float]) -> ErrorBand:
    low, high, mape, rows = band
    return ErrorBand(float(low), float(high), float(mape), int(rows))


def quantised(trees: Trees) -> Trees:
    """The trees as a file will give them back: leaves in 255 steps."""
    scale = np.maximum(np.abs(trees.leaves).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    leaves = np.rint(trees.leaves / scale[:, None]).astype(np.int8)
    return Trees(trees.base, trees.features, trees.thresholds, leaves.astype(np.float32) * scale[:, None])


def _pack(trees: Trees) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    scale = np.maximum(np.abs(trees.leaves).max(axis=1), 1e-12).astype(np.float32) / np.float32(127)
    leaves = np.rint(trees.leaves / scale[:, None]).astype(np.int8)
    codes = np.zeros(trees.features.shape, dtype=np.uint8)
    cuts, sizes = [], []
    for feature in np.unique(trees.features):
        of = trees.features == feature
        own = np.unique(trees.thresholds[of])
        codes[of] = np.searchsorted(own, trees.thresholds[of])
        cuts.append(own)
        sizes.append([int(feature), len(own)])
    return {
        "features": trees.features.astype(np.uint8).ravel(),
        "codes": codes.ravel(),
        "cuts": np.concatenate(cuts).astype(np.float32) if cuts else np.zeros(0, np.float32),
        "leaves": leaves.ravel(),
        "scale": scale,
    }, sizes


def read_profile(path: Path) -> Fitted:
    """A profile from its file. InputError if it is not one."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return _profile(json.loads(arrays["meta"].tobytes()), arrays)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", file=path) from None
    except InputError as error:
        raise error.at(file=path) from None
    except BROKEN as error:
        raise InputError(
            "not a fitted profile",
            file=path,
            found=str(error) or type(error).__name__,
            allowed="a file that `kinesim calibrate fit` wrote",
        ) from None


def _profile(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Fitted:
    if meta["version"] != VERSION:
        raise InputError("profile of another version", place="version", found=meta["version"], allowed=str(VERSION))
    for kind, signature in meta["models"].items():
        if kind not in MODELS or signature != _signature(kind):
            raise InputError(
                f"was fitted to another model of {kind}", allowed="a profile fitted by this version of kinesim"
            )
    texts = [str(meta[name]) for name in ("name", "description", "fitted_on", "gpu", "software")]
    groups = tuple(_group(entry, arrays) for entry in meta["groups"])
    carried = {
        kind: {tier: _read_band(band) for tier, band in tiers.items()} for kind, tiers in meta["carried"].items()
    }
    return Fitted(texts[0], texts[1], texts[2], texts[3], texts[4], groups, carried)


def read_meta(path: Path) -> dict[str, Any]:
    """What a profile's file says of itself, without its trees."""
    with np.load(path, allow_pickle=False) as archive:
        meta: dict[str, Any] = json.loads(archive["meta"].tobytes())
    return meta


def _trees(entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Trees:
    trees, depth = entry["shape"]
    at = entry["at"]

    def part(name: str, size: int) -> np.ndarray:
        return arrays[name][at[name] : at[name] + size]

    features = part("features", trees * depth).reshape(trees, depth).astype(np.int16)
    codes = part("codes", trees * depth).reshape(trees, depth)
    thresholds = np.zeros((trees, depth), dtype=np.float32)
    start = 0
    cuts = part("cuts", sum(size for _, size in entry["cuts"]))
    for feature, size in entry["cuts"]:
        of = features == feature
        thresholds[of] = cuts[start : start + size][codes[of]]
        start += size
    leaves = part("leaves", trees << depth).reshape(trees, 1 << depth).astype(np.float32)
    leaves *= part("scale", trees)[:, None]
    return Trees(float(entry["base"]), features, thresholds, leaves)


def _group(entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Group:
    model, constants, ranges = MODELS[entry["kind"]], entry["constants"], entry["ranges"]
    forests = [_trees(forest, arrays) for forest in entry["trees"]]
    if set(ranges) != set(model.columns) or set(entry["label"]) != {*model.labels, *model.named}:
        raise ValueError(f"a group of {model.kind} has other columns")
    if constants and set(constants) != set(model.constants):
        raise ValueError(f"a group of {model.kind} has other constants")
    if any(trees.features.size and trees.features.max() >= len(model.names) for trees in forests):
        raise ValueError(f"a group of {model.kind} has other features")
    return Group(
        kind=model.kind,
        label={name: str(text) for name, text in entry["label"].items()},
        constants={name: float(value) for name, value in constants.items()},
        trees=forests[0],
        ranges={name: (float(low), float(high)) for name, (low, high) in ranges.items()},
        lattice={name: np.array(values, dtype=float) for name, values in entry["lattice"].items()},
        floor=float(entry["floor"]),
        rows=int(entry["rows"]),
        errors={name: _read_band(band) for name, band in entry["errors"].items()},
        host=forests[1] if len(forests) > 1 else None,
    )
