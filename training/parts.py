"""Registries of exchangeable parts: what a config or a command can choose by name.

Each family of parts (backbones, tasks, sources, ...) has a registry. A file given by `--import`, or an installed
package, registers parts in the same way as our own modules, and no other code has to know them.
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
    """The parts of one family, by name (their kind).

    `@FAMILY.register("mine")` adds a class or a function. An installed package declares an entry point `family.mine` in
    the group `tessera.parts`; it names the module that registers the part, which is imported when the part is first
    used.
    """

    def __init__(self, family: str) -> None:
        self.family = family
        self._parts: dict[str, Any] = {}

    def register(self, kind: str) -> Callable[[Added], Added]:
        """Returns a decorator that registers a part under `kind`. It raises `BadInput` if the name is taken."""

        def add(part: Added) -> Added:
            if self._parts.setdefault(kind, part) is not part:
                raise BadInput(f"{self.family} {kind!r} exists already; give the one in {part.__module__} another name")
            return part

        return add

    def __getitem__(self, kind: str) -> Part:
        """The part registered as `kind`. Raises `BadInput`, with the known names, if there is none."""
        if kind not in self:
            raise BadInput(f"there is no {self.family} {kind!r:.80}; there are {', '.join(self.kinds)}")
        if kind not in self._parts:
            entry = self._from_packages()[kind]
            try:
                entry.load()
            except Exception as error:
                raise BadInput(f"{self.family} {kind!r}: {entry.value} cannot be imported ({_where(error)})") from None
            if kind not in self._parts:
                raise BadInput(f"{self.family} {kind!r}: {entry.value} registers no part of that name")
        return self._parts[kind]

    def __contains__(self, kind: object) -> bool:
        return isinstance(kind, str) and (kind in self._parts or kind in self._from_packages())

    @property
    def kinds(self) -> list[str]:
        """All names, sorted. Includes parts of installed packages that are not imported yet."""
        return sorted({*self._parts, *self._from_packages()})

    @property
    def loaded(self) -> list[Part]:
        """The parts that are imported."""
        return [*self._parts.values()]

    def kind_of(self, part: Part) -> str:
        """The name of a part. Raises `BadInput` if it is not registered."""
        for kind, one in self._parts.items():
            if one is part:
                return kind
        raise BadInput(f"{part} is not registered as a {self.family}")

    def _from_packages(self) -> dict[str, EntryPoint]:
        start = f"{self.family}."
        found = entry_points(group="tessera.parts")
        return {entry.name.removeprefix(start): entry for entry in found if entry.name.startswith(start)}


class Tagged:
    """Base class of a family of configs, of which a field holds one. The key `kind` chooses which.

    The base class sets `registry`. It and its subclasses are dataclasses, and all their fields have defaults. The
    default of the field decides the default kind.
    """

    registry: ClassVar[Registry[Any]]

    @property
    def kind(self) -> str:
        """The name that this config class is registered under."""
        return self.registry.kind_of(type(self))


def import_parts(argv: Sequence[str]) -> list[str]:
    """Imports every `--import MODULE` of a command line. Returns the other arguments. Raises `BadInput`."""
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
    """Imports a module by name, or a `.py` file under its stem. The file's folder stays on the path for worker
    processes."""
    file = Path(module).resolve() if module.endswith(".py") else None
    name = file.stem if file else module
    if file and not file.is_file():
        raise BadInput(f"--import {file}: no such file")
    if not all(part.isidentifier() for part in ([name] if file else name.split("."))):
        raise BadInput(f"--import {module}: {name!r} is not a module name")
    if file:
        taken = sys.modules.get(name) or importlib.util.find_spec(name)
        there = getattr(taken, "__file__", None) or getattr(taken, "origin", None) or "another module"
        if taken and Path(there).resolve() != file:
            raise BadInput(f"--import {file}: {name!r} is the name of {there}; rename the file")
        sys.path.append(str(file.parent))
    try:
        importlib.import_module(name)
    except Exception as error:  # the code is not ours and may raise anything
        raise BadInput(f"--import {module}: cannot be imported ({_where(error)})") from None


def _where(error: Exception) -> str:
    """An error from a module that is not ours, with the line that raised it."""
    *_, last = traceback.extract_tb(error.__traceback__)
    where = "" if isinstance(error, ImportError | BadInput) else f", {last.filename}, line {last.lineno}"
    return f"{type(error).__name__}: {error}{where}" if where and not isinstance(error, SyntaxError) else str(error)
