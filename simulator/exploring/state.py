"""The state of the page: what has been moved, as text by control, and the scenario that this makes.

The state is in the page's address and nowhere else. Every text is checked here before it becomes a `--set` assignment,
which `load_scenario` checks again, so a browser can set what the controls set and nothing more: no path of a file, and
no YAML of its own.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu
from simulator.exploring.controls import (
    CHOICE,
    CONTROLS,
    COUNT,
    FIGURES,
    PAGE,
    SHAPE,
    choices,
)
from simulator.exploring.texts import SLID, checked_choice, checked_text, figure, plain_text
from workloads.scenario import LoadedScenario, load_scenario

LONGEST = 200
"""Characters of a value."""
Moves = Mapping[str, str]


class Refused(Exception):
    """What is wrong with a state: a message for each control; the key is empty for what belongs to none."""

    def __init__(self, messages: dict[str, str]) -> None:
        self.messages = messages
        super().__init__("; ".join(messages.values()))


@dataclass(frozen=True)
class Start:
    """What the page was started with: a scenario as `load_scenario` takes it, and `--set` texts."""

    spec: str
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """A state that holds: the scenario, the step shown, and the state's texts with nothing left as a slider's position.

    `base` : the GPU whose figures the sliders start from. `sets` : what the moves are as `--set` texts; `spec` : of
    what. `batch`, `context`, `prompt`, `samples` : see `controls`.
    """

    scenario: LoadedScenario
    base: Gpu
    moves: dict[str, str]
    spec: str
    sets: tuple[str, ...]
    batch: int
    context: int
    prompt: int
    samples: int


def parse_query(query: str) -> dict[str, str]:
    """The moves in an address's query. Raises Refused for what no control is called."""
    try:
        pairs = parse_qsl(query.lstrip("?"), keep_blank_values=True, max_num_fields=2 * len(CONTROLS))
    except ValueError:
        allowed = f"at most one text for each of {len(CONTROLS)} controls"
        raise Refused({"": InputError("the address is too long", allowed=allowed).message()}) from None
    keys = [key for key, _ in pairs]
    if twice := {key: "given twice in the address" for key in keys if keys.count(key) > 1}:
        raise Refused(twice)
    return checked_moves(dict(pairs))


def write_query(moves: Moves) -> str:
    """The query of an address that leads to this state."""
    return urlencode({key: moves[key] for key in CONTROLS if key in moves}, safe="/:")


def checked_moves(data: object) -> dict[str, str]:
    """The moves in data that a browser sent. Raises Refused for anything else than short texts by control."""
    if not isinstance(data, Mapping):
        raise Refused({"": InputError("not a state", found=data, allowed="texts by control").message()})
    wrong = {}
    for key, value in data.items():
        if key not in CONTROLS:
            wrong[""] = InputError("no such control", found=key, allowed=near_matches(str(key), CONTROLS)).message()
        elif not isinstance(value, str) or len(value) > LONGEST:
            found = value[:40] if isinstance(value, str) else value
            wrong[key] = InputError("not a value", found=found, allowed=f"at most {LONGEST} characters").message()
    if wrong:
        raise Refused(wrong)
    return {key: data[key].strip() for key in CONTROLS if key in data}


def resolve(start: Start, moves: Moves) -> View:
    """The scenario and the step of a state. Raises Refused, with a message beside every control that is to blame."""
    spec, sets = start.spec, start.sets
    wrong = _wrong_texts(moves)
    try:
        if "scenario" in moves and moves["scenario"] != start.spec:
            spec, sets = checked_choice(CONTROLS["scenario"], moves["scenario"]), ()
        if not any(CONTROLS[key].kind == CHOICE for key in wrong):  # the others do not mean anything without it
            view = _resolve(spec, sets, {key: text for key, text in moves.items() if key not in wrong})
    except InputError as error:
        wrong = {control_at(error.place): said(error)} | wrong
    except Refused as refused:
        wrong = refused.messages | wrong
    if wrong:
        raise Refused(wrong)
    return view


def _wrong_texts(moves: Moves) -> dict[str, str]:
    """Of each control whose text is wrong by itself its message; positions of sliders have no text yet."""
    wrong = {}
    for key, text in moves.items():
        if key != "scenario" and not text.startswith(SLID):
            try:
                checked_text(CONTROLS[key], text, None)
            except InputError as error:
                wrong[key] = said(error)
    return wrong


