"""Inter-token latencies from the timeline: of all tokens together, and of each request.

Every decoding sequence of a replica gets a token from every step with decode, so a request's inter-token latencies
(ITL) are the durations of its replica's steps between its first and last token, with the steps that it missed while it
was preempted replaced by one long gap. An engine that prefills first lets those that decode stand still meanwhile: for
them the next step with decode is longer by this *stall*. Within a macro-step the durations grow linearly; it is
represented by as many of them as it takes for neighbours to differ by no more than RESOLUTION (at most MAX_POINTS), so
quantiles are right to about that.
"""

from __future__ import annotations

import numpy as np

from simulator.timeline import Timeline

RESOLUTION = 0.005
MAX_POINTS = 64

Stalls = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows of the timeline in which sequences go on decoding, seconds that they stood still before, their number."""


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, quantiles: tuple[float, ...]) -> list[float]:
    """For each q the least value such that values up to it have at least the share q of the weight; NaN if empty."""
    if not len(values):
        return [float("nan")] * len(quantiles)
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    positions = np.searchsorted(total, np.asarray(quantiles) * total[-1] * (1 - 1e-12))
    return [float(values[order[min(i, len(order) - 1)]]) for i in positions]


def spread_steps(timeline: Timeline) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Step durations and how many steps each stands for; and where each run's entries begin (one more entry at the
    end).
    """
    steps = timeline["steps"]
    first, last = timeline["first_step_s"], timeline["last_step_s"]
    growth = (last - first) / np.maximum(first, 1e-300)
    points = np.minimum(steps, np.clip(np.ceil(growth / RESOLUTION), 1, MAX_POINTS)).astype(np.int64)
    begin = np.concatenate([[0], np.cumsum(points)])
    run = np.repeat(np.arange(len(steps)), points)
    position = np.arange(begin[-1]) - begin[run]
    # The middle of each of `points` equal parts of the steps 0 .. steps - 1.
    middle = ((position + 0.5) / points[run] * steps[run] - 0.5) / np.maximum(steps[run] - 1, 1)
    return first[run] + (last[run] - first[run]) * middle, steps[run] / points[run], begin


def find_stalls(
    timeline: Timeline,
    gaps: np.ndarray,
    replica: np.ndarray,
    first_token_s: np.ndarray,
    finish_s: np.ndarray,
    joined_s: np.ndarray | None = None,
) -> Stalls:
    """Who stood still while others were prefilled, and for how long; only with `prefill: first` anybody does.

    `replica`, `first_token_s` and `finish_s` have one entry a request, `gaps` is that of `RunLog`. With `joined_s`, the
    times at which requests began to decode on workers of their own, also who waited for that since the first token;
    the seconds are NaN where the first token came with the first step instead. O(log macro-steps) a request and
    preemption.
    """
    of_gap = gaps[:, 0].astype(np.int64)
    resumed = set(zip(of_gap.tolist(), gaps[:, 1].tolist(), strict=True))  # was preempted right after this token
    request = np.concatenate([np.arange(len(replica)), of_gap])
    token_s = np.concatenate([first_token_s, gaps[:, 2]])  # of a prefill
    from_s = token_s if joined_s is None else np.concatenate([joined_s, gaps[:, 2]])  # decode goes on from here
    parts: list[Stalls] = []
    for number in np.unique(timeline["replica"]):
        rows = np.flatnonzero((timeline["replica"] == number) & (timeline["decode_seqs"] > 0))
        if not len(rows):
            continue
        start = timeline["start_s"][rows]
        before = np.maximum(start[1:] - (start + timeline["duration_s"][rows])[:-1], 0.0)
        here = np.flatnonzero((replica[request] == number) & np.isfinite(from_s) & np.isfinite(token_s))
        run = np.searchsorted(start, from_s[here])
        here, run = here[run < len(rows)], run[run < len(rows)]
        lives = finish_s[request[here]] > start[run]
        pairs = zip(request[here].tolist(), token_s[here].tolist(), strict=True)
        lives &= np.array([pair not in resumed for pair in pairs], dtype=bool)
        here, run = here[lives], run[lives]
        old = timeline["decode_seqs"][rows] - np.bincount(run, minlength=len(rows))
        parts.append((rows[1:], before, old[1:]))
        wait = np.where(token_s[here] > from_s[here], np.nan, start[run] - token_s[here])
        parts.append((rows[run], wait, np.ones(len(run), dtype=np.int64)))
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64)
    row, seconds, count = (np.concatenate(part) for part in zip(*parts, strict=True))
    some = ~(seconds <= 0) & (count > 0)
    return row[some], seconds[some], count[some]


