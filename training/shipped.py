"""The trained bundle that is taken where none is given."""

import os
from pathlib import Path

from training.errors import BadInput

VARIABLE = "TESSERA_BUNDLE"
"""Of the environment: that bundle, a folder or `hf://owner/name`."""

_IN_CLONE = Path(__file__).resolve().parents[1] / "checkpoints" / "emoji"
"""A package has no weights."""


def shipped() -> str:
    """The bundle that `TESSERA_BUNDLE` names, or else the one that lies in this clone; empty where there is none."""
    return os.environ.get(VARIABLE) or (str(_IN_CLONE) if _IN_CLONE.is_dir() else "")


def shipped_part(name: str) -> str:
    """The folder of its part `text` or `tokenizer`; empty where that is not on this machine."""
    folder = Path(shipped()) / name
    return str(folder) if shipped() and folder.is_dir() else ""


def require_given(bundle: str | Path) -> None:
    """Raises `BadInput` for what `shipped` returns where there is no bundle."""
    if not str(bundle):
        raise BadInput(
            f"there is no bundle to take: give --model FOLDER or --model hf://owner/name, or set {VARIABLE} to one; "
            "in a clone of Tessera there is one, in checkpoints/emoji"
        )
