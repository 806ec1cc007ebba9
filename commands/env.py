"""`tessera env`: describes this machine and installation in one block to paste into a bug report.

The block contains no names of folders, users or hosts.
"""

import platform
import re
import subprocess
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch

from sampling.backend import backend_class
from sampling.decode import engines
from seq2seq.packed import named, packing
from training.cli import command
from training.device import usable_device
from training.errors import install
from training.precision import cpu_abilities, has_bf16
from training.processes import set_up_cpu

_ROOT = Path(__file__).resolve().parents[1]
_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16", "bf16", "sve")
"""CPU features that the time of a step depends on, by torch's names."""


@dataclass(kw_only=True)
class EnvOptions:
    """Prints versions, the machine and the sampler's engine, to paste into a bug report."""


def main(options: EnvOptions) -> None:
    """Prints a line for each pair of `report`."""
    set_up_cpu()  # as the commands do
    for name, value in report():
        print(f"{name:14}{value}")


def report() -> Iterator[tuple[str, str]]:
    """Yields (name, value), in the order in which they are printed."""
    yield "tessera", _tessera()
    yield "Python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "system", platform.platform()
    for extra, names in dependencies().items():
        yield f"[{extra}]" if extra else "packages", _versions(extra, names)
    yield "processor", _processor()
    yield "memory", f"{psutil.virtual_memory().total / 2**30:.1f} GiB"
    yield "accelerators", _accelerators()
    yield "sampler", _sampler(usable_device("auto"))


def dependencies() -> dict[str, list[str]]:
    """The names of the packages of each extra, and under the key "" those that are always needed."""
    project = _ROOT / "pyproject.toml"
    if project.is_file():
        table = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        listed = {"": table["dependencies"], **table["optional-dependencies"]}
        return {extra: [_name(line) for line in lines] for extra, lines in listed.items()}
    found: dict[str, list[str]] = defaultdict(list)
    for line in requires("tessera") or []:
        marker = re.search(r"""extra == ['"]([\w-]+)['"]""", line)
        found[marker[1] if marker else ""].append(_name(line))
    return dict(found)


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0]


def _versions(extra: str, names: list[str]) -> str:
    """Each package with its version, and how to install the missing ones."""
    there, missing = [], []
    for name in names:
        try:
            there.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    lacking = [f"without {', '.join(missing)}" + (f" ({install(extra)})" if extra else "")] if missing else []
    return "; ".join([*([", ".join(there)] if there else []), *lacking])


def _tessera() -> str:
    """Tessera's version; in a clone also the commit, and whether tracked files differ from it."""
    project = _ROOT / "pyproject.toml"
    if not project.is_file():
        return f"{version('tessera')}, installed"
    number = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    commit = _git("rev-parse", "--short", "HEAD")
    changed = " with changes" if commit and _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{number}, from a clone{f', commit {commit}{changed}' if commit else ''}"


def _git(*arguments: str) -> str:
    """The output of git; empty if git is not installed or this is no repository."""
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()


def _processor() -> str:
    found = cpu_abilities()
    name = found.get("cpu_name") or platform.processor() or platform.machine()
    features = [feature for feature in _FEATURES if found.get(feature)]
    return (
        f"{name} ({platform.machine()}), {psutil.cpu_count(logical=False)} cores, {torch.get_num_threads()} threads of "
        f"torch, {torch.backends.cpu.get_cpu_capability()}, features: {', '.join(features) or 'none known'}; "
        f"bf16 {'in hardware' if has_bf16('cpu') else 'emulated'}"
    )


def _accelerators() -> str:
    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(found + (["mps"] if torch.backends.mps.is_available() else [])) or "none"


def _sampler(device: torch.device) -> str:
    """The engine that the token model's sampler uses by default, and why."""
    dtype = backend_class("autoregressive").dtype_on(device.type)
    engine = engines(device, dtype=dtype)[-1]
    dtypes = packing(dtype) if engine == "packed" else {1: dtype}
    why = {
        "packed": "this processor and torch can pack weights",
        "graph": f"{device.type} replays a whole step as one graph",
        "plain": f"{device.type} cannot run a step as one graph, and weights cannot be packed here",
    }
    return f"engine {engine} in {named(dtypes)} on {device.type}: {why[engine]}"


if __name__ == "__main__":
    command(main, EnvOptions)
