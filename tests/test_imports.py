"""What takes long to import is imported where it is needed: `import sampling` and `--help` answer at once."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SLOW = {
    "accelerate", "datasets", "diffusers", "matplotlib", "pandas", "scipy", "scipy.stats", "sympy", "torch._dynamo",
    "torch.distributed.tensor", "torchmetrics", "torchvision", "transformers", "vector_quantize_pytorch",
}  # fmt: skip
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
    assert all_commands <= {"accelerate", "scipy"}
