"""Gated linear attention (the gated delta rule, arXiv 2412.06464): a causal convolution, and a state for a cache.

Two routines are timed apart, told by the label's `routine` or the kernel's name:

- `conv`: a causal convolution of `conv_width` over every channel, of which there are 2 k_heads k_head_dim + v_heads
  v_head_dim: a stream of bf16 rows in and out, and of the few tokens that a sequence keeps.
- `delta`: the rule itself. Every value head of a sequence has a state of k_head_dim x v_head_dim. In decode it is read,
  changed and written, which is nearly all the work. In prefill the tokens are cut into chunks of 64 (arXiv 2406.06484):
  within a chunk all is matrix products, from chunk to chunk a state is handed on. So there is a chain as long as the
  sequence has chunks, of which an SM runs a few heads' at once; it is what a few long sequences wait for.

TensorRT-LLM's and SGLang's chunked kernels are several launches, one after another, with their results in between in
memory; FlashInfer's is one, which does everything while it walks along the chain.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hwspecs.gpu import Gpu
from simulator.kernels.attention_traits import RESIDENT, log2, missing
from simulator.kernels.base import Constant, Constants, KernelModel, KernelWork, Label, Shape, Terms

COLUMNS = ("batch", "seq_len", "conv_width", "k_heads", "v_heads", "k_head_dim", "v_head_dim")
CHUNK = 64
"""Tokens of a chunk."""
STATE_SIZE = 4.0
"""Bytes of an element of the state, unless the optional column `state_size` says otherwise."""
BF16 = 2.0


def routine(kernel: str) -> str:
    """`conv` or `delta`, as the kernel's name says."""
    return "conv" if kernel.startswith("causal_conv1d") else "delta"


def _routine(label: Label) -> str:
    return label.get("routine") or routine(label["kernel"])


class _Work(NamedTuple):
    """tokens : of all sequences. heads : value heads of all sequences. channels : of the convolution, of all sequences.
    rows : bytes of the tokens' rows in and out. state : bytes of the state read and written. chunks : of a sequence.
    flops : of the rule, whole chunks.
    """

    tokens: Any
    heads: Any
    channels: Any
    rows: Any
    state: Any
    chunks: Any
    flops: Any


def _work(shape: Shape, label: Label, left_out: float = 0.0) -> _Work:
    """`left_out` : of the channels beyond those of the keys, the part that a benchmark of the convolution left out."""
    columns = (np.asarray(shape[name], dtype=np.float64) for name in COLUMNS)
    batch, seq, width, k_heads, v_heads, k_dim, v_dim = columns
    tokens, heads = batch * seq, batch * v_heads
    q_k, value = 2 * k_heads * k_dim, v_heads * v_dim
    chunks = np.ceil(seq / CHUNK)
    size = np.asarray(shape.get("state_size", STATE_SIZE), dtype=np.float64)
    if _routine(label) == "conv":
        channels = batch * (q_k / 2 + (q_k / 2 + value) * (1 - left_out))
        kept = (width - 1) * BF16
        return _Work(
            tokens, heads, channels, 2 * channels * seq * BF16, 2 * channels * kept, chunks, 2 * width * channels * seq
        )
    rows = tokens * (q_k + 2 * value) * BF16 + tokens * v_heads * 2 * 4  # two gates a head in fp32
    # The recurrent kernel that is not `packed` takes the state in bf16 and gives it in fp32, as its times say.
    sides = 1.5 if label["kernel"] == "fused_recurrent_gated_delta_rule" else 2.0
    state = heads * k_dim * v_dim * size * sides
    if label["phase"] == "decode":
        # Decay, one product with the key, one rank-one update, one product with the query.
        flops = 7 * tokens * v_heads * k_dim * v_dim
    else:
        # Within a chunk keys x keys and queries x keys, the inverse times keys and values, the output from the chunk;
        # from chunk to chunk state x keys, state x queries, and the update.
        per_token = 2 * CHUNK * (3 * k_dim + 2 * v_dim) + 6 * k_dim * v_dim
        flops = batch * chunks * CHUNK * v_heads * per_token
    return _Work(tokens, heads, batch * (q_k + value), rows, state, chunks, flops)


def _fused(label: Label) -> bool:
    """Whether one kernel walks along the chain and does all."""
    return "flashinfer" in label["kernel"]


def _waves(work: _Work, label: Label, gpu: Gpu, width: float) -> Any:
    """Chains that an SM walks one after another; `width` of them at once where a head is spread over few threads."""
    return np.maximum(np.ceil(work.heads / gpu.sms), 1) if _fused(label) else 1 + work.heads / (gpu.sms * width)


