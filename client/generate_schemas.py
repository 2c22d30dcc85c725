# ruff: noqa: PLC0415 - the service is imported by the command, not by whoever imports this file
"""Generate ``snf_client/schemas.py`` from the OpenAPI document of the service.

Run ``make client-schemas`` after a change of the service's requests or responses. The classes are written by
``datamodel-code-generator`` and formatted by ruff, so that the same document always gives the same text.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = Path(__file__).parent / "snf_client" / "schemas.py"
PREFIX = "#/components/schemas/"
ERRORS = frozenset({"ProblemDetails", "FieldProblem"})
"""Schemas of error responses, which ``snf_client.errors`` turns into exceptions."""
DROPPED = frozenset({"title", "examples", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
"""Keywords that the client has no use for: the service checks values, and an older client must not refuse new ones."""
OPTIONS = (
    *("--input-file-type", "openapi", "--output-model-type", "pydantic_v2.BaseModel"),
    *("--target-python-version", "3.11", "--output-datetime-class", "datetime", "--enum-field-as-literal", "all"),
    *("--use-schema-description", "--use-single-line-docstring", "--use-double-quotes"),
    *("--use-tuple-for-fixed-items", "--collapse-root-models", "--enable-faux-immutability", "--disable-timestamp"),
    *("--strict-nullable", "--no-formatters", "--disable-warnings"),
)
HEADER = '''"""Requests and responses of the service as pydantic models.

Generated from the service's OpenAPI document by ``make client-schemas``; do not edit. Unknown fields of a response are
ignored, so that a newer service works with an older client.
"""
'''


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of the service in this source tree."""
    sys.path.insert(0, str(ROOT))
    from app.main import create_app
    from worker.settings import Settings

    return create_app(Settings()).openapi()


def generate(document: dict[str, Any]) -> str:
    """Return the text of ``schemas.py`` for an OpenAPI document."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "openapi.json"), Path(folder, "schemas.py")
        source.write_text(json.dumps(_prepared(document)))
        _run("datamodel_code_generator", *OPTIONS, "--input", str(source), "--output", str(target))
        text = target.read_text()
    text = HEADER + text[text.index("\nfrom __future__") :]
    name = ("--stdin-filename", str(TARGET))
    text = _run("ruff", "check", "--fix", "--select", "I,UP,D212", "--quiet", *name, "-", stdin=text)
    return _run("ruff", "format", "--config", "format.skip-magic-trailing-comma = true", *name, "-", stdin=text)


def _prepared(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with what a client needs: no titles or examples, no errors, and open responses."""
    schemas = {name: one for name, one in document["components"]["schemas"].items() if name not in ERRORS}
    responses = _reachable(schemas, _references([_responses(call) for call in _calls(document)]))
    kept = {}
    for name, schema in sorted(schemas.items()):
        if "properties" not in schema:  # the values of a query parameter
            continue
        kept[name] = _plain(schema)
        if name in responses and kept[name].get("additionalProperties") is False:
            del kept[name]["additionalProperties"]
    return {"openapi": document["openapi"], "info": document["info"], "paths": {}, "components": {"schemas": kept}}


def _calls(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in document["paths"].values():
        yield from path.values()


def _responses(call: dict[str, Any]) -> list[Any]:
    return [response for status, response in call["responses"].items() if status.startswith("2")]


def _references(node: Any) -> Iterator[str]:
    """Yield the names of the schemas that a part of the document refers to."""
    if isinstance(node, dict):
        reference = node.get("$ref", "")
        if isinstance(reference, str) and reference.startswith(PREFIX):
            yield reference.removeprefix(PREFIX)
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _references(child)


def _reachable(schemas: dict[str, Any], names: Iterable[str]) -> set[str]:
    """Return the schemas that are used, directly or by others, where those of ``names`` are used."""
    seen: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in schemas and name not in seen:
            seen.add(name)
            pending += _references(schemas[name])
    return seen


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without what a client has no use for, in itself and in its properties."""
    plain = {key: value for key, value in schema.items() if key not in DROPPED}
    if "properties" in plain:
        plain["properties"] = {name: _plain(child) for name, child in plain["properties"].items()}
    if "anyOf" in plain:
        plain["anyOf"] = [_plain(option) for option in plain["anyOf"]]
    return plain


def _run(module: str, *arguments: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    TARGET.write_text(generate(openapi_document()))
