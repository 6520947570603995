"""When work arrives: at once, in a closed loop, at random, or as a trace says.

An arrival process is a part of a scenario; `job_times` gives the arrival of each job (the N samples of a problem arrive
together). A new one is a class here, added to `Arrivals`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field

from workloads.fields import Count, Part, Rate, SecondsOrZero, finite, short_form

if TYPE_CHECKING:
    import numpy as np


class AllAtOnce(Part):
    """Everything is there at time zero, as in an offline batch."""

    kind: Literal["all_at_once"] = "all_at_once"

    def job_times(self, rng: np.random.Generator, n_jobs: int) -> np.ndarray:
        """Arrival times in seconds, float64, sorted."""
        return _zeros(n_jobs)


class ClosedLoop(Part):
    """A fixed number of jobs in flight: the next one is sent when one is done and a pause has passed."""

    kind: Literal["closed_loop"]
    concurrency: Count = Field(description="Jobs in flight.")
    think_time: SecondsOrZero = Field(default=0.0, description="Pause between a job's end and the next job.")

    def job_times(self, rng: np.random.Generator, n_jobs: int) -> np.ndarray:
        """Zeros: the engine sends a job when an earlier one ends."""
        return _zeros(n_jobs)


class Poisson(Part):
    """Independent arrivals: exponential gaps. The first job comes after the first gap."""

    kind: Literal["poisson"]
    rate: Rate = Field(description="Jobs per second.")

    def job_times(self, rng: np.random.Generator, n_jobs: int) -> np.ndarray:
        """Arrival times in seconds, float64, sorted."""
        import numpy as np

        return np.cumsum(rng.standard_exponential(n_jobs) / self.rate)


class Gamma(Part):
    """Gamma-distributed gaps: burstier than Poisson with `cv` above 1, steadier below, the same with 1."""

    kind: Literal["gamma"]
    rate: Rate = Field(description="Jobs per second.")
    cv: Annotated[float, BeforeValidator(finite), Field(ge=0.01, le=100)] = Field(
        description="Coefficient of variation of the gaps: standard deviation over mean."
    )

    def job_times(self, rng: np.random.Generator, n_jobs: int) -> np.ndarray:
        """Arrival times in seconds, float64, sorted. Shape 1/cv^2 and scale cv^2/rate give mean 1/rate and that cv."""
        import numpy as np

        return np.cumsum(rng.standard_gamma(self.cv**-2, n_jobs) * (self.cv**2 / self.rate))


class FromTrace(Part):
    """The arrival times of the workload's trace."""

    kind: Literal["trace"]


_short, _short_schema = short_form(str, "kind", {"enum": ["all_at_once", "trace"]})

Arrivals = Annotated[
    Annotated[AllAtOnce | ClosedLoop | Poisson | Gamma | FromTrace | None, Field(discriminator="kind")],
    _short,
    _short_schema,
]
"""An arrival process, or None for the workload's usual one."""


def _zeros(n: int) -> np.ndarray:
    import numpy as np

    return np.zeros(n)
