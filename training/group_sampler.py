"""Group-balanced sampling: every group of examples is seen equally often, whatever its size."""

import numpy as np
from numpy.typing import NDArray


class GroupSampler:
    """Examples by group. An epoch visits each group once and takes one of its examples.

    Half of the built-in corpus is skin tones. Sampled evenly, they would take up half of the training, and a concept
    with one picture a style would hardly be seen.
    """

    def __init__(self, groups: NDArray[np.int64]) -> None:
        """`groups` (N,): the number of each example's group. Groups are visited in the order of their numbers."""
        self._order = np.argsort(groups, kind="stable")
        _, first = np.unique(groups[self._order], return_index=True)
        self._begins = np.append(first, len(groups))

    def __len__(self) -> int:
        """The number of groups."""
        return len(self._begins) - 1

    def example(self, group: int, where: float) -> int:
        """The index of one example of group number `group`; `where`, random in [0, 1), chooses among them."""
        begin, end = self._begins[group], self._begins[group + 1]
        return int(self._order[begin + int(where * (end - begin))])
