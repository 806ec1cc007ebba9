"""The command line of a config: a flag for each field, by its dotted name, with its docstring as help text.

The values of a list follow its flag, `--prompt "a fox, red" "a dog"`; the flag may also be repeated. Numbers and names
from a closed set may be separated by commas, `--batch 1,8`. Free text and paths are not split at commas.

Optional class variables of a config:
    positional: names of fields that are given without a flag, in this order; a list takes all such words.
    presets: the folder of `configs/` with the YAML files that `--config` knows by name.

And an optional method:
    implied(given): from {dotted name: value} of all that is given, the kinds of parts that follow from it,
        {name of a part: kind}, for those whose kind is not given.
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
"""A dotted name and a value. The name of a word without a flag is empty."""

# jsonargparse would import a module that a value names before it refuses the class in it
set_parsing_settings(docstring_parse_attribute_docstrings=True, import_path_denylist=["*"])


def parse(config: type[Config], argv: Sequence[str], prog: str | None = None) -> Config:
    """Parses a command line into `config`. Raises `BadInput` with one line; exits by itself only for `--help`.

    Flags override the values in a `--config FILE`. The name of a part alone means its kind: `--backend diffusion` is
    `--backend.kind diffusion`.
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
    flags = [(name, value) for name, value in flags if name != "config" or value is None]
    for _ in range(2):  # the kind of a part may decide that it has a part of several kinds itself
        flags = [(_kind_of(config, values, name), value) for name, value in flags]
        kinds = _nested((name, value) for name, value in flags if name.endswith(".kind") and value)
        require_fields(config, kinds)
        values = merged(config, values, kinds)
    values = _with_implied(config, values, flags)
    options = _options(config, values)
    flags = [(_full_name(config, values, name), value) for name, value in flags]
    for name, value in flags:
        if name not in {*options, "", "help", "config"}:
            _refuse(config, values, name, value)
    flags, lists = _split_lists(config, options, flags)
    parser = parser_for(config, values, prog)
    try:
        given = parser.parse_args([_as_word(name, value) for name, value in flags]).as_dict()
    except ArgumentError as error:
        raise BadInput(_one_line(str(error))) from None
    values = merged(config, values, given)
    return from_dict(config, merged(config, values, lists))


def parser_for(config: type, values: Mapping[str, Any], prog: str | None = None) -> ArgumentParser:
    """A parser of the options of `config` and of its parts, whose kinds `values` choose."""
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
    """Adds the options of `config` to `group`, and those of each config inside it as another group."""
    texts, inner = _help_texts(config), []
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, kind in options_of(config).items():
        place, flag = prefix + name, name if not prefix and name in _positional(config) else f"--{prefix}{name}"
        if name in fields and (part := part_of(config, name, values.get(name, {}))):
            inner.append((place, texts.get(name, ""), part, values.get(name, {})))
        elif name in fields:
            text = f"{texts.get(name, '')} ({_default(fields[name], values)})".replace("%", "%%")
            each = {"nargs": "*", "type": str} if _item_type(kind) else {"type": kind}
            group.add_argument(flag, default=argparse.SUPPRESS, help=text, **each)
        else:
            kinds = f"One of {', '.join(config.registry.kinds)}. (here: {config.registry.kind_of(config)})"  # type: ignore[attr-defined]
            group.add_argument(flag, type=kind, default=argparse.SUPPRESS, help=kinds)
    for place, text, part, chosen in inner:
        _add_options(parser, parser.add_argument_group(f"{place}: {text.rstrip('.')}"), part, chosen, f"{place}.")


def _positional(config: type) -> Sequence[str]:
    return getattr(config, "positional", ())


def _help_texts(config: type) -> dict[str, str]:
    """The docstrings of the fields of a config and of its base classes, by field."""
    from docstring_parser import parse_from_object

    owners = [owner for owner in reversed(config.__mro__) if dataclasses.is_dataclass(owner)]
    parameters = [parameter for owner in owners for parameter in parse_from_object(owner).params]
    return {parameter.arg_name: parameter.description or "" for parameter in parameters}


def _default(field: dataclasses.Field[Any], values: Mapping[str, Any]) -> str:
    """The value of a field without its flag, as help text."""
    if field.name in values:
        return f"here: {values[field.name]}"
    if field.default is field.default_factory is dataclasses.MISSING:
        return "required"
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return f"default: {value if isinstance(value, str | Path) else json.dumps(value, default=str)}"


def _flags(config: type, argv: Sequence[str]) -> Iterator[Flag]:
    """Yields the flags and words of a command line. A switch without a value is on."""
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
    """`backend.kind` for `backend`, because the name of a part alone means its kind; other names unchanged."""
    first, dot, rest = name.partition(".")
    chosen, declared = values.get(first, {}), options_of(config).get(first)
    if dot and (part := part_of(config, first, chosen)):
        return f"{first}.{_kind_of(part, chosen, rest)}"
    return f"{name}.kind" if not dot and isinstance(declared, type) and issubclass(declared, Tagged) else name


def _with_implied(config: type, values: dict[str, Any], flags: Iterable[Flag]) -> dict[str, Any]:
    """The `values`, with the kinds that follow from them and from `flags` for the parts whose kind is not given."""
    implied = config.implied({**values, **dict(flags)}) if hasattr(config, "implied") else {}
    return values | {name: {"kind": kind, **values.get(name, {})} for name, kind in implied.items()}


