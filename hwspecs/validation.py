"""From pydantic's list of complaints to the one `InputError` that a user reads.

`validate` is what a loader calls; `to_input_error` is the translation alone. Both know nothing of GPUs or scenarios:
the meaning, the names and the bounds are read off the pydantic model that was violated.

Paths: pydantic puts the tag of a discriminated union, and the name of the alternative of a plain union, into the
location of an error. The user wrote neither as a key, so both are dropped by walking the location along the model.
"""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hwspecs.errors import InputError, near_matches
from hwspecs.yamlfile import place_text

Place = tuple[str | int, ...]
LineOf = Callable[[Place], int | None]
Model = TypeVar("Model", bound=BaseModel)

_SPECIFIC_FIRST = ("extra_forbidden", "invalid_key", "union_tag_invalid")
_MAPPING_WANTED = ("model_type", "model_attributes_type", "dict_type", "dataclass_type", "mapping_type")


def validate(
    model: type[Model],
    data: object,
    *,
    file: object = None,
    line_of: LineOf | None = None,
    place_prefix: str | Place = (),
) -> Model:
    """`model.model_validate(data)`, with any complaint as `InputError`. Parameters as of `to_input_error`."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise to_input_error(error, model=model, file=file, line_of=line_of, place_prefix=place_prefix) from None


def to_input_error(
    validation_error: ValidationError,
    *,
    model: type[BaseModel],
    file: object = None,
    line_of: LineOf | None = None,
    place_prefix: str | Place = (),
) -> InputError:
    """The first and most telling complaint of `validation_error` in the user's words.

    An unknown key goes before everything else, because a misspelt key also shows up as a missing one.

    Parameters
    ----------
    model : the class that was validated; its fields give the near matches, the choices and the bounds.
    file : the file (or option) that the data came from.
    line_of : from a place inside the validated data (keys and indices, `place_prefix` not included) to a line.
    place_prefix : where the validated data stands in the file, such as `gpu` or `("replicas", 0)`.
    """
    complaint = explain(validation_error, model)
    prefix = place_prefix if isinstance(place_prefix, str) else place_text(place_prefix)
    text = place_text(complaint.place)
    joint = "" if not prefix or not text or text.startswith("[") else "."
    return InputError(
        complaint.problem,
        file=file,
        place=f"{prefix}{joint}{text}" or None,
        line=line_of(complaint.place) if line_of is not None else None,
        found=complaint.found,
        allowed=complaint.allowed,
    )


@dataclass(frozen=True)
class Complaint:
    """What `InputError` says, with the place still as a path inside the validated data."""

    problem: str
    place: Place
    found: object
    allowed: str | None


def explain(validation_error: ValidationError, model: type[BaseModel]) -> Complaint:
    """The complaint that `to_input_error` reports, for callers that must look the place up first."""
    details = validation_error.errors(include_url=False)
    details.sort(key=lambda d: 0 if d["type"] in _SPECIFIC_FIRST else 1)  # stable: otherwise in pydantic's order
    walked = [_walk(model, d["loc"]) for d in details]
    place, spot = walked[0]
    problem, found, allowed, inner = _words(details[0], place, spot)
    # The alternatives of a plain union complain one by one about the same value: name them all.
    rivals = [(d, s) for d, (p, s) in zip(details, walked, strict=True) if p == place]
    if len(rivals) > 1 and details[0]["type"] not in _SPECIFIC_FIRST:
        allowed = " or ".join(dict.fromkeys(a for d, s in rivals if (a := _words(d, place, s)[2])))
    if found is None and details[0].get("input", ...) is None:
        problem = f"{problem} (the value is empty)"
    return Complaint(problem, (*place, *inner), found, allowed)


class _Spot:
    """A place of the model: what is expected there, with the constraints that stand beside the type."""

    def __init__(self, annotation: Any, metadata: Sequence[Any] = (), discriminator: str | None = None) -> None:
        self.metadata: list[Any] = list(metadata)
        self.discriminator = discriminator
        while True:
            if typing.get_origin(annotation) is typing.Annotated:
                annotation, *extra = typing.get_args(annotation)
                for item in extra:
                    if isinstance(item, FieldInfo):
                        self.discriminator = self.discriminator or _tag_key(item.discriminator)
                        self.metadata += item.metadata
                    else:
                        self.metadata.append(item)
            elif isinstance(annotation, typing.TypeAliasType) if hasattr(typing, "TypeAliasType") else False:
                annotation = annotation.__value__
            else:
                break
        self.annotation = annotation

    @property
    def origin(self) -> Any:
        return typing.get_origin(self.annotation)

    @property
    def args(self) -> tuple[Any, ...]:
        return typing.get_args(self.annotation)

    @property
    def is_union(self) -> bool:
        return self.origin in (Union, types.UnionType)

    def alternatives(self) -> list[_Spot]:
        """The members of a union with its constraints, None left out; itself when it is no union."""
        if not self.is_union:
            return [self]
        spots = [_Spot(a, self.metadata, self.discriminator) for a in self.args if a is not type(None)]
        return [leaf for spot in spots for leaf in (spot.alternatives() if spot.is_union else [spot])]

    def fields(self) -> dict[str, FieldInfo]:
        """Name in the file -> field, of every model that may stand here."""
        found: dict[str, FieldInfo] = {}
        for spot in self.alternatives():
            if isinstance(spot.annotation, type) and issubclass(spot.annotation, BaseModel):
                for name, field in spot.annotation.model_fields.items():
                    found[field.alias or name] = field
        return found


def _tag_key(discriminator: Any) -> str | None:
    return discriminator if isinstance(discriminator, str) else None


def _walk(model: type[BaseModel], loc: Iterable[str | int]) -> tuple[Place, _Spot]:
    """The user's path for pydantic's location, and what the model expects at its end."""
    place: list[str | int] = []
    spot = _Spot(model)
    key: _Spot | None = None
    for part in loc:
        if spot.is_union:
            chosen = _choose(spot, part)
            if chosen is not None:
                spot = chosen
                continue
            spot = spot.alternatives()[0] if len(spot.alternatives()) == 1 else spot
        fields = spot.fields()
        if isinstance(part, str) and part in fields:
            place.append(part)
            field = fields[part]
            spot = _Spot(field.annotation, field.metadata, _tag_key(field.discriminator))
        elif fields and not spot.is_union:
            place.append(part)  # an unknown key: stay, so that the known ones can be listed
        elif spot.origin in (dict, Mapping) or (
            isinstance(spot.origin, type) and issubclass(spot.origin, Mapping) and len(spot.args) == 2
        ):
            place.append(part)
            key, spot = _Spot(spot.args[0]), _Spot(spot.args[1])
        elif part == "[key]" and key is not None:  # the complaint is about the key just appended
            spot = key
        elif isinstance(part, int) and spot.args:
            place.append(part)
            each = spot.origin is tuple and Ellipsis not in spot.args and part < len(spot.args)
            spot = _Spot(spot.args[part if each else 0])
        elif not spot.args and isinstance(part, str) and place:
            continue  # a label of pydantic's own, such as `function-after[...]`
        else:
            place.append(part)
    return tuple(place), spot


def _choose(spot: _Spot, part: str | int) -> _Spot | None:
    """The alternative of a union that a location names by its tag or by its type's name; None if by neither."""
    alternatives = spot.alternatives()
    if len(alternatives) == 1:
        return None
    for alternative in alternatives:
        kind = alternative.annotation
        if spot.discriminator and isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(spot.discriminator)
            if field is not None and str(part) in [str(v) for v in typing.get_args(field.annotation)]:
                return alternative
    if spot.discriminator:
        return None
    for alternative in alternatives:
        name = getattr(alternative.annotation, "__name__", str(alternative.annotation))
        if isinstance(part, str) and (part == name or f"[{name}" in part or part.startswith(f"{name}[")):
            return alternative
    labels = {"literal": Literal, "list": list, "tuple": tuple, "dict": dict}
    for alternative in alternatives:
        head = str(part).split("[", 1)[0]
        if head in labels and (alternative.origin or alternative.annotation) is labels[head]:
            return alternative
    # Labels such as `function-before[parse(), float]`: which alternative does not matter, but it is no key.
    if isinstance(part, str) and "[" in part:
        return alternatives[0]
    return None


