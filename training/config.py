"""Configs as dataclasses: turn them into plain values, and build them from plain values with every field checked.

A config is a keyword-only dataclass whose field docstrings are its help texts. In YAML and JSON it is a mapping from
field names to values: `to_dict` writes that mapping, `from_dict` reads it.

A field may hold another config (a part). Its type is then a dataclass, or a `Tagged` base class, of which several
kinds are registered (`training.parts`). The mapping of a tagged part names the kind under `kind`:

    backbone: {kind: vit, width: 256}

In messages and flags an option inside a part has a dotted name: `backbone.width`.
"""

import dataclasses
import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from training.errors import BadInput
from training.parts import Tagged

Config = TypeVar("Config")

MAX_DEPTH = 1000
"""Most blocks of a model. A config that asks for more is refused before anything is built."""
MAX_WIDTH = 2**16
"""Most dimensions or positions of a model. Hidden layers of an MLP may have four times as many."""


# Checks for `__post_init__`


def require(owner: object, name: str, condition: bool, wanted: str) -> None:
    """Raises `BadInput` unless `condition` holds. The message names the field, its value and the `wanted` range."""
    if not condition:
        value = getattr(owner, name)
        shown = f"'{value}'" if isinstance(value, Path) else repr(value)
        raise BadInput(f"{type(owner).__name__}.{name} is {shown}: must be {wanted}")


def require_sizes(owner: object, **limits: int) -> None:
    """Raises `BadInput` unless each of these fields is from 1 to its limit."""
    for name, limit in limits.items():
        require(owner, name, 1 <= getattr(owner, name) <= limit, f"from 1 to {limit}")


# From a config to plain values


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested plain values, as in `config.json`. Paths become strings; tagged parts have a `kind`."""
    tag = {"kind": config.kind} if isinstance(config, Tagged) else {}
    return tag | {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def non_defaults(config: Any, exclude: Collection[str] = ()) -> dict[str, Any]:
    """The fields that differ from their defaults, as {dotted name: value}, without the dotted names in `exclude`.

    Ids of models are hashes of this. A new field with a default therefore changes no id. A part of another kind than
    the default one is compared with the defaults of its own kind.
    """
    changed = flatten(dict(_changed(config, type(config)())))
    return {name: value for name, value in changed.items() if name not in exclude}


def _changed(config: Any, default: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        name, value, usual = prefix + field.name, getattr(config, field.name), getattr(default, field.name)
        if not dataclasses.is_dataclass(value):
            if value != usual:
                yield name, _plain(value)
            continue
        if isinstance(value, Tagged) and value.kind != usual.kind:
            yield f"{name}.kind", value.kind
            usual = type(value)()
        yield from _changed(value, usual, f"{name}.")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Nested options as {dotted name: value}. Numbers and text stay as they are; anything else becomes text."""
    found: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str | float | int) else str(value)
    return found


# What options a config has


def options_of(config: type) -> dict[str, Any]:
    """The options of a config class and their types, {name: type}. A tagged config has `kind` first."""
    return ({"kind": str} if issubclass(config, Tagged) else {}) | _field_types(config)


@cache
def _field_types(config: Any) -> dict[str, Any]:
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def part_of(config: type, name: str, values: Mapping[str, Any]) -> type | None:
    """The config class of the part in field `name`; None if that field holds no part.

    For a tagged part it is the kind that `values`, the mapping of the part, names, or else the default kind.

    Raises:
        BadInput: no such kind is registered.
    """
    declared = _field_types(config).get(name)
    if not dataclasses.is_dataclass(declared):
        return None
    if not issubclass(declared, Tagged):  # type: ignore[arg-type]
        return declared  # type: ignore[return-value]
    if "kind" in values:
        return declared.registry[values["kind"]]  # type: ignore[union-attr]
    return type(config.__dataclass_fields__[name].default_factory())  # type: ignore[attr-defined]


def called(config: type) -> str:
    """The name of a config class in messages: `backend 'diffusion'` for a tagged one, else the class name."""
    if issubclass(config, Tagged):
        return f"{config.registry.family} {config.registry.kind_of(config)!r}"
    return config.__name__


# From plain values to a config


