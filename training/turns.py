"""Balance: variants of one thing share a turn."""

import numpy as np
from numpy.typing import NDArray


class Turns:
    """Examples by group. In an epoch each group has one turn, whatever its size, and one of its examples is taken.

    Of the built-in corpus half is skin tones: drawn evenly, they would take up half of the training, and a thing that
    is there once a style would hardly be seen.
    """

    def __init__(self, groups: NDArray[np.int64]) -> None:
        """`groups`: the number of each example's group, (N,); turns are in the order of the numbers."""
        self._order = np.argsort(groups, kind="stable")
        _, first = np.unique(groups[self._order], return_index=True)
        self._begins = np.append(first, len(groups))

    def __len__(self) -> int:
        return len(self._begins) - 1

    def example(self, turn: int, where: float) -> int:
        """The example that a turn goes to; `where`, at random from 0 to below 1, chooses among the group's."""
        begin, end = self._begins[turn], self._begins[turn + 1]
        return int(self._order[begin + int(where * (end - begin))])
