"""HTML from Python, escaped unless it is markup already: no text of a scenario can become an element."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

VOID = ("meta", "br", "link", "input", "col")


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """`element("td", "a < b", class_="n")` -> `<td class="n">a &lt; b</td>`.

    Children: texts, which are escaped, `Markup`, None (nothing), or iterables of these. Attributes: `_` stands for `-`,
    one at the end is dropped; None and False leave the attribute out, True gives it no value.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Markup(start if name in VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Markup:
    """Children one after the other, as in `element`."""
    return Markup("".join(map(_text, children)))


def _text(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str):
        return html.escape(child, quote=False)
    return join(child)


def script_json(value: Any) -> Markup:
    """JSON that may stand inside a script element. Raises ValueError for a number that JSON does not have."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