def _terms(shape: Shape, label: Label, gpu: Gpu, c: Constants) -> Terms:
    """Seconds. The convolution and decode stream bytes, at most `issue` elements a clock and SM; chunked kernels do
    matrix products and walk the chain, which nothing that runs beside it shortens.
    """
    work = _work(shape, label, c["left_out"])
    clocks = gpu.sms * gpu.boost_clock
    total = work.rows + work.state
    far = missing(total, gpu, c["resident"])
    memory = far * total / (c["memory"] * gpu.memory.bandwidth)
    l2 = total / (c["l2"] * gpu.l2.bandwidth)
    if _routine(label) == "conv":
        elements = work.rows / (2 * BF16)
        issue = (elements * c["issue"] + work.channels * c["row"]) / clocks
        token = c["token"] * np.minimum(np.asarray(shape["seq_len"], dtype=np.float64), 8)
        return Terms(c["overhead"] + token, issue, memory, l2, 0.0)
    if label["phase"] == "decode":
        return Terms(c["overhead"], work.flops * c["issue"] / 7 / clocks, memory, l2, 0.0)
    between = c["between"] * work.tokens * np.asarray(shape["v_heads"], dtype=np.float64) * shape["v_head_dim"] * BF16
    memory = memory + between / (c["memory"] * gpu.memory.bandwidth)
    compute = work.flops / (c["compute"] * gpu.peak["bf16"])
    # A head's start and end: of one after another where each has a whole SM, else of all alike.
    waves = _waves(work, label, gpu, c["width"])
    walk = c["step"] * work.chunks / gpu.boost_clock * waves
    head = c["head"] * (waves - 1 if _fused(label) else work.heads / gpu.sms) / gpu.boost_clock
    # The first chunk's inverse goes row by row.
    latency = c["overhead"] + c["token"] * np.minimum(np.asarray(shape["seq_len"], dtype=np.float64), CHUNK)
    if _fused(label):
        return Terms(latency, np.maximum(compute, walk) + head, memory, l2, 0.0)
    return Terms(latency, compute + walk + head, memory + walk + head, l2 + walk + head, 0.0)


def _roof(shape: Shape, label: Label, gpu: Gpu) -> Any:
    """Seconds of the rows' bytes and one side of the state, as many from the L2 as it holds, and of the products of
    state and tokens at the peak.
    """
    work = _work(shape, label)
    dims = np.asarray(shape["k_head_dim"], dtype=np.float64) * shape["v_head_dim"]
    if _routine(label) == "conv":
        return _streamed(_work(shape, label, 1.0).rows, gpu)
    if label["phase"] == "decode":
        return _streamed(work.rows + work.heads * dims * BF16, gpu)
    products = 6 * work.tokens * np.asarray(shape["v_heads"], dtype=np.float64) * dims
    return np.maximum(_streamed(work.rows, gpu), products / gpu.peak["bf16"])


def _streamed(size: Any, gpu: Gpu) -> Any:
    level = np.maximum(gpu.l2.bandwidth, gpu.memory.bandwidth)
    return np.maximum(size / level, (size - gpu.l2.size) / gpu.memory.bandwidth)


def _energy(shape: Shape, label: Label, gpu: Gpu) -> KernelWork:
    work = _work(shape, label)
    total = work.rows + work.state
    active = np.minimum(np.maximum(work.heads, work.channels / 256) / gpu.sms, 1)
    return KernelWork(work.flops, missing(total, gpu, RESIDENT) * total, total, active)


NAMES = (
    "log2 batch",
    "log2 tokens of a sequence",
    "log2 tokens",
    "log2 key heads",
    "log2 value heads",
    "value heads of a key head",
    "log2 heads per SM",
    "fill of waves",
    "waves",
    "log2 channels",
    "log2 channels per SM",
    "log2 elements per SM",
    "log2 chunks",
    "fill of the last chunk",
    "log2 chunks of the busiest SM",
    "log2 bytes over L2",
    "log2 bytes",
)


def _features(shape: Shape, label: Label, gpu: Gpu) -> list[Any]:
    work = _work(shape, label)
    batch, seq, k_heads, v_heads = (
        np.asarray(shape[name], dtype=np.float64) for name in ("batch", "seq_len", "k_heads", "v_heads")
    )
    load = work.heads / gpu.sms
    waves = np.ceil(load)
    return [
        log2(batch),
        log2(seq),
        log2(work.tokens),
        log2(k_heads),
        log2(v_heads),
        v_heads / k_heads,
        log2(load),
        load / waves,
        np.minimum(waves, 64),
        log2(work.channels / batch),
        log2(work.channels / gpu.sms),
        log2(work.channels * seq / gpu.sms),
        log2(work.chunks),
        seq / (work.chunks * CHUNK),
        log2(waves * work.chunks),
        log2((work.rows + work.state) / gpu.l2.size),
        log2(work.rows + work.state),
    ]


LINEAR_ATTENTION = KernelModel(
    kind="linear_attention",
    columns=COLUMNS,
    labels=("kernel", "phase"),
    constants={
        "sharpness": Constant(4.0, 2.0, 8.0),
        "overhead": Constant(5e-6, 5e-7, 50e-6),
        "token": Constant(2e-7, 1e-9, 2e-6),
        "left_out": Constant(0.1, 1e-3, 1.0),
        "row": Constant(20, 0.01, 2000),
        "issue": Constant(0.1, 0.005, 2.0),
        "memory": Constant(0.8, 0.4, 0.95),
        "l2": Constant(0.5, 0.1, 1.0),
        "resident": Constant(RESIDENT, 0.2, 1.2),
        "between": Constant(8.0, 0.1, 40.0),
        "compute": Constant(0.2, 0.01, 0.9),
        "step": Constant(3000, 300, 20_000),
        "width": Constant(2.0, 0.2, 100.0),
        "head": Constant(2000, 1, 200_000),
    },
    terms=_terms,
    roof=_roof,
    work=_energy,
    features=_features,
    names=NAMES,
    # TensorRT-LLM's convolution (and an old SGLang's) was measured with as many channels as the keys have.
    in_graph={"left_out": 1e-3},
    named={"routine": routine},
)
