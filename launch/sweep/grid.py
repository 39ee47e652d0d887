"""The settings of a sweep: `--grid=model.dropout=0.2,0.4;seed=0,1,2`, or a JSON file of them.

A JSON file holds a list of objects, each one setting: `{"model.dropout": 0.2, "seed": [0, 1]}`.
Fields that an object lacks keep the config's value, and so does `seed`, which may be a number or a
list; a `"name"` says what the table calls the setting.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ml_collections import ConfigDict

from launch.wiring.program import UsageError
from minirec import files

SEED = "seed"
_NAME = "name"
_SHOWN = 60
_OPENING, _CLOSING, _QUOTES = "([", ")]", "'\""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of a sweep's table.

    Attributes:
        fields: the changed fields of the config and their values, without the seed.
        seeds: seeds to run it with.
        name: what a person calls it; "" where nothing was said.
    """

    fields: Mapping[str, Any]
    seeds: tuple[int, ...]
    name: str = ""

    def config(self, base: ConfigDict, seed: int) -> ConfigDict:
        """Returns the base config with this setting's values and a seed."""
        changed = base.copy_and_resolve_references()
        with changed.ignore_type():  # A field of any type has that of its value by now.
            changed.update_from_flattened_dict({**self.fields, SEED: seed})
        return changed


class _OneOrSeveral:
    """Stands for the value of a field of any type: a whole number or several, as `data.k_core`."""


def read_grid(given: str, config: ConfigDict) -> list[Setting]:
    """Returns the settings that `--grid` describes, in its order, the last field fastest.

    Args:
        given: the flag: fields with values, or the path of a `.json` file.
        config: what the fields belong to; a field's value there says what its values are.

    Raises:
        UsageError: it cannot be read, a field is unknown or occurs twice, or a value is of another
            type, occurs twice or is missing; the message names the field.
    """
    if given.endswith(".json"):
        settings = _read_json(Path(given).expanduser(), config)
    else:
        settings = _read_product(given, config)
    _check_distinct(given, settings, config)
    return settings


def _read_product(given: str, config: ConfigDict) -> list[Setting]:
    axes: dict[str, list[Any]] = {}
    for part in _split(given, ";"):
        field, equals, values = part.strip().partition("=")
        field = field.strip()
        if not equals or not field:
            raise UsageError(f"--grid: {part.strip()!r} must be FIELD=VALUE,VALUE,…")
        if field in axes:
            raise UsageError(f"--grid: {field} occurs twice; give all its values in one place")
        current = _current(config, field, "--grid")
        axes[field] = []
        for text in _split(values, ","):
            text = text.strip()
            if not text:
                raise UsageError(f"--grid: {field}={values.strip()}: a value is missing")
            value = _parse(text, current, f"--grid: {field}")
            if value in axes[field]:
                raise UsageError(f"--grid: {field}: {text} occurs twice")
            axes[field].append(value)
    seeds = tuple(axes.pop(SEED, (config.seed,)))
    return [
        Setting(dict(zip(axes, values, strict=True)), seeds)
        for values in itertools.product(*axes.values())
    ]


def _read_json(path: Path, config: ConfigDict) -> list[Setting]:
    try:
        entries = files.read_json(path)
    except OSError as error:
        raise UsageError(f"--grid={path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"--grid={error}") from error
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"--grid={path}: must be a list of settings, at least one")
    settings = []
    for number, entry in enumerate(entries):
        where = f"--grid={path}: setting {number}"
        if not isinstance(entry, dict):
            raise UsageError(f'{where}: {entry!r} must be an object, {{"FIELD": value}}')
        name = entry.pop(_NAME, "")
        if not isinstance(name, str):
            raise UsageError(f"{where}: name={name!r} must be text")
        seeds = entry.pop(SEED, config.seed)
        seeds = seeds if isinstance(seeds, list) else [seeds]
        if not seeds:
            raise UsageError(f"{where}: {SEED} is an empty list")
        fields = {
            field: _typed(value, _current(config, field, where), f"{where}: {field}")
            for field, value in entry.items()
        }
        seeds = tuple(_typed(seed, config.seed, f"{where}: {SEED}") for seed in seeds)
        for seed in seeds:
            if seeds.count(seed) > 1:
                raise UsageError(f"{where}: {SEED}: {seed} occurs twice")
        settings.append(Setting(fields, seeds, name))
    return settings


