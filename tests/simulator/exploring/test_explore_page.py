"""The page in a real browser: it follows the controls, says beside them what is wrong, is as its address says."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from test_explore_server import Server

from simulator.exploring.controls import CONTROLS, SLIDERS
from simulator.headline import headline
from simulator.running import run_scenario
from workloads.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[3]
START = ("chat-poisson", "--set", "workload.requests=40")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = Server(lambda *words: [sys.executable, "-m", "simulator.cli", *words], environment, *START)
    yield f"http://127.0.0.1:{server.port}/"
    server.end()


Open = Callable[..., Any]


@pytest.fixture
def page(address: str, visit: Any) -> Iterator[Open]:
    """`page(query)`: the page, once it has drawn; no error on its console, and nothing asked of others."""
    visits = []

    def call(query: str = "", **options: Any) -> Any:
        found = visit(address + query, allow=(address,), **options)
        visits.append(found)
        found.page.wait_for_selector("#headline dl, .bad, #problem:not([hidden])")
        return found.page

    yield call
    for one in visits:
        assert one.errors == [] and one.foreign == []


def until(page: Any, expression: str) -> None:
    """Wait until something holds. Asked from outside: the page's own rules allow no `eval`."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(20)


def wait_text(page: Any, selector: str, part: str) -> None:
    until(page, f"document.querySelector({json.dumps(selector)}).textContent.includes({json.dumps(part)})")


def moves(page: Any) -> dict[str, str]:
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).query).items()}


def tpot(page: Any) -> str:
    return str(page.inner_text("#headline dd >> nth=0").splitlines()[0])


def test_it_follows_sliders_texts_and_keys(page: Open) -> None:
    shown = page()
    before = tpot(shown)
    shown.focus("#slide-hbm")
    for _ in range(20):
        shown.keyboard.press("ArrowRight")
    until(shown, "document.getElementById('text-hbm').value === '9.6 TB/s'")
    shown.wait_for_url("**hbm=9.6**")
    assert tpot(shown) != before
    assert shown.get_attribute("#slide-hbm", "aria-valuetext") == "9.6 TB/s"
    shown.fill("#text-batch", "8")
    shown.keyboard.press("Enter")
    wait_text(shown, "#steps", "8 sequences of")
    shown.select_option("#pick-gpu", "b200-sxm")  # takes all of its own figures
    wait_text(shown, "#where", "B200")
    assert moves(shown) == {"gpu": "b200-sxm", "batch": "8"}
    assert shown.input_value("#text-hbm") == "8 TB/s"
    assert shown.input_value("#slide-hbm") == "0"
    wait_text(shown, "#status", "Choosing a GPU takes all of its own figures: HBM bandwidth set back.")


def test_a_drag_ends_where_the_pointer_does(page: Open) -> None:
    shown = page()
    slider = shown.locator("#slide-context")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    shown.mouse.move(box["x"] + box["width"] / 2, middle)
    shown.mouse.down()
    for part in range(40):
        shown.mouse.move(box["x"] + box["width"] * (0.5 - 0.005 * part), middle)
    shown.mouse.up()
    stood = float(shown.input_value("#slide-context"))
    until(shown, f"Math.abs(Math.log2(Number(document.getElementById('text-context').value)) - {stood}) < 0.05")
    wait_text(shown, "#steps", f"of {int(shown.input_value('#text-context')):,} tokens")
    assert shown.evaluate("performance.getEntriesByName('explore').length") > 1


def test_what_is_wrong_stands_beside_its_control(page: Open) -> None:
    shown = page()
    shown.fill("#text-hbm", "fast")
    shown.keyboard.press("Tab")
    wait_text(shown, "#wrong-hbm", "not a quantity; found 'fast'")
    assert shown.get_attribute("#text-hbm", "aria-invalid") == "true"
    assert shown.is_disabled("#do-run") and "stale" in shown.get_attribute("#results", "class")
    shown.fill("#text-hbm", "")  # back to the GPU's own
    shown.keyboard.press("Tab")
    wait_text(shown, "#status", "")
    until(shown, "!document.getElementById('results').classList.contains('stale')")
    assert shown.input_value("#text-hbm") == "4.8 TB/s"
    shown.select_option("#pick-model", "deepseek-ai/DeepSeek-R1")
    wait_text(shown, "#wrong-model", "at least 8 GPUs")


