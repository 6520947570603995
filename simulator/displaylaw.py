"""What the terminal shows of the law's costs. Computes nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hwspecs.units import format_quantity
from simulator.printing import duration, percent

SHORT = {"top_k": "top-k", "block_top_k": "block"}
"""What a table calls an attention with a budget."""
MOST_ROWS = 60
"""Rows of a table that are shown; all are in --out and in JSON."""


def law_console() -> Console:
    """The terminal; in a pipe, lines as wide as the tables need."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 120
    return console


def show_costs(document: dict[str, Any], count: int, out: Path | None) -> None:
    """The strategies that were costed, on what, and what they cost. `document` : of `law.grid.cost_document`, with the
    first rows of `count`.
    """
    console, rows = law_console(), document["rows"][:MOST_ROWS]
    console.print(_conditions(document))
    console.print()
    tables = [_breakdown(document)] if "breakdown" in document else _costs(document, rows)
    if document["terms"]["as_published"]:
        tables.append(_differences(rows))
    for table in tables:
        if not console.is_terminal:
            console.width = max(console.width, console.measure(table).maximum)
        console.print(table)
        console.print()
    if count > MOST_ROWS:
        console.print(f"... and {count - MOST_ROWS:,} more: --out FILE writes all of them", style="dim")
        console.print()
    for note in document["notes"]:
        console.print(f"note: {note}", style="yellow")
    if out is not None:
        console.print(f"written to {out}: {count:,} row{'s' * (count > 1)}")


def _grid(title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    return table


def _table(title: str, left: list[str], right: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _short(model: str) -> str:
    return model.rpartition("/")[2]


def _conditions(document: dict[str, Any]) -> Table:
    rows, terms = document["rows"], document["terms"]
    table = _grid(
        "The Kinetics law (arXiv 2506.05333)" + (", as its authors compute it" if terms["as_published"] else "")
    )
    for rate in document["hardware"]:
        peak, bandwidth = (
            format_quantity(rate[key], unit) for key, unit in (("peak_flops", "FLOP/s"), ("bandwidth", "B/s"))
        )
        price = (
            f"{rate['usd_per_hour']:g} USD an hour ({rate['price_date']})" if rate["usd_per_hour"] else "no price known"
        )
        table.add_row(
            "GPU",
            f"{rate['title']}: {peak} {rate['dtype']}, {bandwidth}: E = {rate['flops_per_byte']:.1f} FLOP/B; {price}",
        )
    first = rows[0]
    if len({row["model"] for row in rows}) == 1:
        table.add_row(
            "model", f"{first['model']}, {document['models'][0]['parameters'] / 1e9:.3g} B parameters a token"
        )
    for key, name, unit in (
        ("prompt_tokens", "prompt", "tokens"),
        ("tokens", "trial", "generated tokens"),
        ("trials", "trials", ""),
    ):
        if len({row[key] for row in rows}) == 1:
            table.add_row(name, f"{first[key]:,} {unit}".strip())
    paged = sorted({(row["budget"], row["page"], row["local"]) for row in rows if row["page"]})
    if len({_attention(row) for row in rows}) == 1 and not paged:
        table.add_row("attention", _attention(first))
    if paged:
        each = [
            f"{budget:,} as pages of {page}" + f" and {local} newest" * (local > 0) for budget, page, local in paged
        ]
        table.add_row("block", f"block top-k: tokens {', '.join(each)}")
    formats = sorted({model["kv_dtype"] for model in document["models"]})
    batch = "infinite" if terms["batch"] is None else f"{terms['batch']:,g} sequences, whose steps read the weights"
    table.add_row(
        "terms", f"{', '.join(formats)} KV; batch {batch}; prefill {'counted' if terms['prefill'] else 'not counted'}"
    )
    return table


def _attention(row: dict[str, Any]) -> str:
    return f"{SHORT[row['attention']]} {row['budget']:,}" if row["budget"] else row["attention"]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "gpu", "attention", "budget", "prompt_tokens", "trials"))


def _overtakes(value: float | None) -> str:
    return "never" if value is None else "first" if value < 1 else f"{value:,.0f}"


