"""Where a prediction and a measurement are not of the same thing: lengths, load, deployment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.importing.measurement import Measurement
from simulator.result import Result
from workloads.model import find_model

TOLERANCE = 0.02
"""Lengths, rates and numbers of requests this close count as the same."""
SPREAD_TOLERANCE = 0.2
"""The same of the standard deviation of lengths."""
SAME_FORMAT = {"fp8_block": "fp8", "nvfp4": "fp4", "w4a16_mxfp4": "fp4", "mxfp4": "fp4", "w4a8_mxfp4_mxfp8": "fp4"}
"""Formats by the names that serving tables have for checkpoints."""


@dataclass(frozen=True)
class Difference:
    """What is not alike. `what` : in words; `predicted`, `measured` : its values, numbers or text."""

    what: str
    predicted: Any
    measured: Any

    def words(self) -> str:
        return f"{self.what}: {_shown(self.predicted)} predicted, {_shown(self.measured)} measured"


def differences(result: Result, measurement: Measurement) -> list[Difference]:
    """What is not alike in the load and in the deployment, as far as both say it."""
    return [*_load(result, measurement), *_deployment(result, measurement)]


def _load(result: Result, measurement: Measurement) -> Iterator[Difference]:
    load, requests = measurement.load, result.requests
    count = len(requests["status"])
    if load.requests is not None and not _near(count, load.requests + load.failed):
        yield Difference("requests", count, load.requests + load.failed)
    for words, column, mean, own in (
        ("mean input tokens", "prompt_tokens", load.input_len, "input_len"),
        ("mean output tokens", "output_tokens", load.output_len, "output_len"),
    ):
        predicted = requests[column].astype(float)
        if mean is not None and not _near(float(predicted.mean()), mean):
            yield Difference(words, float(predicted.mean()), mean)
        measured = measurement.requests.get(own)
        if measured is not None:
            spread, theirs = float(predicted.std()), float(measured.std())
            if abs(spread - theirs) > SPREAD_TOLERANCE * max(spread, theirs) and max(spread, theirs) > 1:
                yield Difference(words.replace("mean", "standard deviation of"), spread, theirs)
    yield from _sending(result, measurement)


def _sending(result: Result, measurement: Measurement) -> Iterator[Difference]:
    """How requests are sent: at most so many at a time, or at a rate."""
    load = measurement.load
    if not load.known:
        return
    arrivals = result.scenario["workload"]["arrivals"]
    users = arrivals.get("concurrency")
    rate = load.rate if load.rate is not None and math.isfinite(load.rate) else None
    if users is not None:
        if load.concurrency is not None and users != load.concurrency:
            yield Difference("requests at a time", users, load.concurrency)
        elif load.concurrency is None and (rate is not None or "arrival_s" in measurement.requests):
            sent = f"{rate:g} requests/s" if rate is not None else "as recorded"
            yield Difference("how requests are sent", f"{users:,} at a time", sent)
        return
    submitted = result.requests["submitted_s"]
    span = float(submitted.max() - submitted.min())
    if load.concurrency is not None and rate is None:
        predicted = "all at once" if span == 0 else f"{len(submitted) / span:.3g} requests/s"
        yield Difference("how requests are sent", predicted, f"{load.concurrency:,} at a time")
        return
    measured = measurement.requests.get("arrival_s")
    if rate is None and measured is not None and len(measured) > 1 and np.ptp(measured) > 0:
        rate = (len(measured) - 1) / float(np.ptp(measured))
    own = arrivals.get("rate") or (None if span == 0 else (len(submitted) - 1) / span)
    if rate is not None and not (own is not None and _near(own, rate)):
        yield Difference("requests per second", own if own is not None else "all at once", rate)


def _deployment(result: Result, measurement: Measurement) -> Iterator[Difference]:
    facts, scenario = measurement.facts, result.scenario
    gpu, model = result.deployment["gpu"]["name"], result.deployment["model"]["name"]
    if "gpu" in facts and facts["gpu"] != gpu:
        yield Difference("GPU", gpu, facts["gpu"])
    if "model" in facts and facts["model"] != model and (find_model(facts["model"]) or facts["model"]) != model:
        yield Difference("model", model, facts["model"])
    engine = scenario["engine"]
    if "engine" in facts and facts["engine"] != engine.get("name"):
        yield Difference("engine", engine.get("name"), facts["engine"])
    version = facts.get("engine_version")
    if version not in (None, "unknown", "") and version != engine.get("version"):
        yield Difference("engine's version", engine.get("version"), version)
    if "precision" in facts:
        own, theirs = _format(checkpoint_format(scenario["precision"])), _format(facts["precision"])
        if own != theirs:
            yield Difference("precision", own, theirs)
    if scenario.get("disaggregation") is None:
        yield from _layout(scenario, facts)


def checkpoint_format(precision: dict[str, Any]) -> str:
    """The format of a checkpoint from a scenario's: the experts' where they have their own, else the linear layers'."""
    parts = (precision.get(name) for name in ("experts", "mlp", "linear", "weights"))
    return next((str(part) for part in parts if part), "auto")


def _format(name: str) -> str:
    return SAME_FORMAT.get(name, name)


def _layout(scenario: dict[str, Any], facts: Any) -> Iterator[Difference]:
    spread = scenario["parallelism"]
    for key, name in (("tp", "tensor"), ("pp", "pipeline"), ("attention_dp", "attention_data"), ("moe_ep", "expert")):
        if key in facts and facts[key] != spread.get(name, 1):
            yield Difference(f"{name.replace('_', ' ')} parallelism", spread.get(name, 1), facts[key])


def _near(a: float, b: float) -> bool:
    return abs(a - b) <= TOLERANCE * max(abs(a), abs(b))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
