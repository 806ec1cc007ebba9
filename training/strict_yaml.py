"""Reads YAML configs: plain values only, without tags and aliases."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from training.errors import BadInput
from training.strict_json import MAX_DIGITS, MAX_NESTING, first_repeated, read_bytes, require_plain


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads text, null, true, false and decimal numbers, also `1e-3`. Refuses a repeated key."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 the name is PyYAML's

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        twice = first_repeated(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice is not None:
            raise ValueError(f"{twice!r} appears twice, line {node.start_mark.line + 1} and after")
        return super().construct_mapping(node, deep)


for _name, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", [*"tf"]),
    ("int", rf"[-+]?(0|[1-9][0-9_]{{0,{MAX_DIGITS - 2}}})", [*"-+0123456789"]),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
):
    _PlainLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(file: Path, max_bytes: int = 2**20) -> dict[str, Any]:
    """Reads a YAML mapping of at most `max_bytes` bytes. Raises `BadInput` as `read_json` and `parse_yaml` do."""
    try:
        values = parse_yaml(read_bytes(file, max_bytes).decode("utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not a YAML config (not UTF-8 text, byte {error.start})") from None
    if not isinstance(values, dict):
        raise BadInput(f"{file}: a config must hold lines of `option: value`, not '{values}'")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """The YAML value in `text`. Messages begin with `where`, its source.

    Raises:
        BadInput: it is not YAML, or has a tag or an alias (nested aliases can expand a small file without limit).
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING:
                raise ValueError(f"nested more than {MAX_NESTING} deep")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None) is not None:
                raise ValueError(f"a tag or an alias in line {event.start_mark.line + 1}; neither is allowed")
        values = yaml.load(text, Loader=_PlainLoader)
        require_plain(values)
    except (yaml.YAMLError, ValueError) as error:
        raise BadInput(f"{where}: not a YAML config ({error})") from None
    return values
