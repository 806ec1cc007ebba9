"""The command line of a config: its fields are the flags, by their dotted names, and their docstrings the help.

A list is given as words after its flag, or by giving the flag again: `--prompt "a fox, red" "a dog"`. Numbers and names
from a closed set may also be separated by commas, `--batch 1,8`; free text and paths never are.

A config may say in class variables what else its command takes:
    positional: names of fields that are given without a flag, in this order; a list takes all such words.
    presets: the folder of `configs/` with the YAML files that `--config` knows by name.
"""

import argparse
import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from training.config import called, from_dict, merged, options_of, part_of, require_fields
from training.errors import BadInput
from training.parts import Tagged
from training.presets import preset, presets
from training.strict_yaml import read_yaml

Config = TypeVar("Config")
Flag = tuple[str, str | None]
"""Its dotted name and its value; a word without a flag has no name."""

# a value may name no module: it would be imported before the class in it is refused
set_parsing_settings(docstring_parse_attribute_docstrings=True, import_path_denylist=["*"])


def parse(config: type[Config], argv: Sequence[str], prog: str | None = None) -> Config:
    """Parses a command line into `config`. Raises `BadInput` with one line; exits by itself only for `--help`.

    Flags override what stands in a `--config FILE`. A part of the config, given alone, is its kind: `--backend
    diffusion` is `--backend.kind diffusion`.
    """
    flags = list(_flags(config, argv))
    values: dict[str, Any] = {}
    for file in (preset(config, value) for name, value in flags if name == "config" and value):
        layer = read_yaml(file)
        try:
            require_fields(config, layer)
        except BadInput as error:
            raise BadInput(f"{file}: {error}") from None
        values = merged(config, values, layer)
    flags = [(_kind_of(config, values, name), value) for name, value in flags if name != "config" or value is None]
    kinds = _nested((name, value) for name, value in flags if name.endswith(".kind") and value)
    require_fields(config, kinds)
    values = merged(config, values, kinds)
    options = _options(config, values)
    flags = [(_whole_name(config, values, name), value) for name, value in flags]
    for name, value in flags:
        if name not in {*options, "", "help", "config"}:
            _refuse(config, values, name, value)
    flags, lists = _lists_apart(config, options, flags)
    parser = parser_for(config, values, prog)
    try:
        given = parser.parse_args([_spelled(name, value) for name, value in flags]).as_dict()
    except ArgumentError as error:
        raise BadInput(_one_line(str(error))) from None
    values = merged(config, values, given)
    return from_dict(config, merged(config, values, lists))


def parser_for(config: type, values: Mapping[str, Any], prog: str | None = None) -> ArgumentParser:
    """A parser whose flags are the options of `config`, with those of the kinds of parts that `values` choose."""
    parser = ArgumentParser(prog=prog, description=config.__doc__, exit_on_error=False, allow_abbrev=False)
    names = presets(config)
    known = f", or the name of a preset: {', '.join(names)}" if names else ""
    for flag, metavar, text in (
        ("--config", "FILE", f"YAML file with any of the options below{known}; flags override it"),
        ("--import", "MODULE", "module or .py file with parts of your own; may be repeated"),
    ):
        parser.add_argument(flag, metavar=metavar, default=argparse.SUPPRESS, help=text)
    _add_options(parser, parser, config, values)
    return parser


def _add_options(parser: ArgumentParser, group: Any, config: type, values: Mapping[str, Any], prefix: str = "") -> None:
    """Adds the options of `config` to a group, then those of each config in it as a group of their own."""
    described, inner = _described(config), []
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, kind in options_of(config).items():
        place, flag = prefix + name, name if not prefix and name in _positional(config) else f"--{prefix}{name}"
        if name in fields and (part := part_of(config, name, values.get(name, {}))):
            inner.append((place, described.get(name, ""), part, values.get(name, {})))
        elif name in fields:
            text = f"{described.get(name, '')} ({_usual(fields[name], values)})".replace("%", "%%")
            each = {"nargs": "*", "type": str} if _item(kind) else {"type": kind}
            group.add_argument(flag, default=argparse.SUPPRESS, help=text, **each)
        else:
            kinds = f"One of {', '.join(config.registry.kinds)}. (here: {config.registry.kind_of(config)})"  # type: ignore[attr-defined]
            group.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=kinds)
    for place, text, part, its in inner:
        _add_options(parser, parser.add_argument_group(f"{place}: {text.rstrip('.')}"), part, its, f"{place}.")


def _positional(config: type) -> Sequence[str]:
    return getattr(config, "positional", ())


def _described(config: type) -> dict[str, str]:
    """The docstrings of the fields of a config, those of its bases too."""
    from docstring_parser import parse_from_object

    owners = [owner for owner in reversed(config.__mro__) if dataclasses.is_dataclass(owner)]
    told = [parameter for owner in owners for parameter in parse_from_object(owner).params]
    return {parameter.arg_name: parameter.description or "" for parameter in told}


def _usual(field: dataclasses.Field[Any], values: Mapping[str, Any]) -> str:
    """What a field is where no flag says, as one would write it."""
    if field.name in values:
        return f"here: {values[field.name]}"
    if field.default is field.default_factory is dataclasses.MISSING:
        return "required"
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return f"default: {value if isinstance(value, str | Path) else json.dumps(value, default=str)}"


def _flags(config: type, argv: Sequence[str]) -> Iterator[Flag]:
    """The words of a command line; a switch alone is turned on."""
    switches = {field.name for field in dataclasses.fields(config) if isinstance(field.default, bool)}
    rest = [*argv]
    for word in rest:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise BadInput(f"{word!r} on the command line is not UTF-8 text")
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            yield ("help", None) if word == "-h" else ("", word)
            continue
        name, equals, value = word[2:].partition("=")
        if equals:
            yield name, value
        elif name in switches and rest[:1] not in (["true"], ["false"]):
            yield name, "true"
        else:
            yield name, rest.pop(0) if rest and not rest[0].startswith("--") else None


