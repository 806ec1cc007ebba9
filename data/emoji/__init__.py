"""The built-in corpus of emoji: draws it once, and says what is in it.

    python -m data.emoji --size 64

`emojis()` lists the pictures of the three original hands with their names, styles, families, categories, splits and
captions; `find(key)` is the one behind a key; `prompt(name, style)` is how to ask a model for one.
"""

from data.emoji.names import prompt
from data.emoji.styles import ORIGINALS, SOURCE, STYLES, credits
from data.emoji.table import Emoji, emojis, find

__all__ = ["ORIGINALS", "SOURCE", "STYLES", "Emoji", "credits", "emojis", "find", "prompt"]
