"""The looks in which the console is tested: light and dark, on a desk and on a telephone."""

from dataclasses import dataclass
from typing import Literal

import pytest

HEIGHT = 900  # CSS pixels


@dataclass(frozen=True)
class Look:
    """A colour scheme and a window's width in CSS pixels."""

    scheme: Literal["light", "dark"] = "light"
    width: int = 1280

    def __str__(self) -> str:
        return f"{self.scheme}-{self.width}"


LOOKS = [Look(scheme, width) for scheme in ("light", "dark") for width in (1280, 390)]

# For a test that takes `page`.
in_every_look = pytest.mark.parametrize("look", LOOKS, ids=str)
