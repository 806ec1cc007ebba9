"""The frame around every command: parse, run, and turn what the user got wrong into one line and exit code 2."""

import errno
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from training.command_line import parse
from training.errors import BadInput, one_line
from training.parts import import_parts

Options = TypeVar("Options")

# What the machine refuses rather than the program: said like bad input.
_REFUSALS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EEXIST: "a file stands in the way",
}


def command(main: Callable[[Options], None], options: type[Options], prog: str | None = None) -> None:
    """Runs `main` on `sys.argv` parsed as the dataclass `options`, once what `--import` names is imported.

    A class variable `preset` of `options` names the preset that is taken where no `--config` is given. The usage says
    `prog`, by default what was typed. Exits as `for_people` does.
    """
    # `python -m a.b` says so in its usage; `__main__.py` would say nothing
    spec = sys.modules["__main__"].__spec__
    prog = prog or (f"python -m {spec.name}" if spec else None)
    with for_people():
        argv, preset = import_parts(sys.argv[1:]), getattr(options, "preset", None)
        usual = preset and not any(word.partition("=")[0] == "--config" for word in argv)
        parsed = parse(options, [f"--config={preset}", *argv] if usual else argv, prog)
        if usual and os.environ.get("RANK", "0") == "0":  # one of several processes says it
            print(f"without --config, this is --config {preset} {_paths(parsed)}")
        main(parsed)


@contextmanager
def for_people() -> Iterator[None]:
    """Turns what the user or the machine got wrong within it into one line on stderr and an exit code.

    Exits with 2 for bad input (`BadInput`, no permission, no disk space), with 130 when interrupted; anything else is a
    bug and keeps its traceback.
    """
    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        yield
    except BadInput as error:
        _quit(str(error))
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        where = f": {error.filename}" if error.filename else ""
        _quit(f"{_REFUSALS[error.errno]}{where}")
    except KeyboardInterrupt:
        sys.exit(130)


def _paths(options: Any) -> str:
    """The flags that say what goes into a trainer and where its run goes."""
    names = [name for name in ("data", "tokenizer", "text", "out") if hasattr(options, name)]
    return " ".join(f"--{name} {shlex.quote(str(getattr(options, name)))}" for name in names)


def _warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Our own warnings as one line; a library's with its place, as Python does."""
    place = "" if issubclass(category, UserWarning) else f" ({category.__name__}, {filename}:{lineno})"
    print(f"warning: {one_line(str(message))}{place}", file=sys.stderr)


def _quit(message: str) -> None:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)
