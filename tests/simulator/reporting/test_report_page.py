"""The report in a browser: what it shows, and that everybody can read it, in light, in dark and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from browser import Visit, open_visit

from simulator.headline import METRICS, headline
from simulator.reporting.report import report
from simulator.result import Result
from simulator.running import run_scenario
from workloads.scenario import load_scenario

NASTY = '<script>alert(1)</script> & "quotes" <img src=x onerror=alert(2)>'
DRAWN = "html[data-drawn]"


def made(name: str, *sets: str) -> Result:
    return run_scenario(load_scenario(name, sets))


@pytest.fixture(scope="module")
def best_of() -> Result:
    return made("aime24-best-of-32", "workload.requests=8", "workload.strategy.samples=4", f"description='{NASTY}'",
                "workload.output_tokens.max=900", "objective={ttft: 2 s, tpot: 10 ms}")  # fmt: skip


@pytest.fixture(scope="module")
def pools() -> Result:
    return made("deepseek-r1-gb200-rack", "workload.requests=30")


@pytest.fixture(scope="module")
def page_of(best_of: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "one.html"
    report(best_of, title=NASTY).save(path)
    return path


@pytest.fixture(scope="module")
def light(browser: Any, page_of: Path) -> Iterator[Visit]:
    """The page as most see it: opened once, for tests that leave it as it was but for what is unfolded."""
    found = drawn(open_visit(browser, page_of.as_uri(), viewport={"width": 1300, "height": 800}))
    yield found
    found.page.context.close()


def drawn(found: Visit) -> Visit:
    found.page.wait_for_selector(DRAWN, state="attached")
    return found


# ---- what it shows ---------------------------------------------------------------------------------------------------

TABLE = """caption => {
  const table = [...document.querySelectorAll("table")].find(t => t.caption.textContent === caption);
  return [...table.tBodies[0].rows].map(row => [...row.cells].map(
    cell => [cell.textContent, cell.querySelector("data") ? cell.querySelector("data").value : null]));
}"""


def test_numbers_are_those_of_the_result(light: Visit, best_of: Result) -> None:
    """In every table that has them, to the last digit; and in the charts."""
    page = light.page
    values, titles = headline(best_of.summary), {metric.title: key for key, metric in METRICS.items()}
    for caption, least in (("Headline metrics and their 80 % intervals", 15), ("What the run costs", 8)):
        rows = page.evaluate(TABLE, caption)
        assert len(rows) >= least
        for (title, _), (_, value), *_ in rows:
            assert float(value) == values[titles[title]], title
    latency = best_of.summary["latency"]
    found = {
        row[0][0]: [float(cell[1]) for cell in row[1:]] for row in page.evaluate(TABLE, "Percentiles of the latencies")
    }
    assert list(found.values()) == [list(latency[key].values()) for key in ("ttft_s", "tpot_s", "itl_s", "e2e_s")]
    problems = page.evaluate(TABLE, "Problems in the order of their last sample")
    assert [float(row[2][1]) for row in problems] == sorted(best_of.document()["problems"]["last_s"])
    operators = page.evaluate(TABLE, "Totals of one GPU of each replica, summed over replicas; energy above idle")
    seconds = {op["name"]: op["seconds"] for op in best_of.operators if op["seconds"]}
    assert {row[0][0]: float(row[1][1]) for row in operators} == seconds
    charts = page.evaluate("""() => Object.fromEntries([...document.querySelectorAll(".js-plotly-plot")].map(
        g => [g.id, g.data.map(t => [t.name, t.x, t.y])]))""")
    assert set(charts) == {"course", "latency", "problems", "roofline"}
    marks = [x for _, x, y in charts["latency"] if y == [0.5, 0.9, 0.99]]
    assert marks == [[latency[k][p] for p in ("p50", "p90", "p99")] for k in ("ttft_s", "tpot_s", "itl_s", "e2e_s")]
    kernels = sum(op["seconds"] for op in best_of.operators)
    told = [op for op in best_of.operators if op["flops"] and op["hbm_bytes"] and op["seconds"] >= 0.002 * kernels]
    points = {x for name, x, _ in charts["roofline"] if name and name.startswith("bound") for x in x}
    assert points == {op["flops"] / op["hbm_bytes"] for op in told} and len(points) > 4


def test_page_needs_nothing_and_says_what_the_user_wrote(light: Visit, page_of: Path) -> None:
    page = light.page
    assert light.errors == [] and light.foreign == []
    assert page.inner_text("h1") == NASTY and page.title() == f"{NASTY} · kinesim"
    assert page.inner_text(".lead") == NASTY
    assert page.locator("main script, main img").count() == 0 and page.locator("#failed").is_hidden()
    assert load_scenario_text(page)["workload"]["requests"] == 8
    assert page_of.stat().st_size < 5 * 2**20


def load_scenario_text(page: Any) -> dict[str, Any]:
    """The scenario that can be copied out of the page is one."""
    found: dict[str, Any] = yaml.safe_load(page.text_content("#scenario-yaml"))
    load_scenario(found)
    return found


def test_without_scripts_the_tables_are_there(visit: Any, page_of: Path, best_of: Result) -> None:
    found = visit(page_of.as_uri(), java_script_enabled=False)
    assert "need JavaScript" in found.page.inner_text("noscript")
    assert f"{best_of.summary['cost']['usd']:.3g}" in found.page.inner_text("#headline")


# ---- for everybody ---------------------------------------------------------------------------------------------------

CONTRAST = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(
    c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4).reduce(
      (s, c, i) => s + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  const bad = [], seen = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim().slice(0, 40);
    if (!text || e.closest("script, style, noscript, .hidden") || !e.checkVisibility()) continue;
    const style = getComputedStyle(e), svg = e instanceof SVGElement;
    const colour = svg ? style.fill : style.color;
    const [a, b] = [light(parse(colour)), light(behind(e))].sort((x, y) => y - x);
    seen.add(e.tagName);
    if ((a + 0.05) / (b + 0.05) < 4.5) bad.push(text + " " + colour);
  }
  return [bad, [...seen]];
}"""


