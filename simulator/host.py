"""The host's time in a step: what the GPU waits for between its kernels, and no GPU shortens.

    host = step + layer x layers + sequence x decoding sequences + chunk x prefill chunks
           + eager x layers (without a CUDA graph)
           + what is missing to launch x layers (in a step with prefill without a CUDA graph)
           + prefill_share x kernels (in a step with prefill, without the attention of decoding sequences)

Decode steps run as CUDA graphs, captured for some numbers of sequences: a step is padded to the next of them, or, by
engines that do not pad, runs without a graph if its number has none. A step that prefills, or that decodes more
sequences than the largest graph has, launches its kernels one by one; what of that the GPU waits for is about the same
for every layer. The constants are those of an engine (`workloads.engine`).
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HostTime:
    """Seconds, see the module's docstring; by default none, and a graph for every number of sequences.

    `graph_sizes` : ascending; None for a graph of every size. `padding` : whether a step is padded to the next of them.
    `mixed_tokens` : steps with prefill up to so many tokens have graphs too.
    """

    step: float = 0.0
    sequence: float = 0.0
    layer: float = 0.0
    eager: float = 0.0
    launch: float = 0.0
    prefill_share: float = 0.0
    chunk: float = 0.0
    graph_sizes: tuple[int, ...] | None = None
    padding: bool = True
    mixed_tokens: int = 0

    def decode_seconds(self, seqs: np.ndarray, layers: float) -> np.ndarray:
        """Of steps that decode `seqs` sequences and prefill nothing."""
        each = self.layer + self.eager * ~self.captured(seqs)
        return self.step + self.sequence * seqs + each * layers

    def mixed_seconds(self, seqs: np.ndarray, chunks: np.ndarray, tokens: np.ndarray, layers: float) -> np.ndarray:
        """Of steps of `tokens` tokens that prefill `chunks` chunks beside `seqs` decoding sequences."""
        each = self.layer + self.eager * (tokens > self.mixed_tokens)
        return self.step + self.sequence * seqs + each * layers + self.chunk * chunks

    def captured(self, seqs: np.ndarray) -> np.ndarray:
        """Whether a decode step of so many sequences is a CUDA graph."""
        if self.graph_sizes is None:
            return np.ones(np.shape(seqs), dtype=bool)
        return seqs <= self.graph_sizes[-1] if self.padding else np.isin(seqs, self.graph_sizes)

    def padded(self, seqs: int) -> int:
        """Sequences that the kernels of a decode step see."""
        sizes = self.graph_sizes
        return seqs if sizes is None or not self.padding or seqs > sizes[-1] else sizes[bisect_left(sizes, seqs)]
