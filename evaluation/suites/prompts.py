"""What a suite of prompts is."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from data.splits import fraction


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt, and what its picture can be held against."""

    text: str
    """What the model is asked for."""
    category: str = ""
    """Figures are also given for each category."""
    challenge: str = ""
    """PartiPrompts' second label."""
    key: str = ""
    """The real picture that this prompt is the caption of, in the suite's source."""
    concept: str = ""
    """What the picture should show; prompts of one concept are answered by the same pictures."""
    style: str = ""
    """The hand it should be drawn in."""
    attribute: str = ""
    """What `evaluation.measure` should measure: `colour`, `skin tone`, `direction` or `count`."""
    expected: str = ""
    """What that measurement should give."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Prompts in a fixed order."""

    name: str
    prompts: Sequence[Prompt]
    source: str = ""
    """Where the real pictures are, `""` where there are none."""

    @property
    def hash(self) -> str:
        """Of its prompts, wherever they lie: two suites of one hash ask the same and expect the same."""
        lines = [repr(sorted(asdict(prompt).items())) for prompt in self.prompts]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def first(self, count: int | None) -> "Suite":
        """`count` prompts chosen by a fixed hash, in the suite's order; all of them for None or a larger count."""
        if count is None or count >= len(self.prompts):
            return self
        order = sorted(range(len(self.prompts)), key=lambda i: fraction(f"{i} {self.prompts[i].text}"))
        return replace(self, prompts=[self.prompts[i] for i in sorted(order[:count])])
