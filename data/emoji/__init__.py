"""The built-in corpus: emoji with captions, in up to ten styles.

    python -m data.emoji --size 64

`emojis()` lists the pictures of the three original styles with their names, families, categories, splits and captions.
`find(key)` is the emoji with that key. `prompt(name, style)` is the caption to ask a model for one.
"""

from data.emoji.names import prompt
from data.emoji.styles import ORIGINALS, SOURCE, STYLES, credits
from data.emoji.table import Emoji, emojis, find

__all__ = ["ORIGINALS", "SOURCE", "STYLES", "Emoji", "credits", "emojis", "find", "prompt"]
