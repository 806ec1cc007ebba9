"""What takes long to import, or is not installed by default, is imported where it is needed.

So `import sampling` and `--help` answer at once, and a missing package is one line.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from commands.env import dependencies
from evaluation.harness import require_packages
from training.errors import BadInput, needing

ROOT = Path(__file__).parents[1]
SLOW = {
    "accelerate", "datasets", "diffusers", "huggingface_hub.hf_api", "matplotlib", "pandas", "scipy", "scipy.stats",
    "sympy", "torch._dynamo", "torch.distributed.tensor", "torchmetrics", "torchvision", "transformers",
    "vector_quantize_pytorch",
}  # fmt: skip
ROOMS = ("commands", "data", "diffusion", "evaluation", "sampling", "seq2seq", "tokenizer", "training")
COME_WITH = {"pyarrow": "datasets", "docstring_parser": "jsonargparse"}
"""Packages that others bring along."""
CODE = """
import importlib, sys
from contextlib import suppress

def tell():
    print("imported:", *sys.modules)

import sampling, sampling.pipeline
tell()

from commands import tessera
sys.argv = ["tessera", "generate", "--help"]
with suppress(SystemExit):
    tessera.main()
tell()

for one in tessera.COMMANDS:
    importlib.import_module(one.module.removesuffix(".py").replace("/", "."))
tell()
"""


def test_slow_libraries_are_imported_where_they_are_needed() -> None:
    argv = [sys.executable, "-c", CODE]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    told = [SLOW & {*line.split()} for line in done.stdout.splitlines() if line.startswith("imported:")]
    library, help_of_generate, all_commands = told
    assert library == set()
    assert help_of_generate == set()
    assert all_commands <= {"accelerate", "huggingface_hub.hf_api"}


def imported(node: ast.AST, around: frozenset[str] = frozenset()) -> Iterator[tuple[ast.stmt, str, frozenset[str]]]:
    """Yields each import, its package, and what is around it: a function, conditions, and contexts."""
    if isinstance(node, ast.Import):
        yield from ((node, name.name.partition(".")[0], around) for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node, str(node.module).partition(".")[0], around
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        around |= {"function"}
    elif isinstance(node, ast.If):
        around |= {ast.unparse(node.test)}
    elif isinstance(node, ast.With):
        around |= {ast.unparse(item.context_expr) for item in node.items}
    elif isinstance(node, ast.Try) and any("ImportError" in ast.unparse(one.type or one) for one in node.handlers):
        around |= {"except ImportError"}
    for child in ast.iter_child_nodes(node):
        yield from imported(child, around)


def test_packages_of_extras_are_imported_where_their_absence_is_one_line() -> None:
    """The evaluation commands ended in a traceback where the extra `eval` was not installed."""
    extras = {extra: {name.lower().replace("_", "-") for name in names} for extra, names in dependencies().items()}
    distributions = packages_distributions()
    guarded = set()
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node, package, around in imported(ast.parse(file.read_text())):
            if package in sys.stdlib_module_names or package in ROOMS:
                continue
            brought = COME_WITH.get(package, package)
            known = {name.lower().replace("_", "-") for name in distributions[brought]}
            if known & extras[""]:
                continue
            guards = {f"needing({extra!r})" for extra, names in extras.items() if known & names}
            where = f"{file.relative_to(ROOT)}:{node.lineno}"
            assert guards, f"{where}: {package} is in no extra"
            if "TYPE_CHECKING" not in around:
                assert "function" in around, f"{where}: {package} is imported with the module"
                assert around & {*guards, "except ImportError"}, f"{where}: {package} is imported without {guards}"
                guarded.add(package)
    assert {
        "diffusers",
        "imagehash",
        "jinja2",
        "jsonschema",
        "matplotlib",
        "resvg_py",
        "scipy",
        "torchmetrics",
    } <= guarded


def test_a_missing_package_of_an_extra_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    told = r'^the package scipy is not installed: run pip install -e "\.\[eval\]" in the folder of this clone$'
    with pytest.raises(BadInput, match=told), needing("eval"):
        from scipy import ndimage  # noqa: F401
    with pytest.raises(BadInput, match=told):  # found before anything is drawn
        require_packages()