def _four(value: float) -> str:
    """Four digits, more where they are whole: `24.13`, `12,972`."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def ratio_text(value: float | None) -> str:
    """Three digits: `7.86`, `0.028`, `1,024`."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _costs(document: dict[str, Any], rows: list[dict[str, Any]]) -> list[Table]:
    """A table a GPU, one row a strategy; what all have in common is in the head above."""
    crossed = {_key(found): found["tokens"] for found in document["crossings"]}
    left = {"model": lambda row: _short(row["model"]), "attention": _attention}
    left = {name: text for name, text in left.items() if len({text(row) for row in rows}) > 1}
    numbers = {"prompt": "prompt_tokens", "tokens": "tokens", "trials": "trials"}
    numbers = {name: key for name, key in numbers.items() if len({row[key] for row in rows}) > 1}
    shares = {"para-\nmeters": "parameters", "attn.\nFLOPs": "attention_compute", "attn.\nbytes": "attention_memory"}
    shares |= {f"\n{name}": name for name in ("search", "prefill") if any(row[name] > 0 for row in rows)}
    right = [*(f"\n{name}" for name in numbers), "tera-\neFLOPs", "GPU\ntime", "at the\nroofline", "\nUSD", *shares]
    right += ["attn. :\nparam."] + (["is 1 at\ntoken"] if crossed else [])
    gpus = list(dict.fromkeys(row["gpu"] for row in rows))
    tables = []
    for gpu in gpus:
        title = "Cost of a problem" + (f" on {gpu}" if len(gpus) > 1 else "") + "; parts in % of its eFLOPs"
        table = _table(title, [f"\n{name}" for name in left], right)
        table.padding = (0, 1, 0, 0)
        for row in rows:
            if row["gpu"] != gpu:
                continue
            cells = [text(row) for text in left.values()]
            cells += [f"{row[key]:,}" for key in numbers.values()]
            cells += [_four(row["tera_eflops"]), duration(row["seconds"]), duration(row["roofline_seconds"])]
            cells += ["-" if row["usd"] is None else f"{row['usd']:.2g}"]
            cells += [f"{100 * row[name]:.1f}" for name in shares.values()]
            cells += [ratio_text(row["attention_over_parameters"])]
            table.add_row(*cells, *([_overtakes(crossed[_key(row)])] if crossed else []))
        tables.append(table)
    return tables


def _breakdown(document: dict[str, Any]) -> Table:
    (row,) = document["rows"]
    table = _table(
        "Cost of a problem", ["part"], ["FLOPs", "HBM bytes", "tera-eFLOPs", "GPU time", "at the roofline", "share"]
    )
    table.add_column("", no_wrap=True)
    for part in document["breakdown"]:
        if part["tera_eflops"] > 0:
            share = part["tera_eflops"] / row["tera_eflops"]
            table.add_row(
                part["part"],
                format_quantity(part["flops"], ""),
                format_quantity(part["bytes"], "B") if part["bytes"] else "-",
                f"{part['tera_eflops']:,.1f}",
                duration(part["seconds"]),
                duration(part["roofline_seconds"]),
                percent(share),
                "█" * round(20 * share),
            )
    whole = (f"{row['tera_eflops']:,.1f}", duration(row["seconds"]), duration(row["roofline_seconds"]))
    table.add_row("all", "", "", *whole, "", "" if row["usd"] is None else f"{row['usd']:.3g} USD")
    if document["crossings"]:
        (found,) = document["crossings"]
        at = _overtakes(found["tokens"])
        ratio = f"{ratio_text(row['attention_over_parameters'])} times the parameters"
        words = {"never": "never as much", "first": "more from the first token on"}.get(
            at, f"as much from token {at} on"
        )
        table.caption, table.caption_justify = f"attention and search: {ratio}, {words}", "left"
    return table


def _differences(rows: list[dict[str, Any]]) -> Table:
    """As published: the factor that each correction makes."""
    numbers = ["tokens", "tera-eFLOPs\npublished", "right\nsums", "own\nparameters", "GPU's dense rates\n(of the time)"]
    table = _table("By what factor corrections change the published figures", ["\nmodel", "\nattention"], numbers)
    for row in rows:
        factors = [f"x {row[name]:.4f}" for name in ("differs_sums", "differs_parameters", "differs_hardware")]
        table.add_row(_short(row["model"]), _attention(row), f"{row['tokens']:,}", _four(row["tera_eflops"]), *factors)
    return table
