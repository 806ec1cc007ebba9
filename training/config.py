"""Configs: keyword-only dataclasses with field docstrings, built strictly from plain values and turned into them."""

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
"""Blocks, of any model: a config that claims more is refused before as many are built."""
MAX_WIDTH = 2**16
"""Likewise of widths and lengths; hidden widths of MLPs may be four times as large."""


def require(owner: object, name: str, condition: bool, wanted: str) -> None:
    """For `__post_init__`: raises `BadInput` naming the field, its value and the allowed range."""
    if not condition:
        raise BadInput(f"{type(owner).__name__}.{name} is {getattr(owner, name)!r}: must be {wanted}")


def require_sizes(owner: object, **most: int) -> None:
    """Raises `BadInput` unless each of these fields is from 1 to its most."""
    for name, limit in most.items():
        require(owner, name, 1 <= getattr(owner, name) <= limit, f"from 1 to {limit}")


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested plain values, as `config.json` holds it: paths become strings, and parts say their kind."""
    tag = {"kind": config.kind} if isinstance(config, Tagged) else {}
    return tag | {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def non_defaults(config: Any, exclude: Collection[str] = ()) -> dict[str, Any]:
    """What a config says that not every one says: its fields, under dotted names, that are not at their defaults.

    So a field that is added, with a default, changes nothing in a config that was written before. The fields `exclude`,
    dotted, are left out. A part of another kind than the usual one is compared with the defaults of its kind.
    """
    return {
        name: value for name, value in flatten(dict(_unusual(config, type(config)()))).items() if name not in exclude
    }


def _unusual(config: Any, usual: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        name, value, other = prefix + field.name, getattr(config, field.name), getattr(usual, field.name)
        if not dataclasses.is_dataclass(value):
            if value != other:
                yield name, _plain(value)
            continue
        if isinstance(value, Tagged) and value.kind != other.kind:
            yield f"{name}.kind", value.kind
            other = type(value)()
        yield from _unusual(value, other, f"{name}.")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Nested options under dotted names: numbers as they are, and text for all else."""
    found: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str | float | int) else str(value)
    return found


def from_dict(config: type[Config], values: Mapping[str, Any], where: str | Path = "") -> Config:
    """Builds `config` from nested plain values; nothing is imported, and no file is opened.

    Types are exact, but for an int where a float is wanted and a list where a tuple is.

    Raises:
        BadInput: a field is unknown, lacking, of another type or refused by its config; the message begins with
            `where` the values come from.
    """
    try:
        require_fields(config, values)
        return _build(config, values)
    except BadInput as error:
        raise BadInput(f"{where}: {error}" if where else str(error)) from None


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of some of its fields, checked as those of a file."""
    told = {name: value for name, value in to_dict(config).items() if name != "kind"}
    return from_dict(type(config), {**told, **values})


@cache
def _types(config: Any) -> dict[str, Any]:
    """The fields of a config and their types."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def part_of(config: type, name: str, values: Mapping[str, Any]) -> type | None:
    """What the config in the field `name` of `config` is, given its values; None for a field without options.

    Raises `BadInput` for a `kind` that is none.
    """
    declared = _types(config).get(name)
    if not dataclasses.is_dataclass(declared):
        return None
    if not issubclass(declared, Tagged):  # type: ignore[arg-type]
        return declared  # type: ignore[return-value]
    if "kind" in values:
        return declared.registry[values["kind"]]  # type: ignore[union-attr]
    return type(config.__dataclass_fields__[name].default_factory())  # type: ignore[attr-defined]


def options_of(config: type) -> dict[str, Any]:
    """The options of a config and their types, `kind` first where it has one."""
    return ({"kind": str} if issubclass(config, Tagged) else {}) | _types(config)


def merged(config: type, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The values `new` of `config` over the `old`; a part that becomes one of another kind begins at its defaults.

    The old ones have passed `require_fields`.
    """
    both = dict(old) | dict(new)
    for name, value in new.items():
        before = part_of(config, name, old[name]) if name in old and isinstance(value, Mapping) else None
        if before and part_of(config, name, {**old[name], **value}) is before:
            both[name] = merged(before, old[name], value)
    return both


def called(config: type) -> str:
    """A config in a message: `backend 'diffusion'`, or the name of its class."""
    if issubclass(config, Tagged):
        return f"{config.registry.family} {config.registry.kind_of(config)!r}"
    return config.__name__


def require_fields(config: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises `BadInput` for a field that `config` has not, and for a config that is no mapping of its fields."""
    options = options_of(config)
    for name, value in values.items():
        if name not in options:
            near = difflib.get_close_matches(str(name), options, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"{called(config)} has {', '.join(options)}"
            raise BadInput(f"there is no option {_shown(f'{prefix}{name}')}; {hint}")
        if dataclasses.is_dataclass(options[name]):
            if not isinstance(value, Mapping):
                its = f"{prefix}{name}.{next(iter(options_of(options[name])))}"
                raise BadInput(f"{prefix}{name}: has options of its own, such as {its}, and is no {_shown(value)}")
            require_fields(part_of(config, name, value), value, f"{prefix}{name}.")  # type: ignore[arg-type]


def _build(config: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """As `from_dict`, of values whose fields are known."""
    if issubclass(config, Tagged):
        own = config.registry.kind_of(config)
        if config.registry[values.get("kind", own)] is not config:
            raise BadInput(f"{prefix}kind is {values['kind']!r}: must be {own!r} here")
    arguments = {}
    for name, kind in _types(config).items():  # type: ignore[arg-type]
        if name in values:
            part = part_of(config, name, values[name])
            arguments[name] = (
                _build(part, values[name], f"{prefix}{name}.")
                if part
                else _typed(kind, values[name], f"{config.__name__}.{name}", prefix + name)
            )
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        bare = field.default is field.default_factory is dataclasses.MISSING
        if bare and field.name not in values:
            raise BadInput(f"{prefix}{field.name}: must be given, it has no default")
    return config(**arguments)


def _typed(kind: Any, value: Any, field: str, place: str) -> Any:
    """A plain value as the type of its field, `Config.field`, at the dotted name `place`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType) and NoneType in parts:
        (some,) = (part for part in parts if part is not NoneType)
        return None if value is None else _typed(some, value, field, place)
    if value is None:
        raise BadInput(f"{field} is null: must have a value")
    if origin is Literal:
        if value not in parts or type(value) is not str:
            raise BadInput(f"{place}: must be one of {', '.join(map(repr, parts))}, got {_shown(value)}")
        return value
    if origin in (list, tuple) and isinstance(value, list | tuple):
        endless = origin is list or parts[-1] is Ellipsis
        kinds = [parts[0]] * len(value) if endless else [*parts]
        if len(kinds) != len(value):
            raise BadInput(f"{place}: must be {len(kinds)} values, got {_shown(value)}")
        items = zip(kinds, value, strict=True)
        return origin(_typed(one, item, field, f"{place}[{i}]") for i, (one, item) in enumerate(items))
    if kind is float and type(value) in (int, float):
        if not (abs(value) < 1e300 and math.isfinite(value)):
            raise BadInput(f"{field} is {_shown(value)}: must be a finite number")
        return float(value)
    if kind is Path and isinstance(value, str | Path) and "\0" not in str(value):
        return Path(value)
    if type(value) is not kind:
        raise BadInput(
            f"{place}: expected a value of type {getattr(origin or kind, '__name__', kind)}, got {_shown(value)}"
        )
    return value


def _shown(value: Any) -> str:
    """A value in a message, cut."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
