"""Suites of scenes, which `evaluation.checker` judges. Their categories are the tasks of GenEval.

Splits are made by combinations, and a single thing is none. So only `scenes/train-sample` has the task `single`.
"""

from pathlib import Path

from data.scenes.corpus import ScenesCorpus
from data.scenes.phrases import prompt
from data.scenes.scene import EIGHTHS
from evaluation.checker import expected
from evaluation.suites.prompts import Prompt, Suite

SOURCE = "scenes:10000"
_MOST = 500


def scenes(name: str, split: str, cache: Path) -> Suite:
    """The first 500 scenes of a split that are as high as wide."""
    corpus = ScenesCorpus(SOURCE, cache)
    prompts = [
        Prompt(text=prompt(one), category=one.kind, key=key, attribute="scene", expected=expected(one))
        for one, key in zip(corpus.scenes, corpus.keys, strict=True)
        if one.split == split and one.eighths == EIGHTHS
    ]
    return Suite(name=name, source=SOURCE, prompts=prompts[:_MOST])


def low_scenes(name: str, split: str, cache: Path) -> Suite:
    """The first 500 scenes of a split that are lower than wide. Pictures should end at the row that a prompt names."""
    corpus = ScenesCorpus(SOURCE, cache)
    prompts = [
        Prompt(text=prompt(one), category=f"{EIGHTHS}:{one.eighths}", key=key, attribute="height",
               expected=str(one.eighths))
        for one, key in zip(corpus.scenes, corpus.keys, strict=True)
        if one.split == split and one.eighths < EIGHTHS
    ]  # fmt: skip
    return Suite(name=name, source=SOURCE, prompts=prompts[:_MOST])
