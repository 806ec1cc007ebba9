"""Each group is seen once an epoch, whatever its size."""

from pathlib import Path

import numpy as np
import torch

from data.emoji import SOURCE
from data.emoji.corpus import EmojiCorpus
from training.group_sampler import GroupSampler


def test_the_examples_of_a_group_share_its_place() -> None:
    sampler = GroupSampler(np.array([0, 1, 1, 2, 1, 1]))
    assert len(sampler) == 3
    assert [sampler.example(1, where) for where in (0.0, 0.3, 0.6, 0.999)] == [1, 2, 4, 5]
    assert [sampler.example(2, where) for where in (0.0, 0.999)] == [3, 3]
    wheres = torch.rand(4000, generator=torch.Generator().manual_seed(0)).tolist()
    counts = torch.bincount(torch.tensor([sampler.example(1, where) for where in wheres]), minlength=6)
    assert counts[[1, 2, 4, 5]].min() > 900


def test_skin_tones_are_one_group_and_styles_are_not(tmp_path: Path) -> None:
    corpus = EmojiCorpus(SOURCE, tmp_path)
    groups = {key: corpus.group(i) for i, key in enumerate(corpus.keys)}
    assert groups["1f44b/noto"] == groups["1f44b-1f3fd/noto"] != groups["1f44b/twemoji"]
    assert groups["1f98a/noto"] not in {group for key, group in groups.items() if key != "1f98a/noto"}
    assert len(set(groups.values())) < 0.55 * len(groups)
