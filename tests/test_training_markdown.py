"""Untrusted text in Markdown."""

import pytest

from training.markdown import fenced, plain, tabulated


@pytest.mark.parametrize(
    "text",
    ["a | b", "a\nb", "<script>", "A <!-- /x --> B", "`code`", "[a](javascript:x)", "![](http://x)", "\\|", "\x1b[2J"],
)
def test_all_markup_is_escaped(text: str) -> None:
    shown = plain(text)
    assert not {*"|<>`[]\\*\n\x1b"} & {*shown}
    (line,) = tabulated([text], []).splitlines()[:1]
    assert line == f"| {shown} |"


def test_plain_words_stay_as_they_are() -> None:
    for text in ("kid_lite1 ↓", "0.0341 (0.0307 to 0.0372)", "–", "", "一只狐狸", "31%", "a fox 👩‍🚀"):
        assert plain(text) == text
    assert plain("&lt;") == "&amp;lt;"


def test_a_table() -> None:
    assert tabulated(["a", ""], [["1", "2"], ["3", "4"]]) == "| a |  |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"


@pytest.mark.parametrize("text", ["plain", "```\n# out", "a ```` b", "`"])
def test_a_fence_is_longer_than_any_inside(text: str) -> None:
    fence, *inside, end = fenced(text).splitlines()
    assert fence == end
    assert {*fence} == {"`"}
    assert len(fence) >= 3
    assert fence not in text
    assert "\n".join(inside) == text
