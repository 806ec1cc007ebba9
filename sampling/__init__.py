"""Drawing pictures from text: `from sampling import load; load(path).generate(["a noto emoji of a fox"])`."""

from sampling.options import DiffusionOptions, SamplingOptions
from sampling.pipeline import Bundle, Start, load

__all__ = ["Bundle", "DiffusionOptions", "SamplingOptions", "Start", "load"]
