"""The trained bundle that commands use if none is given."""

import os
from pathlib import Path

from training.errors import BadInput

VARIABLE = "TESSERA_BUNDLE"
"""Environment variable with that bundle: a folder or `hf://owner/name`."""

_IN_CLONE = Path(__file__).resolve().parents[1] / "checkpoints" / "emoji"
"""Does not exist in an installed package."""


def shipped() -> str:
    """The bundle that `TESSERA_BUNDLE` names, or else the one in this clone; empty if there is neither."""
    return os.environ.get(VARIABLE) or (str(_IN_CLONE) if _IN_CLONE.is_dir() else "")


def shipped_part(name: str) -> str:
    """The folder of that bundle's `text` or `tokenizer`; empty if it is not on this machine."""
    folder = Path(shipped()) / name
    return str(folder) if shipped() and folder.is_dir() else ""


def require_given(bundle: str | Path) -> None:
    """Raises `BadInput` if `bundle` is empty, as `shipped` returns it if there is no bundle."""
    if not str(bundle):
        raise BadInput(
            f"no bundle is given: give --model FOLDER or --model hf://owner/name, or set {VARIABLE} to one; "
            "a clone of Tessera has one in checkpoints/emoji"
        )
