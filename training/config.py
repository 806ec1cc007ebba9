"""Configs: keyword-only dataclasses with field docstrings, read strictly from the command line, YAML and JSON."""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from training.errors import BadInput
from training.strict_yaml import read_yaml

# a value may name no module: it would be imported before the class in it is refused
set_parsing_settings(docstring_parse_attribute_docstrings=True, import_path_denylist=["*"])

Config = TypeVar("Config")


MOST_DEPTH = 1000
"""Blocks, of any model: a config that claims more is refused before as many are built."""
MOST_WIDTH = 2**16
"""Likewise of widths and lengths; hidden widths of MLPs may be four times as large."""


def require(owner: object, name: str, condition: bool, wanted: str) -> None:
    """For `__post_init__`: raises `BadInput` naming the field, its value and the allowed range."""
    if not condition:
        raise BadInput(f"{type(owner).__name__}.{name} is {getattr(owner, name)!r}: must be {wanted}")


def require_sizes(owner: object, **most: int) -> None:
    """Raises `BadInput` unless each of these fields is from 1 to its most."""
    for name, limit in most.items():
        require(owner, name, 1 <= getattr(owner, name) <= limit, f"from 1 to {limit}")


def parser_for(config: type, positional: Sequence[str] = (), prog: str | None = None) -> ArgumentParser:
    """A parser whose flags are the fields of the dataclass `config`, their docstrings the help.

    Fields named in `positional` (they must have no default) are given without a flag, in that order.
    """
    parser = ArgumentParser(prog=prog, description=config.__doc__, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below; flags override it")
    helps = _field_help(config, positional)
    for name in positional:
        parser.add_argument(name, type=str, help=helps[name])
    parser.add_class_arguments(config, as_group=False, skip=set(positional))
    return parser


def parse(config: type[Config], argv: Sequence[str], positional: Sequence[str] = (), prog: str | None = None) -> Config:
    """Parses a command line into `config`. Raises `BadInput` with one line; exits by itself only for `--help`."""
    for argument in argv:
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
            raise BadInput(f"{argument!r} on the command line is not UTF-8 text")
    parser = parser_for(config, positional, prog)
    try:
        values = parser.parse_args(_plain_flags(config, argv)).as_dict()
    except ArgumentError as error:
        raise BadInput(_one_line(str(error), parser)) from None
    except ImportError as error:  # jsonargparse's `ImportDenied`
        raise BadInput(str(error)) from None
    values.pop("config", None)
    return from_dict(config, values)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested plain values, as `config.json` holds it: paths become strings."""

    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in items}

    return dataclasses.asdict(config, dict_factory=plain)


def stated(config: Any, but: Collection[str] = ()) -> dict[str, Any]:
    """What a config says that not every one says: its fields, under dotted names, that are not at their defaults.

    So a field that is added, with a default, changes nothing in a config that was written before. The fields `but`,
    dotted, are left out.
    """
    usual = flat(to_dict(type(config)()))
    return {name: value for name, value in flat(to_dict(config)).items() if name not in but and value != usual[name]}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str | float]:
    """Nested options under dotted names: numbers as they are, and text for all else."""
    found: dict[str, str | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
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
        _require_fields(config, values)
        return _build(config, values)
    except BadInput as error:
        raise BadInput(f"{where}: {error}" if where else str(error)) from None


@cache
def _types(config: Any) -> dict[str, Any]:
    """The fields of a config and their types."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in dataclasses.fields(config) if field.init}


def _nested(config: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of fields that are configs."""
    for name, kind in _types(config).items():
        if dataclasses.is_dataclass(kind):
            yield prefix + name
            yield from _nested(kind, f"{prefix}{name}.")  # type: ignore[arg-type]


def _require_fields(config: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Raises `BadInput` for a field that `config` has not, and for a config that is no mapping of its fields."""
    types = _types(config)
    for name, value in values.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"{config.__name__} has {', '.join(types)}"
            raise BadInput(f"there is no option {_shown(f'{prefix}{name}')}; {hint}")
        if dataclasses.is_dataclass(types[name]):
            if not isinstance(value, Mapping):
                raise BadInput(_no_single_value(types[name], prefix + name, value))
            _require_fields(types[name], value, f"{prefix}{name}.")


def _no_single_value(config: type, name: str, value: Any) -> str:
    return f"{name}: has options of its own, such as {name}.{next(iter(_types(config)))}, and is no {_shown(value)}"


def _build(config: type[Config], values: Mapping[str, Any], prefix: str = "") -> Config:
    """As `from_dict`, of values whose fields are known."""
    arguments = {
        name: _typed(kind, values[name], f"{config.__name__}.{name}", prefix + name)
        for name, kind in _types(config).items()  # type: ignore[arg-type]
        if name in values
    }
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        bare = field.default is field.default_factory is dataclasses.MISSING
        if bare and field.name not in values:
            raise BadInput(f"{prefix}{field.name}: must be given, it has no default")
    return config(**arguments)


def _typed(kind: Any, value: Any, field: str, place: str) -> Any:
    """A plain value as the type of its field, `Config.field`, at the dotted name `place`."""
    origin, parts = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{place}.")  # type: ignore[arg-type]
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


def _plain_flags(config: type, argv: Sequence[str]) -> list[str]:
    """Spells flags as jsonargparse wants them.

    `--dry_run` is its `--dry_run=true`, and a flag that may be repeated, `--prompt a --prompt b`, its
    `--prompt+=["a"] --prompt+=["b"]`: quoted, for a text that looks like YAML is a text still. A `--config FILE` is
    what stands in the file; jsonargparse would take a text for a nested config for another file, or a class to import.

    Raises `BadInput` for a file that is no config, and for a value where there are options.
    """
    nested = {f"--{name}" for name in _nested(config)}
    fields, types = dataclasses.fields(config), get_type_hints(config)
    lists = {f"--{f.name}": types[f.name] for f in fields if f.default_factory is list and f.metadata.get("repeat")}
    switches = {f"--{f.name}" for f in fields if isinstance(f.default, bool)}
    spelled = []
    rest = [*argv]
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in nested:
            name = flag.removeprefix("--")
            raise BadInput(f"{name}: has options of its own and no value; see --help for those that begin with {flag}.")
        if flag == "--config" and (equals or rest):
            file = Path(value if equals else rest.pop(0))
            values = read_yaml(file)
            try:
                _require_fields(config, values)
            except BadInput as error:
                raise BadInput(f"{file}: {error}") from None
            equals, value = "=", json.dumps(values, ensure_ascii=False)
        elif flag in lists and (equals or (rest and not rest[0].startswith("--"))):
            value = value if equals else rest.pop(0)
            quoted = value if lists[flag] == list[float] else json.dumps(value, ensure_ascii=False)
            flag, equals, value = f"{flag}+", "=", f"[{quoted}]"
        elif flag in switches and not equals and rest[:1] not in (["true"], ["false"]):
            equals, value = "=", "true"
        spelled.append(flag + equals + value)
    return spelled


def _field_help(config: type, names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    from docstring_parser import parse_from_object

    described = {parameter.arg_name: parameter.description or "" for parameter in parse_from_object(config).params}
    return {name: described.get(name, "") for name in names}


def _one_line(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's errors in one line for people, with the nearest known option beside an unknown one."""
    message = re.sub(r"\s+", " ", message).strip()
    message = re.sub(r'^Parser key "([\w.]+)": ?', r"\1: ", message)
    message = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"expected a value of type \1, got '\2'", message)
    message = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", r"must be one of \1, got '\2'", message)
    message = re.sub(r"Does not validate .* Subtypes: \[(.*?)\] .* Given value: (.*)", _alternatives, message)
    message = re.sub(r"^Unexpected config: ?(.*)", r"config: must hold lines of `option: value`, not '\1'", message)
    unknown = re.search(r"unrecognized arguments: (\S+)|(?:Group '([\w.]+)' .*)?[Oo]ption '([\w.]+)'", message)
    if unknown:
        name = (unknown[1] or ".".join(filter(None, unknown.groups()[1:]))).lstrip("-").split("=")[0]
        known = [action.dest for action in parser._actions]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see --help for the options"
        message = f"{message}; {hint}"
    return message


def _alternatives(union: re.Match[str]) -> str:
    """`[<class 'int'>, <class 'NoneType'>]` and a value, for people."""
    types = re.findall(r"<class '(\w+)'>", union[1])
    return f"expected {' or '.join(types).replace('NoneType', 'null')}, got '{union[2]}'"
