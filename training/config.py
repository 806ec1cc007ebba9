"""Configs: keyword-only dataclasses with field docstrings, read strictly from the command line, YAML and JSON."""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from training.errors import BadInput

set_parsing_settings(docstring_parse_attribute_docstrings=True)

Config = TypeVar("Config")


def require(owner: object, name: str, condition: bool, wanted: str) -> None:
    """For `__post_init__`: raises `BadInput` naming the field, its value and the allowed range."""
    if not condition:
        raise BadInput(f"{type(owner).__name__}.{name} is {getattr(owner, name)!r}: must be {wanted}")


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
    except UnicodeDecodeError as error:
        raise BadInput(f"config: not UTF-8 text (byte {error.start})") from None
    values.pop("config", None)
    return from_dict(config, values)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested plain values, as `config.json` holds it: paths become strings."""

    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in items}

    return dataclasses.asdict(config, dict_factory=plain)


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
    """Builds `config` from nested plain values. Unknown fields and values of the wrong type raise `BadInput`.

    `where` they come from begins its message.
    """
    place = f"{where}: " if where else ""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(config, as_group=False)
    try:
        return _build(config, parser.parse_object(dict(values)).as_dict())
    except ArgumentError as error:
        raise BadInput(f"{place}{_one_line(str(error), parser)}") from None
    except BadInput as error:
        raise BadInput(f"{place}{error}") from None


def _build(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Instantiates nested dataclasses ourselves, so that `BadInput` from `__post_init__` arrives as raised."""
    arguments = {}
    types = get_type_hints(config)
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value = values[field.name]
        if value is None and type(None) not in get_args(types[field.name]):  # jsonargparse lets it pass
            raise BadInput(f"{config.__name__}.{field.name} is null: must have a value")
        nested = field.default_factory
        if isinstance(value, dict) and dataclasses.is_dataclass(nested):
            value = _build(cast(type, nested), value)
        arguments[field.name] = tuple(value) if isinstance(field.default, tuple) else value
    return config(**arguments)


def _plain_flags(config: type, argv: Sequence[str]) -> list[str]:
    """Spells flags as jsonargparse wants them.

    `--dry_run` is its `--dry_run=true`, and a flag that may be repeated, `--prompt a --prompt b`, its
    `--prompt+=["a"] --prompt+=["b"]`: quoted, for a text that looks like YAML is a text still.
    """
    fields, types = dataclasses.fields(config), get_type_hints(config)
    lists = {f"--{f.name}": types[f.name] for f in fields if f.default_factory is list and f.metadata.get("repeat")}
    switches = {f"--{f.name}" for f in fields if isinstance(f.default, bool)}
    spelled = []
    rest = [*argv]
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in lists and (equals or (rest and not rest[0].startswith("--"))):
            value = value if equals else rest.pop(0)
            quoted = value if lists[flag] == list[float] else json.dumps(value)
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
