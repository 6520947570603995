"""The authors' generation logs (huggingface.co/datasets/InfiniAILab/Kinetics-generations) as traces.

A log is a JSONL file of one model and one attention. Its first line is metadata; every other line is a trial:

    {"query": TEXT, "choices": [ANSWER], "prediction": [TEXT], "score": 0 or 100}

with `tokens` (or `token_length`), `prompt_tokens` (or `prefix_length`) and `answer_at` taken where a line has them. A
line may also have several trials of its query: as many scores (and tokens, and `answer_at`) as predictions. The
metadata tell the attention: `attn_local` (null when dense), `attn_topk`, `attn_block_topk` and `attn_block_size`. What
they leave out comes from the file's name, as the authors' cost code writes it:

    aime24_qwen3-1-7b_dense.jsonl    ..._local0_topk512.jsonl    ..._local0_block32_blocktopk16.jsonl

There is no tokenizer here. Without `tokens`, lengths are estimated from characters, `CHARACTERS` to a token, which is
an assumption and is said. An answer appears where the last run of equal \\boxed{...} of a text begins: cut after that,
the text still ends in the same answer.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from hwspecs.errors import InputError
from hwspecs.yamlfile import read_text
from simulator.law.accuracy.traces import MOST_TOKENS, TRIAL_COLUMNS, Traces, traces
from simulator.law.tables import canonical

CHARACTERS = 3.0
"""ASSUMPTION: characters of a token of mathematical reasoning in English, where a log has no token counts."""
_NAME = re.compile(
    r"^(?:(?P<task>[^_]+)_)?(?P<model>[^_]+)_"
    r"(?:dense|local(?P<local>\d+)_(?:topk(?P<topk>\d+)|block(?P<page>\d+)_blocktopk(?P<blocks>\d+)))",
    re.IGNORECASE,
)
_META = ("attn_local", "attn_topk", "attn_block_topk", "attn_block_size")


def read_logs(path: str | Path, *, model: str | None = None, characters: float = CHARACTERS) -> Traces:
    """A log, or all logs (`*.jsonl`) of a folder and of those in it.

    Parameters
    ----------
    model : the model of all of them; None takes it from the metadata (`model`) or the files' names.
    characters : of a token, for trials without a token count.

    InputError for a line that is no JSON object or lacks something, a score that is neither 0, 1 nor 100, and whatever
    `traces` refuses.
    """
    import pandas as pd

    root = Path(path)
    if not characters > 0:
        raise InputError("not above 0", place="characters", found=characters)
    files = sorted(root.rglob("*.jsonl")) if root.is_dir() else [root]
    if not files:
        raise InputError("no logs (*.jsonl) in the folder", file=path)
    rows: list[dict[str, Any]] = []
    estimated = 0
    for file in files:
        found, guessed = _read(file, model, characters)
        rows += found
        estimated += guessed
    warnings = []
    if estimated:
        warnings.append(
            f"{estimated:,} of {len(rows):,} trials have no token count: estimated at {characters:g} characters to a "
            "token, an assumption that scales all lengths and costs"
        )
    said = "An answer appears where the last run of equal \\boxed{} begins, else at the end of a trial."
    return traces(str(path), pd.DataFrame(rows, columns=list(TRIAL_COLUMNS)), said, warnings)


def _read(file: Path, model: str | None, characters: float) -> tuple[list[dict[str, Any]], int]:
    """The trials of one log, and how many of them have estimated lengths."""
    lines = [(i, text) for i, text in enumerate(read_text(file).splitlines(), start=1) if text.strip()]
    records = [(i, _object(file, i, text)) for i, text in lines]
    meta = records.pop(0)[1] if records and "query" not in records[0][1] else {}
    if not records:
        raise InputError("the log has no trials", file=file, allowed="a line of metadata, then a line a trial")
    policy = _policy(file, meta, model)
    count: dict[str, int] = {}
    rows, estimated = [], 0
    for i, record in [(line, one) for line, several in records for one in _trials(file, line, several)]:
        query, text, right = _query(file, i, record), _prediction(file, i, record), _score(file, i, record)
        tokens = _number(file, i, record, "tokens", "token_length")
        if tokens is None:
            tokens, estimated = max(1.0, round(len(text) / characters)), estimated + 1
        prompt = _number(file, i, record, "prompt_tokens", "prefix_length")
        answer = _number(file, i, record, "answer_at")
        if answer is None and right and (end := answer_end(text)) is not None:
            answer = min(tokens, max(1.0, tokens * end / len(text)))
        count[query] = count.get(query, 0) + 1
        rows.append(
            {
                **policy,
                "problem": query,
                "trial": str(count[query]),
                "tokens": tokens,
                "correct": right,
                "answer_at": np.nan if answer is None else answer,
                "prompt_tokens": max(1.0, len(query) / characters) if prompt is None else prompt,
            }
        )
    return rows, estimated


def answer_end(text: str) -> int | None:
    """Characters after which `text` gives its final answer: the end of the first \\boxed{...} of the last ones that are
    all alike. None without any.
    """
    boxes = _boxes(text)
    if not boxes:
        return None
    end, answer = boxes[-1]
    for earlier, content in reversed(boxes[:-1]):
        if content != answer:
            break
        end = earlier
    return end


def _boxes(text: str) -> list[tuple[int, str]]:
    """(end, content) of each \\boxed{...} with closed braces, in their order."""
    found, at = [], text.find("\\boxed{")
    while at >= 0:
        start = at + len("\\boxed{")
        depth, i = 1, start
        while i < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[i], 0)
            i += 1
        if depth == 0:
            found.append((i, text[start : i - 1].strip()))
        at = text.find("\\boxed{", start)
    return found


def _policy(file: Path, meta: dict[str, Any], model: str | None) -> dict[str, Any]:
    """model, attention, budget, page and local of a log: from the metadata, and where they are silent its name."""
    named = _NAME.match(file.stem)
    name = model or meta.get("model") or meta.get("model_name") or (named and named["model"])
    if not name:
        raise InputError(
            "the log does not say of which model it is", file=file,
            allowed="`model` in its first line, or a name such as aime24_qwen3-8b_dense.jsonl",
        )  # fmt: skip
    local, topk, blocks, page = (meta.get(key) for key in _META)
    if not any(key in meta for key in _META):
        if named is None:
            raise InputError(
                "the log does not say which attention it used", file=file,
                allowed="attn_local, attn_topk, ... in its first line, or a name such as aime24_qwen3-8b_dense.jsonl",
            )  # fmt: skip
        local, topk, blocks, page = (named[part] and int(named[part]) for part in ("local", "topk", "blocks", "page"))
    for key, value in zip(_META, (local, topk, blocks, page), strict=True):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InputError("not a whole number", file=file, line=1, place=key, found=value)
    same = {"model": canonical(str(name))}
    if local is None and topk is None and blocks is None:
        return {**same, "attention": "dense", "budget": 0, "page": 0, "local": 0}
    near = local or 0
    if blocks is not None:
        if not page or not blocks:
            raise InputError("block top-k without blocks or their size", file=file, line=1, found=f"{blocks} of {page}")
        return {**same, "attention": "block_top_k", "budget": near + page * blocks, "page": page, "local": near}
    if near + (topk or 0) == 0:
        raise InputError("a KV budget of 0", file=file, line=1, found=f"attn_local {local}, attn_topk {topk}")
    return {**same, "attention": "top_k", "budget": near + (topk or 0), "page": 0, "local": 0}


def _object(file: Path, line: int, text: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise InputError(f"is not JSON: {str(error).splitlines()[0]}", file=file, line=line) from None
    if not isinstance(record, dict):
        raise InputError("not a JSON object", file=file, line=line, found=record)
    return record


def _trials(file: Path, line: int, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials of a line, each with its own prediction, score and lengths.

    InputError for lists of them that are not of one length.
    """
    texts = record.get("prediction")
    count = max(1, len(texts)) if isinstance(texts, list) else 1
    found: list[dict[str, Any]] = [dict(record) for _ in range(count)]
    for name in ("prediction", "score", "tokens", "token_length", "answer_at"):
        value = record.get(name)
        values = value if isinstance(value, list) else [value] * (count if value is None else 1)
        if len(values) != count:
            raise InputError(
                "not one value a prediction", file=file, line=line, place=name, found=f"{len(values)} of {count}",
                allowed="lists of one length, or single values",
            )  # fmt: skip
        for one, own in zip(found, values, strict=True):
            one[name] = own
    return found


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


def _query(file: Path, line: int, record: dict[str, Any]) -> str:
    value = _first(record.get("query"))
    if not isinstance(value, str) or not value:
        raise InputError("no query", file=file, line=line, found=value, allowed="the problem's text")
    return value


def _prediction(file: Path, line: int, record: dict[str, Any]) -> str:
    value = record["prediction"]
    if not isinstance(value, str):
        raise InputError("no prediction", file=file, line=line, found=value, allowed="a list with the generated text")
    return value


def _score(file: Path, line: int, record: dict[str, Any]) -> bool:
    value = record["score"]
    if value not in (0, 1, 100):  # False and True are 0 and 1
        raise InputError("not a score", file=file, line=line, place="score", found=value, allowed="0, 1 or 100")
    return bool(value)


def _number(file: Path, line: int, record: dict[str, Any], *names: str) -> float | None:
    """The first of `names` that the record has, a number above 0; None if it has none."""
    for name in names:
        if (value := _first(record.get(name))) is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < MOST_TOKENS:
            raise InputError("not a number of tokens", file=file, line=line, place=name, found=value)
        return float(value)
    return None