def unfold(page: Any) -> None:
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")


def background(page: Any) -> str:
    return str(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))


def test_texts_stand_out(light: Visit, visit: Any, page_of: Path) -> None:
    """4.5:1 for every text, those inside charts too, in light and in dark; on paper always on white."""
    dark = drawn(visit(page_of.as_uri(), color_scheme="dark")).page
    for page, media, back in (
        (light.page, "screen", "rgb(255, 255, 255)"),
        (dark, "screen", "rgb(18, 23, 29)"),
        (dark, "print", "rgb(255, 255, 255)"),
    ):
        page.emulate_media(media=media)
        unfold(page)
        bad, kinds = page.evaluate(CONTRAST)
        assert bad == [] and {"text", "TD", "H2", "SUMMARY"} <= set(kinds)
        assert background(page) == back


STRUCTURE = """() => {
  const wrong = [];
  const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map(h => +h.tagName[1]);
  levels.forEach((level, i) => { if (i && level > levels[i - 1] + 1) wrong.push("heading level " + level); });
  if (levels.filter(l => l === 1).length !== 1) wrong.push("not one h1");
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  ids.filter((id, i) => ids.indexOf(id) !== i).forEach(id => wrong.push("twice: " + id));
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const name of ["aria-labelledby", "aria-describedby"]) {
      const to = e.getAttribute(name);
      if (to && !document.getElementById(to)) wrong.push(name + " " + to);
    }
  }
  for (const a of document.querySelectorAll("a[href^='#']")) {
    if (!document.getElementById(a.hash.slice(1))) wrong.push("link " + a.hash);
  }
  for (const e of document.querySelectorAll("[role=img]")) if (!e.getAttribute("aria-label")) wrong.push("img");
  for (const e of document.querySelectorAll("figcaption")) if (!e.textContent) wrong.push("figure");
  for (const e of document.querySelectorAll(".chart")) {
    if (!e.parentElement.querySelector("details table caption")) wrong.push("no numbers of " + e.id);
  }
  for (const e of document.querySelectorAll("table")) {
    if (!e.caption || !e.caption.textContent) wrong.push("table without a caption");
    for (const cell of e.querySelectorAll("th")) if (!cell.scope) wrong.push("th " + cell.textContent);
    const width = e.tHead.rows[0].cells.length;
    for (const row of e.rows) if (row.cells.length !== width) wrong.push("ragged " + e.caption.textContent);
  }
  for (const e of document.querySelectorAll("button, summary, a")) if (!e.textContent.trim()) wrong.push("no name");
  for (const e of document.querySelectorAll("input, select")) if (!e.labels.length) wrong.push("no label");
  if (document.documentElement.lang !== "en" || !document.querySelector("main")) wrong.push("page");
  return wrong;
}"""


