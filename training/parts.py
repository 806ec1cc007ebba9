"""Parts by name: what can be exchanged in a config or a command, ours and those from outside.

Each family of parts has a registry. A file that is given by `--import`, or an installed package, adds parts to it as
our own modules do, and nothing else has to know them.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from training.errors import BadInput

Part = TypeVar("Part")
Added = TypeVar("Added")


class Registry(Generic[Part]):
    """The parts of one family by their kind.

    `@FAMILY.register("mine")` adds a class or a function. An installed package names the module in which it does so by
    an entry point `family.mine` of the group `tessera.parts`; that is imported when somebody asks for the kind.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self._parts: dict[str, Any] = {}

    def register(self, kind: str) -> Callable[[Added], Added]:
        """Decorates a part of this kind. Raises `BadInput` where another one has it."""

        def add(part: Added) -> Added:
            if self._parts.setdefault(kind, part) is not part:
                raise BadInput(f"there are two of {self.family} {kind!r}; call the one in {part.__module__} otherwise")
            return part

        return add

    def __getitem__(self, kind: str) -> Part:
        """Raises `BadInput` naming the known kinds for one that is none."""
        if kind not in self:
            raise BadInput(f"there is no {self.family} {kind!r:.80}; there are {', '.join(self.kinds)}")
        if kind not in self._parts:
            entry = self._outside()[kind]
            try:
                entry.load()
            except Exception as error:
                raise BadInput(f"{self.family} {kind!r}: {entry.value} cannot be imported ({_where(error)})") from None
            if kind not in self._parts:
                raise BadInput(f"{self.family} {kind!r}: {entry.value} registers none of that name")
        return self._parts[kind]

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, str) and (kind in self._parts or kind in self._outside())

    @property
    def kinds(self) -> list[str]:
        """The names of all, those of installed packages that are not imported yet among them."""
        return sorted({*self._parts, *self._outside()})

    @property
    def loaded(self) -> list[Part]:
        """Those that are imported."""
        return [*self._parts.values()]

    def kind_of(self, part: Part) -> str:
        """The name of a part. Raises `BadInput` for one that is not registered."""
        for kind, one in self._parts.items():
            if one is part:
                return kind
        raise BadInput(f"{part} is not registered as a {self.family}")

    def _outside(self) -> dict[str, EntryPoint]:
        start = f"{self.family}."
        found = entry_points(group="tessera.parts")
        return {entry.name.removeprefix(start): entry for entry in found if entry.name.startswith(start)}


class Tagged:
    """Base of a family of configs. A field of the type of that base takes `kind`, and the options of this kind.

    The base sets `registry`; it and its kinds are dataclasses, and every field of a kind has a default. What the field
    itself has by default is of the default kind.
    """

    registry: ClassVar[Registry[Any]]

    @property
    def kind(self) -> str:
        """Under which name this config is registered."""
        return self.registry.kind_of(type(self))


def import_parts(argv: Sequence[str]) -> list[str]:
    """Imports every `--import MODULE` of a command line and returns the rest of it. Raises `BadInput`."""
    rest, left = [], [*argv]
    while left:
        flag, equals, value = left.pop(0).partition("=")
        if flag != "--import":
            rest.append(flag + equals + value)
        elif equals or left:
            _import(value if equals else left.pop(0))
        else:
            raise BadInput("--import: expected a module or a .py file")
    return rest


def _import(module: str) -> None:
    """Imports a module, or a `.py` file by its stem from its folder, in which other processes find it too."""
    file = Path(module).resolve() if module.endswith(".py") else None
    name = file.stem if file else module
    if file and not file.is_file():
        raise BadInput(f"--import {file}: no such file")
    if not all(part.isidentifier() for part in ([name] if file else name.split("."))):
        raise BadInput(f"--import {module}: {name!r} is no name of a module")
    if file:
        taken = sys.modules.get(name) or importlib.util.find_spec(name)
        there = getattr(taken, "__file__", None) or getattr(taken, "origin", None) or "another module"
        if taken and Path(there).resolve() != file:
            raise BadInput(f"--import {file}: {name!r} is the name of {there}; rename the file")
        sys.path.append(str(file.parent))
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever its author has written
        raise BadInput(f"--import {module}: cannot be imported ({_where(error)})") from None


def _where(error: Exception) -> str:
    """What went wrong in a module from outside, and where."""
    *_, last = traceback.extract_tb(error.__traceback__)
    where = "" if isinstance(error, ImportError | BadInput) else f", {last.filename}, line {last.lineno}"
    return f"{type(error).__name__}: {error}{where}" if where and not isinstance(error, SyntaxError) else str(error)