def _bounds(metadata: Iterable[Any]) -> str:
    signs = ((annotated_types.Gt, "gt", ">"), (annotated_types.Ge, "ge", ">="))
    signs += ((annotated_types.Lt, "lt", "<"), (annotated_types.Le, "le", "<="))  # type: ignore[assignment]
    parts = []
    for item in metadata:
        for kind, attribute, sign in signs:
            if isinstance(item, annotated_types.Interval):
                limit = getattr(item, attribute)
            else:
                limit = getattr(item, attribute) if isinstance(item, kind) else None
            if limit is not None:
                parts.append(f"{sign} {limit:,}" if isinstance(limit, int) else f"{sign} {limit}")
    return " and ".join(parts)


def _choices(values: Iterable[object]) -> list[str]:
    return [str(v.value) if isinstance(v, enum.Enum) else str(v) for v in values]


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What may stand at a place of that type, as a phrase: `an integer >= 1`, `one of a, b`, `a list of numbers`."""
    return _describe(_Spot(annotation, metadata))


def _describe(spot: _Spot) -> str:
    if spot.is_union:
        if spot.discriminator:
            tags = _tags(spot)
            return f"a mapping whose `{spot.discriminator}` is one of {', '.join(tags)}" if tags else "a mapping"
        phrases = [_describe(s) for s in spot.alternatives()]
        return " or ".join(dict.fromkeys(phrases + (["null"] if type(None) in spot.args else [])))
    bounds = _bounds(spot.metadata)
    tail = f" {bounds}" if bounds else ""
    kind = spot.annotation
    if spot.origin is Literal:
        values = _choices(spot.args)
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if spot.origin in (list, tuple, set, frozenset, Sequence):
        return "a list"
    if spot.origin is not None:
        return "a mapping"
    if isinstance(kind, type):
        if issubclass(kind, BaseModel):
            return "a mapping with the keys " + ", ".join(spot.fields())
        if issubclass(kind, enum.Enum):
            return "one of " + ", ".join(_choices(kind))
        if issubclass(kind, bool):
            return "true or false"
        if issubclass(kind, int):
            return "an integer" + tail
        if issubclass(kind, float):
            return "a number" + tail
        if issubclass(kind, str):
            return "text"
        if issubclass(kind, list | tuple | set | frozenset):
            return "a list"
        if issubclass(kind, Mapping):
            return "a mapping"
        if kind is type(None):
            return "null"
        return f"a {kind.__name__.lower()}"
    return ""


def _tags(spot: _Spot) -> list[str]:
    tags: list[str] = []
    for alternative in spot.alternatives():
        kind = alternative.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and spot.discriminator in kind.model_fields:
            tags += _choices(typing.get_args(kind.model_fields[spot.discriminator].annotation))
    return tags


def _words(detail: Any, place: Place, spot: _Spot) -> tuple[str, object, str | None, Place]:
    """(problem, found, allowed, further path) of one of pydantic's errors."""
    kind, context, found = detail["type"], detail.get("ctx") or {}, detail.get("input")
    expected = _describe(spot) or None
    if kind == "extra_forbidden":
        return "unknown key", place[-1], near_matches(str(place[-1]), spot.fields()), ()
    if kind == "invalid_key":
        return "a key that is not text", place[-1] if place else found, near_matches(str(found), spot.fields()), ()
    if kind == "missing":
        return "a required key is missing", None, expected, ()
    if kind == "union_tag_not_found":
        key = spot.discriminator or "kind"
        if not isinstance(found, Mapping):
            return "not a mapping", found, expected, ()
        return f"the key {key!r} is missing", None, "one of " + ", ".join(_tags(spot)), (key,)
    if kind == "union_tag_invalid":
        key = spot.discriminator or "kind"
        tag = context.get("tag", found)
        return f"unknown {key}", tag, near_matches(str(tag), _tags(spot)), (key,)
    if kind in ("literal_error", "enum"):
        members = getattr(spot.annotation, "__members__", {}).values()
        values = _choices([v for leaf in spot.alternatives() if leaf.origin is Literal for v in leaf.args] or members)
        allowed = near_matches(found, values) if isinstance(found, str) else expected
        return "not one of the known values", found, allowed, ()
    if kind in ("value_error", "assertion_error"):
        cause = context.get("error")
        if isinstance(cause, InputError):
            inner: Place = (cause.place,) if cause.place else ()
            return cause.problem, cause.found, cause.allowed, inner
        shown = None if isinstance(found, Mapping | list) else found
        return _sentence(str(cause) or detail["msg"]), shown, None, ()
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"):
        return "out of range", found, expected, ()
    if kind == "finite_number":
        return "not a finite number", found, expected, ()
    if kind in _MAPPING_WANTED:
        return "not a mapping", found, expected, ()
    if kind in ("too_short", "too_long"):
        limit = context.get("min_length", context.get("max_length"))
        side = "at least" if kind == "too_short" else "at most"
        return f"has {context.get('actual_length')} entries", found, f"{side} {limit}", ()
    if kind in ("string_too_short", "string_too_long"):
        limit = context.get("min_length", context.get("max_length"))
        side = "at least" if kind == "string_too_short" else "at most"
        return kind.replace("string_too_", "text too "), found, f"{side} {limit} characters", ()
    if kind == "string_pattern_mismatch":
        return "not in the expected form", found, f"text that matches {context.get('pattern')}", ()
    if kind.endswith(("_type", "_parsing", "_from_float", "_unit")) and expected:
        return "of the wrong type", found, expected, ()
    return _sentence(detail["msg"]), found, expected, ()


def _sentence(text: str) -> str:
    """pydantic's message as a problem of ours: no prefix, no capital, no final stop."""
    text = text.removeprefix("Value error, ").removeprefix("Assertion failed, ").strip().rstrip(".")
    return text[:1].lower() + text[1:] if text[:2] != text[:2].upper() else text
