"""The numbers themselves: golden values worked out by hand from datasheets, and sanity of every bundled file."""

from __future__ import annotations

import json
import pickle

import jsonschema
import pytest
import yaml

from hwspecs.dtypes import BYTES, check_dtype
from hwspecs.errors import InputError
from hwspecs.gpu import GPU_FOLDER, Gpu, figure_paths, gpu_schema, list_gpus, load_gpu, to_spec

NAMES = list_gpus()
ANNOUNCED = {"r200", "mi455x"}
EXPECTED = "a100-sxm b200-sxm b300-sxm gb200 gb300 gh200 h100-sxm h20 h200-sxm l40s "
EXPECTED += "mi300x mi325x mi355x mi455x r200 rtx-pro-6000"


def test_the_collection():
    assert " ".join(NAMES) == EXPECTED
    assert {n for n in NAMES if load_gpu(n).status == "announced"} == ANNOUNCED


# Dense peaks in TFLOP/s. Where a datasheet shows the sparse figure, the sum that leads to the dense one.
GOLDEN_PEAKS = [
    ("a100-sxm", "bf16", 312),
    ("a100-sxm", "int8", 624),
    ("a100-sxm", "tf32", 156),
    ("h100-sxm", "bf16", 1979 / 2),
    ("h100-sxm", "fp8", 3958 / 2),
    ("h200-sxm", "bf16", 1979 / 2),
    ("h200-sxm", "fp16", 1979 / 2),
    ("h200-sxm", "fp8", 3958 / 2),
    ("h200-sxm", "int8", 3958 / 2),
    ("h200-sxm", "tf32", 989.4 / 2),
    ("h20", "bf16", 148),
    ("h20", "fp8", 296),
    ("gh200", "bf16", 1979 / 2),
    ("b200-sxm", "bf16", 36e3 / 8 / 2),  # HGX B200: 36 PFLOP/s sparse for the board
    ("b200-sxm", "fp8", 72e3 / 8 / 2),
    ("b200-sxm", "fp4", 144e3 / 8 / 2),
    ("gb200", "bf16", 5e3 / 2),  # per GPU, sparse
    ("gb200", "fp8", 10e3 / 2),
    ("gb200", "fp4", 20e3 / 2),
    ("b300-sxm", "int8", 307 / 2),
    ("gb300", "fp4", 15e3),
    ("l40s", "bf16", 362.05),
    ("l40s", "fp8", 733),
    ("rtx-pro-6000", "fp4", 188 * 4096 * 2.43e9 / 1e12),
    ("rtx-pro-6000", "fp32", 188 * 128 * 2 * 2.43e9 / 1e12),
    ("mi300x", "bf16", 304 * 2048 * 2.1e9 / 1e12),  # 1,307.4: 2,048 FLOP per clock and compute unit
    ("mi300x", "fp8", 304 * 4096 * 2.1e9 / 1e12),
    ("mi325x", "bf16", 1307.4),
    ("mi355x", "bf16", 256 * 4096 * 2.4e9 / 1e12),
    ("mi355x", "fp8", 256 * 8192 * 2.4e9 / 1e12),
    ("mi355x", "fp4", 256 * 16384 * 2.4e9 / 1e12),
    ("r200", "fp8", 17.5e3),
    ("r200", "fp4", 35e3),
    ("mi455x", "fp8", 20.13e3),
]


@pytest.mark.parametrize(("name", "dtype", "tera"), GOLDEN_PEAKS)
def test_peaks(name, dtype, tera):
    assert load_gpu(name).peak_flops(dtype) == pytest.approx(tera * 1e12, rel=1e-3)