def said(error: InputError) -> str:
    """The message without the place, which the control is."""
    return InputError(error.problem, found=error.found, allowed=error.allowed).message()


def check_shown(scenario: LoadedScenario) -> None:
    """InputError for a scenario that the page cannot show."""
    if scenario.pools is not None:
        problem = "the page shows one engine, and not prefill and decode on workers of their own"
        raise InputError(problem, place="scenario", found=scenario.config.name, allowed="another, or `kinesim run`")


def _resolve(spec: str, start: tuple[str, ...], moves: dict[str, str]) -> View:
    figures = {key: moves[key] for key in FIGURES if key in moves}
    others = {key: moves[key] for key in moves if key not in (*FIGURES, *SHAPE, "scenario")}
    for key in others:
        others[key] = moves[key] = checked_text(CONTROLS[key], others[key], None)
    sets = _assignments(_loaded(spec, start), others)
    plain = _loaded(spec, (*start, *sets))
    for key in figures:
        figures[key] = moves[key] = checked_text(CONTROLS[key], figures[key], plain.gpu)
    scenario = _with_figures(spec, (*start, *sets), figures, plain)
    sets += _figure_assignments(plain.gpu, figures)
    check_shown(scenario)
    shape = _usual_shape(scenario)
    for key in SHAPE:
        if key in moves:
            moves[key] = checked_text(CONTROLS[key], moves[key], None)
            shape[key] = int(moves[key])
    samples = getattr(scenario.config.workload.strategy, "samples", 1)
    return View(scenario, plain.gpu, moves, spec, (*start, *sets), samples=samples, **shape)


def _with_figures(spec: str, sets: tuple[str, ...], figures: Moves, plain: LoadedScenario) -> LoadedScenario:
    """The scenario with figures of the GPU. Raises Refused with a message for each that is wrong by itself."""
    if not figures:
        return plain
    try:
        return _loaded(spec, (*sets, *_figure_assignments(plain.gpu, figures)))
    except InputError as error:
        wrong = {}
        for key, text in figures.items():
            try:
                _loaded(spec, (*sets, *_figure_assignments(plain.gpu, {key: text})))
            except InputError as own:
                wrong[key] = said(own)
        raise Refused(wrong or {control_at(error.place): said(error)}) from None


@lru_cache(maxsize=128)
def _loaded(spec: str, sets: tuple[str, ...]) -> LoadedScenario:
    """Loaded scenarios are values, so browsers may share them. A file that changes is read again by a new `explore`."""
    return load_scenario(spec, sets)


@lru_cache(maxsize=8)
def _trace_means(path: Path, limit: int | None, start: float) -> tuple[int, int]:
    """Mean lengths of a trace's prompts and outputs, tokens."""
    from workloads.traces import read_trace

    trace = read_trace(path, limit=limit, start=start)
    return max(1, round(float(trace.input_len.mean()))), max(1, round(float(trace.output_len.mean())))


