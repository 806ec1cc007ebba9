"""One name for all commands: `tessera generate ...` is `python -m sampling.generate ...`.

Only what was chosen is imported, so that `tessera --help` answers at once.
"""

import difflib
import importlib
import sys
from typing import NamedTuple, get_type_hints

from training.cli import command, for_people
from training.errors import BadInput


class Command(NamedTuple):
    """A line of the map."""

    name: str
    module: str
    """Has `main(options)`."""
    line: str
    """What it does."""


COMMANDS = (
    Command("emoji", "data.emoji.__main__", "prepare the built-in corpus"),
    Command("inspect", "data.inspect", "say what is in a source of captioned pictures"),
    Command("prepare", "data.prepare", "clean captioned pictures: copies, damage, captions"),
    Command("train-text", "tokenizer.train_text", "train the text tokenizer on captions"),
    Command("", "tokenizer/train.py", "train the image tokenizer"),
    Command("reconstruct", "evaluation.reconstruct", "measure what an image tokenizer loses"),
    Command("encode", "tokenizer.encode", "turn pictures into codes once"),
    Command("", "seq2seq/train.py", "train the token model"),
    Command("", "diffusion/train.py", "train the diffusion model"),
    Command("curves", "evaluation.curves", "plot how each backend of a bundle learned"),
    Command("bundle", "sampling.bundle", "put trained parts together"),
    Command("generate", "sampling.generate", "draw pictures from text"),
    Command("bench", "sampling.bench", "time the sampler"),
    Command("evaluate", "evaluation.run", "draw a suite of prompts and score the pictures"),
    Command("score", "evaluation.score", "score pictures that anything made"),
    Command("compare", "evaluation.compare", "put results side by side"),
    Command("copies", "evaluation.copies", "find the training picture nearest to each that was drawn"),
    Command("sheet", "evaluation.sheet", "make sheets on which people name what they see"),
    Command("env", "commands.env", "say what a report of a problem should say of this machine"),
)
"""In the order in which data flows; those without a name are started by `accelerate launch`."""


def main() -> None:
    """Shows the map, or runs the command that the first word names with the words after it."""
    name, *rest = sys.argv[1:] or ["--help"]
    with for_people():
        if name in ("-h", "--help", "help"):
            print(overview())
            return
        chosen = named(name)
    sys.argv = [f"tessera {name}", *rest]
    start = importlib.import_module(chosen.module).main
    options = next(iter(get_type_hints(start).values()))
    command(start, options, prog=sys.argv[0])


def named(name: str) -> Command:
    """The command of this name. Raises `BadInput` with the nearest one for a name that is none."""
    names = {one.name: one for one in COMMANDS if one.name}
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1)
    raise BadInput(f"there is no command {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see tessera --help"))


def overview() -> str:
    """The map of all commands."""
    typed = [f"tessera {one.name}" if one.name else f"accelerate launch {one.module}" for one in COMMANDS]
    width = max(map(len, typed)) + 2
    lines = [f"  {said:{width}}{one.line}" for said, one in zip(typed, COMMANDS, strict=True)]
    return "\n".join([
        "usage: tessera COMMAND [options]", "",
        "Text in, a mosaic of image tokens out. Commands in the order in which data flows:", "", *lines, "",
        "tessera COMMAND --help explains every option. Outside of a clone a trainer is started by its module, as in",
        "`accelerate launch -m seq2seq.train`. Without options it trains the preset emoji.",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