def test_the_state_is_in_the_address(page: Open) -> None:
    shown = page("?batch=16&hbm=6+TB/s")
    assert shown.input_value("#text-batch") == "16" and shown.input_value("#text-hbm") == "6 TB/s"
    shown.wait_for_timeout(600)
    shown.select_option("#pick-model", "Qwen/Qwen3-14B")
    wait_text(shown, "#where", "14B")
    shown.wait_for_timeout(600)
    shown.reload()
    shown.wait_for_selector("#headline dl")
    assert moves(shown) == {"model": "Qwen/Qwen3-14B", "batch": "16", "hbm": "6 TB/s"}
    assert "14B" in shown.inner_text("#where")
    shown.go_back()
    wait_text(shown, "#where", "8B")
    assert moves(shown) == {"batch": "16", "hbm": "6 TB/s"}
    assert shown.input_value("#pick-model") == "Qwen/Qwen3-8B"
    shown.click("#do-reset")
    until(shown, "location.search === ''")


def test_addresses_that_are_wrong_leave_a_page_to_mend_them(page: Open) -> None:
    shown = page("?foo=1")
    wait_text(shown, "#problem", "no such control")
    until(shown, "document.querySelector('#headline dl') !== null")  # from the start
    shown = page("?tp=2&model=nonsense")
    wait_text(shown, "#wrong-model", "not a choice")
    shown.select_option("#pick-model", "Qwen/Qwen3-32B")
    wait_text(shown, "#where", "2 x NVIDIA H200")


def test_a_simulation_runs_and_its_yaml_gives_the_same_numbers(page: Open, tmp_path: Path) -> None:
    shown = page("?hbm=6+TB/s", permissions=["clipboard-read", "clipboard-write"])
    shown.click("#do-run")
    shown.wait_for_selector("#do-cancel:not([hidden])")
    shown.click("#do-yaml")
    wait_text(shown, "#status", "YAML copied")
    path = tmp_path / "copied.yaml"
    path.write_text(shown.evaluate("navigator.clipboard.readText()"), encoding="utf-8")
    found = headline(run_scenario(load_scenario(path)).summary)
    shown.wait_for_selector("#simulated a", timeout=60_000)
    assert shown.is_visible("#do-run") and not shown.is_visible("#do-cancel")
    text = shown.inner_text("#simulated")
    assert found["tpot_s.mean"] is not None and f"{1e3 * found['tpot_s.mean']:.3g} ms" in text
    assert found["output_tokens_per_s_per_gpu"] is not None
    assert re.search(rf"output tokens per GPU\s+{found['output_tokens_per_s_per_gpu']:,.0f}/s", text)
    with shown.expect_popup() as popup:
        shown.click("#simulated a >> nth=0")
    assert popup.value.title()
    shown.click("#do-run")
    shown.click("#do-cancel")
    wait_text(shown, "#status", "cancelled")
    assert shown.is_visible("#do-run")


def test_two_browsers_have_their_own_states(page: Open) -> None:
    one, other = page("?batch=2"), page("?batch=3&model=Qwen/Qwen3-32B")
    one.fill("#text-context", "777")
    one.keyboard.press("Enter")
    wait_text(one, "#steps", "2 sequences of 777 tokens")
    other.reload()
    other.wait_for_selector("#headline dl")
    assert moves(other) == {"batch": "3", "model": "Qwen/Qwen3-32B"}
    assert "3 sequences of" in other.inner_text("#steps")


def test_every_control_has_a_name_and_can_be_reached(page: Open) -> None:
    shown = page()
    shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    for key in CONTROLS:
        assert (
            shown.evaluate(f"document.getElementById('{'text' if key in SLIDERS else 'pick'}-{key}').labels.length")
            == 1
        )
        assert key not in SLIDERS or shown.get_attribute(f"#slide-{key}", "aria-label")
    reached = set()
    shown.focus(".skip")
    for _ in range(80):
        shown.keyboard.press("Tab")
        reached.add(shown.evaluate("document.activeElement.id"))
    wanted = {f"{part}-{key}" for key in CONTROLS for part in (("text", "slide") if key in SLIDERS else ("pick",))}
    assert wanted <= reached
    assert {"do-run", "do-yaml", "do-command", "do-link", "do-reset"} <= reached | {"do-run"}
    assert shown.get_attribute("html", "lang") == "en"
    assert shown.get_attribute("#roofline svg", "role") == "img"
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(one => Number(one.tagName[1]))")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_the_dark_and_in_a_narrow_window(page: Open, scheme: str) -> None:
    shown = page(color_scheme=scheme, viewport={"width": 420, "height": 800})
    assert shown.evaluate("document.documentElement.scrollWidth") <= 420
    ink, paper = shown.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
    assert (light[0] < light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 450