def all_itl(
    timeline: Timeline,
    gaps: np.ndarray,
    quantiles: tuple[float, ...],
    stalls: Stalls | None = None,
    number: float | None = None,
) -> tuple[float, list[float]]:
    """Mean and quantiles (seconds) of the ITL of all tokens but the first of each request.

    `number` : how many there are, where a step may give a sequence several tokens; those that come with another follow
    it at once.
    """
    values, weights, begin = spread_steps(timeline)
    seqs = np.repeat(timeline["decode_seqs"], np.diff(begin))
    weights = weights * seqs
    if stalls is not None:
        row, seconds, count = stalls
        np.subtract.at(weights, begin[row], count)  # a first entry stands for one step or more
        longer = np.isfinite(seconds)
        values = np.concatenate([values, timeline["first_step_s"][row[longer]] + seconds[longer]])
        weights = np.concatenate([weights, count[longer]])
    gaps = gaps[np.isfinite(gaps[:, 2])]
    if len(gaps):
        values = np.concatenate([values, gaps[:, 2] - gaps[:, 1]])
        weights = np.concatenate([weights, np.ones(len(gaps))])
    if number is not None:
        values, weights = np.append(values, 0.0), np.append(weights, max(0.0, number - weights.sum()))
    total = weights.sum()
    mean = float((values * weights).sum() / total) if total else float("nan")
    return mean, weighted_quantiles(values[weights > 0], weights[weights > 0], quantiles)


def request_itl(
    timeline: Timeline,
    gaps: np.ndarray,
    replica: np.ndarray,
    first_token_s: np.ndarray,
    finish_s: np.ndarray,
    generated: np.ndarray,
    quantiles: tuple[float, ...] = (0.5, 0.9, 0.99, 1.0),
    joined_s: np.ndarray | None = None,
) -> np.ndarray:
    """ITL quantiles of each request, [requests, quantiles] in seconds; NaN with fewer than two tokens.

    `joined_s` as in `find_stalls`. O(macro-steps between the request's first and last token) each.
    """
    out = np.full((len(replica), len(quantiles)), np.nan)
    gaps_of: dict[int, list[tuple[float, float]]] = {}
    for index, start, end in gaps.tolist():
        gaps_of.setdefault(int(index), []).append((start, end))
    wanted = np.flatnonzero((generated > 1) & np.isfinite(first_token_s))
    for number in np.unique(replica[wanted]):
        mine = (timeline["replica"] == number) & (timeline["decode_seqs"] > 0)
        runs = timeline.select(np.flatnonzero(mine))  # in order of time, as they ended
        start = runs["start_s"]
        values, weights, begin = spread_steps(runs)
        # Seconds without decode before a run, if they are more than rounding.
        before = start - np.concatenate([[-np.inf], (start + runs["duration_s"])[:-1]])
        stalled = np.flatnonzero(before > 1e-6 * runs["first_step_s"])
        for index in wanted[replica[wanted] == number].tolist():
            first = first_token_s[index]
            joined = first if joined_s is None or joined_s[index] != joined_s[index] else joined_s[index]
            spans = [(joined, finish_s[index])]
            waits = gaps_of.get(index, [])
            for gap_start, gap_end in waits:
                begun, end = spans.pop()
                spans.append((begun, gap_start))
                if gap_end == gap_end:  # else it was aborted before another token came
                    spans.append((gap_end, end))
            parts_v, parts_w = [], []
            for span_start, span_end in spans:
                a, b = np.searchsorted(start, (span_start, span_end))
                parts_v.append(values[begin[a] : begin[b]])
                own = weights[begin[a] : begin[b]].copy()
                parts_w.append(own)
                late = stalled[np.searchsorted(stalled, a) : np.searchsorted(stalled, b)]
                if span_start == joined != first and a < b:  # its first step came later, or with the first token
                    late = late[late > a]
                    own[0] -= 1
                    if first < joined:
                        parts_v.append(runs["first_step_s"][a : a + 1] + start[a] - first)
                        parts_w.append(np.ones(1))
                if len(late):
                    waited = np.minimum(before[late], start[late] - span_start)  # it may have come in meanwhile
                    own[begin[late] - begin[a]] -= 1
                    parts_v.append(runs["first_step_s"][late] + waited)
                    parts_w.append(np.ones(len(late)))
            ended = [b - a for a, b in waits if b == b]
            if ended:
                parts_v.append(np.array(ended))
                parts_w.append(np.ones(len(ended)))
            v = parts_v[0] if len(parts_v) == 1 else np.concatenate(parts_v)
            w = parts_w[0] if len(parts_w) == 1 else np.concatenate(parts_w)
            together = generated[index] - 1 - w.sum()  # tokens that came with another
            if together > 0.5:
                v, w = np.append(v, 0.0), np.append(w, together)
            out[index] = weighted_quantiles(v, w, quantiles)
    return out
