"""Untrusted text in Markdown."""

import re

import pytest

from training.markdown import fenced, plain, tabulated


@pytest.mark.parametrize(
    "text",
    ["a | b", "a\nb", "<script>", "A <!-- /x --> B", "`code`", "[a](javascript:x)", "![](http://x)", "\\|", "\x1b[2J"],
)
def test_all_markup_is_escaped(text: str) -> None:
    shown = plain(text)
    assert not {*"|<>`[]\\*\n\x1b"} & {*re.sub("</?span>", "", shown)}
    (line,) = tabulated([text], []).splitlines()[:1]
    assert line == f"| {shown} |"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("_a_ and __b__", "&#95;a&#95; and &#95;&#95;b&#95;&#95;"),
        ("~a~ ~~b~~", "&#126;a&#126; &#126;&#126;b&#126;&#126;"),
        ("@someone, a@b.org", "<span>@</span>someone, a<span>@</span>b.org"),
        ("$x$", "<span>$</span>x<span>$</span>"),
        ("HTTPS://x.org http://y ftp://z", "HTTPS<span>:</span>//x.org http<span>:</span>//y ftp<span>:</span>//z"),
        ("www.x.org", "www<span>.</span>x.org"),
    ],
)
def test_what_github_adds_is_escaped(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_plain_words_stay_as_they_are() -> None:
    for text in ("hf://owner/a_b", "10:30, v1.2"):
        assert plain(text) == text
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