# name, SMs, boost GHz, capacity GiB as the driver reports it, TB/s, L2 MiB, link GB/s per direction, domain, TDP
GOLDEN_SHEETS = [
    ("a100-sxm", 108, 1.41, 80.0, 2.039, 40, 300, 8, 400),
    ("h100-sxm", 132, 1.98, 79.6, 3.35, 50, 450, 8, 700),
    ("h200-sxm", 132, 1.98, 140.4, 4.8, 50, 450, 8, 700),
    ("h20", 78, 1.98, 95.6, 4.0, 60, 450, 8, 500),
    ("gh200", 132, 1.98, 95.6, 4.0, 60, 450, 32, 1000),
    ("b200-sxm", 148, 1.965, 179.1, 8.0, 126.5, 900, 8, 1000),
    ("gb200", 152, 2.062, 185.0, 8.0, 126.5, 900, 72, 1200),
    ("b300-sxm", 148, 2.032, 268.6, 8.0, 126, 900, 8, 1100),
    ("gb300", 152, 2.07, 277.5, 8.0, 126, 900, 72, 1400),
    ("l40s", 142, 2.52, 45.0, 0.864, 96, 32, 8, 350),
    ("rtx-pro-6000", 188, 2.43, 95.6, 1.597, 128, 64, 8, 600),
    ("mi300x", 304, 2.1, 192, 5.3, 256, 7 * 64, 8, 750),
    ("mi325x", 304, 2.1, 256, 6.0, 256, 7 * 64, 8, 1000),
    ("mi355x", 256, 2.4, 288, 8.0, 256, 7 * 76.8, 8, 1400),
    ("r200", 224, 2.27, 268.2, 22.0, 126.5, 1800, 72, 2300),
    ("mi455x", 256, 2.4, 402.3, 23.3, 192, 1800, 72, 2300),
]


@pytest.mark.parametrize("sheet", GOLDEN_SHEETS, ids=lambda s: s[0])
def test_sheets(sheet):
    name, sms, clock, gib, tera, l2, link, domain, tdp = sheet
    gpu = load_gpu(name)
    assert (gpu.sms, gpu.link.domain) == (sms, domain)
    assert gpu.boost_clock == pytest.approx(clock * 1e9)
    assert gpu.memory.capacity / 2**30 == pytest.approx(gib, abs=0.06)
    assert gpu.memory.bandwidth == pytest.approx(tera * 1e12)
    assert gpu.l2.size == pytest.approx(l2 * 2**20)
    assert gpu.link.bandwidth == pytest.approx(link * 1e9)
    assert gpu.power.tdp == pytest.approx(tdp)


# The network between domains: Gb/s of the adapter of one GPU (HDR 200, NDR 400, XDR 800); 0 where nothing is known.
ADAPTERS = {"a100-sxm": 200, "b300-sxm": 800, "gb300": 800, "r200": 1600, "mi455x": 2400, "h20": 0, "l40s": 0,
            "rtx-pro-6000": 0}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_networks(name):
    gpu, gigabits = load_gpu(name), ADAPTERS.get(name, 400)
    assert (gpu.scale_out is None) == (gigabits == 0)
    if gpu.scale_out is not None:
        assert gpu.scale_out.bandwidth == pytest.approx(gigabits * 1e9 / 8)
        assert gpu.scale_out.bandwidth < gpu.link.bandwidth and 1e-6 < gpu.scale_out.latency < 1e-5


def test_a_network_may_be_given_and_taken_away():
    network = {"kind": "roce", "bandwidth": "25 GB/s", "latency": "5 us"}
    gpu = load_gpu({"base": "l40s", "scale_out": network})
    assert gpu.scale_out is not None and gpu.scale_out.latency == pytest.approx(5e-6)
    assert gpu.sources["scale_out.bandwidth"].startswith("given")
    assert gpu.with_values({"scale_out.bandwidth": 5e10}).scale_out.bandwidth == 5e10
    assert load_gpu({"base": "h200-sxm", "scale_out": None}).scale_out is None


def test_every_gpu_is_in_the_golden_sheets():
    assert {s[0] for s in GOLDEN_SHEETS} == set(NAMES)
    assert {s[0] for s in GOLDEN_PEAKS} == set(NAMES)


# FLOP per byte: dense peak over memory bandwidth, by hand
RIDGES = [
    ("h200-sxm", "bf16", 206.15),  # 989.5 / 4.8
    ("h200-sxm", "fp8", 412.29),  # 1979 / 4.8
    ("h100-sxm", "bf16", 295.37),  # 989.5 / 3.35
    ("a100-sxm", "bf16", 153.02),  # 312 / 2.039
    ("h20", "bf16", 37.0),  # 148 / 4
    ("b200-sxm", "bf16", 281.25),  # 2250 / 8
    ("b200-sxm", "fp4", 1125.0),  # 9000 / 8
    ("mi300x", "bf16", 246.68),  # 1307.4 / 5.3
]


