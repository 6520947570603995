"""How an answer is shown at a prompt and in a notebook's cell: its sentences, and the table's main columns."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20
"""Of a table in a notebook."""


def answer_text(name: str, sentences: Sequence[str]) -> str:
    """`<WhatIf chat-poisson: ...>`, a sentence a line."""
    return f"<{name}: {chr(10).join(sentences)}>"


def answer_html(title: str, sentences: Sequence[str], frame: pd.DataFrame, columns: Sequence[str]) -> str:
    """Title, sentences, and those of the columns that the frame has, as HTML; texts are escaped."""
    head = "".join(f"<p>{escape(text)}</p>" for text in sentences)
    if not len(frame):
        return f"<p><b>{escape(title)}</b></p>{head}"
    shown = frame[[name for name in columns if name in frame]].dropna(axis="columns", how="all")
    table = shown.head(MOST_ROWS).to_html(index=False, border=0, float_format="{:.4g}".format, na_rep="")
    left = len(shown) - MOST_ROWS
    more = f"<p>and {left:,} rows more: <code>.frame()</code></p>" if left > 0 else ""
    return f"<p><b>{escape(title)}</b></p>{head}{table}{more}"
