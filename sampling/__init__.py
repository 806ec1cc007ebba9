"""Drawing pictures from text: `from sampling import load; load(path).generate(["a noto emoji of a fox"])`."""

from sampling.pipeline import Bundle, load
from sampling.options import SamplingOptions

__all__ = ["Bundle", "SamplingOptions", "load"]
