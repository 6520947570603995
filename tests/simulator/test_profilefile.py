"""Files of fitted profiles: the same bytes again, and a clear message for what is none."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from madeprofiles import LABELS, group, no_trees, profile, random_trees, shapes

from hwspecs.errors import InputError
from hwspecs.gpu import load_gpu
from simulator.fitted import ErrorBand, Fitted
from simulator.kernels.registry import MODELS
from simulator.profilefile import VERSION, read_meta, read_profile, to_bytes
from simulator.trees import Trees

H200 = load_gpu("h200-sxm")


def made() -> Fitted:
    groups = tuple(group(kind, random_trees(kind, seed)) for kind in MODELS for seed in (1, 2))
    empty = Trees(0.5, np.zeros((0, 1), np.int16), np.zeros((0, 1), np.float32), np.zeros((0, 2), np.float32))
    more = (group("gemm", empty, floor=5.5e-5), group("moe", no_trees()), group("gemm", host=random_trees("gemm", 3)))
    carried = {"gemm": {"sibling": ErrorBand(-0.2, 0.1, 0.08, 400), "foreign": ErrorBand(-0.3, 0.4, 0.2, 500)}}
    return profile("h200-sxm@vllm-0.24.0", groups + more, carried=carried)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "h200-sxm@vllm-0.24.0.npz"
    path.write_bytes(to_bytes(made()))
    return path


def test_what_is_read_is_written_to_the_same_bytes(file: Path) -> None:
    assert to_bytes(made()) == file.read_bytes()
    assert to_bytes(read_profile(file)) == file.read_bytes()


def test_everything_comes_back(file: Path) -> None:
    before, after = made(), read_profile(file)
    for name in ("name", "description", "fitted_on", "gpu", "software", "carried"):
        assert getattr(after, name) == getattr(before, name)
    assert len(after.groups) == len(before.groups)
    for a, b in zip(after.groups, before.groups, strict=True):
        names = ("kind", "label", "constants", "ranges", "floor", "rows", "errors")
        assert [getattr(a, n) for n in names] == [getattr(b, n) for n in names]
        assert a.lattice.keys() == b.lattice.keys()
        assert all(np.array_equal(a.lattice[n], b.lattice[n]) for n in a.lattice)
        assert (a.host is None) == (b.host is None)
        for x, y in ((a.trees, b.trees), (a.host, b.host)):
            if x is not None and y is not None:
                assert x.base == y.base
                for part in ("features", "thresholds", "leaves"):
                    assert np.array_equal(getattr(x, part), getattr(y, part)), part
        at = shapes(a.kind, 4, 100)
        assert np.array_equal(a.estimate(at, H200).seconds, b.estimate(at, H200).seconds)


def test_meta_alone(file: Path) -> None:
    meta = read_meta(file)
    assert (meta["name"], meta["version"], len(meta["groups"])) == (
        "h200-sxm@vllm-0.24.0",
        VERSION,
        2 * len(MODELS) + 3,
    )


def test_no_pickle_no_dates(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


# ---- bad files -------------------------------------------------------------------------------------------------------


def rewritten(file: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> bytes:
    """The file with its JSON or its arrays changed."""
    with np.load(file) as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    meta = json.loads(arrays["meta"].tobytes())
    change(meta, arrays)
    if "meta" in arrays:
        arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def another_version(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["version"] = 99


def another_model(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["models"]["gemm"]["features"].append("phase of the moon")


def another_constant(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["models"]["moe"]["constants"].remove("sharpness")


def unknown_kind(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["models"]["dance"] = {}


def without_name(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    del meta["name"]


def without_meta(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    del arrays["meta"]


def without_trees(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    del arrays["leaves"]


def fewer_leaves(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["leaves"] = arrays["leaves"][:100]


def wild_codes(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["codes"][:] = 255


def wild_features(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    arrays["features"][:] = 200
    for entry in (forest for of in meta["groups"] for forest in of["trees"]):
        entry["cuts"] = [[200, sum(size for _, size in entry["cuts"])]]


def other_columns(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["groups"][0]["ranges"] = {"m": [1, 2]}


def other_constants(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["groups"][0]["constants"] = {"sharpness": 3}


def lists_for_mappings(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["carried"] = []


def text_for_numbers(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    meta["groups"][0]["floor"] = "low"


BROKEN: dict[Callable[..., None], str] = {
    another_version: "profile of another version",
    another_model: "was fitted to another model of gemm",
    another_constant: "was fitted to another model of moe",
    unknown_kind: "was fitted to another model of dance",
    **dict.fromkeys(
        (
            without_name, without_meta, without_trees, fewer_leaves, wild_codes, wild_features, other_columns,
            other_constants, lists_for_mappings, text_for_numbers,
        ),
        "not a fitted profile",
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_a_changed_file(file: Path, tmp_path: Path, change: Callable[..., None]) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(rewritten(file, change))
    with pytest.raises(InputError) as raised:
        read_profile(path)
    assert raised.value.problem == BROKEN[change]
    assert raised.value.file == path


CONTENTS = {
    "empty": b"",
    "text": b"gpu,software\n",
    "an array": lambda: _saved(np.ones(3)),
    "an archive of other things": lambda: _zipped({"a.txt": "hello"}),
    "a pickle": lambda: _saved(np.array([{}], dtype=object)),
}


def _saved(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _zipped(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


@pytest.mark.parametrize("name", CONTENTS)
def test_another_file(tmp_path: Path, name: str) -> None:
    content = CONTENTS[name]
    path = tmp_path / "x.npz"
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(InputError, match="not a fitted profile"):
        read_profile(path)


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_profile(path)


def test_damaged_files_are_refused_and_nothing_else_happens(file: Path, tmp_path: Path) -> None:
    """Bytes flipped or missing: InputError, or the same profile where the byte meant nothing."""
    good, rng = file.read_bytes(), random.Random(0)
    path, refused = tmp_path / "x.npz", 0
    for trial in range(250):
        content = bytearray(good)
        if trial % 5 == 0:
            content = content[: rng.randrange(len(content))]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(content))
        try:
            found = read_profile(path)
        except InputError:
            refused += 1
        else:
            assert to_bytes(found) == good
    assert refused > 200


def test_messages_of_the_command_line(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinesim: Callable[..., Any]
) -> None:
    """`run --set profile=x.npz` and `validate kernels --profile x.npz` end with 2 and one line; nothing is written."""
    label = LABELS["gemm"]
    table = f"gpu,software,kernel,dtype,m,n,k,latency_us\nh200-sxm,vllm-0.24.0,{label['kernel']},bf16,16,128,128,5\n"
    (tmp_path / "t.csv").write_text(table)
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:-100])
    (tmp_path / "version.npz").write_bytes(rewritten(file, another_version))
    (tmp_path / "model.npz").write_bytes(rewritten(file, another_model))
    monkeypatch.chdir(tmp_path)
    cases = {
        "cut.npz": "not a fitted profile",
        "version.npz": "another version",
        "model.npz": "another model of gemm",
        "none.npz": "cannot be read",
    }
    before = sorted(tmp_path.iterdir())
    for name, words in cases.items():
        for argv in (
            ("run", "chat-poisson", "--set", f"profile={tmp_path / name}", "--out", "out"),
            ("validate", "kernels", "t.csv", "--profile", name, "--out", "p.csv"),
        ):
            outcome = kinesim(*argv)
            assert outcome.code == 2, (argv, outcome.err)
            assert words in outcome.err and name in outcome.err, (argv, outcome.err)
            assert outcome.err.count("\n") == 1 and outcome.out == ""
    assert sorted(tmp_path.iterdir()) == before
