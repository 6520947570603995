"""Models: the shape of a transformer, read from a Hugging Face `config.json` by name, path or mapping.

The shape and what follows from it are in `decoder`, the readers of configurations in `architectures` and, of what
quantised a checkpoint, in `checkpoints`.
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hwspecs.errors import InputError, near_matches
from hwspecs.yamlfile import place_text, read_text
from workloads.architectures import ARCHITECTURES, CONFIG_KEYS, NESTED, TEXT
from workloads.checkpoints import KEY, SIDECAR, checkpoint_formats
from workloads.configuration import Config, dtype_of
from workloads.decoder import Model, Moe

__all__ = ["ARCHITECTURES", "MODEL_FOLDER", "Model", "Moe", "find_model", "list_models", "load_model"]

MODEL_FOLDER = Path(__file__).parent / "models"

Place = tuple[str | int, ...]
LineOf = Callable[[Place], int | None]


@functools.cache
def list_models() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(path.stem.replace("--", "/") for path in MODEL_FOLDER.glob("*.json"))


RENAMED = ("meta-llama/llama-3.1-", "meta-llama/meta-llama-3.1-")
"""What the publisher calls models today, and called them when their configurations were bundled."""


def find_model(name: str) -> str | None:
    """The bundled model that `name` means, or None.

    Case does not matter. After the full name (`Qwen/Qwen3-8B`) and the name without organisation (`qwen3-8b`), a part
    between hyphens is enough if only one model has it: `llama-3.1-8b`, `mixtral-8x7b`.

    Raises InputError, location left to the caller, when several models have it.
    """
    wanted = name.lower().replace(*RENAMED)
    for key in (str.lower, lambda full: full.lower().partition("/")[2]):
        for full in list_models():
            if key(full) == wanted:
                return full
    parts = [full for full in list_models() if wanted and f"-{wanted}-" in f"-{full.lower().partition('/')[2]}-"]
    if len(parts) > 1:
        raise InputError("the name fits several models", found=name, allowed=", ".join(parts))
    return parts[0] if parts else None


def load_model(
    spec: str | Path | Mapping[str, Any],
    *,
    origin: object = None,
    place: str = "model",
    lines: LineOf | None = None,
    relative_to: Path | None = None,
) -> Model:
    """The model that `spec` describes.

    Parameters
    ----------
    spec : a bundled name (see `find_model`); the path of a `config.json` or of a folder with one; or a mapping
        `{base: NAME_OR_PATH, num_hidden_layers: 40}` that overrides keys of a configuration, or, without `base`, is a
        whole one. A mapping may give a `name`.
    origin : the file (or option) that `spec` itself was written in, for error messages.
    place : the path of `spec` inside `origin`.
    lines : from a path inside `spec` to a line of `origin`.
    relative_to : folder to which a relative path refers; the current folder if not given.

    Raises
    ------
    InputError : unknown model or architecture, unreadable file, missing key, value out of range.
    """

    def fail(problem: str, key: Place, found: object, allowed: str | None) -> InputError:
        text = f"{place}.{place_text(key)}" if key else place
        line = lines(key) if lines else None
        return InputError(problem, file=origin, place=text, line=line, found=found, allowed=allowed)

    def read(name: object, key: Place) -> tuple[dict[str, Any], str, str, Callable[[str], int | None], object]:
        """Configuration, name, origin, lines by key and file of a bundled name or a path."""

        def allowed() -> str:
            return near_matches(str(name), list_models()) + ", or the path of a config.json"

        if not isinstance(name, str | Path) or not str(name).strip():
            raise fail("not a model", key, name, allowed())
        try:
            full = find_model(str(name))
        except InputError as error:
            raise fail(error.problem, key, error.found, error.allowed) from None
        if full:
            path, title, source = MODEL_FOLDER / f"{full.replace('/', '--')}.json", full, full
        else:
            path = (relative_to or Path()) / os.path.expanduser(name)
            if os.path.isdir(path):
                path = path / "config.json"
                title = path.parent.resolve().name
            else:
                title = path.resolve().parent.name if path.name == "config.json" else path.stem.replace("--", "/")
            if not os.path.exists(path):
                is_path = str(name).endswith(".json") or str(name).startswith(("./", "../", "/", "~"))
                raise fail("no such file" if is_path else "unknown model", key, str(name), allowed())
            source = str(path)
        text = read_text(path)
        data = _parse(text, path)
        sidecar = path.parent / SIDECAR
        if not full and path.name == "config.json" and KEY not in data and sidecar.exists():
            data[KEY] = {"quant_method": "modelopt", **_parse(read_text(sidecar), sidecar)}

        def line_of(key: str) -> int | None:
            start = 0
            for name in key.split("."):
                match = re.compile(rf'"{re.escape(name)}"\s*:').search(text, start)
                if match is None:
                    return None
                start = match.start()
            return text.count("\n", 0, start) + 1

        return data, title, source, line_of, path

    if not isinstance(spec, Mapping):
        data, name, source, line_of, file = read(spec, ())
        given: Mapping[str, Any] = {}
    else:
        given = {k: v for k, v in spec.items() if k not in ("base", "name")}
        base = spec.get("base")
        if base is None:
            data, name, source, file = {}, "custom", str(origin or "custom"), None
            known: set[str] = set(CONFIG_KEYS)
            if not given:
                raise fail("an empty model", (), dict(spec), "a model's name, a path, or a mapping with `base`")
        else:
            data, name, source, line_of, file = read(base, ("base",))
            known = set(CONFIG_KEYS) | set(data)
            for key in given:
                if key not in known:
                    raise fail("unknown key", (str(key),), key, near_matches(str(key), [*known, "base", "name"]))
            name = f"{name} (modified)" if given else name
        title = spec.get("name")
        if title is not None and (not isinstance(title, str) or not title.strip()):
            raise fail("not a name", ("name",), title, "text")
        name = title or name

    def complain(problem: str, key: str, found: object, allowed: str | None) -> InputError:
        path = tuple(key.split("."))
        said = path if file is None else _given_path(path, given)
        if said is not None:
            return fail(problem, said, found, allowed)
        return InputError(problem, file=file, place=key, line=line_of(key), found=found, allowed=allowed)

    return _build(Config(_overridden(data, given), complain), name, source)


def _given_path(path: tuple[str, ...], given: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Where among the values that override a configuration's `path` was said; None if the configuration says it."""
    for i, name in enumerate(path):
        inner = given.get(TEXT) if name == TEXT else None
        if name in given and (not isinstance(inner, Mapping) or path[i + 1 : i + 2] == () or path[i + 1] in inner):
            return path[i:]
    return None


