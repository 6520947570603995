"""Figures of GPUs without pydantic, which bundled GPU a driver means, drafts for those that no file describes."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.measure import figures as gpus
from calibration.measure.figures import Driver
from calibration.measure.specdraft import MISSING, draft, write_draft
from hwspecs.errors import InputError
from hwspecs.gpu import list_gpus, load_gpu

MIB = 2**20


def driver(name: str, sms: int, memory: float, **more: object) -> Driver:
    return Driver(name, sms, capability=90, l2=50.0 * MIB, memory=memory * MIB, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list_gpus())
def test_figures_are_those_of_the_checked_reader(name: str) -> None:
    found, gpu = gpus.load_figures(name), load_gpu(name)
    assert (found.name, found.title, found.vendor, found.sms) == (gpu.name, gpu.title, gpu.vendor, gpu.sms)
    assert (found.l2, found.memory, found.bandwidth) == (gpu.l2.size, gpu.memory.capacity, gpu.memory.bandwidth)
    assert (found.clock, dict(found.peak)) == (gpu.boost_clock, dict(gpu.peak))
    assert not found.estimated
    assert gpus.list_names() == list_gpus()


def test_architectures_of_measurable_gpus_have_a_capability() -> None:
    known = {name: gpus.load_figures(name).capability for name in gpus.list_names()}
    assert known["h200-sxm"] == 90 and known["b200-sxm"] == 100 and known["a100-sxm"] == 80
    assert known["mi300x"] is None


def test_a_file_with_a_base(tmp_path: Path) -> None:
    first = tmp_path / "fast.yaml"
    first.write_text("base: h200-sxm\nmemory: {bandwidth: 8 TB/s}\npeak: {fp8: null}\n")
    second = tmp_path / "faster.yaml"
    second.write_text("base: ./fast.yaml\nname: mine\nsms: 140\n")
    found, gpu = gpus.load_figures(second), load_gpu(str(second))
    assert (found.name, found.sms, found.bandwidth, found.capability) == ("mine", 140, 8e12, 90)
    assert "fp8" not in found.peak
    assert (found.name, found.sms, found.memory) == (gpu.name, gpu.sms, gpu.memory.capacity)
    assert gpus.load_figures(first).name == load_gpu(str(first)).name == "fast"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: h201-sxm\n", "h200-sxm"),
        ("sms: 3\n", "vendor: a required figure is missing"),
        ("base: h200-sxm\nmemory: {bandwidth: 8}\n", "memory.bandwidth: a unit is missing"),
        ("base: h200-sxm\nsms: -3\n", "sms: not such a number"),
        ("base: h200-sxm\npeak: 3\n", "peak: of the wrong type"),
        ("base: ./x.yaml\n", "its own base"),
        ("- 1\n", "not a GPU"),
        ("base: h200-sxm\nmemory: {bandwidth: 1e300 TB/s}\n", "memory.bandwidth: implausible"),
        ("base: h200-sxm\nmemory: {capacity: 1 kB}\n", "memory.capacity: implausible"),
        ("base: h200-sxm\nl2: {size: 1e30 B}\n", "l2.size: implausible"),
        ("base: h200-sxm\nsms: 100000000000000000000\n", "sms: not such a number"),
        ("base: h200-sxm\nname: ../../x\n", "name: no name for a GPU that is measured; found '../../x'"),
        (f"base: {'a' * 300}\n", "base: unknown GPU"),
        ("base: ~nobody-at-all/x.yaml\n", "no such file"),
    ],
)
def test_bad_files_are_said_to_be(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        gpus.load_figures(path)
    assert words in caught.value.message() and "x.yaml" in caught.value.message()


@pytest.mark.parametrize("spec", ["", ".", "a" * 300, "~nobody-at-all/x.yaml", "./none.yaml"])
def test_names_of_nothing(spec: str) -> None:
    with pytest.raises(InputError, match=r"unknown GPU|no such file"):
        gpus.load_figures(spec)


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(InputError, match=r"did you mean h200-sxm"):
        gpus.load_figures("h200")


@pytest.mark.parametrize(
    ("name", "sms", "memory", "meant"),
    [
        ("NVIDIA H200", 132, 143_167, "h200-sxm"),
        ("NVIDIA H100 80GB HBM3", 132, 81_079, "h100-sxm"),
        ("NVIDIA B200", 148, 182_642, "b200-sxm"),
        ("NVIDIA B300 SXM6 AC", 148, 275_040, "b300-sxm"),
        ("NVIDIA A100-SXM4-80GB", 108, 81_038, "a100-sxm"),
        ("NVIDIA L40S", 142, 45_589, "l40s"),
        ("NVIDIA H20", 78, 97_356, "h20"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 188, 97_250, "rtx-pro-6000"),
        ("NVIDIA GB200", 152, 189_471, "gb200"),
        ("NVIDIA GH200 480GB", 132, 97_280, "gh200"),
        # another form factor, another memory, a part of one, another card
        ("NVIDIA H200 NVL", 132, 143_167, None),
        ("NVIDIA H100 PCIe", 114, 81_079, None),
        ("NVIDIA H100 NVL", 132, 95_830, None),
        ("NVIDIA A100 80GB PCIe", 108, 81_038, None),
        ("NVIDIA A100-SXM4-40GB", 108, 40_326, None),
        ("NVIDIA H200 MIG 1g.18gb", 16, 16_384, None),
        ("NVIDIA GH200 144G HBM3e", 132, 146_831, None),
        ("NVIDIA H20-3e", 78, 143_771, None),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 188, 97_250, None),
        ("NVIDIA GeForce RTX 4090", 128, 24_000, None),
    ],
)
def test_which_bundled_gpu_a_driver_means(name: str, sms: int, memory: float, meant: str | None) -> None:
    assert gpus.bundled_for(driver(name, sms, memory)) == meant


def test_an_unknown_gpu_is_planned_for_with_what_the_driver_says() -> None:
    found = gpus.from_driver(driver("NVIDIA H100 PCIe", 114, 81_079, clock=1.755e9, bandwidth=2.04e12))
    assert (found.name, found.sms, found.bandwidth, found.estimated) == ("h100-pcie", 114, 2.04e12, True)
    assert found.peak["fp8"] == 2 * found.peak["bf16"] == pytest.approx(2 * 4096 * 114 * 1.755e9)
    assert gpus.from_driver(driver("NVIDIA ?", 1, 1)).bandwidth > 0


def test_a_draft_names_what_is_missing_and_can_be_completed(tmp_path: Path) -> None:
    card = driver("NVIDIA H100 PCIe", 114, 81_079, clock=1.755e9, bandwidth=2.04e12, power_limit=350.0, version="580.1")
    path = write_draft(card, tmp_path / "new")
    text = path.read_text()
    assert path.name == "h100-pcie.yaml" and "580.1" in text
    assert all(name in text.splitlines()[0] for name in MISSING)
    path.write_text("mine")
    assert write_draft(card, tmp_path / "new").read_text() == "mine", "a draft that was worked on is kept"
    lines = []
    for line in text.splitlines():
        for missing, value in (
            ("# peak:", "peak: {bf16: 756 TFLOP/s}"),
            ("  # kind:", "  kind: HBM2e"),
            ("# link:", "link: {kind: pcie, bandwidth: 64 GB/s, domain: 1}"),
            ("# pcie:", "pcie: {generation: 5, bandwidth: 64 GB/s}"),
            ("  # idle:", "  idle: 50 W"),
        ):
            line = value if line.startswith(missing) else line
        lines.append(line)
    path.write_text("\n".join(lines))
    gpu, found = load_gpu(str(path)), gpus.load_figures(path)
    assert (gpu.name, gpu.sms, gpu.memory.bandwidth, gpu.power.tdp) == ("h100-pcie", 114, 2.04e12, 350.0)
    assert (found.capability, found.memory, found.clock) == (90, 81_079 * MIB, 1.755e9)


def test_a_draft_of_a_gpu_that_says_little() -> None:
    text = draft(Driver("NVIDIA X", 10, 75, 2.0 * MIB, 8192.0 * MIB))
    assert "# architecture:" in text and "# boost_clock:" in text and "# bandwidth:" in text and "# tdp:" in text