def from_dict(config: type[Config], values: Mapping[str, Any], where: str | Path = "") -> Config:
    """Builds a config from nested plain values. Imports nothing and opens no file.

    Types must match exactly, with two exceptions: an int may stand for a float, and a list for a tuple.

    Args:
        config: the class to build.
        values: its fields; those with a default may be left out.
        where: where the values come from, for messages: a file, usually.

    Raises:
        BadInput: a field is unknown, missing, of the wrong type, or refused by its config.
    """
    try:
        require_fields(config, values)
        return _build(config, values)
    except BadInput as error:
        raise BadInput(f"{where}: {error}" if where else str(error)) from None


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy of the config with some fields changed. `values` are checked as in `from_dict`."""
    current = {name: value for name, value in to_dict(config).items() if name != "kind"}
    return from_dict(type(config), {**current, **values})


def merged(config: type, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Lays the `new` values of `config` over the `old` ones, part by part.

    Where `new` chooses another kind of part, the old values of that part are dropped. `old` must have passed
    `require_fields`.
    """
    both = dict(old) | dict(new)
    for name, value in new.items():
        before = part_of(config, name, old[name]) if name in old and isinstance(value, Mapping) else None
        if before and part_of(config, name, {**old[name], **value}) is before:
            both[name] = merged(before, old[name], value)
    return both


def require_fields(config: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises `BadInput` if `values` has an option that `config` does not have, or no mapping where a part is needed.

    `prefix` is put before the names in the message.
    """
    options = options_of(config)
    for name, value in values.items():
        if name not in options:
            near = difflib.get_close_matches(str(name), options, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"{called(config)} has {', '.join(options)}"
            raise BadInput(f"there is no option {_shown(f'{prefix}{name}')}; {hint}")
        if dataclasses.is_dataclass(options[name]):
            if not isinstance(value, Mapping):
                example = f"{prefix}{name}.{next(iter(options_of(options[name])))}"
                raise BadInput(f"{prefix}{name}: takes options such as {example}, got {_shown(value)}")
            require_fields(part_of(config, name, value), value, f"{prefix}{name}.")  # type: ignore[arg-type]


def _build(config: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """`from_dict` after `require_fields` has passed."""
    if issubclass(config, Tagged):
        own = config.registry.kind_of(config)
        if config.registry[values.get("kind", own)] is not config:
            raise BadInput(f"{prefix}kind is {values['kind']!r}: must be {own!r} here")
    arguments: dict[str, Any] = {}
    for name, kind in _field_types(config).items():  # type: ignore[arg-type]
        if name not in values:
            continue
        if part := part_of(config, name, values[name]):
            arguments[name] = _build(part, values[name], f"{prefix}{name}.")
        else:
            arguments[name] = _typed(kind, values[name], f"{config.__name__}.{name}", prefix + name)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise BadInput(f"{prefix}{field.name}: must be given, it has no default")
    return config(**arguments)


def _typed(kind: Any, value: Any, field: str, place: str) -> Any:
    """Checks a plain value against the declared type `kind` and converts it.

    Messages name `field`, as `Class.name`, or `place`, the dotted name.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) and NoneType in parts:  # X | None
        (some,) = (part for part in parts if part is not NoneType)
        return None if value is None else _typed(some, value, field, place)
    if value is None:
        raise BadInput(f"{field} is null: must have a value")
    if origin is Literal:
        if value not in parts or type(value) is not str:
            raise BadInput(f"{place}: must be one of {', '.join(map(repr, parts))}, got {_shown(value)}")
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        return origin(_items(origin, parts, value, field, place))
    if origin is dict and isinstance(value, Mapping):
        key_kind, item_kind = parts
        return {
            _typed(key_kind, key, field, place): _typed(item_kind, item, field, f"{place}.{key}")
            for key, item in value.items()
        }
    if kind is float and type(value) in (int, float):
        if not (abs(value) < 1e300 and math.isfinite(value)):
            raise BadInput(f"{field} is {_shown(value)}: must be a finite number")
        return float(value)
    if kind is Path and isinstance(value, str | Path) and "\0" not in str(value):
        return Path(value)
    if type(value) is not kind:
        name = getattr(origin or kind, "__name__", kind)
        raise BadInput(f"{place}: expected a value of type {name}, got {_shown(value)}")
    return value


def _items(origin: type, parts: tuple[Any, ...], values: Any, field: str, place: str) -> Iterator[Any]:
    """The items of a list or tuple, each as its type. `parts` are the type's arguments: `(int, ...)`, `(int, str)`."""
    any_length = origin is list or parts[-1] is Ellipsis
    kinds = [parts[0]] * len(values) if any_length else [*parts]
    if len(kinds) != len(values):
        raise BadInput(f"{place}: must be {len(kinds)} values, got {_shown(values)}")
    for i, (kind, value) in enumerate(zip(kinds, values, strict=True)):
        yield _typed(kind, value, field, f"{place}[{i}]")


def _shown(value: Any) -> str:
    """The value as text for a message, at most 80 characters of it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
