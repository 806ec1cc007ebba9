"""The command line of a config: its fields are the flags, by their dotted names, and their docstrings the help."""

import argparse
import ast
import dataclasses
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from training.config import ALONE, Text, from_dict, merged, options_of, part_of, require_fields
from training.errors import BadInput
from training.parts import Tagged
from training.strict_yaml import read_yaml

Config = TypeVar("Config")


def parse(config: type[Config], argv: Sequence[str], positional: Sequence[str] = (), prog: str | None = None) -> Config:
    """Parses a command line into `config`. Raises `BadInput` with one line; exits by itself only for `--help`.

    Flags override what stands in a `--config FILE`. Fields named in `positional` (they must have no default) are given
    without a flag, in that order.
    """
    flags = _flags(config, argv, positional)
    values: dict[str, Any] = {}
    for file in map(Path, flags.pop("config", [])):
        layer = read_yaml(file)
        try:
            require_fields(config, layer)
        except BadInput as error:
            raise BadInput(f"{file}: {error}") from None
        values = merged(config, values, layer)
    asked = flags.pop("help", None)
    require_fields(config, flags)
    values = merged(config, values, flags)
    if asked:
        _print_help(config, values, positional, prog)
        sys.exit(0)
    return from_dict(config, values)


def _flags(config: type, argv: Sequence[str], positional: Sequence[str]) -> dict[str, Any]:
    """The values of a command line, nested: each a text, a list of those that a repeated flag was given, or `ALONE`."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    repeated = {"config", *(name for name, field in fields.items() if field.metadata.get("repeat"))}
    switches = {"help", *(name for name, field in fields.items() if isinstance(field.default, bool))}
    for word in argv:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise BadInput(f"{word!r} on the command line is not UTF-8 text")
    values: dict[str, Any] = {}
    places, rest = [*positional], ["--help" if word == "-h" else word for word in argv]
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            if not places:
                raise BadInput(f"{word!r} on the command line belongs to no option; see --help for the options")
            values[places.pop(0)] = Text(word)
            continue
        name, equals, text = word[2:].partition("=")
        value: Any = Text(text) if equals else ALONE
        if (
            not equals
            and rest
            and not rest[0].startswith("--")
            and (name not in switches or rest[0] in ("true", "false"))
        ):
            value = Text(rest.pop(0))
        if name in repeated:
            if value is ALONE:
                raise BadInput(f"{name}: expected one argument")
            value = [*values.get(name, []), value]
        _put(values, name, value)
    return values


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    """Sets a dotted name in nested values."""
    *outer, last = name.split(".")
    for one in outer:
        values = values.setdefault(one, {})
        if not isinstance(values, dict):
            raise BadInput(f"{one}: cannot have both a value and options of its own, such as {name}")
    values[last] = value


def _print_help(config: type, values: Mapping[str, Any], positional: Sequence[str], prog: str | None) -> None:
    """Every option, of the kinds of parts that `values` choose."""
    usage = " ".join(["%(prog)s", *map(str.upper, positional), "[options]"])
    parser = argparse.ArgumentParser(prog, usage, config.__doc__, add_help=False)
    shared = parser.add_argument_group("of every command")
    shared.add_argument("--help", action="store_true", help="show this and exit")
    shared.add_argument("--config", metavar="FILE", help="YAML file with any of the options below; flags override it")
    shared.add_argument(
        "--import", metavar="MODULE", help="module or .py file that adds parts of your own; may be repeated"
    )
    _explain(parser, "options", config, values, positional)
    parser.print_help()


def _explain(
    parser: argparse.ArgumentParser,
    title: str,
    config: type,
    values: Mapping[str, Any],
    positional: Sequence[str] = (),
    prefix: str = "",
) -> None:
    """Adds the options of `config` as a group, then those of the configs in it."""
    described, group = dict(_described(config)), parser.add_argument_group(title)
    fields: dict[str, Any] = getattr(config, "__dataclass_fields__")  # noqa: B009 mypy does not know that it has it
    inner = []
    for name, kind in options_of(config).items():
        place = f"{prefix}{name}"
        if issubclass(config, Tagged) and name == "kind":
            text, default = f"One of {', '.join(config.registry.kinds)}.", config.registry.kind_of(config)
        elif part := part_of(config, name, values.get(name, {})):
            title = f"{place}: {described.get(name, '')}"
            inner.append((title, part, values.get(name, {}), (), f"{place}."))
            continue
        else:
            text, default = described.get(name, ""), _default(fields[name])
        flag, metavar = (name, name.upper()) if name in positional else (f"--{place}", _type(kind))
        group.add_argument(flag, metavar=metavar, help=f"{text} ({default})".replace("%", "%%"))
    for one in inner:
        _explain(parser, *one)


def _default(field: Any) -> str:
    """What a field is where nobody says, as one would write it."""
    if field.default is field.default_factory is dataclasses.MISSING:
        return "required"
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return f"default: {value if isinstance(value, str | Path) else json.dumps(value)}"


def _type(kind: Any) -> str:
    """A type, for people."""
    if get_origin(kind) is Literal:
        return f"{{{','.join(get_args(kind))}}}"
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("pathlib.", "")


def _described(config: type) -> Iterator[tuple[str, str]]:
    """The docstrings below the fields of a config, those of its bases too."""
    for owner in reversed(config.__mro__):
        if dataclasses.is_dataclass(owner):
            try:
                (written,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
            except OSError:  # of a class that stands in no file
                continue
            for field, text in pairwise(written.body):  # type: ignore[attr-defined]
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                        yield name, inspect.cleandoc(words)