def _check_distinct(given: str, settings: Sequence[Setting], config: ConfigDict) -> None:
    names: set[str] = set()
    resolved: list[dict[str, Any]] = []
    for number, setting in enumerate(settings):
        what = setting.name or ", ".join(f"{k}={v}" for k, v in setting.fields.items())
        if setting.name and setting.name in names:
            raise UsageError(f"--grid={given}: name={setting.name!r} occurs twice")
        names.add(setting.name)
        values = setting.config(config, config.seed).to_dict()
        if values in resolved:
            raise UsageError(
                f"--grid={given}: setting {number} ({what or 'the config as it is'}) is the same "
                f"as setting {resolved.index(values)}; several seeds of one stand in its {SEED!r}"
            )
        resolved.append(values)


def _current(config: ConfigDict, field: str, where: str) -> Any:
    """Returns the field's value in the config, or what stands for one of any type."""
    if field == _NAME:
        raise UsageError(f"{where}: {_NAME} is the experiment's name and no setting; see --run")
    value: Any = config
    kind: Any = None
    for part in field.split("."):
        if not isinstance(value, ConfigDict) or part not in value:
            known = _leaves(config)
            near = difflib.get_close_matches(field, known, n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise UsageError(f"{where}: {field} is not a field of the config{hint}")
        kind, value = value.get_type(part), value[part]
    if isinstance(value, ConfigDict):
        raise UsageError(f"{where}: {field} holds the fields {', '.join(value)}; name one of them")
    return _OneOrSeveral() if kind is object else value


def _leaves(config: ConfigDict, prefix: str = "") -> list[str]:
    leaves = []
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            leaves += _leaves(value, f"{prefix}{name}.")
        else:
            leaves.append(f"{prefix}{name}")
    return leaves


def _parse(text: str, current: Any, where: str) -> Any:
    """Returns what a piece of the command line stands for, as the type of the current value."""
    if isinstance(current, str):
        quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in _QUOTES
        return text[1:-1] if quoted else text
    if isinstance(current, bool):
        if text.lower() not in ("true", "false"):
            _wrong(text, "true or false", where)
        return text.lower() == "true"
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # The last two: nested deeply.
        value = text
    return _typed(value, current, where)


def _typed(value: Any, current: Any, where: str) -> Any:
    """Returns the value as the type of the current one.

    Raises:
        UsageError: it is of another.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(current, _OneOrSeveral):
        if isinstance(value, tuple | list):
            return tuple(_typed(part, 0, where) for part in value)
        return _typed(value, 0, where)
    if isinstance(current, bool):
        return value if isinstance(value, bool) else _wrong(value, "true or false", where)
    if isinstance(current, int):
        whole = isinstance(value, int) and number
        return value if whole else _wrong(value, "a whole number", where)
    if isinstance(current, float):
        finite = number and math.isfinite(value)
        return float(value) if finite else _wrong(value, "a number", where)
    if isinstance(current, str):
        return value if isinstance(value, str) else _wrong(value, "text", where)
    if isinstance(current, tuple | list):
        if not isinstance(value, tuple | list):
            _wrong(value, f"a tuple such as {tuple(current)}", where)
        if not current:
            return tuple(value)
        return tuple(_typed(part, current[0], where) for part in value)
    raise UsageError(f"{where}: a {type(current).__name__} cannot be part of a grid")


def _wrong(value: Any, wanted: str, where: str) -> NoReturn:
    text = str(value)
    raise UsageError(f"{where}={text[:_SHOWN]}{'…' * (len(text) > _SHOWN)}: must be {wanted}")


def _split(text: str, separator: str) -> list[str]:
    """Returns the parts between separators that stand outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in _QUOTES:
            quote = sign
        elif sign in _OPENING:
            depth += 1
        elif sign in _CLOSING:
            depth -= 1
        if sign == separator and not quote and depth <= 0:
            parts.append("")
        else:
            parts[-1] += sign
    if quote or depth:
        raise UsageError(f"--grid: {text!r}: a bracket or a quote is not closed")
    return parts