def _usual_shape(scenario: LoadedScenario) -> dict[str, int]:
    """The step shown first: a batch of what the engine may hold, up to 64, in the middle of the mean output."""
    workload, ranks = scenario.config.workload, scenario.config.parallelism
    most = scenario.config.engine.max_num_seqs * ranks.attention_data * ranks.pipeline
    if workload.trace is not None:
        prompt, output = _trace_means(workload.trace.file, workload.trace_limit, workload.trace.start)
    else:
        assert workload.prompt_tokens is not None and workload.output_tokens is not None  # checked when it was loaded
        prompt, output = (max(1, round(x.mean())) for x in (workload.prompt_tokens, workload.output_tokens))
    longest = scenario.config.engine.max_model_len or scenario.model.max_context
    return {
        "batch": min(64, most),
        "context": min(prompt + max(1, output // 2), longest),
        "prompt": min(prompt, longest),
    }


def position(view: View, key: str) -> tuple[str, float]:
    """Text of a control with a slider, and where the slider stands: octaves from the base's figure, or of a count."""
    gpu, config = view.scenario.gpu, view.scenario.config
    control = CONTROLS[key]
    if key == "tensor":
        text = view.moves.get(key, "1")
        return text, math.log2(float(text))
    if control.kind != COUNT or key == "sms":
        now, before = (float(one.sms) if key == "sms" else figure(one, key) for one in (gpu, view.base))
        text = view.moves.get(key) or (str(gpu.sms) if key == "sms" else plain_text(now, control))
        return text, math.log2(now / before)
    counts = {
        "budget": config.attention.decode_cap(None) or int(view.moves.get("budget", 1024)),
        "seqs": config.engine.max_num_seqs,
        "samples": view.samples,
    }
    value = counts[key] if key in counts else getattr(view, key)
    return str(value), math.log2(value)


def chosen(view: View) -> dict[str, str]:
    """Values of the controls of kind `choice`; empty where the scenario says what is none of them."""
    config = view.scenario.config
    sizes = config.parallelism
    said = {
        "scenario": view.spec,
        "gpu": view.base.name,
        "model": view.scenario.model.name,
        "precision": view.moves.get("precision", ""),
        "kv": view.moves.get("kv", ""),
        "attention": config.attention.kind,
        "tp": str(sizes.tensor),
        "pp": str(sizes.pipeline),
        "dp": str(sizes.attention_data),
        "ep": str(sizes.expert),
        "engine": config.engine.name,
        "profile": config.profile,
    }
    return {key: text if text in choices()[key] else "" for key, text in said.items()}


# ---- assignments -----------------------------------------------------------------------------------------------------

_PATHS = {
    "gpu": "gpu", "model": "model", "precision": "precision.linear", "kv": "precision.kv", "engine": "engine.name",
    "seqs": "engine.max_num_seqs", "profile": "profile", "samples": "workload.strategy.samples",
    "tp": "parallelism.tensor", "pp": "parallelism.pipeline", "dp": "parallelism.attention_data",
    "ep": "parallelism.expert",
}  # fmt: skip


def _assignments(scenario: LoadedScenario, moves: Moves) -> tuple[str, ...]:
    """What moves other than of the GPU's figures are as `--set` texts; their texts have been checked."""
    if "samples" in moves and not hasattr(scenario.config.workload.strategy, "samples"):
        kind = scenario.config.workload.strategy.kind
        raise InputError(f"{kind} has one sample a request", place="workload.strategy", allowed="a best_of_n scenario")
    sets = [f"{path}={moves[key]}" for key, path in _PATHS.items() if key in moves]
    if "attention" in moves or "budget" in moves:
        sets.append(f"attention={_attention(scenario, moves)}")
    return tuple(sets)


def _attention(scenario: LoadedScenario, moves: Moves) -> str:
    policy = scenario.config.attention
    kind, budget = moves.get("attention", policy.kind), int(moves.get("budget", policy.decode_cap(None) or 1024))
    if kind == "dense":
        return "dense"
    if kind == "top_k":
        return f"{{kind: top_k, budget: {budget}}}"
    if kind == "sliding_window":
        return f"{{kind: sliding_window, window: {budget}}}"
    if budget % PAGE or not budget:
        raise InputError(
            "no number of whole pages", place="attention.budget", found=budget, allowed=f"a multiple of {PAGE}"
        )
    return f"{{kind: block_top_k, page: {PAGE}, blocks: {budget // PAGE}}}"


def _figure_assignments(gpu: Gpu, figures: Moves) -> tuple[str, ...]:
    sets = []
    if "sms" in figures and "l2rate" not in figures:  # it may be derived from the SMs, and each slider moves one figure
        sets.append(f"gpu.l2.bandwidth={gpu.l2.bandwidth!r} B/s")
    for key, text in figures.items():
        if key == "tensor":
            rates = {dtype: rate * float(text) for dtype, rate in gpu.peak.items() if dtype != "fp32"}
            sets += [f"gpu.peak.{dtype}={rate:.6g} FLOP/s" for dtype, rate in rates.items()]
        elif key == "price" and gpu.price is None:
            today = datetime.date.today().isoformat()[:7]
            sets.append(f"gpu.price={{usd_per_hour: {text}, date: '{today}'}}")
        else:
            sets.append(f"{CONTROLS[key].places[0]}={text}")
    return tuple(sets)


def control_at(place: str | None) -> str:
    """The control that a place of a scenario belongs to: that of the longest place at or above it."""
    best = ("", "")
    for control in CONTROLS.values():
        for above in control.places:
            if place and (place == above or place.startswith((f"{above}.", f"{above}["))) and len(above) > len(best[0]):
                best = above, control.key
    return best[1]
