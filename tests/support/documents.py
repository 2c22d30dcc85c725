"""Tables in documents that tests make of what they saw, so that the documents cannot become untrue."""

import os
import re
from pathlib import Path

import pytest

TABLE = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end -->)", re.DOTALL)


def check_table(document: Path, table: str, config: pytest.Config) -> None:
    """Check that a document has this Markdown table between its marks.

    With ``--write-docs``, or ``SNF_WRITE_TABLES`` set, write it there.
    """
    written = document.read_text(encoding="utf-8")
    wanted = TABLE.sub(lambda _match: table, written)
    assert TABLE.search(written), f"{document} has no marks for a table"
    if config.getoption("--write-docs") or os.environ.get("SNF_WRITE_TABLES"):
        document.write_text(wanted, encoding="utf-8")
    else:
        assert written == wanted
