"""Stored results that must not change but on purpose, as JSON files that read well in a diff."""

import json
import os
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest


def is_writing(config: pytest.Config) -> bool:
    """Return whether stored results are written anew: with ``--write-docs``, or ``SNF_WRITE_TABLES`` set."""
    return bool(config.getoption("--write-docs") or os.environ.get("SNF_WRITE_TABLES"))


def check_stored(path: Path, value: dict[str, Any], config: pytest.Config) -> None:
    """Check that a JSON file holds a value, or write it there."""
    if is_writing(config):
        path.write_text(dumps(value) + "\n", encoding="utf-8")
    else:
        before, now = (dumps(side).splitlines() for side in (json.loads(path.read_text(encoding="utf-8")), value))
        changes = unified_diff(before, now, path.name, "now", lineterm="")
        assert before == now, "\n".join([*changes, f"Is it intended? Then write {path} with --write-docs."])


def dumps(value: object, width: int = 110, indent: int = 0) -> str:
    """Return JSON with sorted keys; lists of plain values, and all that fits a line, are on one line."""
    line = json.dumps(value, sort_keys=True, ensure_ascii=False)
    plain = not isinstance(value, dict | list) or not any(isinstance(inner, dict | list) for inner in value)
    if len(line) + indent <= width or (plain and not isinstance(value, dict)):
        return line
    blank = "\n" + " " * (indent + 1)
    if isinstance(value, dict):
        inner = [f"{json.dumps(key)}: {dumps(value[key], width, indent + 1)}" for key in sorted(value)]
    else:
        inner = [dumps(item, width, indent + 1) for item in value]
    start, end = ("{", "}") if isinstance(value, dict) else ("[", "]")
    return f"{start}{blank}{f',{blank}'.join(inner)}\n{' ' * indent}{end}"
