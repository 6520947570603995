"""Texts of single controls: what a browser may send for one, and what the position of its slider stands for."""

from __future__ import annotations

import math
from typing import Any

from hwspecs.errors import InputError, near_matches
from hwspecs.gpu import Gpu
from hwspecs.units import format_quantity, parse_quantity
from simulator.exploring.controls import CHOICE, CONTROLS, COUNT, FACTOR, PAGE, SIZES, Control, choices

SLID = "~"
"""Before the position of a slider, in place of a value's text."""


def checked_text(control: Control, text: str, gpu: Gpu | None) -> str:
    """A control's text, checked; that of a slider's position if the text is one."""
    if control.kind == CHOICE:
        return checked_choice(control, text)
    if text.startswith(SLID):
        return _slid(control, text, gpu)
    try:
        if control.kind == COUNT:
            return str(_count(control, text))
        if control.kind == FACTOR:
            return f"{_factor(text):.4g}"
        parse_quantity(text, control.dimension, bare_ok=control.dimension == "USD/h")
        return text
    except InputError as error:
        raise error.at(place=control.places[0]) from None


def checked_choice(control: Control, text: str) -> str:
    known = choices()[control.key]
    if text not in known:
        allowed = ", ".join(known) if known == SIZES else near_matches(text, known)  # 3 is not meant to be 32
        raise InputError("not a choice", place=control.places[0], found=text, allowed=allowed)
    return text


def _count(control: Control, text: str) -> int:
    digits = text.replace(",", "")
    allowed = f"a whole number, {control.low:,} to {control.high:,}"
    if not digits.isascii() or not digits.isdigit() or len(digits) > 12:
        raise InputError("not a whole number", found=text, allowed=allowed)
    if not control.low <= int(digits) <= control.high:
        raise InputError("out of range", found=int(digits), allowed=allowed)
    return int(digits)


def _factor(text: str) -> float:
    allowed = "a factor such as 2 or 0.5, 0.001 to 1,000"
    try:
        value = float(text.lstrip("x×"))
    except ValueError:
        raise InputError("not a factor", found=text, allowed=allowed) from None
    if not 1e-3 <= value <= 1e3:
        raise InputError("out of range", found=text, allowed=allowed)
    return value


def _slid(control: Control, text: str, gpu: Gpu | None) -> str:
    """The text of a slider's position: octaves from the base's figure, or of a count from 1."""
    try:
        octaves = float(text[len(SLID) :])
    except ValueError:
        octaves = math.nan
    if not abs(octaves) <= 32:
        raise InputError("not a slider's position", place=control.places[0], found=text, allowed="octaves, -32 to 32")
    if control.kind == FACTOR:
        return f"{2**octaves:.4g}"
    if control.key == "sms":
        assert gpu is not None
        return str(max(1, round(gpu.sms * 2**octaves)))
    if control.kind == COUNT:
        value = 2**octaves
        if control.key == "budget" and value >= PAGE:
            value = round(value / PAGE) * PAGE
        return str(min(control.high, max(control.low, round(value))))
    assert gpu is not None
    return plain_text(figure(gpu, control.key) * 2**octaves, control)


def plain_text(value: float, control: Control) -> str:
    if control.dimension == "USD/h":
        return f"{value:.4g}"
    return format_quantity(value, control.unit, digits=4).replace(",", "")


def figure(gpu: Gpu, key: str) -> float:
    """The GPU's figure that a control is of; 1 without a price."""
    if key == "price":
        return gpu.price.usd_per_hour if gpu.price else 1.0
    value: Any = gpu
    for name in CONTROLS[key].places[0].split(".")[1:]:
        value = getattr(value, name)
    return float(value)
