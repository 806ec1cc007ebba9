"""The code keeps to what Windows, macOS and Linux have in common; where it cannot, one place has a fallback.

Nothing here runs on Windows. The checks read all source files and name what would fail there.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("commands", "data", "diffusion", "evaluation", "sampling", "seq2seq", "tokenizer", "training")
SOURCES = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py"))]

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
LINKS = {"symlink", "symlink_to", "link", "hardlink_to", "link_to", "readlink"}
RENAMES = {"rename", "renames"}
"""They fail if the target exists, or if either is open. `Path.replace` fails only in the second case."""
ON_POSIX = {
    "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "WNOHANG", "chown", "fchmod", "fork", "forkpty", "getegid", "geteuid",
    "getgid", "getloadavg", "getpgid", "getpgrp", "getuid", "kill", "killpg", "mkfifo", "mknod", "pread", "pwrite",
    "sched_getaffinity", "sched_setaffinity", "setpgid", "setsid", "statvfs", "sysconf", "uname", "wait", "waitpid",
}  # fmt: skip
"""Of the module `os`. `kill` is there on Windows, but does another thing."""
SIGNALS = {"SIGINT", "SIGTERM", "SIG_DFL", "SIG_IGN", "default_int_handler", "getsignal", "signal"}
NOT_IN_NAMES = set(':*?"<>|')

ALLOWED = {
    ("training/files.py", "fcntl"),  # a race is unlikely without it
    ("training/files.py", "rename"),  # of a folder to a name that was free
    ("training/processes.py", "os.sched_getaffinity"),  # else all cores
}


def found(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """What is not on all systems, by name, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((one.name, node.lineno) for one in names if one.name in MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                if module in (*MODULES, "os", "signal"):
                    yield f"from {module}", node.lineno
            case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in ON_POSIX:
                yield f"os.{name}", node.lineno
            case ast.Attribute(value=ast.Name(id="signal"), attr=name) if name not in SIGNALS:
                yield f"signal.{name}", node.lineno
            case ast.Constant(value=str(text)) if text.startswith(("/dev/", "/proc/", "/tmp")):
                yield text, node.lineno
            case ast.BinOp(op=ast.Div(), right=right) if NOT_IN_NAMES & {*_letters(right)}:
                yield "file name", node.lineno
            case ast.Call(func=ast.Attribute(attr=name)) if name in LINKS | RENAMES:
                yield name, node.lineno
            case ast.Call(func=ast.Name(id="str"), args=[ast.Call(func=ast.Attribute(attr="relative_to"))]):
                yield "str of a relative path", node.lineno
            case ast.Call(func=ast.Attribute(attr="read_text" | "write_text" as name), keywords=given):
                if not {"encoding"} & {one.arg for one in given}:
                    yield f"{name} without encoding", node.lineno


def _letters(node: ast.expr) -> str:
    """The fixed letters of a text, such as those of an f-string outside of its braces."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return "".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_the_code_is_the_same_for_all_systems() -> None:
    lines = {
        (file.relative_to(ROOT).as_posix(), what): line
        for file in SOURCES
        for what, line in found(ast.parse(file.read_text(encoding="utf-8")))
    }
    new = {place: line for place, line in lines.items() if place not in ALLOWED}
    assert not new
    assert lines.keys() >= ALLOWED  # else the list is too long


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import fcntl", "fcntl"), ("from os import kill", "from os"), ("os.getuid()", "os.getuid"),
        ("signal.signal(signal.SIGHUP, f)", "signal.SIGHUP"), ("open('/dev/shm/x')", "/dev/shm/x"),
        ("path.symlink_to(other)", "symlink_to"), ("os.link(a, b)", "link"), ("os.rename(a, b)", "rename"),
        ("folder / f'{name}:{i}'", "file name"), ("folder / 'a?'", "file name"),
        ("str(file.relative_to(folder))", "str of a relative path"),
        ("path.read_text()", "read_text without encoding"),
    ],
)  # fmt: skip
def test_the_check_above_finds_it(code: str, what: str) -> None:
    assert what in [name for name, _ in found(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    [
        "os.cpu_count()", "signal.signal(signal.SIGINT, signal.SIG_IGN)", "folder / f'{name}-{i}'", "a / b",
        "file.relative_to(folder).as_posix()", "path.read_text(encoding='utf-8')", "path.replace(other)",
    ],
)  # fmt: skip
def test_and_nothing_else(code: str) -> None:
    assert not [*found(ast.parse(code))]