@pytest.mark.parametrize(("name", "dtype", "ridge"), RIDGES)
def test_ridge_points(name, dtype, ridge):
    assert load_gpu(name).ridge_point(dtype) == pytest.approx(ridge, rel=1e-4)


def test_the_kinetics_ratio():
    b200 = load_gpu("b200-sxm")
    assert b200.flops_per_byte("fp8") == 562.5  # the paper's figure: 4,500 TFLOP/s over 8 TB/s
    assert b200.kinetics_ratio == b200.flops_per_byte() == b200.flops_per_byte("bf16") == 281.25


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_complete(name):
    gpu = load_gpu(name)
    assert set(gpu.sources) == set(figure_paths(gpu))
    written = yaml.safe_load((GPU_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))["sources"]
    groups = {p.split(".")[0] for p in figure_paths(gpu)}
    assert set(written) <= set(figure_paths(gpu)) | groups
    assert all(len(text) > 12 for text in gpu.sources.values())


@pytest.mark.parametrize("name", NAMES)
def test_peaks_are_dense_and_plausible(name):
    gpu = load_gpu(name)
    peak = gpu.peak
    assert set(peak) <= set(BYTES)
    assert {"fp32", "bf16", "fp16"} <= set(peak)
    assert peak["bf16"] == peak["fp16"]
    if gpu.status == "released":  # the announced parts gave fp8 and fp4 far more than twice
        if "fp8" in peak:
            assert peak["fp8"] / peak["bf16"] == pytest.approx(2, rel=0.02)
        if "fp4" in peak:
            assert 1.9 < peak["fp4"] / peak["fp8"] < 3.2
    if "tf32" in peak:
        assert peak["tf32"] / peak["bf16"] == pytest.approx(0.5, rel=0.02)
    if "int8" in peak and not gpu.architecture.startswith("Blackwell Ultra"):  # which has hardly any int8
        assert peak["int8"] / peak["bf16"] == pytest.approx(2, rel=0.02)
    # FLOP per clock and SM of the matrix units is a power of two; a sparse figure would be twice that. The clock of
    # the datasheet's peak is not always the largest one, and the announced clock is an estimate.
    per_clock = peak["bf16"] / gpu.sms / gpu.boost_clock
    sparse_or_dense = {
        "Ampere": 2048,
        "Hopper": 4096,
        "Blackwell": 8192,
        "Blackwell Ultra": 8192,
        "Rubin": 8192,
        "Ada Lovelace": 1024,
        "Blackwell (GB202)": 1024,
        "CDNA 3": 2048,
        "CDNA 4": 4096,
        "CDNA 5": 8192,
    }[gpu.architecture]
    if name != "h20":  # its tensor cores are throttled
        assert 0.85 < per_clock / sparse_or_dense < 1.02
    assert gpu.power.idle < gpu.power.tdp / 3
    assert gpu.l2.bandwidth > gpu.memory.bandwidth
    assert gpu.price is not None and gpu.price.usd_per_hour > 0


@pytest.mark.parametrize("name", NAMES)
def test_estimates_say_so(name):
    gpu = load_gpu(name)
    if gpu.status == "announced":
        marked = [p for p, s in gpu.sources.items() if s.startswith(("announced", "estimate", "derived"))]
        assert set(marked) == set(gpu.sources)
    assert name == gpu.name == gpu.origin
    assert gpu.base is None


def test_formats_the_hardware_lacks():
    with pytest.raises(InputError) as error:
        load_gpu("h200-sxm").peak_flops("fp4")
    assert error.value.found == "fp4"
    assert (
        "bf16" in error.value.allowed
        and "fp8" in error.value.allowed
        and "fp4" not in error.value.allowed.split(" (")[0]
    )
    with pytest.raises(InputError):
        load_gpu("mi355x").peak_flops("tf32")


def test_derived_l2_bandwidth():
    gpu = load_gpu("h200-sxm")
    assert gpu.l2.bandwidth == pytest.approx(64 * 132 * 1.98e9)  # 16.7 TB/s
    assert gpu.sources["l2.bandwidth"].startswith("derived")
    assert load_gpu("a100-sxm").l2.bandwidth == pytest.approx(5120 * 1.41e9, rel=1e-3)
    wider = load_gpu({"base": "h200-sxm", "sms": 264})
    assert wider.l2.bandwidth == pytest.approx(2 * gpu.l2.bandwidth)  # derived after the override
    assert wider.peak == gpu.peak and wider.memory == gpu.memory  # all else stays