def _overridden(data: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with other values; what is given beside TEXT holds for what TEXT says, too."""
    inner = data.get(TEXT)
    if not isinstance(inner, Mapping):
        return {**data, **given}
    within = {key: value for key, value in given.items() if key in inner or key not in data}
    whole = {**data, **{key: value for key, value in given.items() if key in data}}
    said = given.get(TEXT, {})
    whole[TEXT] = {**inner, **said, **within} if isinstance(said, Mapping) else said
    return whole


def _build(config: Config, name: str, origin: str) -> Model:
    named = config.data.get("architectures")
    first = named[0] if isinstance(named, list) and named else named
    if not isinstance(first, str):
        problem = "a required key is missing" if named is None else "of the wrong type"
        raise config.fail(problem, "architectures", named, "a list with one of " + ", ".join(ARCHITECTURES))
    if first not in ARCHITECTURES:
        raise config.fail("unsupported architecture", "architectures", first, ", ".join(ARCHITECTURES))
    for key, value in config.data.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise config.fail("not a finite number", key, value, "a number")
    text = config.inside(TEXT) if first in NESTED else config
    dtype = dtype_of(text if text.has("dtype") or text.has("torch_dtype") else config, first)
    shape = ARCHITECTURES[first](text)
    quantised = text if text.has(KEY) else config
    formats = checkpoint_formats(
        quantised.data.get(KEY),
        {**shape, "architecture": first},
        dtype,
        lambda problem, found, allowed: quantised.fail(problem, KEY, found, allowed),
    )
    return Model(
        name=name,
        architecture=first,
        origin=origin,
        config=config.data,
        dtype=dtype,
        **formats,
        **shape,
    )


def _parse(text: str, path: Path) -> dict[str, Any]:
    """The JSON object of a file; standard JSON only, so NaN and infinities are refused."""

    def refuse(constant: str) -> None:
        key = re.search(rf'"([^"]*)"\s*:\s*{re.escape(constant)}', text)
        where = text.find(constant) if key is None else key.end()
        raise InputError(
            "not a finite number",
            file=path,
            place=key[1] if key else None,
            line=text.count("\n", 0, where) + 1,
            found=constant,
            allowed="a number",
        )

    try:
        data = json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        problem = "the file is empty" if not text.strip() else f"is not valid JSON: {error.msg}"
        raise InputError(problem, file=path, line=error.lineno, allowed="a Hugging Face config.json") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"is not valid JSON: {error}", file=path) from None
    if not isinstance(data, dict):
        raise InputError("not a JSON object", file=path, line=1, found=data, allowed="a Hugging Face config.json")
    return data
