"""The looks in which the console is tested: light on a desk and dark on a telephone."""

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


# Colours do not depend on the width: two looks have all that four would.
LOOKS = [Look("light", 1280), Look("dark", 390)]

# For a test that takes `page`.
in_every_look = pytest.mark.parametrize("look", LOOKS, ids=str)
