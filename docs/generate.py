"""Pages and schemas that come from the code: docs/scenario.md, docs/result.md, docs/*.schema.json.

    python docs/generate.py [--check]

`--check` writes nothing and exits with 1 if a file is not what the code says (a test does this).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))


def type_text(field: dict[str, Any]) -> str:
    """What a field accepts, in words."""
    if "$ref" in field:
        return "[" + field["$ref"].rsplit("/", 1)[1] + "](#" + field["$ref"].rsplit("/", 1)[1].lower() + ")"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in field:
            return " \\| ".join(dict.fromkeys(type_text(part) for part in field[key] if part.get("type") != "null"))
    text = {
        "integer": "integer",
        "number": "number",
        "string": "text",
        "boolean": "true \\| false",
        "object": "mapping",
    }
    name = text.get(field.get("type", ""), field.get("type", "any"))
    if field.get("type") == "array":
        return f"list of {type_text(field['items'])}"
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    bounds = [f"{'>' if 'exclusiveMinimum' in field else '>='} {low:,}"] if low is not None else []
    bounds += [f"{'<' if 'exclusiveMaximum' in field else '<='} {high:,}"] if high is not None else []
    if field.get("examples"):
        name += f", such as `{field['examples'][0]}`"
    return f"{name} {', '.join(bounds)}".strip()


def table(schema: dict[str, Any]) -> list[str]:
    """One Markdown table of the fields of an object."""
    lines = ["| key | accepts | default | meaning |", "| --- | --- | --- | --- |"]
    required = set(schema.get("required", ()))
    for key, field in schema["properties"].items():
        default = field.get("default")
        shown = "required" if key in required else "" if default in (None, "") else f"`{json.dumps(default)}`"
        lines.append(f"| `{key}` | {type_text(field)} | {shown} | {field.get('description', '')} |")
    return lines


def scenario_page(schema: dict[str, Any]) -> str:
    """docs/scenario.md."""
    lines = [
        "# The scenario file",
        "",
        "*Made from the code by `make docs`; do not edit.*",
        "",
        "A scenario is a YAML file. Times accept a unit (`2 s`, `50 ms`) or bare seconds, rates `2 /s` or a bare number; a",
        "bare integer is a constant length. Unknown keys are errors. For completion in an editor, begin the file with",
        "",
        "    # yaml-language-server: $schema=docs/scenario.schema.json",
        "",
        "`--set PATH=VALUE` on the command line changes any key before the file is checked: `--set workload.requests=64`,",
        "`--set gpu.memory.bandwidth='9.6 TB/s'`, `--set attention='{kind: top_k, budget: 1024}'`, `--set precision=nvfp4`,",
        "`--set precision='{experts: nvfp4, attention: bf16, kv: fp8}'`.",
        "",
        "## Scenario",
        "",
        *table(schema),
    ]
    for name, part in schema["$defs"].items():
        lines += ["", f"## {name}", "", part.get("description", "").strip(), "", *table(part)]
    return "\n".join(lines) + "\n"


def result_page() -> str:
    """docs/result.md, from a small run."""
    from simulator.running import run_scenario
    from simulator.timeline import FIXED_COLUMNS
    from workloads.scenario import load_scenario

    sets = ["workload.requests=2", "workload.strategy.samples=2", "workload.output_tokens=64", "objective={ttft: 1 s}"]
    document = run_scenario(load_scenario("aime24-best-of-32", sets)).document()
    both = run_scenario(
        load_scenario("aime24-best-of-32", [*sets, "disaggregation={prefill: {}, decode: {}}"])
    ).document()
    told = {path for path, _ in paths(document)}
    lines = [
        "# What a run writes",
        "",
        "*Made from the code by `make docs`; do not edit.*",
        "",
        "`kinesim run SCENARIO --out DIR` writes five files; `simulator.store.load_result(DIR)` reopens the first three",
        "without loss.",
        "",
        "## result.json",
        "",
        "`--format json` prints the same document. Its keys (names end in their unit; numbers that do not exist are null):",
        "",
        "| key | type |",
        "| --- | --- |",
        *(f"| `{path}` | {kind} |" for path, kind in paths(document)),
        "",
        "With prefill and decode on workers of their own ([disaggregation.md](disaggregation.md)) there are also, for each of",
        "`prefill` and `decode` (here: POOL):",
        "",
        "| key | type |",
        "| --- | --- |",
        *(f"| `{path}` | {kind} |" for path, kind in pool_paths(both, told)),
        "",
        "Definitions of the metrics are in the docstring of `simulator/metrics.py`:",
        "",
    ]
    from simulator import metrics

    lines += [line for line in (metrics.__doc__ or "").splitlines() if line.startswith("- ") or line.startswith("  ")]
    lines += [
        "",
        "## requests.parquet",
        "",
        "One row a request: the columns of `simulator.result.REQUEST_COLUMNS`, and TTFT, TPOT, end-to-end latency and ITL",
        "percentiles derived from them. `status`: 0 finished, 1 aborted, 2 rejected. With two pools `replica` is the decode",
        "worker, numbered after the prefill workers, and the columns of `PASSAGE_COLUMNS` say when the request passed.",
        "",
        "## timeline.parquet",
        "",
        "One row a macro-step (a run of alike steps): "
        + ", ".join(f"`{name}`" for name in FIXED_COLUMNS)
        + ", and the",
        "columns that `simulator.timeline.column_names` describes.",
        "",
        "## trace.json",
        "",
        "The same for <https://ui.perfetto.dev>: replicas as processes, macro-steps and requests as tracks, batch size, KV use",
        "and queue as counters. Long runs are thinned, and the trace says so.",
        "",
        "## report.html",
        "",
        "The result as a page that opens in any browser, without a network: [report.md](report.md).",
    ]
    return "\n".join(lines) + "\n"


def pool_paths(document: dict[str, Any], told: set[str]) -> list[tuple[str, str]]:
    """`paths` that are not among those `told`, with one pool for both."""
    found = [(path, kind) for path, kind in paths(document) if path not in told and ".decode." not in path]
    return [(path.replace(".prefill", ".POOL"), kind) for path, kind in found]


def paths(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Dotted paths of a document with the types of their values; one entry stands for a list."""
    if isinstance(value, dict) and path not in ("scenario", "operators[].by_bound"):
        return [item for key, part in value.items() for item in paths(part, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list):
        if value and isinstance(value[0], dict):
            return paths(value[0], f"{path}[]")
        return [(f"{path}[]", type_name(value[0]) if value else "list")]
    return [(path, type_name(value))]


def type_name(value: Any) -> str:
    names = {
        "str": "text",
        "int": "integer",
        "float": "number",
        "bool": "true or false",
        "dict": "mapping",
        "list": "list",
    }
    return names.get(type(value).__name__, "number or null")


def pages() -> dict[str, str]:
    """File name -> content."""
    from simulator import listing

    scenario = listing.schema("scenario")
    return {
        "scenario.md": scenario_page(scenario),
        "result.md": result_page(),
        "scenario.schema.json": json.dumps(scenario, indent=1) + "\n",
        "gpu.schema.json": json.dumps(listing.schema("gpu"), indent=1) + "\n",
        "profile.schema.json": json.dumps(listing.schema("profile"), indent=1) + "\n",
    }


def main() -> int:
    stale = [name for name, text in pages().items() if not _same(DOCS / name, text)]
    if "--check" in sys.argv:
        print("\n".join(f"docs/{name} is out of date: run `make docs`" for name in stale) or "docs are up to date")
        return bool(stale)
    for name, text in pages().items():
        (DOCS / name).write_text(text, encoding="utf-8")
    return 0


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
