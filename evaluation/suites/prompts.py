"""`Prompt` and `Suite`."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from data.splits import fraction


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt, and what its pictures are compared with."""

    text: str
    """The text that the model is given."""
    category: str = ""
    """Metrics are also computed for each category."""
    challenge: str = ""
    """The second label of PartiPrompts. Metrics are also computed for each challenge."""
    key: str = ""
    """Key of the real picture, in the suite's source, that this prompt is the caption of."""
    concept: str = ""
    """What the picture should show. In retrieval, all gallery pictures of this concept are right answers."""
    style: str = ""
    """The style that the picture should have."""
    attribute: str = ""
    """What `evaluation.measure` measures: `colour`, `skin tone`, `direction`, `count`, `height` or `scene`."""
    expected: str = ""
    """The right result of that measurement."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Prompts in a fixed order."""

    name: str
    prompts: Sequence[Prompt]
    source: str = ""
    """Source of the real pictures; `""` if there are none."""

    @property
    def hash(self) -> str:
        """A hash of all fields of the prompts. It does not depend on the name or the source of the suite."""
        lines = [repr(sorted(asdict(prompt).items())) for prompt in self.prompts]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def first(self, count: int | None) -> "Suite":
        """`count` prompts chosen by a fixed hash, in the suite's order; all for None or a larger count."""
        if count is None or count >= len(self.prompts):
            return self
        order = sorted(range(len(self.prompts)), key=lambda i: fraction(f"{i} {self.prompts[i].text}"))
        return replace(self, prompts=[self.prompts[i] for i in sorted(order[:count])])
