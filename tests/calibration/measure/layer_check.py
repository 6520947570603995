"""Runs whole layers in Triton's interpreter and compares them with a decoder layer written down from its definition.

    python layer_check.py CONFIG.json '{"attention": "block_topk", ...}' ...

Prints one JSON line a row: the errors against the layer's own reference and against the one here, the operators, and
whether a second run of the same launches gives the same.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.nn.functional as functional

from calibration.kernels.base import Room, error, poison, relative_error
from calibration.measure.layers import Layer, build_layer
from simulator.layers import LayerCase, case_of

EPS, BASE = 1e-6, 1e6


def run(layer: Layer, number: int) -> None:
    for operator in layer.operators:
        for launch in operator.launches(number, operator.kernel.check_configs[:2][-1]):
            launch.run()


def rotated(heads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """RoPE of [tokens, heads, d]: the halves of a head are the real and imaginary parts of numbers that turn."""
    d = heads.shape[-1]
    rates = BASE ** (-torch.arange(0, d, 2).double() / d)
    turn = torch.polar(torch.ones(1).double(), positions[:, None].double() * rates)[:, None]
    turned = torch.complex(*heads.double().chunk(2, -1)) * turn
    return torch.cat([turned.real, turned.imag], -1).float()


def attended(case: LayerCase, s: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(q)
    kv_heads = k.shape[1]
    for b in range(case.batch):
        if case.phase == "prefill":
            mine = slice(b * case.query, (b + 1) * case.query)
            past = slice(b * (case.context + case.query), b * (case.context + case.query) + case.context)
            keys, values = (torch.cat([c[0].transpose(1, 2).flatten(0, 1)[past].float(), new[mine]])
                            for c, new in ((s.k, k), (s.v, v)))  # fmt: skip
            mask = torch.ones(case.query, len(keys), dtype=torch.bool).tril(case.context)
            out[mine] = functional.scaled_dot_product_attention(
                q[mine].transpose(0, 1), keys.transpose(0, 1), values.transpose(0, 1), mask, enable_gqa=True
            ).transpose(0, 1)
            continue
        length = int(s.lengths[b])
        page = s.k[0].shape[2]
        order = s.table[b].long()
        keys, values = (c[0][order].transpose(1, 2).flatten(0, 1)[: length - 1].float() for c in (s.k, s.v))
        keys, values = torch.cat([keys, k[b : b + 1]]), torch.cat([values, v[b : b + 1]])
        for head in range(kv_heads):
            group = slice(head * q.shape[1] // kv_heads, (head + 1) * q.shape[1] // kv_heads)
            seen = torch.arange(length)
            if case.reading.page:
                summaries = s.summaries[0][order, head].float()
                pages = -(-length // page)
                if length % page == 0:
                    summaries[pages - 1] = keys[-page:, head].mean(0)
                scores = (q[b, group] @ summaries[: pages - 1].T).amax(0)
                best = scores.topk(min(case.reading.budget // page - 1, pages - 1)).indices
                seen = seen[torch.isin(seen // page, torch.cat([best, torch.tensor([pages - 1])]))]
            weights = torch.softmax(q[b, group] @ keys[seen, head].T / math.sqrt(q.shape[-1]), -1)
            out[b, group] = weights @ values[seen, head]
    return out


def decoder_layer(case: LayerCase, s: Any) -> list[torch.Tensor]:
    """Hidden state and residual after layer 0, in float32 without rounding in between."""
    gains = {name.split(" [")[0]: [w.float() for w in tensors] for name, tensors in s.weights.items()}
    hidden = (case.model.hidden,)
    q_heads, kv_heads = case.heads
    residual = s.input.float() + s.input_residual.float()
    x = functional.rms_norm(residual, hidden, gains["attn_norm"][0], EPS) @ gains["qkv_proj"][0].T
    q, k, v = x.view(case.tokens, -1, case.model.head_dim).split([q_heads, kv_heads, kv_heads], 1)
    q_gain, k_gain = s.qk_gains(0)
    if q_gain is not None:
        q, k = (functional.rms_norm(y, y.shape[-1:], g.float(), EPS) for y, g in ((q, q_gain), (k, k_gain)))
    x = attended(case, s, rotated(q, s.positions), rotated(k, s.positions), v)
    residual = residual + x.flatten(1) @ gains["o_proj"][0].T
    gate, up = (functional.rms_norm(residual, hidden, gains["mlp_norm"][0], EPS) @ gains["gate_up_proj"][0].T).chunk(
        2, 1
    )
    return [functional.silu(gate) * up @ gains["down_proj"][0].T, residual]


def main(config: str, *texts: str) -> None:
    """A line for each row."""
    for text in texts:
        print(json.dumps(checked(config, text)))


def checked(config: str, text: str) -> dict[str, Any]:
    row = {"model": config, "attention": "dense", "phase": "decode", "dtype": "fp16", "kv_dtype": "fp16", "tp": 1}
    row |= {"batch": 3, "query_len": 1, "context_len": 77, "page": 0, "budget": 0} | json.loads(text)
    layer = build_layer(row, Room("cpu", sms=3, capability=90, copies=2))
    run(layer, 1)  # another layer must leave nothing behind that the first one needs
    found = []
    for _ in range(2):
        poison(layer.outputs())
        run(layer, 0)
        found.append([tensor.clone() for tensor in layer.outputs()])
    ours = decoder_layer(case_of(row), layer.state)
    return {
        "layers": layer.layers,
        "error": error(layer),
        "error_of_definition": max(relative_error(a, b) for a, b in zip(found[0], ours, strict=True)),
        "repeats": all(torch.equal(a, b) for a, b in zip(*found, strict=True)),
        "operators": [operator.node for operator in layer.operators],
        "attention": [operator.node for operator in layer.operators if operator.attention],
        "tables": sorted({operator.kernel.table for operator in layer.operators}),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
