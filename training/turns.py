"""Balance: variants of one thing share a turn."""

from collections import defaultdict
from collections.abc import Sequence


class Turns:
    """Examples by group. In an epoch each group has one turn, whatever its size, and one of its examples is taken.

    Of the built-in corpus half is skin tones: drawn evenly, they would take up half of the training, and a thing that
    is there once a style would hardly be seen.
    """

    def __init__(self, groups: Sequence[str]) -> None:
        """`groups`: the group of each example."""
        members: dict[str, list[int]] = defaultdict(list)
        for example, group in enumerate(groups):
            members[group].append(example)
        self._members = list(members.values())

    def __len__(self) -> int:
        return len(self._members)

    def example(self, turn: int, where: float) -> int:
        """The example that a turn goes to; `where`, at random from 0 to below 1, chooses among the group's."""
        members = self._members[turn]
        return members[int(where * len(members))]
