"""One name for the commands: `tessera generate ...` is `python -m sampling.generate ...`.

Only the chosen module is imported, so `tessera --help` answers at once.
"""

import difflib
import importlib
import sys
from typing import NamedTuple, get_type_hints

from training.cli import command, for_people
from training.errors import BadInput


class Command(NamedTuple):
    """A line of `tessera --help`."""

    name: str
    module: str
    """Its module, which has `main(options)`; for a trainer its file."""
    line: str
    """What the command does."""


COMMANDS = (
    Command("emoji", "data.emoji.__main__", "prepare the built-in corpus"),
    Command("inspect", "data.inspect", "report what is in a source of captioned pictures"),
    Command("prepare", "data.prepare", "clean captioned pictures: remove copies and unusable ones"),
    Command("train-text", "tokenizer.train_text", "train the text tokenizer on captions"),
    Command("", "tokenizer/train.py", "train the image tokenizer"),
    Command("convert", "tokenizer.convert", "import the image tokenizer of another code base"),
    Command("", "tokenizer/train_upsampler.py", "train the upsampler, which enlarges drawn pictures"),
    Command("reconstruct", "evaluation.reconstruct", "measure an image tokenizer's reconstructions"),
    Command("encode", "tokenizer.encode", "encode pictures into codes or latents"),
    Command("", "seq2seq/train.py", "train the token model"),
    Command("", "diffusion/train.py", "train the diffusion model"),
    Command("curves", "evaluation.curves", "plot the training losses of a bundle's models"),
    Command("average", "sampling.average", "average a run's weights after several of its steps"),
    Command("bundle", "sampling.bundle", "assemble trained models into a bundle"),
    Command("generate", "sampling.generate", "draw pictures from text"),
    Command("bench", "sampling.bench", "time the sampler"),
    Command("evaluate", "evaluation.run", "draw a suite of prompts and score the pictures"),
    Command("score", "evaluation.score", "score pictures from any source"),
    Command("compare", "evaluation.compare", "compare results in one report"),
    Command("copies", "evaluation.copies", "find the training picture nearest to each drawn one"),
    Command("sheet", "evaluation.sheet", "make sheets of pictures for people to name, and mark them"),
    Command("ablation", "evaluation.ablation", "compare training recipes at equal compute"),
    Command("env", "commands.env", "print versions and machine, to paste into a bug report"),
)
"""The commands, in the order in which data flows. Those without a name are started by `accelerate launch`. Tools of
developers are not among them: benchmarks of single parts, and the trainer of the checker."""


def main() -> None:
    """Prints the overview, or runs the command that the first word names, with the words after it."""
    name, *rest = sys.argv[1:] or ["--help"]
    with for_people():
        if name in ("-h", "--help", "help"):
            print(overview())
            return
        start = importlib.import_module(named(name).module).main
    sys.argv = [f"tessera {name}", *rest]
    options = next(iter(get_type_hints(start).values()))
    command(start, options, prog=sys.argv[0])


def named(name: str) -> Command:
    """The command of this name. Raises `BadInput`, with the nearest name, if there is none."""
    names = {one.name: one for one in COMMANDS if one.name}
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=1)
    raise BadInput(f"there is no command {name!r}; " + (f"did you mean {near[0]!r}?" if near else "see tessera --help"))


def overview() -> str:
    """The text of `tessera --help`: the commands, a line each."""
    typed = [f"tessera {one.name}" if one.name else f"accelerate launch {one.module}" for one in COMMANDS]
    width = max(map(len, typed)) + 2
    lines = [f"  {said:{width}}{one.line}" for said, one in zip(typed, COMMANDS, strict=True)]
    return "\n".join([
        "usage: tessera COMMAND [options]", "",
        "Text to images, by image tokens. Commands in the order in which data flows:", "", *lines, "",
        "tessera COMMAND --help explains every option. Outside of a clone, start a trainer by its module, as in",
        "`accelerate launch -m seq2seq.train`. Without options it trains the preset emoji. Benchmarks of single",
        "parts are modules too, as in `python -m tokenizer.bench`.",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