def test_structure_tells_a_screen_reader_everything(light: Visit) -> None:
    assert light.page.evaluate(STRUCTURE) == []


def test_the_keyboard_reaches_everything(light: Visit) -> None:
    """From the skip link through all links, foldings and buttons, each with a visible focus; Enter unfolds."""
    page = light.page
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = false)")
    page.evaluate("() => { document.activeElement.blur(); getSelection().removeAllRanges(); scrollTo(0, 0); }")
    state = """() => { const e = document.activeElement, s = getComputedStyle(e);
        return [e.tagName, e.textContent.slice(0, 40), s.outlineStyle !== "none" && parseFloat(s.outlineWidth) > 0];
    }"""
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        tag, text, visible = page.evaluate(state)
        if tag == "BODY":
            break
        assert visible, (tag, text)
        reached.append((tag, text))
        if tag == "SUMMARY" and text.startswith("Numbers: distributions"):
            page.keyboard.press("Enter")
            assert page.get_by_text("Latency within which so many are served").is_visible()
    wanted = page.evaluate("""() => [...document.querySelectorAll("a, summary, button")].map(
        e => [e.tagName, e.textContent.slice(0, 40)])""")
    assert reached[0] == ("A", "Skip to the report")
    assert {tuple(w) for w in wanted} <= set(reached)


def test_on_paper(light: Visit) -> None:
    """A4 pages with the charts as wide as the paper, and back on the screen afterwards."""
    page = light.page
    width = "() => document.querySelector('#course .main-svg').getBoundingClientRect().width"
    before = page.evaluate(width)
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(width) == 690 < before
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    page.wait_for_function(f"() => ({width})() > 690")
    paper = page.pdf(prefer_css_page_size=True)
    assert paper.startswith(b"%PDF") and 4 <= paper.count(b"/Type /Page\n") <= 20


# ---- several results -------------------------------------------------------------------------------------------------


def test_three_results_with_other_models_and_pools(visit: Any, best_of: Result, pools: Result, tmp_path: Path) -> None:
    chat = made("chat-poisson", "workload.requests=30", "model=qwen3-30b-a3b")
    path = tmp_path / "three.html"
    made_page = report([best_of, pools, chat])
    made_page.save(path)
    found = drawn(visit(path.as_uri()))
    page = found.page
    assert page.evaluate(STRUCTURE) == [] and path.stat().st_size < 5 * 2**20
    rows = page.evaluate(TABLE, "Headline metrics; changes are against aime24-best-of-32")
    titles = {row.metric.title: row for row in made_page.comparison.rows}
    stars = 0
    for (title, _), *cells in rows:
        told = titles[title]
        assert [None if value is None else float(value) for _, value in cells] == list(told.values), title
        assert tuple(i for i, (text, _) in enumerate(cells) if "★" in text) == told.best, title
        stars += len(told.best)
    assert stars > 10 and "The workloads differ" in page.inner_text("#headline")
    charts = "() => [...document.querySelectorAll('.js-plotly-plot')].map(g => g.id)"
    together = {"latency", "course", "course-decode", "course-prefill"}
    assert set(page.evaluate(charts)) == together
    page.locator("#r2-result > summary").click()  # each result in full is drawn when it is unfolded
    page.wait_for_selector("#r2-roofline-prefill .main-svg")
    mine = {"r2-course-decode", "r2-course-prefill", "r2-latency", "r2-roofline-decode", "r2-roofline-prefill"}
    assert set(page.evaluate(charts)) == together | mine
    unfold(page)
    page.wait_for_selector("#r3-roofline .main-svg")
    assert page.evaluate(CONTRAST)[0] == [] and found.errors == [] and found.foreign == []
