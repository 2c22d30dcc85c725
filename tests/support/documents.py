"""What tests read in documents, and the tables that they write there, so that the documents cannot become untrue."""

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "client" / "README.md",
    ROOT / "runtime" / "README.md",
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end -->)", re.DOTALL)


def check_table(document: Path, table: str, config: pytest.Config) -> None:
    """Check that a document has this Markdown table between its marks."""
    written = document.read_text(encoding="utf-8")
    wanted = TABLE.sub(lambda _match: table, written)
    assert TABLE.search(written), f"{document} has no marks for a table"
    if config.getoption("--write-docs") or os.environ.get("SNF_WRITE_TABLES"):
        document.write_text(wanted, encoding="utf-8")
    else:
        assert written == wanted


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    page: str
    line: int
    language: str
    text: str

    def commands(self) -> list[str]:
        """Return the commands of a block of shell lines, each on one line and without its comment."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.shlex(line, posix=False, punctuation_chars=False) for line in lines]
        for line in words:
            line.whitespace_split = True
        return [" ".join(line) for line in map(list, words) if line]


def page_name(page: Path) -> str:
    """Return the path of a document in this checkout."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page_name(page), text.count("\n", 0, found.start()) + 2, found[1], found[2])
        for found in FENCE.finditer(text)
    ]


def spans(page: Path) -> list[str]:
    """Return what stands between single backticks in a document, outside of its fenced blocks."""
    return SPAN.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
