"""Profiles: data files that correct the ideal roofline for one software stack (DESIGN: "ideal roofline times
corrections").

This module reads and checks them; `cost` applies them. Fitting them is the business of `calibration`, whose code the
simulator never imports: the bundled files are found by their place beside it.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from hwspecs.dtypes import check_dtype
from hwspecs.errors import InputError, near_matches
from hwspecs.units import parse_quantity
from hwspecs.validation import validate
from hwspecs.yamlfile import read_yaml
from simulator.operators import KINDS


def _seconds(value: Any) -> float:
    try:
        return parse_quantity(value, "seconds")
    except InputError as error:
        raise ValueError(error.message()) from None


class Correction(BaseModel):
    """What one kind of operator reaches of the roofline: fractions of the peaks, and a latency per launch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compute_efficiency: float = Field(default=1.0, gt=0, le=1, description="Fraction of the dtype's dense peak.")
    dtypes: dict[str, float] = Field(
        default_factory=dict, description="Fraction of the peak in number formats where it differs, such as {fp8: 0.6}."
    )
    memory_efficiency: float = Field(default=1.0, gt=0, le=1, description="Fraction of the HBM and L2 bandwidth.")
    link_efficiency: float = Field(default=1.0, gt=0, le=1, description="Fraction of the link's bandwidth.")
    overhead: Annotated[float, BeforeValidator(_seconds)] = Field(
        default=0.0, ge=0, description="Time of one launch that no amount of bandwidth removes, such as 2 us."
    )

    @field_validator("dtypes")
    @classmethod
    def _known_dtypes(cls, dtypes: dict[str, float]) -> dict[str, float]:
        for dtype, efficiency in dtypes.items():
            check_dtype(dtype)
            if not 0 < efficiency <= 1:
                raise InputError("out of range", found=efficiency, allowed="a fraction > 0 and <= 1")
        return dtypes

    def compute(self, dtype: str) -> float:
        """Fraction of the dense peak of `dtype`."""
        return self.dtypes.get(dtype, self.compute_efficiency)


class Profile(BaseModel):
    """A profile of the form `roofline`: one correction per operator kind, tiles and waves from first principles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    form: str = Field(default="roofline", pattern="^roofline$")
    description: str
    fitted_on: str = Field(description="What the constants rest on: measurements, or nothing.")
    tiling: bool = Field(default=False, description="Whether tiles are padded and waves quantised.")
    kinds: dict[str, Correction] = Field(default_factory=dict)

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: dict[str, Correction]) -> dict[str, Correction]:
        for kind in kinds:
            if kind not in KINDS:
                raise ValueError(f"unknown operator kind {kind!r}; allowed: {near_matches(kind, KINDS)}")
        return kinds

    def correction(self, kind: str) -> Correction:
        return self.kinds.get(kind, _NONE)

    def launched(self, factor: float) -> Profile:
        """The same with `factor` times the overhead of every launch."""
        if factor == 1:
            return self
        kinds = {k: fix.model_copy(update={"overhead": factor * fix.overhead}) for k, fix in self.kinds.items()}
        return self.model_copy(update={"kinds": kinds})


_NONE = Correction()


def profile_folder() -> Path:
    """Where the bundled profiles are; found without importing the `calibration` package."""
    spec = importlib.util.find_spec("calibration")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the package `calibration`, which holds the bundled profiles, is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "profiles"


def list_profiles() -> list[str]:
    """Names of the bundled profiles."""
    return sorted(path.stem for path in profile_folder().glob("*.yaml"))


def load_profile(name: str, *, relative_to: Path | None = None) -> Profile:
    """A bundled profile by name, or a user's by the path of its YAML file. Raises InputError."""
    if name.endswith((".yaml", ".yml")) or "/" in name:
        path = Path(name)
        path = path if path.is_absolute() or relative_to is None else relative_to / path
        return _read(path)
    known = list_profiles()
    if name not in known:
        raise InputError(
            "unknown profile", place="profile", found=name, allowed=near_matches(name, known) + "; or a path"
        )
    return _bundled(name)


@lru_cache(maxsize=16)
def _bundled(name: str) -> Profile:
    """A profile that comes with kinesim, read once."""
    return _read(profile_folder() / f"{name}.yaml")


def _read(path: Path) -> Profile:
    file = read_yaml(path)
    return validate(Profile, file.data, file=path, line_of=file.line)
