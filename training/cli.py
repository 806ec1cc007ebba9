"""Runs a command: parses its options, and turns a user's mistake into one line and exit code 2."""

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

# Errors of the operating system that are reported like bad input.
_REFUSALS = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.ENOENT: "no such file or folder",
    errno.ENOTDIR: "this is a file, but must be a folder",
    errno.EISDIR: "this is a folder, but must be a file",
    errno.EEXIST: "a file with this name exists already",
}


def command(main: Callable[[Options], None], options: type[Options], prog: str | None = None) -> None:
    """Imports the modules of `--import`, parses `sys.argv` as the dataclass `options`, and runs `main` on it.

    Without `--config`, the preset is that of the class variable `preset` of `options`, if it has one. `prog` is the
    command's name in its usage, by default as it was typed. Exits as `for_people` does.
    """
    # for `python -m a.b`: by default the usage would only name a file
    spec = sys.modules["__main__"].__spec__
    prog = prog or (f"python -m {spec.name}" if spec else None)
    with for_people():
        argv, preset = import_parts(sys.argv[1:]), getattr(options, "preset", None)
        usual = preset and not any(word.partition("=")[0] == "--config" for word in argv)
        parsed = parse(options, [f"--config={preset}", *argv] if usual else argv, prog)
        if usual and os.environ.get("RANK", "0") == "0":  # only one of several processes prints it
            print(f"without --config, the options are --config {preset} {_paths(parsed)}")
        main(parsed)


@contextmanager
def for_people() -> Iterator[None]:
    """A context that turns mistakes of the user and errors of the machine into one line on stderr and an exit code.

    The code is 2 for bad input (`BadInput`, no permission, no disk space) and 130 for an interrupt. If nobody reads the
    output any more, as after `| head`, it ends with code 141 and says nothing. Any other error is a bug and keeps its
    traceback.
    """
    warnings.showwarning = _warn  # type: ignore[assignment]
    try:
        yield
    except BadInput as error:
        _quit(str(error))
    except BrokenPipeError:
        if _is_read("\n"):  # the broken pipe is another one
            raise
        sys.exit(141)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        where = f": {error.filename}" if error.filename else ""
        _quit(f"{_REFUSALS[error.errno]}{where}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        _is_read()


def _is_read(more: str = "") -> bool:
    """Prints `more` and all that is buffered, and returns whether somebody reads it. If nobody does, prints no more."""
    try:
        print(more, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python prints the rest of the buffer at exit
        return False
    return True


def _paths(options: Any) -> str:
    """The flags of a trainer's inputs and output folder."""
    names = [name for name in ("data", "tokenizer", "text", "out") if hasattr(options, name)]
    return " ".join(f"--{name} {shlex.quote(str(getattr(options, name)))}" for name in names)


def _warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """Prints a warning as one line. Those of libraries name the file and line, as Python's do."""
    place = "" if issubclass(category, UserWarning) else f" ({category.__name__}, {filename}:{lineno})"
    print(f"warning: {one_line(str(message))}{place}", file=sys.stderr)


def _quit(message: str) -> None:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(2)
