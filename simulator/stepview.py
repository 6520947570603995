"""Engine steps for people who compute: seconds by batch and context, operators as a table, the graph and its picture.

What a step costs is defined in `stepcost`, what is said of it in `graphview`; nothing is computed anew here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from hwspecs.errors import InputError
from simulator import graphview
from simulator.deployment import Deployment, deploy
from simulator.shape import StepShape
from simulator.stepcost import StepCost
from workloads.scenario import LoadedScenario

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


@dataclass(frozen=True, eq=False)
class Step:
    """One engine step of a given shape.

    Attributes
    ----------
    cost : what times it. shape : what it does.
    graph : its operators that have work; a node's `op` is a `simulator.operators.Operator`, its other attributes are
        the columns of `operators`.
    operators : one row an operator, indexed by name, in order of execution; see `graphview.operator_rows`. Figures are
        those of all layers on one GPU, in FLOP, bytes and seconds.
    totals : of the step: `seconds`, `flops`, `hbm_bytes`, `intensity`, `seconds_by_bound`, MFU (`of_peak`), MBU
        (`of_bandwidth`).
    """

    cost: StepCost
    shape: StepShape
    graph: nx.DiGraph
    operators: pd.DataFrame
    totals: dict[str, Any]

    @property
    def seconds(self) -> float:
        """The time of the step."""
        return float(self.totals["seconds"])

    def document(self) -> dict[str, Any]:
        """What `kinesim graph --format json` prints."""
        return graphview.graph_document(self.cost, self.shape)

    def draw(self, path: str | Path) -> None:
        """Draw it to a file ending in .svg or .png. Raises InputError."""
        graphview.draw_graph(self.cost, self.shape, Path(path))


@dataclass(frozen=True, eq=False)
class Steps:
    """How long the steps of a deployment take, compiled once; `deployment.cost` is the `StepCost`."""

    deployment: Deployment

    @staticmethod
    def of(scenario: LoadedScenario, phase: str = "decode") -> Steps:
        """Compile a scenario; with pools, its workers that do steps of this phase. Raises InputError."""
        if scenario.pools is not None:
            scenario = scenario.pools[phase != "prefill"]
        return Steps(deploy(scenario))

    @property
    def cost(self) -> StepCost:
        """The compiled graph: seconds and ticks of any shape."""
        return self.deployment.cost

    def seconds(
        self,
        batch: ArrayLike = 64,
        context: ArrayLike = 8192,
        *,
        phase: str = "decode",
        query: ArrayLike = 2048,
        past: ArrayLike = 0,
        prefill_batch: ArrayLike = 1,
    ) -> Any:
        """Seconds of a step, or of many: arguments are numbers or arrays, which are broadcast.

        The arguments are those of `step`. Raises InputError for a step that the engine never takes (more sequences,
        tokens or context than its limits).
        """
        given = np.broadcast_arrays(batch, context, query, past, prefill_batch)
        out = np.empty(given[0].shape)
        for place in np.ndindex(out.shape):
            numbers = [_whole(values[place]) for values in given]
            out[place] = graphview.step_seconds(self.cost, self._shape(phase, *numbers))
        return out if out.ndim else float(out)

    def step(
        self,
        batch: int = 64,
        context: int = 8192,
        *,
        phase: str = "decode",
        query: int = 2048,
        past: int = 0,
        prefill_batch: int = 1,
    ) -> Step:
        """One step: `batch` sequences that read `context` tokens each; of `phase` prefill `batch` prompts, of which
        `query` tokens are computed after `past` earlier ones; mixed: the former with `prefill_batch` such prompts.
        """
        import pandas as pd

        shape = self._shape(phase, *map(_whole, (batch, context, query, past, prefill_batch)))
        rows = graphview.operator_rows(self.cost, shape)
        dag = graphview.present_graph(self.cost.graph, (row["name"] for row in rows))
        for row in rows:
            dag.nodes[row["name"]].update(row)
        totals = graphview.step_totals(self.cost, shape, rows)
        return Step(self.cost, shape, dag, pd.DataFrame(rows).set_index("name"), totals)

    def breakdown(self, batch: int = 64, context: int = 8192, **shape: Any) -> pd.DataFrame:
        """The operators of a step as a table (`Step.operators`); the arguments are those of `step`."""
        return self.step(batch, context, **shape).operators

    def _shape(self, phase: str, batch: int, context: int, query: int, past: int, prefill_batch: int) -> StepShape:
        try:
            return graphview.step_shape(
                self.cost,
                phase=phase,
                batch=batch,
                context=context,
                query=query,
                past=past,
                prefill_batch=prefill_batch,
            )
        except InputError as error:  # the places are the command's options
            place = (error.place or "").replace("--", "").replace("prefill-batch", "prefill_batch")
            raise InputError(error.problem, place=place, found=error.found, allowed=error.allowed) from None


def _whole(value: Any) -> Any:
    """NumPy's integers, and floats that are whole, as `int`; anything else is left to be refused."""
    if isinstance(value, np.generic):
        value = value.item()
    return int(value) if isinstance(value, float) and value.is_integer() else value
