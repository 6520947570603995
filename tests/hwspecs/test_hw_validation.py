"""pydantic's complaints as one sentence, on a model with every construct that the loaders use."""

# ruff: noqa: E501 (one case a line reads best)

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from hwspecs.errors import InputError
from hwspecs.units import parse_quantity
from hwspecs.validation import describe, validate


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Trace(Part):
    kind: Literal["trace"]
    trace: str
    repeat: int = Field(1, ge=1, le=10)


class Poisson(Part):
    kind: Literal["poisson"]
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)]


Arrivals = Annotated[Trace | Poisson, Field(discriminator="kind")]
Rate = Annotated[float, BeforeValidator(lambda v: parse_quantity(v, "bytes/s", bare_ok=False))]


class Engine(Part):
    mode: Literal["fast", "slow"] = "fast"
    sizes: list[int] = Field(default_factory=list, max_length=2)
    share: dict[str, float] = {}
    tokens: int | Literal["auto"] = "auto"
    bandwidth: Rate = 1.0
    chunked: bool = True
    name: str = Field("x", min_length=1, pattern="^[a-z]*$")


class Scenario(Part):
    arrivals: Arrivals
    more: list[Arrivals] = []
    other: Trace | Poisson | None = Field(None, discriminator="kind")
    engine: Engine = Engine()
    both: tuple[int, str] = (1, "a")

    @model_validator(mode="after")
    def check(self) -> Scenario:
        if self.engine.mode == "slow" and self.engine.tokens == 7:
            raise InputError("slow engines dislike 7", place="engine.tokens", found=7, allowed="any other number")
        if self.engine.tokens == 8:
            raise ValueError("Eight is odd.")
        return self


OK = {"kind": "poisson", "rate": 1.0}