def _full_name(config: type, values: Mapping[str, Any], name: str) -> str:
    """`backend.steps` for `steps`, if the chosen backend has that option; other names unchanged."""
    if name not in options_of(config):
        for short, part in _short_parts(config, values).items():
            if name in options_of(part):
                return f"{short}.{name}"
    return name


def _short_parts(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts whose options may be given without the field's name, by that name."""
    fields = [field.name for field in dataclasses.fields(config) if field.metadata.get("short")]
    return {name: part_of(config, name, values.get(name, {})) for name in fields}


def _options(config: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The types of all options by dotted name, with those of the parts that `values` choose."""
    found: dict[str, Any] = {}
    for name, kind in options_of(config).items():
        part = part_of(config, name, values.get(name, {}))
        found |= _options(part, values.get(name, {}), f"{prefix}{name}.") if part else {prefix + name: kind}
    return found


def _item_type(kind: Any) -> Any:
    """The type of the items of a list or tuple; None for any other type."""
    if get_origin(kind) in (Union, UnionType):
        (kind, *_) = (one for one in get_args(kind) if one is not NoneType)
    return get_args(kind)[0] if get_origin(kind) in (list, tuple) else None


def _split_lists(config: type, options: Mapping[str, Any], flags: Iterable[Flag]) -> tuple[list[Flag], dict[str, Any]]:
    """The flags that are not lists, and the values of those that are, nested."""
    without_flag = next((name for name in _positional(config) if _item_type(options[name])), "")
    rest: list[Flag] = []
    lists: dict[str, list[Any]] = {}
    last = ""
    for name, value in flags:
        last = last if not name and _item_type(options.get(last)) else name or without_flag
        if not _item_type(options.get(last)):
            rest.append((name, value))
        elif value is None:
            raise BadInput(f"{last}: expected one argument or more")
        else:
            lists[last] = lists.get(last, []) + _items(_item_type(options[last]), value)
    return rest, _nested(iter(lists.items()))


def _items(kind: Any, word: str) -> list[Any]:
    """The items in one word of a list: several only for numbers and names from a closed set."""
    if kind not in (int, float) and get_origin(kind) is not Literal:
        return [word]
    word = re.sub(r"^\[(.*)\]$", r"\1", word.strip())  # YAML's brackets
    return [_number(item.strip(" '\"")) for item in word.split(",")] if word.strip() else []


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _as_word(name: str, value: str | None) -> str:
    """A flag and its value as one word of a command line."""
    if not name or value is None:
        return value or f"--{name}"
    return f"--{name}={value}"


def _nested(flags: Iterator[tuple[str, Any]]) -> dict[str, Any]:
    """Values with dotted names, as nested dicts."""
    values: dict[str, Any] = {}
    for name, value in flags:
        *outer, last = name.split(".")
        inner = values
        for one in outer:
            inner = inner.setdefault(one, {})
        inner[last] = value
    return values


def _one_line(message: str) -> str:
    """Rewrites an error of jsonargparse as one plain line."""
    message = re.sub(r"\s+", " ", message).strip()
    message = re.sub(r'^Parser key "([\w.]+)": ?', r"\1: ", message)
    message = re.sub(r"Expected a <class '(\w+)'>\. Got value: (.*)", r"expected a value of type \1, got '\2'", message)
    message = re.sub(r"Expected a typing\.Literal\[(.*?)\]\. Got value: (.*)", r"must be one of \1, got '\2'", message)
    return re.sub(r"Does not validate .* Subtypes: \[(.*?)\] .* Given value: (.*)", _alternatives, message)


def _refuse(config: type, values: Mapping[str, Any], name: str, value: str | None) -> None:
    """Raises `BadInput` for an unknown option. It names the part that has the option, or the nearest option."""
    options, part_name = _options(config, values), name.rpartition(".")[0]
    if name in options_of(config) or any(part_name and whole.startswith(f"{part_name}.") for whole in options):
        require_fields(config, merged(config, values, _nested(iter([(name, value)]))))  # lists the part's options
    nearest: dict[str, str] = {}
    for whole in options:
        nearest[whole] = repr(whole)
        nearest.setdefault(whole.rpartition(".")[2], repr(whole))
    for short, part in _short_parts(config, values).items():
        nearest |= {one: repr(one) for one in options_of(part)}
        if not issubclass(part, Tagged):
            continue
        family = part.registry
        for kind, one in ((family.kind_of(other), option) for other in family.loaded for option in options_of(other)):
            if name == one:
                raise BadInput(f"{called(part)} has no option {name!r}; {kind!r} has it: give --{short} {kind}")
            nearest.setdefault(one, f"{one!r} of {family.family} {kind!r}, with --{short} {kind}")
    if near := difflib.get_close_matches(name, nearest, n=1):
        raise BadInput(f"there is no option {name!r}; did you mean {nearest[near[0]]}?")
    require_fields(config, {name: value})


def _alternatives(union: re.Match[str]) -> str:
    """Rewrites `[<class 'int'>, <class 'NoneType'>]` and a value as plain text."""
    types = re.findall(r"<class '(\w+)'>", union[1])
    return f"expected {' or '.join(types).replace('NoneType', 'null')}, got '{union[2]}'"
