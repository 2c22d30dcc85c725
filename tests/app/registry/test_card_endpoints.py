"""Markdown of others: tables and text come through, nothing that could be loaded or run does."""

import pytest

from snf_app.registry.endpoints import render_markdown


def test_a_card_in_html() -> None:
    text = "# Card\n\n| a | b |\n|---|---|\n| 1 | `x < y` |\n\n![64 samples](samples.png)\n\n- *one*\n"
    assert render_markdown(text) == (
        "<h1>Card</h1>\n<table>\n<thead>\n<tr>\n<th>a</th>\n<th>b</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n<td>1</td>\n"
        "<td><code>x &lt; y</code></td>\n</tr>\n</tbody>\n</table>\n<ul>\n<li><em>one</em></li>\n</ul>\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "<iframe src='//x'></iframe>",
        "![x](http://elsewhere/pixel.png) beside words",
        "![x](javascript:alert(1))",
        "[x](javascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        '[x](http://a "\\"onmouseover=alert(1)")',
        "| <script> | b |\n|---|---|\n| <svg onload=x> | c |",
        '``` "><script>\nx\n```',
    ],
)
def test_nothing_in_it_is_loaded_or_run(text: str) -> None:
    html = render_markdown(text)
    for tag in ("<script", "<img", "<iframe", "<svg"):
        assert tag not in html
    for link in ('href="javascript', 'href="data', 'href="vbscript', '"onmouseover'):
        assert link not in html.lower()


def test_words_beside_an_image_stay() -> None:
    assert render_markdown("before ![x](y.png) after") == "<p>before  after</p>\n"
    assert render_markdown("![x](y.png)") == ""
    assert render_markdown("") == ""
