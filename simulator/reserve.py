"""What engines set aside on a GPU beside weights and KV, and how they size the KV cache: the parameters of `memory`.

The values of each engine are in its parameter set (`workloads/engines/*.yaml`, section `memory`); docs/memory.md says
where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GIB = 2.0**30

Rule = Literal["everything", "of_total", "of_available", "of_free"]
EVERYTHING: Rule = "everything"


@dataclass(frozen=True)
class Reserve:
    """What an engine sets aside beside weights and KV, and how it sizes the KV cache.

    Attributes
    ----------
    rule : what the engine's share (`memory_utilisation`) is of, with T the memory that CUDA reports:

        - `everything`: weights, activations, graphs and context have to fit into the share of the GPU's capacity too;
        - `of_total`: KV = share x T - weights - activations - workspace (vLLM's gpu_memory_utilization; context,
          communication and graphs lie outside of the share);
        - `of_available`: KV = share x (T - context - communication) - weights (SGLang's mem_fraction_static;
          activations, workspace and graphs lie outside);
        - `of_free`: KV = share x (T - everything else) (TensorRT-LLM's free_gpu_memory_fraction).
    context : CUDA context and libraries of a process.
    communication : NCCL's and custom all-reduce's buffers, if a replica has more than one GPU.
    workspace, workspace_peer : buffers that libraries keep outside of the activations, and more of them for each other
        GPU of the replica.
    graphs : CUDA graphs.
    sampling : bytes per sequence and token of the vocabulary at the peak of sampling a full batch.
    expert_width : on every GPU the width of experts in mxfp4 is padded to a multiple of it.
    windows : KV that a layer with a sliding window gets for each token, over that of a layer without: 1, its whole past
        is kept; between, SGLang's swa_full_tokens_ratio; 0, only the window of each sequence is.
    states, state_slots : share of the memory for KV that the states of linear attention get, and how many a running
        sequence holds there (SGLang's mamba_full_memory_ratio r is r / (1 + r), and 3 slots where its radix cache keeps
        states); with a share of 0 there is room for `max_num_seqs` sequences, in at most half of that memory.
    """

    rule: Rule = "everything"
    context: float = 0.6e9
    communication: float = 0.0
    workspace: float = 0.0
    workspace_peer: float = 0.0
    graphs: float = 0.8e9
    sampling: float = 8.0
    expert_width: int = 1
    windows: float = 1.0
    states: float = 0.0
    state_slots: int = 1


IDEAL = Reserve()
"""Of an engine that is not named: assumptions in the absence of a measurement."""


def driver_bytes(capacity: float) -> float:
    """What the driver keeps of the memory that nvidia-smi shows, before any program runs.

    0.35 GiB and 0.2 % of it: within 0.04 GiB of nvidia-smi's less CUDA's total of H100, H200, B200, GB200, B300 and
    GB300, up to 0.35 GiB too little on A100 (docs/memory.md).
    """
    return min(0.35 * GIB + 0.002 * capacity, capacity)
