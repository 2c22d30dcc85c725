"""Distribution of the test files over the processes of pytest-xdist."""

import re
from functools import cache

from xdist.scheduler import LoadFileScheduling

from tests.support.paths import ROOT

END_TO_END = "tests/end_to_end/"
RAY = "ray_cluster"


class OneHouseEach(LoadFileScheduling):
    """A file at a time to each process, but all files that share an installation to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        if RAY in _text(file):
            return RAY
        return END_TO_END if file.startswith(END_TO_END) and _shares_house(file) else file


@cache
def _text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@cache
def _shares_house(file: str) -> bool:
    return re.search(r"\bhouse: httpx\.Client\b", _text(file)) is not None and "def house(" not in _text(file)