def test_dtypes():
    assert BYTES["fp4"] == BYTES["int4"] == 0.5
    assert (
        BYTES["fp32"] == BYTES["tf32"] == 4
        and BYTES["bf16"] == BYTES["fp16"] == 2
        and BYTES["fp8"] == BYTES["int8"] == 1
    )
    assert check_dtype("fp8") == "fp8"
    for bad in ("fp9", "", None, 8, ["bf16"]):
        with pytest.raises(InputError) as error:
            check_dtype(bad)
        assert "bf16" in error.value.allowed


@pytest.mark.parametrize("name", NAMES)
def test_to_spec_reads_back(name):
    gpu = load_gpu(name)
    assert load_gpu(to_spec(gpu)) == gpu
    assert json.loads(json.dumps(to_spec(gpu))) == to_spec(gpu)


def test_gpus_are_values():
    gpu = load_gpu("h200-sxm")
    assert gpu == load_gpu("h200-sxm") and hash(gpu) == hash(load_gpu("h200-sxm"))
    assert pickle.loads(pickle.dumps(gpu)) == gpu
    assert gpu != load_gpu("h100-sxm")
    with pytest.raises(AttributeError):
        gpu.sms = 1  # type: ignore[misc]


FACTORS = ["sms", "boost_clock", "peak.bf16", "memory.bandwidth", "memory.capacity", "l2.size", "l2.bandwidth"]
FACTORS += ["link.bandwidth", "link.domain", "scale_out.bandwidth", "scale_out.latency"]
FACTORS += ["pcie.bandwidth", "power.tdp", "price.usd_per_hour"]


def value(gpu: Gpu, path: str):
    node = gpu
    for part in path.split("."):
        node = node[part] if isinstance(node, dict) else getattr(node, part)
    return node


@pytest.mark.parametrize("path", FACTORS)
def test_resources_scale_one_by_one(path):
    gpu = load_gpu("b200-sxm")
    changed = gpu.with_values({path: 2 * value(gpu, path)})
    for other in figure_paths(gpu):
        expected = (2 if other == path else 1) * value(gpu, other) if other != "price.date" else value(gpu, other)
        if isinstance(expected, str):
            assert value(changed, other) == value(gpu, other)
        else:
            assert value(changed, other) == pytest.approx(expected, rel=1e-12), other
    assert changed.sources[path] == "changed by the caller"
    assert (changed.name, changed.base) == (gpu.name, gpu.base)


def test_with_values_can_add_a_format():
    assert load_gpu("h200-sxm").with_values({"peak.fp4": 4e15}).peak_flops("fp4") == 4e15


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"memory.bandwith": 1e12}, "memory.bandwith"),
        ({"hbm": 1e12}, "hbm"),
        ({"memory": 1e12}, "memory"),
        ({"peak.fp9": 1e12}, "peak.fp9"),
        ({"memory.bandwidth": -1e12}, "memory.bandwidth"),
        ({"memory.bandwidth": float("nan")}, "memory.bandwidth"),
        ({"memory.bandwidth": float("inf")}, "memory.bandwidth"),
        ({"sms": 1.5}, "sms"),
        ({"power.tdp": 10.0}, "power.idle"),
    ],
)
def test_with_values_refuses(values, where):
    with pytest.raises(InputError) as error:
        load_gpu("h200-sxm").with_values(values)
    assert error.value.place == where
    assert error.value.allowed


def test_the_json_schema():
    schema = gpu_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in NAMES:
        validator.validate(yaml.safe_load((GPU_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))
    validator.validate({"base": "h200-sxm", "memory": {"bandwidth": "9.6 TB/s"}})
    for bad in (
        {},
        {"base": "h200-sxm", "memory": {"bandwith": "9.6 TB/s"}},
        {"base": "h200-sxm", "memory": {"bandwidth": 9.6}},
        {"base": "h200-sxm", "memory": {"bandwidth": "9600"}},
        {"base": "h200-sxm", "peak": {"fp9": "1 TFLOP/s"}},
        {"base": "h200-sxm", "status": "rumoured"},
        {"base": 3},
        {"memory": {"bandwidth": "9.6 TB/s"}},
    ):
        assert not validator.is_valid(bad), bad
