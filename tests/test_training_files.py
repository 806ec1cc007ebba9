"""Files are written completely or not at all."""

import ast
import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from training import files
from training.errors import BadInput
from training.files import (
    appending,
    atomic,
    claim,
    holds_files,
    inside,
    locked,
    remove_leftovers,
    splice,
    write_json,
    write_tensors,
    write_text,
)


def content(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("path", [".", "..", "/", "some/.."])
def test_a_path_without_a_name_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands with `--out .` ended with a traceback."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="must end in a name; choose another --out"), atomic(Path(path)):
        raise AssertionError
    assert not [*tmp_path.iterdir()]


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "file") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "new" / "file").exists()
    assert content(tmp_path) == {"new/file": "whole"}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_old_file_stays_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    write_text(tmp_path / "file", "old")
    with pytest.raises(error), atomic(tmp_path / "file") as temporary:
        temporary.write_text("half")
        raise error
    assert content(tmp_path) == {"file": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_replaces_an_older_one(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert content(tmp_path) == {"folder/new": "new"}
    assert len(list(tmp_path.iterdir())) == 1


def test_the_old_folder_is_deleted_only_after_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rmtree(path: Path) -> None:
        assert (tmp_path / "folder" / "new").exists()
        deleted.append(path)

    deleted: list[Path] = []
    monkeypatch.setattr(files.shutil, "rmtree", rmtree)
    for text in ("old", "new"):
        with atomic(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [[file.name for file in path.iterdir()] for path in deleted] == [["old"]]


def test_the_old_folder_stays_when_the_block_raises(tmp_path: Path) -> None:
    write_text(tmp_path / "folder" / "file", "old")
    with pytest.raises(RuntimeError), atomic(tmp_path / "folder") as temporary:
        write_text(temporary / "deep" / "file", "half")
        raise RuntimeError
    assert content(tmp_path) == {"folder/file": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_no_space_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(self: Path, text: str, **how: str) -> int:
        self.write_bytes(text.encode()[: len(text) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    write_json(tmp_path / "file.json", {"old": "ü"})
    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        write_json(tmp_path / "file.json", {"new": 1})
    assert content(tmp_path) == {"file.json": '{\n  "old": "ü"\n}\n'}


def test_tensors_round_trip(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).view(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16, requires_grad=True)}
    write_tensors(tmp_path / "file", tensors)
    (tmp_path / "other").write_text("")
    # once, only the owner could read a trained model
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode
    read = load_file(tmp_path / "file")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) and read[name].dtype == tensors[name].dtype for name in tensors)


def test_no_space_for_tensors_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors raises its own error for a full disk, which commands showed as a traceback."""

    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_tensors(tmp_path / "file", {})
    assert error.value.errno == errno.ENOSPC
    assert error.value.filename == str(tmp_path / "file")


def test_no_space_names_the_file(tmp_path: Path) -> None:
    """The error of a full disk comes from writing and names no file."""
    with pytest.raises(OSError, match="No space left") as error, atomic(tmp_path / "file"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert error.value.filename == str(tmp_path / "file")
    with pytest.raises(OSError, match="not of the system") as error, atomic(tmp_path / "file"):
        raise OSError("not of the system")
    assert str(error.value) == "not of the system"


def test_the_old_folder_is_put_back_when_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(self: Path, target: Path) -> None:
        if self.suffix == ".tmp":
            raise OSError(errno.EIO, "broken disk")
        self.replace(target)

    write_text(tmp_path / "folder" / "file", "old")
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="broken disk"), atomic(tmp_path / "folder") as temporary:
        temporary.mkdir()
    assert content(tmp_path) == {"folder/file": "old"}


OURS = "tessera-0123456789abcdef"


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """Only ours. Once, `*.tmp` and `*.old` files of other programs were deleted."""
    theirs = {"kept", ".lock", ".theirs.tmp", ".theirs.1234.tmp", ".theirs.1234.old", ".theirs.tessera-12.tmp"}
    for name in theirs:
        write_text(tmp_path / name, "")
    write_text(tmp_path / f".model.{OURS}.tmp" / "half", "")
    write_text(tmp_path / f".model.{OURS}.old" / "file", "")
    write_text(tmp_path / f".config.json.{OURS}.tmp", "")
    write_text(tmp_path / "model" / "file", "")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == theirs | {"model"}
    remove_leftovers(tmp_path / "missing")


def test_a_folder_moved_aside_without_replacement_is_moved_back(tmp_path: Path) -> None:
    """A process killed between the two renames left no folder under the name, and the older one was deleted."""
    write_text(tmp_path / f".model.{OURS}.old" / "file", "old")
    write_text(tmp_path / f".model.{OURS}.tmp" / "file", "new")
    remove_leftovers(tmp_path)
    assert content(tmp_path) == {"model/file": "old"}


@pytest.mark.parametrize("raises", [True, False])
def test_the_next_writer_moves_it_back_too(tmp_path: Path, raises: bool) -> None:
    """Most commands never clean up leftovers. If one then fails to replace the folder, the old one must still be
    there."""
    write_text(tmp_path / f".[model].{OURS}.old" / "file", "old")
    with suppress(ZeroDivisionError), atomic(tmp_path / "[model]") as temporary:
        write_text(temporary / "file", "new")
        if raises:
            raise ZeroDivisionError
    assert content(tmp_path) == {"[model]/file": "old" if raises else "new"}


def test_of_many_writers_at_once_one_wins_completely(tmp_path: Path) -> None:
    """Threads, and containers that share a disk, have the same process number. Their temporary files had the same
    name."""

    def write(number: int) -> None:
        for _ in range(10):
            with atomic(tmp_path / "folder") as temporary:
                for name in ("a", "b", "c"):
                    write_text(temporary / name, str(number))
            write_text(tmp_path / "file", str(number) * 1000)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    found = content(tmp_path)
    assert found.keys() == {"file", "folder/a", "folder/b", "folder/c"}
    assert len({found[f"folder/{name}"] for name in "abc"}) == 1
    assert found["file"] in {str(number) * 1000 for number in range(4)}


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """With a link `outputs/grid.png -> ~/.bashrc`, the user's own file was overwritten."""
    write_text(tmp_path / "mine" / "file", "mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine" / "file")
    write_text(tmp_path / "link", "new")
    (tmp_path / "folder").symlink_to(tmp_path / "mine")
    with atomic(tmp_path / "folder") as temporary:
        write_text(temporary / "file", "new")
    assert content(tmp_path) == {"mine/file": "mine", "link": "new", "folder/file": "new"}
    assert not (tmp_path / "link").is_symlink()
    assert not (tmp_path / "folder").is_symlink()


def test_a_file_keeps_its_mode(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    (tmp_path / "file").chmod(0o640)
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_content_reaches_the_disk_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut, a renamed file existed but was empty."""
    done: list[str] = []

    def note(name: str, real: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: done.append(name) or real(*arguments)

    monkeypatch.setattr(os, "fsync", note("sync", os.fsync))
    monkeypatch.setattr(Path, "replace", note("rename", Path.replace))
    with atomic(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("x")
    assert done == ["sync", "sync", "rename", "sync"]  # file, its folder; then the folder that has the new name


def test_a_folder_is_claimed_once_for_a_purpose(tmp_path: Path) -> None:
    """A trainer accepted any folder as its run folder, and a project lost its own `model/` and `log.jsonl`."""
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty"):
        claim(folder, "a run")
        write_text(folder / "log.jsonl", "mine")
        claim(folder, "a run")
        with pytest.raises(BadInput, match="is a folder for 'a run', not for 'pictures'"):
            claim(folder, "pictures")
        assert content(folder) == {".tessera": "a run\n", "log.jsonl": "mine"}
    write_text(tmp_path / "theirs" / ".git" / "HEAD", "")
    with pytest.raises(BadInput, match="theirs: holds files that Tessera did not write"):
        claim(tmp_path / "theirs", "a run")
    assert content(tmp_path / "theirs") == {".git/HEAD": ""}


def test_only_one_command_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    """Two commands that drew into one folder, or assembled one bundle, left a mixture."""
    for folder in (tmp_path / "new", tmp_path / "old"):
        with locked(folder):
            with pytest.raises(BadInput, match="another command is at work in this folder"), locked(folder):
                pytest.fail("both")
            assert not holds_files(folder)
            write_text(folder / "file", "x")
        with locked(folder):  # the first is done
            assert holds_files(folder)
        assert content(folder) == {"file": "x"}
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "third"):
        raise ZeroDivisionError
    assert not (tmp_path / "third").exists()


def test_lines_are_added(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        with appending(tmp_path / "log") as file:
            file.write(line)
    assert content(tmp_path) == {"log": "one\ntwo\n"}


def test_a_table_replaces_the_previous_one(tmp_path: Path) -> None:
    write_text(tmp_path / "README.md", "a\n<!-- t -->\nold\n<!-- /t -->\nb\n")
    for text in ("new\n", "newer\n"):
        splice(tmp_path / "README.md", "t", text)
        assert (tmp_path / "README.md").read_text() == f"a\n<!-- t -->\n{text}<!-- /t -->\nb\n"


@pytest.mark.parametrize("text", ["<!-- t -->", "x <!-- /t --> y"])
def test_a_table_that_contains_a_marker_is_refused(tmp_path: Path, text: str) -> None:
    """The next table would replace only its first half, so the file would grow."""
    before = "<!-- t -->\n<!-- /t -->\n"
    write_text(tmp_path / "README.md", before)
    with pytest.raises(BadInput, match="the table must not contain"):
        splice(tmp_path / "README.md", "t", text)
    assert (tmp_path / "README.md").read_text() == before


@pytest.mark.parametrize("before", ["", "<!-- t -->", "<!-- /t --> <!-- t -->", "<!-- t --> <!-- t --> <!-- /t -->"])
def test_a_table_needs_each_marker_once(tmp_path: Path, before: str) -> None:
    write_text(tmp_path / "README.md", before)
    with pytest.raises(BadInput, match="must have <!-- t --> once and then <!-- /t --> once"):
        splice(tmp_path / "README.md", "t", "new")
    assert (tmp_path / "README.md").read_text() == before


@pytest.mark.parametrize("name", ["picture.png", "deep/er/picture.png", "./picture.png"])
def test_a_file_inside_is_found(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / "folder" / name, "x")
    assert inside(tmp_path / "folder", name).read_text() == "x"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("/etc/passwd", "a relative path inside the folder"),
        ("../secret", "a relative path inside the folder"),
        ("deep/../../secret", "a relative path inside the folder"),
        ("..\\secret", "a relative path inside the folder"),
        ("", "a relative path inside the folder"),
        ("a\0b", "a relative path inside the folder"),
        ("link", "a link to somewhere outside of it"),
        ("linked/secret", "a link to somewhere outside of it"),
        ("nothing", "but there is none"),
        ("loop", "but there is none"),
        ("x" * 300, "but there is none"),
        ("deep", "not a regular file"),
        ("pipe", "not a regular file"),
    ],
)
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, name: str, why: str) -> None:
    """`compare` put any file that a result named into a page that people publish."""
    write_text(tmp_path / "secret", "x")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    with pytest.raises(BadInput, match=why):
        inside(folder, name)


FORBIDDEN = {"write_text", "write_bytes", "rename", "renames", "rmtree", "unlink", "rmdir", "removedirs", "copytree",
              "copy2", "copyfile", "move", "symlink_to", "hardlink_to", "tofile", "savez"}  # fmt: skip
"""Methods and functions that write, move or delete files."""


def writes(tree: ast.AST) -> Iterator[int]:
    """The lines of a module that write, move or delete a file without `training.files`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        if isinstance(node.func, ast.Attribute):
            owner = ast.unparse(node.func.value)
            if called in FORBIDDEN and owner not in ("temporary"):
                yield node.lineno
            if called == "replace" and len(values) == 1 and owner != "dataclasses":  # of a path: a string's takes two
                yield node.lineno
        modes = [v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)]
        writing = [mode for mode in modes if set(mode) <= set("rwaxbt+") and set(mode) & set("wax+")]
        if called in ("open", "fdopen") and writing:
            yield node.lineno


def test_only_training_files_writes_files() -> None:
    """Other code failed on full disks, with two writers, or followed links. `training.files` handles all of these."""
    root = Path(files.__file__).parents[1]
    rooms = ("data", "diffusion", "evaluation", "sampling", "seq2seq", "tokenizer", "training")
    found = [
        f"{file.relative_to(root)}:{line}"
        for room in rooms
        for file in sorted((root / room).rglob("*.py"))
        if file != Path(files.__file__)
        for line in writes(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not found, found


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("path.write_text('x')", True), ("open(path, 'w')", True), ("path.open('ab')", True),
        ("path.open(mode='r+')", True), ("shutil.rmtree(path)", True), ("path.rename(other)", True),
        ("path.replace(other)", True), ("os.replace(a)", True), ("path.read_text()", False), ("open(path)", False),
        ("path.open('rb')", False), ("text.replace('a', 'b')", False), ("write_text(path, 'x')", False),
        ("copy.copy(model)", False), ("temporary.write_bytes(x)", False),
    ],
)  # fmt: skip
def test_the_check_above_finds_writes(code: str, expected: bool) -> None:
    assert bool([*writes(ast.parse(code))]) == expected