def _kind_of(config: type, values: Mapping[str, Any], name: str) -> str:
    """`backend.kind` for `backend`: a part alone is its kind."""
    first, dot, rest = name.partition(".")
    its, declared = values.get(first, {}), options_of(config).get(first)
    if dot and (part := part_of(config, first, its)):
        return f"{first}.{_kind_of(part, its, rest)}"
    return f"{name}.kind" if not dot and isinstance(declared, type) and issubclass(declared, Tagged) else name


def _whole_name(config: type, values: Mapping[str, Any], name: str) -> str:
    """`backend.steps` for `steps`, where the backend that is chosen has it and the field may be left out."""
    if name not in options_of(config):
        for short, part in _short(config, values).items():
            if name in options_of(part):
                return f"{short}.{name}"
    return name


def _short(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts whose options may be given without the name of their field, by that."""
    fields = [field.name for field in dataclasses.fields(config) if field.metadata.get("short")]
    return {name: part_of(config, name, values.get(name, {})) for name in fields}


def _options(config: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """All options by their dotted names, and their types; of parts, those of the kinds that `values` choose."""
    found: dict[str, Any] = {}
    for name, kind in options_of(config).items():
        part = part_of(config, name, values.get(name, {}))
        found |= _options(part, values.get(name, {}), f"{prefix}{name}.") if part else {prefix + name: kind}
    return found


def _item(kind: Any) -> Any:
    """The type of what a list or tuple holds; None for another type."""
    if get_origin(kind) in (Union, UnionType):
        (kind, *_) = (one for one in get_args(kind) if one is not NoneType)
    return get_args(kind)[0] if get_origin(kind) in (list, tuple) else None


def _lists_apart(config: type, options: Mapping[str, Any], flags: Iterable[Flag]) -> tuple[list[Flag], dict[str, Any]]:
    """The flags that are no lists, and the values of those that are, nested."""
    without_flag = next((name for name in _positional(config) if _item(options[name])), "")
    rest: list[Flag] = []
    lists: dict[str, list[Any]] = {}
    last = ""
    for name, value in flags:
        last = last if not name and _item(options.get(last)) else name or without_flag
        if not _item(options.get(last)):
            rest.append((name, value))
        elif value is None:
            raise BadInput(f"{last}: expected one argument or more")
        else:
            lists[last] = lists.get(last, []) + _items(_item(options[last]), value)
    return rest, _nested(iter(lists.items()))


def _items(kind: Any, word: str) -> list[Any]:
    """The items in a word of a list: one, unless it holds numbers or names from a closed set."""
    if kind not in (int, float) and get_origin(kind) is not Literal:
        return [word]
    word = re.sub(r"^\[(.*)\]$", r"\1", word.strip())  # as YAML has it
    return [_number(item.strip(" '\"")) for item in word.split(",")] if word.strip() else []


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _spelled(name: str, value: str | None) -> str:
    """A flag as one word; a word alone as it is."""
    if not name or value is None:
        return value or f"--{name}"
    return f"--{name}={value}"


def _nested(flags: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Values under dotted names, nested."""
    values: dict[str, Any] = {}
    for name, value in flags:
        *outer, last = name.split(".")
        inner = values
        for one in outer:
            inner = inner.setdefault(one, {})
        inner[last] = value
    return values


def _one_line(message: str) -> str:
    """jsonargparse's errors in one line for people."""
    message = re.sub(r"\s+", " ", message).strip()
    message = re.sub(r'^Parser key "([\w.]+)": ?', r"\1: ", message)
    message = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"expected a value of type \1, got '\2'", message)
    message = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", r"must be one of \1, got '\2'", message)
    return re.sub(r"Does not validate .* Subtypes: \[(.*?)\] .* Given value: (.*)", _alternatives, message)


def _refuse(config: type, values: Mapping[str, Any], name: str, value: str | None) -> None:
    """Raises `BadInput` for an option that is not there, with the part that has it, or the nearest one."""
    options, part_name = _options(config, values), name.rpartition(".")[0]
    if name in options_of(config) or any(part_name and whole.startswith(f"{part_name}.") for whole in options):
        require_fields(config, merged(config, values, _nested(iter([(name, value)]))))  # the part says what it has
    nearest: dict[str, str] = {}
    for whole in options:
        nearest[whole] = repr(whole)
        nearest.setdefault(whole.rpartition(".")[2], repr(whole))
    for short, part in _short(config, values).items():
        family = part.registry
        nearest |= {one: repr(one) for one in options_of(part)}
        for kind, one in ((family.kind_of(other), option) for other in family.loaded for option in options_of(other)):
            if name == one:
                raise BadInput(f"{called(part)} has no option {name!r}; {kind!r} has it: give --{short} {kind}")
            nearest.setdefault(one, f"{one!r} of {family.family} {kind!r}, with --{short} {kind}")
    if near := difflib.get_close_matches(name, nearest, n=1):
        raise BadInput(f"there is no option {name!r}; did you mean {nearest[near[0]]}?")
    require_fields(config, {name: value})


def _alternatives(union: re.Match[str]) -> str:
    """`[<class 'int'>, <class 'NoneType'>]` and a value, for people."""
    types = re.findall(r"<class '(\w+)'>", union[1])
    return f"expected {' or '.join(types).replace('NoneType', 'null')}, got '{union[2]}'"
