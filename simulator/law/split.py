"""What a strategy costs by the Kinetics law, split into parts, over arrays.

A problem with a prompt of `a` tokens takes N trials of `n` generated tokens. With P, H, G and D of a model
(`closedform.LawModel`), E = peak FLOP/s / (bytes/s) of the hardware, and S keys read in a trial:

| part | FLOPs | bytes, in two-byte KV |
| --- | --- | --- |
| parameters | 2 P n N | at a batch of b: W(b) n N / b, else none |
| attention, dense | 2 (2a + n) n H D N | 2 (2a + N n) n G D |
| attention, KV budget B | 4 S H D N, S = sum over t = 1..n of min(B, a + t) | 4 S G D N |
| search of pages of b tokens | (2a + n) / b n H D N | (2a + N n) / b n G D |
| prefill | 2 P a + 2 a (a + 1) H D | 4 a G D |

The first four rows without W are the paper's (arXiv 2506.05333, section 2 and appendix A.2; its authors' code is in
`published`). Token t of a trial attends to a + t keys: 2 H D FLOPs for their scores and as many for their values, and
2 G D elements read. Trials of a problem run side by side, so under dense attention the prompt's keys are read once for
all of them, which leaves N n^2 / 2 + a n of N (n^2 / 2 + a n) keys; so are summaries of its pages. Keys that are chosen
differ from trial to trial, and are read by each. A page's summary is one key: 2 H D FLOPs, G D elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwspecs.dtypes import BYTES
from hwspecs.errors import InputError, near_matches
from simulator.law.closedform import LawModel, all_pairs, capped_pairs
from simulator.law.strategies import ATTENTIONS
from simulator.routing import experts_hit, usual_skew
from workloads.formats import LINEAR_FORMATS

if TYPE_CHECKING:
    from workloads.model import Model


@dataclass(frozen=True)
class Parts:
    """The cost of a problem, all its trials together. FLOPs and bytes are arrays of one shape; `ratio` is E.

    Attributes
    ----------
    parameter_flops, parameter_bytes : of the linear layers; the bytes are 0 where the batch is infinite.
    attention_flops, attention_bytes : of the keys that are read, and their values.
    search_flops, search_bytes : of finding them: summaries of pages under block top-k, or a model's own indexer.
    prefill_flops, prefill_bytes : of the prompt; 0 unless asked for.
    """

    ratio: float
    parameter_flops: np.ndarray
    parameter_bytes: np.ndarray
    attention_flops: np.ndarray
    attention_bytes: np.ndarray
    search_flops: np.ndarray
    search_bytes: np.ndarray
    prefill_flops: np.ndarray
    prefill_bytes: np.ndarray

    @property
    def flops(self) -> np.ndarray:
        return self.parameter_flops + self.attention_flops + self.search_flops + self.prefill_flops

    @property
    def bytes(self) -> np.ndarray:
        return self.parameter_bytes + self.attention_bytes + self.search_bytes + self.prefill_bytes

    @property
    def eflops(self) -> np.ndarray:
        """Equivalent FLOPs: FLOPs + bytes x E."""
        return self.flops + self.bytes * self.ratio

    @property
    def attention_ratio(self) -> np.ndarray:
        """Attention over parameters, both with their memory, search counted as attention; NaN where nothing is
        generated.
        """
        attention = self.attention_flops + self.search_flops
        attention = attention + (self.attention_bytes + self.search_bytes) * self.ratio
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(attention / (self.parameter_flops + self.parameter_bytes * self.ratio))

    def shares(self) -> dict[str, np.ndarray]:
        """Parts of `eflops`, each with its memory but for attention, which is split: they add up to 1."""
        e, whole = self.ratio, np.maximum(self.eflops, 1e-300)
        return {
            "parameters": (self.parameter_flops + self.parameter_bytes * e) / whole,
            "attention_compute": self.attention_flops / whole,
            "attention_memory": self.attention_bytes * e / whole,
            "search": (self.search_flops + self.search_bytes * e) / whole,
            "prefill": (self.prefill_flops + self.prefill_bytes * e) / whole,
        }

    def roofline_eflops(self) -> np.ndarray:
        """Equivalent FLOPs if each part took the larger of its compute and its memory, and not their sum.

        Divided by the peak, seconds at the roofline, with the parts one after the other. The maximum is taken of sums
        over all tokens: the same as over each step unless what bounds a part changes along the chain.
        """
        pairs = ("parameter", "attention", "search", "prefill")
        return np.asarray(
            sum(np.maximum(getattr(self, f"{p}_flops"), getattr(self, f"{p}_bytes") * self.ratio) for p in pairs)
        )


def parts(
    model: LawModel,
    attention: str,
    a: Any,
    n: Any,
    N: Any = 1,
    budget: Any = None,
    page: int | None = None,
    *,
    ratio: float,
    kv_bytes: float = 2.0,
    batch: Any = None,
    weight_bytes: Any = None,
    prefill: bool = False,
    exact: bool = False,
) -> Parts:
    """The law, split. Arrays broadcast, and what comes back has their common shape.

    Parameters
    ----------
    attention : of `strategies.ATTENTIONS`.
    a, n, N : tokens of the prompt, generated tokens of a trial, trials.
    budget : KV budget in tokens, the local window of block top-k included; None with dense attention.
    page : tokens per page of block top-k.
    ratio : E, FLOPs for a byte. kv_bytes : bytes of an element in the KV cache.
    batch, weight_bytes : sequences that decode at a time, and the bytes of weights that such a step reads
        (`step_weight_bytes`); without them the batch is infinite, as in the paper. n N tokens take n N / b shares of a
        step.
    prefill : count the prompt, once for all trials: 2 P a FLOPs, 4 H D for each of the a (a + 1) / 2 causal pairs, and
        the bytes of its KV written. Its weights are read in steps that decode anyway. Selection works in decode alone:
        the prompt's attention is dense (or the model's own).
    exact : count token t's keys as a + t, as engines do, and not by the paper's integral, which is n / 2 keys a trial
        less under dense attention. An engine's first token comes with the prompt: for it, pass n - 1.

    Raises
    ------
    InputError : an unknown attention, or one that the model does not have; a budget or page that is missing; negative
        numbers.

    Notes
    -----
    Layers with a sliding window read min(window, budget) keys, and no trial shares them. A model that chooses its keys
    itself (`LawModel.budget`) has dense attention only: it reads min(model.budget, a + t) keys, and its index scores
    all of them, the prompt's once for all trials.
    """
    check_arguments(model, attention, a, n, N, budget, page)
    a, n, N = (np.asarray(x, dtype=float) for x in (a, n, N))
    cap = model.budget if attention == "dense" else np.asarray(budget, dtype=float)
    every, shared = all_pairs(a, n, exact) * N, (N - 1) * a * n  # keys of all trials; those that one reading saves
    read: Any = 0.0  # (query, key) pairs
    moved: Any = 0.0  # keys read
    scored: Any = 0.0  # (query, key) pairs behind the summaries that are scored
    summed: Any = 0.0  # keys behind the summaries that are read
    for share, window in model.layer_groups:
        least = cap if window is None else window if cap is None else np.minimum(cap, window)
        pairs = every if least is None else capped_pairs(a, n, least) * N
        read = read + share * pairs
        moved = moved + share * (pairs - shared if least is None else pairs)
        behind = every if window is None else capped_pairs(a, n, window) * N
        scored = scored + share * behind
        summed = summed + share * (behind - shared if window is None else behind)
    key_bytes = kv_bytes * model.key_elements
    search: tuple[Any, Any] = 0.0, 0.0
    if attention == "block_top_k":
        assert page is not None
        each = 2 * model.q_heads * model.depth if model.summary_flops is None else model.summary_flops
        search = each * scored / page, key_bytes * model.summary_share * summed / page
    elif model.budget is not None:
        search = model.index_flops * every, model.index_bytes * (every - shared)
    traffic: Any = 0.0
    if batch is not None:
        traffic = np.asarray(weight_bytes, dtype=float) * n * N / np.asarray(batch, dtype=float)
    prompt: tuple[Any, Any] = _prefill(model, a, key_bytes) if prefill else (0.0, 0.0)
    flops = 2 * model.parameters * n * N
    arrays = (flops, traffic, model.key_flops * read, key_bytes * moved, *search, *prompt)
    return Parts(float(ratio), *np.broadcast_arrays(*arrays))


def shared_key_bytes(model: LawModel, attention: str, page: int | None, kv_bytes: float = 2.0) -> float:
    """Bytes that one reading of a prompt's token saves a further trial of its problem: of its key and value with dense
    attention, of what is searched of it otherwise.
    """
    full = sum(share for share, window in model.layer_groups if window is None)
    if model.budget is not None:
        return model.index_bytes
    if attention == "top_k":
        return 0.0
    key_bytes = kv_bytes * model.key_elements * full
    return key_bytes if page is None else key_bytes * model.summary_share / page


def check_arguments(
    model: LawModel, attention: str, a: Any, n: Any, trials: Any, budget: Any, page: int | None
) -> None:
    """InputError for what no law can cost; see `parts`."""
    if attention not in ATTENTIONS:
        raise InputError("unknown attention", found=attention, allowed=near_matches(attention, ATTENTIONS))
    if attention != "dense" and model.budget is not None:
        problem = "the model chooses the keys that it reads, and takes no other choice"
        raise InputError(problem, found=attention, allowed="dense")
    if attention != "dense" and budget is None:
        raise InputError(f"{attention} needs a KV budget", allowed="tokens, at least 1")
    if attention == "block_top_k" and (page is None or page < 1):
        raise InputError("block top-k needs the tokens of a page", found=page, allowed="an integer >= 1")
    least = (("prompt", a, 0), ("tokens", n, 0), ("trials", trials, 1), ("budget", 1 if budget is None else budget, 1))
    for name, values, low in least:
        wrong = ~(np.asarray(values, dtype=float) >= low)
        if wrong.any():
            found = float(np.asarray(values, dtype=float)[wrong].flat[0])
            raise InputError("out of range", place=name, found=found, allowed=f"numbers from {low} on")


def _prefill(model: LawModel, a: Any, key_bytes: float) -> tuple[Any, Any]:
    pair = model.key_flops if model.prompt_flops is None or model.budget is not None else model.prompt_flops
    whole = all_pairs(0, a, exact=True)
    pairs: Any = 0.0
    for share, window in model.layer_groups:
        least = window if window is not None else model.budget
        pairs = pairs + share * (whole if least is None else capped_pairs(0, a, least))
    return 2 * model.parameters * a + pair * pairs + model.index_flops * whole, (key_bytes + model.index_bytes) * a


def step_weight_bytes(model: Model, batch: Any) -> np.ndarray:
    """Bytes of weights that a decode step of `batch` sequences reads, in the checkpoint's formats.

    All of them, but for an embedding table that is not the LM head too, of which a sequence reads a row, and for
    experts that no sequence of the batch is sent to (`routing.experts_hit`, with a trained router's usual skew).
    """
    batch = np.asarray(batch, dtype=float)
    counts = model.parameter_counts()
    whole = model.weight_bytes()
    if not model.tie_embeddings:
        whole -= counts["embedding"] * BYTES[model.dtype]
    if model.moe is None:
        return np.full(batch.shape, whole)
    name = model.formats.experts or model.weight_dtype
    each = LINEAR_FORMATS[name].weight_bytes if name in LINEAR_FORMATS else BYTES[name]
    experts = (counts["experts"] - model.expert_biases) * each + model.expert_biases * BYTES[model.dtype]
    hit = experts_hit(batch, model.moe.experts, model.moe.top_k, usual_skew(model)) / model.moe.experts
    return np.asarray(whole - experts * (1 - hit))
