"""Suites of prompts: `open_suite("emoji/validation")`, `open_suite("PartiPrompts.tsv")`."""

from evaluation.suites.opening import SUITES, open_suite
from evaluation.suites.prompts import Prompt, Suite

__all__ = ["SUITES", "Prompt", "Suite", "open_suite"]
