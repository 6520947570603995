"""Colours of pages: one for each thing that can bound an operator, one for each result that is compared.

All stand out from the page in light and in dark (contrast 3:1 or more), so charts need no second set; no colour says
anything that a word beside it does not say.
"""

from __future__ import annotations

BOUND_COLOURS = {
    "memory": "#2a7fbf",
    "compute": "#2f9a5d",
    "l2": "#7b76d6",
    "link": "#c0589f",
    "overhead": "#bb8415",
    "host": "#d45d35",
}
IDLE_COLOUR = "#87919c"
ACCENT = "#4280bd"
SECOND = "#cf6a2c"
RESULT_COLOURS = ("#4280bd", "#cf6a2c", "#349a6a", "#9a68c6", "#a5820f", "#cb5781", "#3f95a3", "#85874f")
MEMORY_COLOURS = {
    "weights": "#4280bd",
    "kv": "#349a6a",
    "window_kv": "#6a9a34",
    "states": "#3f95a3",
    "activations": "#bb8415",
    "graphs": "#9a68c6",
    "context": "#cb5781",
    "communication": "#c0589f",
    "workspace": "#85874f",
    "driver": "#a2704c",
    "left": "#87919c",
}
PAGE, PAGE_DARK = "#ffffff", "#12171d"
"""Backgrounds, as in `report.css`."""


def contrast(one: str, other: str) -> float:
    """Contrast of two colours `#rrggbb`, 1 to 21 (WCAG 2.2)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
