"""Objectives and prices as users write them: what is understood, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwspecs.errors import InputError
from hwspecs.gpu import Gpu, load_gpu
from simulator.planning import spaceoptions
from simulator.planning.model import Candidate, Objective, Reached, Workers
from simulator.planning.objectives import parse, short
from simulator.planning.prices import read_prices
from simulator.planning.why import notes


@pytest.mark.parametrize(
    ("text", "objective"),
    [
        ("ttft.p99<=2s", Objective("ttft_s", "p99", 2.0)),
        (" tpot.mean ≤ 40 ms ", Objective("tpot_s", "mean", 0.040)),
        ("itl.p99.9<=50ms", Objective("itl_s", "p99.9", 0.050)),
        ("e2e.max<=1.5min", Objective("e2e_s", "max", 90.0)),
        ("e2e_s.p50<=1h", Objective("e2e_s", "p50", 3600.0)),
        ("first_accepted.p90<=60s", Objective("first_accepted_s", "p90", 60.0)),
        ("time<=30min", Objective("makespan_s", "", 1800.0)),
        ("goodput>=0.95", Objective("goodput_share", "", 0.95)),
        ("goodput>=95 %", Objective("goodput_share", "", 0.95)),
        ("goodput>=8 /s", Objective("goodput_per_s", "", 8.0)),
    ],
)
def test_an_objective_is_read(text: str, objective: Objective) -> None:
    assert parse([text]).each == (objective,)


def test_several_in_one_option_and_the_limits_of_goodput() -> None:
    found = parse(["ttft.p99<=2s, tpot.p99<=40ms", "goodput(ttft<=1s, e2e<=2min)>=0.9; e2e.mean<=1min"])
    assert [short(one) for one in found.each] == ["ttft.p99", "tpot.p99", "goodput", "e2e.mean"]
    assert found.limits == {"ttft": 1.0, "e2e": 120.0}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "no objective"),
        ([""], "an empty objective"),
        (["ttft.p99<=2s,"], "an empty objective"),
        (["fast"], "not an objective"),
        (["ttft<=2s"], "which statistic of the requests is limited"),
        (["ttfb.p99<=2s"], "did you mean ttft"),
        (["ttft.p100<=2s"], "unknown statistic"),
        (["ttft.p0<=2s"], "unknown statistic"),
        (["ttft.median<=2s"], "unknown statistic"),
        (["goodput.p99>=0.9"], "it has no p99"),
        (["ttft.p99>=2s"], "less of it is better"),
        (["goodput<=0.9"], "more of it is better"),
        (["ttft.p99<=2"], "a unit is missing"),
        (["ttft.p99<=2 GB"], "wrong unit 'GB'"),
        (["ttft.p99<=0s"], "a limit has to be above 0"),
        (["ttft.p99<=-1s"], "a limit has to be above 0"),
        (["ttft.p99<=1e999s"], "not a finite number"),
        (["ttft.p99<=inf"], "not a quantity"),
        (["ttft.p99<=nan s"], "not a quantity"),
        (["goodput>=1.5"], "no share of the requests"),
        (["goodput>=nan"], "no share of the requests"),
        (["goodput>=most"], "not a share"),
        (["goodput(itl<=2s)>=0.9"], "not a limit of a request"),
        (["goodput(ttft<=2s,ttft<=3s)>=0.9"], "not a limit of a request"),
        (["ttft(ttft<=2s).p99<=3s"], "not an objective"),
        (["ttft.p99(ttft<=2s)<=3s"], "only goodput has limits in brackets"),
        (["ttft.p99<=2s", "ttft.p99<=3s"], "ttft.p99 is limited twice, also by 'ttft.p99<=2s'"),
        (["goodput(ttft<=1s)>=0.9", "goodput(ttft<=2s)>=1 /s"], "goodput with other limits than before"),
    ],
)
def test_a_bad_objective_is_told(texts: list[str], words: str) -> None:
    with pytest.raises(InputError, match=r"^--slo") as caught:
        parse(texts)
    assert words in str(caught.value)


def test_ratios_are_of_the_limit() -> None:
    """2.5 s of 2 s is 1.25; a goodput of 0.76 where 0.95 is asked is short by the same factor."""
    late, early = Objective("ttft_s", "p99", 2.0), Objective("goodput_share", "", 0.95)
    assert late.ratio(2.5) == 1.25 and early.ratio(0.76) == pytest.approx(1.25)
    assert Reached(late, 2.0).met and not Reached(late, 2.0000001).met and Reached(early, 0.95).met
    assert not Reached(late, None).met and not Reached(early, 0.0).met and early.ratio(0.0) == float("inf")


def test_notes_tell_idle_objectives_and_few_requests() -> None:
    """TTFT never exceeds the end-to-end latency of the same request: its p99 limit of 5 s says nothing beside 4 s."""
    asked = parse(["ttft.p99<=5s", "e2e.p99<=4s", "e2e.p50<=3s"]).each
    found = notes(asked, {}, 100_000, None)
    assert found == ["TTFT p99 <= 5 s asks nothing more: end to end p99 is limited to 4 s already"]
    few = notes(parse(["ttft.p99<=5s"]).each, {}, 240, None)
    assert few == ["TTFT p99 of 240 requests rests on the 2 slowest: more of them would be surer"]


# ---- the space and prices --------------------------------------------------------------------------------------------


def test_layouts_and_limits_are_read() -> None:
    assert spaceoptions.layouts("tp2,tp1dp8ep8, tp8 pp2") == ((2, 1, 1, 1), (1, 1, 8, 8), (8, 2, 1, 1))
    own = "h200-sxm (modified)"  # the scenario's, where it changes a bundled one
    assert spaceoptions.gpus(f"{own},b200-sxm", own) == (own, "b200-sxm")
    assert spaceoptions.precisions("published,fp8") == (None, "fp8")
    assert spaceoptions.limits("1k..4k:x2", "--x") == (1024, 2048, 4096) and spaceoptions.limits(None, "--x") == (None,)
    assert spaceoptions.watts("50 kW") == 50_000 and spaceoptions.watts(None) is None


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: spaceoptions.layouts("dp2"), "not a layout"),
        (lambda: spaceoptions.layouts("tp2,,tp4"), "an empty entry"),
        (lambda: spaceoptions.layouts("tp2pp2pp4"), "not a layout"),
        (lambda: spaceoptions.layouts("tp0"), "not a layout"),
        (lambda: spaceoptions.precisions("fp9"), "did you mean fp8"),
        (lambda: spaceoptions.watts("50"), "a unit is missing"),
        (lambda: spaceoptions.watts("-5 kW"), "out of range"),
        (lambda: spaceoptions.watts("lots"), "not a quantity"),
        (lambda: spaceoptions.gpus("h200"), "did you mean h200-sxm"),
    ],
)
def test_a_bad_space_is_told(read: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        read()  # type: ignore[operator]
    assert words in str(caught.value)


def gpus(*names: str) -> dict[str, Gpu]:
    return {name: load_gpu(name) for name in names}


def test_own_prices_replace_the_bundled(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("usd_per_gpu_hour: {h200-sxm: 3.10, b200-sxm: 4 USD/h}\ndate: 2026-11\nsource: our contract\n")
    prices = read_prices(gpus("h200-sxm", "b200-sxm"), file)
    mixed = Candidate(Workers("h200-sxm", tensor=4, replicas=2), prefill=Workers("b200-sxm", tensor=2))
    assert prices.usd_per_hour(mixed) == pytest.approx(8 * 3.10 + 2 * 4)
    assert prices.source == "our contract" and prices.dates["b200-sxm"] == "2026-11"
    assert read_prices(gpus("h200-sxm")).of("h200-sxm") == load_gpu("h200-sxm").price.usd_per_hour  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["own/mine.yaml", "../own/mine.yaml", "mine"])
def test_a_gpu_of_a_file_is_priced_by_its_path_or_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Paths count from here, and from the table's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "tables").mkdir()
    (tmp_path / "own" / "mine.yaml").write_text("{base: h200-sxm, name: mine, title: Mine, price: null}\n")
    (tmp_path / "tables" / "prices.yaml").write_text(f"usd_per_gpu_hour: {{{name}: 3}}\n")
    (path,) = spaceoptions.gpus("own/mine.yaml")
    prices = read_prices({path: load_gpu(path)}, Path("tables/prices.yaml"))
    assert prices.of(path) == 3.0


def test_gpus_without_a_price_are_left_out_only_if_asked(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("usd_per_gpu_hour: {h200-sxm: 3.10}\n")
    both = gpus("h200-sxm", "b200-sxm")
    with pytest.raises(InputError, match=r"prices.yaml: usd_per_gpu_hour: no price is known of b200-sxm"):
        read_prices(both, file)
    assert read_prices(both, file, skip_unpriced=True).left_out == ("b200-sxm",)
    with pytest.raises(InputError, match="no GPU is left"):
        read_prices(gpus("b200-sxm"), file, skip_unpriced=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is empty"),
        ("[1, 2]", "not a table of prices"),
        ("usd_per_gpu_hour: {}", "no prices"),
        ("usd_per_gpu_hours: {h200-sxm: 3}", "did you mean usd_per_gpu_hour"),
        ("usd_per_gpu_hour: {h200: 3}", "did you mean h200-sxm"),
        ("usd_per_gpu_hour: {h200-sxm: cheap}", "not a quantity"),
        ("usd_per_gpu_hour: {h200-sxm: 0}", "not a price"),
        ("usd_per_gpu_hour: {h200-sxm: .inf}", "not a finite number"),
        ("usd_per_gpu_hour: {h200-sxm: -1}", "not a price"),
    ],
)
def test_a_bad_table_of_prices_is_told(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        read_prices(gpus("h200-sxm"), file)
    assert words in str(caught.value) and "prices.yaml" in str(caught.value)
