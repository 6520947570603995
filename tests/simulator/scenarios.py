"""Random serving scenarios for the exactness tests (hypothesis strategies), and a plain builder of requests.

Scenarios are small, so that the naive engine can walk through them, and crowded, so that much happens in them: pools
from just enough for the largest request, ties, arrivals and timeouts exactly on step boundaries, block sizes that
divide nothing. What makes one is drawn field by field, so that hypothesis can shrink a disagreement to a minimal
example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from hypothesis import strategies as st
from naive import Cost, simulate_naive

from hwspecs.gpu import load_gpu
from simulator.policy import ONE_TOKEN, SECONDS_PER_TICK, Advance, EngineParams, to_ticks
from simulator.profile import load_profile
from simulator.shape import StepShape
from simulator.stepcost import StepCost
from simulator.stepgraph import Draft, Layout, Precision, build_graph
from workloads.attention import AttentionPolicy, BlockTopK, Dense, SlidingWindow, TopK
from workloads.model import load_model
from workloads.requests import Requests
from workloads.routers import ROUTERS

KINDS = (
    "plain",
    "starved",
    "groups",
    "traces",
    "replicas",
    "windows",
    "priorities",
    "closed",
    "aborts",
    "stops",
    "symmetric",
    "any",
)
LAYOUTS = (
    ("qwen3-0.6b", Layout(tensor=2)),
    ("qwen3-0.6b", Layout(pipeline=3)),
    ("qwen3-1.7b", Layout(tensor=2, pipeline=2, sequence=True)),
    ("qwen3-30b-a3b", Layout(tensor=4, expert=2)),
    ("qwen3-30b-a3b", Layout(attention_data=3)),
    ("qwen3-30b-a3b", Layout(tensor=2, attention_data=2, expert=4, pipeline=2)),
)
"""Models on several GPUs: what a step takes then depends on how its sequences and chunks are dealt out."""
ENGINE_KINDS = ("reserve", "first", "waits", "underway", "ahead", "drafts", "engines")
"""Kinds that are like any of those above, with what engines do differently."""


@dataclass
class FlatCost:
    """A cost to follow with a pencil: a step takes `fixed` ticks and one for each token; it keeps the shapes it saw."""

    decode_caps: tuple[int | None, ...] = (None,)
    prefill_caps: tuple[int | None, ...] = (None,)
    fixed: int = 10
    shapes: list[StepShape] = field(default_factory=list)

    def step_ticks(self, shape: StepShape) -> int:
        self.shapes.append(shape)
        return self.fixed + shape.tokens


def make_requests(
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    job: Sequence[int] | None = None,
    arrivals: Sequence[float] | None = None,
    priority: Sequence[int] | None = None,
    session: Sequence[int] | None = None,
    accepted: Sequence[bool] | None = None,
    chains: Sequence[Sequence[tuple[int, int]]] | None = None,
    unit_tokens: int | None = None,
    concurrency: int | None = None,
    think_time_s: float = 0.0,
    stop_on_accept: bool = False,
    timeout_s: float | None = None,
) -> Requests:
    """Requests from lists: one job each, all at once, unrelated, unless told otherwise; `chains` of (unit, tokens)."""
    n = len(prompt)
    job = list(range(n)) if job is None else job
    n_jobs = max(job) + 1
    chains = [[] for _ in range(n)] if chains is None else chains
    lengths = [len(chain) for chain in chains]

    def ints(values: Sequence[int]) -> np.ndarray:
        return np.array(values, dtype=np.int64)

    return Requests(
        prompt_tokens=ints(prompt),
        output_tokens=ints(output),
        job=ints(job),
        job_arrival_s=np.zeros(n_jobs) if arrivals is None else np.array(arrivals, dtype=np.float64),
        priority=ints([0] * n if priority is None else priority),
        session=ints(list(range(n)) if session is None else session),
        accepted=np.array([False] * n if accepted is None else accepted, dtype=bool),
        prefix_ptr=ints([sum(lengths[:i]) for i in range(n + 1)]),
        prefix_id=ints([unit for chain in chains for unit, _ in chain]),
        prefix_tokens=ints([tokens for chain in chains for _, tokens in chain]),
        prefix_unit_tokens=unit_tokens,
        concurrency=concurrency,
        think_time_s=think_time_s,
        stop_on_accept=stop_on_accept,
        timeout_s=timeout_s,
    )


@dataclass(frozen=True)
class CostSpec:
    """Which StepCost a scenario is run with: an attention policy with its window or KV budget in tokens.

    The `quick` GPU is one whose steps take less than a microsecond: times up to 2^-7 s are whole ticks in float64, so
    that an arrival can be put exactly on any of thousands of step boundaries.
    With `layers_alternate` every second layer of the model has a window of 24 tokens of its own.
    """

    model: str = "qwen3-0.6b"
    gpu: str = "h200-sxm"
    profile: str = "ideal"
    attention: str = "dense"
    budget: int = 0
    layers_alternate: bool = False
    max_context: int = 512
    layout: Layout = field(default_factory=Layout)
    advance: Advance = ONE_TOKEN


@cache
def cost_of(spec: CostSpec) -> StepCost:
    """The compiled StepCost, large enough for every scenario; compiled once."""
    model = load_model(spec.model)
    if spec.layers_alternate:
        model = replace(model, layer_windows=tuple(None if i % 2 else 24 for i in range(model.layers)))
    attention: AttentionPolicy = Dense()
    if spec.attention == "sliding_window":
        attention = SlidingWindow(kind="sliding_window", window=spec.budget)
    elif spec.attention == "top_k":
        attention = TopK(kind="top_k", budget=spec.budget)
    elif spec.attention == "block_top_k":
        attention = BlockTopK(kind="block_top_k", page=8, blocks=spec.budget // 8, local=3)
    gpu = load_gpu("h200-sxm" if spec.gpu == "quick" else spec.gpu)
    if spec.gpu == "quick":
        memory = replace(gpu.memory, bandwidth=1000 * gpu.memory.bandwidth)
        l2 = replace(gpu.l2, bandwidth=1000 * gpu.l2.bandwidth)
        gpu = replace(gpu, memory=memory, l2=l2, peak={name: 1000 * peak for name, peak in gpu.peak.items()})
    graph = build_graph(model, attention, Precision(), spec.layout, draft=Draft(spec.advance.drafted))
    profile, advance = load_profile(spec.profile), spec.advance
    return StepCost(graph, gpu, profile, max_tokens=1024, max_seqs=16, max_context=spec.max_context, advance=advance)


@dataclass(frozen=True)
class Scenario:
    """Requests before a deployment; `on_boundary` are the arrivals that `settle` moves to step boundaries."""

    kind: str
    requests: Requests
    params: EngineParams
    cost: CostSpec
    on_boundary: tuple[int, ...] = ()
    timeout_on_boundary: int | None = None
    request_on_boundary: int | None = None

    def __repr__(self) -> str:
        requests = self.requests
        lines = [f"Scenario({self.kind}", repr(self.params), repr(self.cost)]
        lines.append(f"on_boundary={self.on_boundary} timeout_on_boundary={self.timeout_on_boundary}")
        lines.append(f"request_on_boundary={self.request_on_boundary}")
        lines += [f"{name}={getattr(requests, name)!r}".replace("\n", " ") for name in requests.__dataclass_fields__]
        return ",\n  ".join(lines) + ")"

    def settle(self, cost: Cost) -> Scenario:
        """The same with the arrivals `on_boundary` moved to step boundaries of what happens before them.

        Job `j` of `on_boundary[j - 1] = k` arrives at the end of the k-th next step after its predecessor (counted
        round) when only the jobs before it exist; -1 leaves it with its predecessor. Then the timeout likewise. Before
        that the way to the queue is made as long as from one step boundary to another.
        """
        requests = self.requests
        if self.request_on_boundary is not None:
            ends = step_ends(replace(requests, timeout_s=None), cost, replace(self.params, request_ticks=0))
            ends = [t for t in ends if t < 2.0**-7]  # late jobs are left out of it
            gap = ends[self.request_on_boundary % len(ends)] - ends[0] if ends else 0.0
            params = replace(self.params, request_ticks=max(1, to_ticks(gap)))
            return replace(self, params=params, request_on_boundary=None).settle(cost)
        arrivals = [float(t) for t in requests.job_arrival_s]
        for job, pick in enumerate(self.on_boundary, start=1):
            arrivals[job] = arrivals[job - 1]
            if pick >= 0:
                before = first_jobs(requests, job, arrivals)
                ends = [t for t in step_ends(before, cost, self.params) if t >= arrivals[job - 1]]
                if ends:
                    arrivals[job] = ends[pick % len(ends)]
        if self.on_boundary:
            requests = replace(requests, job_arrival_s=np.array(arrivals))
        if self.timeout_on_boundary is not None:
            ends = step_ends(replace(requests, timeout_s=None), cost, self.params)
            since = [t - arrivals[0] for t in ends if t > arrivals[0]]
            if since:
                requests = replace(requests, timeout_s=since[self.timeout_on_boundary % len(since)])
        return replace(self, requests=requests)


def first_jobs(requests: Requests, jobs: int, arrivals: Sequence[float]) -> Requests:
    """The first `jobs` jobs alone, arriving at `arrivals`."""
    n = int(np.searchsorted(requests.job, jobs))
    units = int(requests.prefix_ptr[n])
    return replace(
        requests,
        prompt_tokens=requests.prompt_tokens[:n],
        output_tokens=requests.output_tokens[:n],
        job=requests.job[:n],
        job_arrival_s=np.array(arrivals[:jobs]),
        priority=requests.priority[:n],
        session=requests.session[:n],
        accepted=requests.accepted[:n],
        prefix_ptr=requests.prefix_ptr[: n + 1],
        prefix_id=requests.prefix_id[:units],
        prefix_tokens=requests.prefix_tokens[:units],
    )


def step_ends(requests: Requests, cost: Cost, params: EngineParams) -> list[float]:
    log = simulate_naive(requests, cost, params, check_every=1000)
    return sorted({(step.start + step.ticks) * SECONDS_PER_TICK for steps in log.steps for step in steps})


def one_in(draw: st.DrawFn, n: int) -> bool:
    return draw(st.integers(1, n)) == n


@st.composite
def scenarios(draw: st.DrawFn, kinds: Sequence[str] = KINDS, tick_scale: float = 2.0**-12) -> Scenario:
    """A scenario of one of the `kinds`; `tick_scale` is about the time of a step in seconds."""
    kind = draw(st.sampled_from(sorted(kinds)))
    if kind not in ENGINE_KINDS:
        return draw(ordinary_scenarios(kind, tick_scale))
    like = {"underway": "aborts", "reserve": "starved"}.get(kind)
    like = KINDS if like is None else (*KINDS, *6 * [like])
    scenario = draw(ordinary_scenarios(draw(st.sampled_from(like)), tick_scale))
    return draw(as_engines_do(kind, scenario, tick_scale))


@st.composite
def as_engines_do(draw: st.DrawFn, kind: str, scenario: Scenario, tick_scale: float) -> Scenario:
    """The scenario with a policy of one of the ENGINE_KINDS, and perhaps others of them."""
    params = scenario.params
    odds = 2 if kind == "engines" else 4
    boundary = None
    if kind == "reserve" or one_in(draw, odds):
        share = draw(st.sampled_from([1.0, 1.0, 0.5, 0.1])) if one_in(draw, 2) else draw(st.floats(0.01, 1.0))
        params = replace(params, reserve_output=share)
        if (
            share == 1 and not params.chunked_prefill and one_in(draw, 2)
        ):  # what is never preempted fits with its prompt
            least = max(params.max_num_seqs, int(scenario.requests.prompt_tokens.max()))
            params = replace(params, max_num_batched_tokens=least)
    if kind == "first" or one_in(draw, odds):
        params = replace(params, prefill="first")
    if kind == "waits" or one_in(draw, odds):
        steps = draw(st.integers(1, 12))
        tokens = draw(st.integers(1, params.max_num_batched_tokens)) if one_in(draw, 2) else 0
        params = replace(params, batch_wait_steps=steps, batch_wait_tokens=tokens)
    if kind == "ahead" or one_in(draw, odds):
        params = replace(params, ahead=True)
        if one_in(draw, 2):
            params = replace(params, receive_steps=draw(st.integers(2, 30)))
    cost = scenario.cost
    if kind == "drafts" or one_in(draw, odds):
        drafted, unit = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3, 7, 10]))
        advance = Advance(drafted, draw(st.integers(unit, (drafted + 1) * unit)), unit)
        params = replace(
            params,
            speculation=advance,
            max_num_batched_tokens=max(params.max_num_batched_tokens, params.max_num_seqs * advance.queries),
            kv_blocks=params.kv_blocks + -(-drafted // params.block_size),
        )
        cost = replace(cost, advance=advance)
    if kind == "underway" or one_in(draw, odds):
        seconds = tick_scale * draw(st.floats(0.001, 10.0))
        ticks = 1 if one_in(draw, 8) else to_ticks(seconds)
        timeout_s = scenario.requests.timeout_s
        if timeout_s is not None and one_in(draw, 3):
            ticks = max(1, to_ticks(timeout_s) + draw(st.integers(-1, 1)))
        elif scenario.cost.gpu == "quick":
            boundary = draw(st.integers(0, 30))
        params = replace(params, request_ticks=ticks)
        if one_in(draw, 2):
            each = draw(st.sampled_from([1, ticks // 4, ticks]))
            params = replace(params, request_ticks=draw(st.sampled_from([0, ticks])), request_token_ticks=each)
    kind = f"{kind}, {scenario.kind}"
    return replace(scenario, kind=kind, params=params, cost=cost, request_on_boundary=boundary)


@st.composite
def ordinary_scenarios(draw: st.DrawFn, kind: str, tick_scale: float) -> Scenario:
    """A scenario of one of the KINDS."""
    wild = kind == "any"

    def maybe(*with_kinds: str, odds: int = 3) -> bool:
        return kind in with_kinds or (wild and one_in(draw, odds))

    # Jobs and lengths
    grouped = maybe("groups") or (kind in ("symmetric", "stops") and one_in(draw, 2))
    traced = not grouped and (maybe("traces") or (kind in ("aborts", "stops") and one_in(draw, 2)))
    starved = maybe("starved", "priorities", "aborts", "stops", odds=2) or (
        kind not in ("plain", "windows") and not one_in(draw, 3)
    )
    block_size = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 12, 16, 32]))
    jobs = draw(st.integers(1, 8 if grouped else 20))
    samples = [draw(st.integers(1, 6)) if grouped else 1 for _ in range(jobs)]
    if not grouped and (kind == "stops" or (wild and one_in(draw, 4))):
        samples = [draw(st.integers(1, 4)) for _ in range(jobs)]  # unrelated requests that arrive together
    job = [j for j in range(jobs) for _ in range(samples[j])]
    n = len(job)
    longest_prompt = draw(st.sampled_from([4, 20, 70, 300]))
    longest_output = draw(st.sampled_from([2, 10, 40, 200]))
    longest_output = max(2, min(longest_output, 1600 // n))
    outputs = st.integers(1, longest_output)
    if kind == "symmetric" or one_in(draw, 4):  # much happens at once on all replicas
        longest_prompt = min(longest_prompt, 4) if one_in(draw, 2) else longest_prompt
        outputs = st.sampled_from(draw(st.lists(outputs, min_size=1, max_size=2)))
    output = [draw(outputs) for _ in range(n)]
    prompts = st.just(longest_prompt) if kind == "symmetric" and one_in(draw, 2) else st.integers(1, longest_prompt)
    of_job = [draw(prompts) for _ in range(jobs)]
    prompt = [of_job[j] for j in job] if grouped else [draw(prompts) for _ in range(n)]

    # What they share
    chains: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    unit_tokens = None
    if grouped:
        chains = [[(j, of_job[j])] for j in job]
    elif traced:
        unit_tokens = block_size * draw(st.integers(1, 4))
        chains = draw(conversations(prompt, unit_tokens))

    # When they come
    closed = maybe("closed") or (kind == "symmetric" and one_in(draw, 2))
    arrivals = [0.0] * jobs
    on_boundary: tuple[int, ...] = ()
    concurrency, think_time_s = None, 0.0
    if closed:
        concurrency = draw(st.integers(1, jobs + 1))
        think_time_s = draw(st.sampled_from([0.0, tick_scale / 4, tick_scale * 10 / 3]))
    else:
        arrivals, on_boundary = draw(arrival_times(jobs, tick_scale))
    timeout_s, timeout_on_boundary = None, None
    if kind == "aborts" or one_in(draw, 8 if kind not in ("any", "closed", "groups") else 4):
        timeout_s = tick_scale * draw(st.floats(0.1, 60.0))
        if one_in(draw, 2):
            timeout_on_boundary = draw(st.integers(0, 30))

    requests = make_requests(
        prompt,
        output,
        job=job,
        arrivals=arrivals,
        priority=[draw(st.integers(0, 3)) for _ in range(n)] if maybe("priorities") else None,
        session=[draw(st.integers(0, 5)) for _ in range(n)],
        accepted=[one_in(draw, 3) for _ in range(n)] if grouped or wild or kind == "stops" else None,
        chains=chains,
        unit_tokens=unit_tokens,
        concurrency=concurrency,
        think_time_s=think_time_s,
        stop_on_accept=kind == "stops" or ((grouped or wild) and one_in(draw, 2)),
        timeout_s=timeout_s,
    )
    params = draw(deployments(requests, block_size, starved=starved, priority=maybe("priorities")))
    if maybe("replicas", "symmetric") or (kind == "stops" and not one_in(draw, 3)):
        router, seed = draw(st.sampled_from(sorted(ROUTERS))), draw(st.integers(0, 3))
        params = replace(params, replicas=draw(st.integers(2, 4)), router=router, router_seed=seed)
    cost = draw(costs(windows=maybe("windows", odds=2)))
    if on_boundary or timeout_on_boundary is not None:
        cost = replace(cost, gpu="quick", profile="ideal")
    return Scenario(kind, requests, params, cost, on_boundary, timeout_on_boundary)


@st.composite
def arrival_times(draw: st.DrawFn, jobs: int, tick_scale: float) -> tuple[list[float], tuple[int, ...]]:
    """When the jobs of an open loop arrive, and which of them `settle` moves to step boundaries."""
    how = draw(st.sampled_from(["at once", "grid", "gaps", "boundaries"]))
    if how == "boundaries":
        on_boundary = tuple(draw(st.lists(st.integers(-1, 30), max_size=min(jobs - 1, 4))))
        late = jobs - 1 - len(on_boundary)  # the others come long after
        return [0.0] * (len(on_boundary) + 1) + [1.0] * late, on_boundary
    gaps = [0.0] * jobs
    if how == "grid":
        gaps = [tick_scale * k for k in draw(st.lists(st.integers(0, 4), min_size=jobs, max_size=jobs))]
    elif how == "gaps":
        longest = tick_scale * draw(st.sampled_from([1.0, 10.0, 100.0]))
        gaps = draw(st.lists(st.floats(0.0, longest), min_size=jobs, max_size=jobs))
    start = draw(st.sampled_from([0.0, 0.0, 0.125, 3000.1]))
    return [start + float(t) for t in np.cumsum(gaps)], ()


@st.composite
def conversations(draw: st.DrawFn, prompt: list[int], unit: int) -> list[list[tuple[int, int]]]:
    """Chains of `unit` tokens (the last may be shorter) that share heads, as the turns of conversations do."""
    chains: list[list[tuple[int, int]]] = []
    fresh = 0
    for i, tokens in enumerate(prompt):
        whole, rest = divmod(tokens, unit)
        sizes = [unit] * whole + ([rest] if rest and draw(st.booleans()) else [])
        head: list[int] = []
        if i and not one_in(draw, 4):
            parent = chains[draw(st.integers(0, i - 1))]
            head = [name for name, _ in parent][: draw(st.integers(0, 8))]
        names = head[: len(sizes)]
        while len(names) < len(sizes):
            if one_in(draw, 6):
                names.append(draw(st.integers(0, 5)))  # perhaps known, but after something else
            else:
                names.append(fresh)
                fresh += 1
        chains.append(list(zip(names, sizes, strict=True)))
    return chains


@st.composite
def deployments(draw: st.DrawFn, requests: Requests, block_size: int, *, starved: bool, priority: bool) -> EngineParams:
    """One replica that can serve the requests: each that is not rejected fits into its pool alone."""
    lengths = [int(p) + int(o) for p, o in zip(requests.prompt_tokens, requests.output_tokens, strict=True)]
    max_model_len = max(lengths) + draw(st.integers(0, 3))
    if one_in(draw, 4):
        max_model_len = draw(st.sampled_from(lengths))  # longer ones are rejected
    needs = [-(-(length - 1) // block_size) for length in lengths if length <= max_model_len]
    largest = max(needs, default=1)
    kv_blocks = largest + draw(st.integers(0, largest + 2)) if starved else sum(needs) + len(needs) + 1
    max_num_seqs = draw(st.integers(1, 16))
    chunked = not one_in(draw, 4)
    least = max_num_seqs if chunked else max(max_num_seqs, max_model_len)
    return EngineParams(
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=draw(st.integers(least, max(least, 300))),
        block_size=block_size,
        kv_blocks=kv_blocks,
        max_model_len=max_model_len,
        watermark_blocks=draw(st.integers(0, 3)) if one_in(draw, 2) else 0,
        chunked_prefill=chunked,
        prefix_sharing=not one_in(draw, 4),
        scheduling="priority" if priority else "fcfs",
    )


@st.composite
def costs(draw: st.DrawFn, *, windows: bool) -> CostSpec:
    profile = draw(st.sampled_from(["ideal", "rule-of-thumb"]))
    model, layout = draw(st.sampled_from(["qwen3-0.6b", "qwen3-1.7b"])), Layout()
    if one_in(draw, 4):
        model, layout = draw(st.sampled_from(LAYOUTS))
    if not windows:
        return CostSpec(model=model, profile=profile, layout=layout)
    attention = draw(st.sampled_from(["sliding_window", "top_k", "block_top_k", "dense"]))
    budget = draw(st.sampled_from([16, 24, 32, 64]))
    alternate = one_in(draw, 3)
    return CostSpec(
        model=model,
        profile=profile,
        attention=attention,
        budget=budget,
        layers_alternate=alternate,
        layout=layout,
    )