# (data, place, found, problem, allowed)
CASES = [
    ({}, "arrivals", None, "a required key is missing", "a mapping whose `kind` is one of trace, poisson"),
    ({"arrivals": 3}, "arrivals", 3, "not a mapping", "a mapping whose `kind` is one of trace, poisson"),
    ({"arrivals": {}}, "arrivals.kind", None, "the key 'kind' is missing", "one of trace, poisson"),
    ({"arrivals": {"kind": "poison"}}, "arrivals.kind", "poison", "unknown kind", "did you mean poisson?"),
    ({"arrivals": {"kind": "poisson"}}, "arrivals.rate", None, "a required key is missing", "a number > 0"),
    ({"arrivals": {"kind": "poisson", "rate": 0}}, "arrivals.rate", 0, "out of range", "a number > 0"),
    ({"arrivals": {"kind": "poisson", "rate": float("nan")}}, "arrivals.rate", None, "not a finite number", "a number > 0"),
    ({"arrivals": {"kind": "poisson", "rate": "x"}}, "arrivals.rate", "x", "of the wrong type", "a number > 0"),
    # the tag of a union is not part of the path, not even where a key has the same name
    ({"arrivals": {"kind": "trace", "trace": "a", "rate": 1}}, "arrivals.rate", "rate", "unknown key", "kind, repeat, trace"),
    ({"arrivals": {"kind": "trace", "trace": 3}}, "arrivals.trace", 3, "of the wrong type", "text"),
    ({"arrivals": {"kind": "trace", "trac": "a"}}, "arrivals.trac", "trac", "unknown key", "did you mean trace?"),
    ({"arrivals": {"kind": "trace", "trace": "a", "repeat": 99}}, "arrivals.repeat", 99, "out of range", "an integer >= 1 and <= 10"),
    ({"arrivals": OK, "other": {"kind": "poisson", "rate": -1}}, "other.rate", -1, "out of range", "> 0"),
    ({"arrivals": OK, "other": {"kind": "trce"}}, "other.kind", "trce", "unknown kind", "did you mean trace?"),
    ({"arrivals": OK, "more": [OK, {"kind": "trace"}]}, "more[1].trace", None, "a required key is missing", "text"),
    ({"arrivals": OK, "more": {"kind": "trace"}}, "more", {"kind": "trace"}, "of the wrong type", "a list"),
    ({"arrivals": OK, "engine": {"mode": "fats"}}, "engine.mode", "fats", "not one of the known values", "did you mean fast?"),
    ({"arrivals": OK, "engine": {"mode": 1}}, "engine.mode", 1, "not one of the known values", "one of fast, slow"),
    ({"arrivals": OK, "engine": {"sizes": [1, "a"]}}, "engine.sizes[1]", "a", "of the wrong type", "an integer"),
    ({"arrivals": OK, "engine": {"sizes": [1, 2, 3]}}, "engine.sizes", [1, 2, 3], "has 3 entries", "at most 2"),
    ({"arrivals": OK, "engine": {"share": {"a": "b"}}}, "engine.share.a", "b", "of the wrong type", "a number"),
    ({"arrivals": OK, "engine": {"share": {3: 1}}}, "engine.share[3]", 3, "of the wrong type", "text"),
    ({"arrivals": OK, "engine": {"tokens": "much"}}, "engine.tokens", "much", "of the wrong type", "an integer or auto"),
    ({"arrivals": OK, "engine": {"tokens": 1.5}}, "engine.tokens", 1.5, "of the wrong type", "an integer or auto"),
    ({"arrivals": OK, "engine": {"bandwidth": "5 GB"}}, "engine.bandwidth", "5 GB", "wrong unit 'GB'", "4.8 TB/s"),
    ({"arrivals": OK, "engine": {"chunked": "perhaps"}}, "engine.chunked", "perhaps", "of the wrong type", "true or false"),
    ({"arrivals": OK, "engine": {"name": ""}}, "engine.name", "", "text too short", "at least 1 characters"),
    ({"arrivals": OK, "engine": {"name": "A"}}, "engine.name", "A", "not in the expected form", "^[a-z]*$"),
    ({"arrivals": OK, "engine": None}, "engine", None, "not a mapping (the value is empty)", "mode, sizes, share"),
    ({"arrivals": OK, "engin": {}}, "engin", "engin", "unknown key", "did you mean engine?"),
    ({"arivals": OK}, "arivals", "arivals", "unknown key", "did you mean arrivals?"),  # not: arrivals is missing
    ({"arrivals": OK, "both": [1, 2]}, "both[1]", 2, "of the wrong type", "text"),
    ({"arrivals": OK, "engine": {"mode": "slow", "tokens": 7}}, "engine.tokens", 7, "slow engines dislike 7", "any other number"),
    ({"arrivals": OK, "engine": {"tokens": 8}}, None, None, "eight is odd", None),
    (3, None, 3, "not a mapping", "arrivals, more, other"),
    ({3: 4, "arrivals": OK}, "[3]", 3, "a key that is not text", "arrivals"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[repr(c[0])[:70] for c in CASES])
def test_complaints(case):
    data, place, found, problem, allowed = case
    seen = []
    with pytest.raises(InputError) as error:
        validate(Scenario, data, file="a.yaml", line_of=lambda p: seen.append(p) or 5, place_prefix="top")
    e = error.value
    assert e.problem == problem
    assert e.place == "top" + ("" if place is None else place if place.startswith("[") else f".{place}")
    assert (e.file, e.line) == ("a.yaml", 5)
    assert len(seen) == 1
    if found is not None:
        assert e.found == found
    if allowed is not None:
        assert allowed in e.allowed
    assert "function-" not in str(e) and "\n" not in str(e)


def test_a_prefix_may_be_a_path_or_nothing():
    for prefix, expected in [("", "engin"), ((), "engin"), (("runs", 2), "runs[2].engin")]:
        with pytest.raises(InputError) as error:
            validate(Scenario, {"engin": 1}, place_prefix=prefix)
        assert error.value.place == expected
        assert error.value.line is None


def test_what_is_right_passes():
    scenario = validate(Scenario, {"arrivals": OK, "other": {"kind": "trace", "trace": "t"}, "engine": {"tokens": 5}})
    assert isinstance(scenario.other, Trace) and scenario.engine.tokens == 5


@pytest.mark.parametrize(
    ("annotation", "phrase"),
    [
        (Annotated[int, Field(ge=1, lt=1000000)], "an integer >= 1 and < 1,000,000"),
        (float | None, "a number or null"),
        (Literal["a"], "a"),
        (list[int], "a list"),
        (dict[str, int], "a mapping"),
        (Poisson, "a mapping with the keys kind, rate"),
        (bool, "true or false"),
    ],
)
def test_descriptions(annotation, phrase):
    assert describe(annotation) == phrase
