"""Progress bars of commands."""

import pytest

from snf_app.cli.output import images_bar


def test_images_that_are_scored_again_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # draws the bar
    with images_bar("scoring", 10) as advance:
        advance(5)
        advance(-5)
        advance(0)
        advance(10)
