# ruff: noqa: PLC0415 - the service is imported by the command, not by whoever imports this file
"""Generate ``schemas.py`` and ``parameters.py`` of the client from the OpenAPI document of the service.

Run ``make client-schemas`` after a change of the service's requests or responses. The classes are written by
``datamodel-code-generator`` and formatted by ruff, so that the same document always gives the same text.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = Path(__file__).parent / "snf_client" / "schemas.py"
PARAMETERS = TARGET.with_name("parameters.py")
PREFIX = "#/components/schemas/"
ERRORS = frozenset({"ProblemDetails", "FieldProblem"})
"""Schemas of error responses, which ``snf_client.errors`` turns into exceptions."""
FOREIGN = "/v2"
"""Path below which the service has calls for clients of another protocol."""
REQUESTS = ("JobRequest", "JobDraft")
"""Requests with the parameters of a job, which are dictionaries: the service names what is wrong with them."""
TYPES = ("type", "enum", "anyOf", "items", "description")
"""Keywords of parameters that the client has a use for."""
DROPPED = frozenset(
    {
        "title",
        "examples",
        "allOf",
        "pattern",
        "minLength",
        "maxLength",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
    }
)
"""Keywords that the client has no use for: the service checks values, and an older client must not refuse new ones."""
OPTIONS = (
    *("--input-file-type", "openapi", "--target-python-version", "3.11", "--enum-field-as-literal", "all"),
    *("--use-schema-description", "--use-single-line-docstring", "--use-double-quotes", "--disable-timestamp"),
    *("--strict-nullable", "--no-formatters", "--disable-warnings"),
)
MODELS = (
    *("--output-model-type", "pydantic_v2.BaseModel", "--output-datetime-class", "datetime"),
    *("--use-tuple-for-fixed-items", "--collapse-root-models", "--enable-faux-immutability"),
)
DICTIONARIES = ("--output-model-type", "typing.TypedDict", "--use-field-description")
HEADER = '''"""Requests and responses of the service as pydantic models.

Generated from the service's OpenAPI document by ``make client-schemas``; do not edit. Unknown fields of a response are
ignored, so that a newer service works with an older client.
"""
'''


PARAMETERS_HEADER = '''"""Parameters of each type of job, as types of dictionaries. All are optional.

Generated from the service's OpenAPI document by ``make client-schemas``; do not edit.
"""
'''


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of the service in this source tree."""
    sys.path.insert(0, str(ROOT))
    from snf_app.main import create_app
    from snf_worker.settings import Settings

    return create_app(Settings()).openapi()


def generate(document: dict[str, Any]) -> str:
    """Generate the client's request and response models from an OpenAPI document, as text of ``schemas.py``."""
    return _written(_prepared(document), MODELS, HEADER, TARGET)


def generate_parameters(document: dict[str, Any]) -> str:
    """Return the source of the client's ``parameters.py``, generated from the service's OpenAPI document.

    It has a typed dictionary for the parameters of each type of job.
    """
    schemas = document["components"]["schemas"]
    kept = {name: _values(schemas[name]) for name in sorted(_parameters(document))}
    return _written(_only(document, kept), DICTIONARIES, PARAMETERS_HEADER, PARAMETERS)


def _written(document: dict[str, Any], options: Sequence[str], header: str, path: Path) -> str:
    """Return the text of the file ``path`` with a class for each schema of a document."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "openapi.json"), Path(folder, "schemas.py")
        source.write_text(json.dumps(document))
        _run("datamodel_code_generator", *OPTIONS, *options, "--input", str(source), "--output", str(target))
        text = target.read_text()
    text = header + text[text.index("\nfrom __future__") :]
    name = ("--stdin-filename", str(path))
    text = _run("ruff", "check", "--fix", "--select", "I,UP,D212", "--quiet", *name, "-", stdin=text)
    return _run("ruff", "format", "--config", "format.skip-magic-trailing-comma = true", *name, "-", stdin=text)


def _prepared(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document with what a client needs: no titles or examples, no errors, and open responses."""
    described = document["components"]["schemas"]
    paths = document["paths"]
    own, foreign = (
        _reachable(
            described, _references([calls for path, calls in paths.items() if path.startswith(FOREIGN) is other])
        )
        for other in (False, True)
    )
    left_out = ERRORS | (foreign - own)
    schemas = {name: one for name, one in described.items() if name not in left_out}
    responses = _reachable(schemas, _references([_responses(call) for call in _calls(document)]))
    parameters = _parameters(document)
    kept = {}
    for name, schema in sorted(schemas.items()):
        # The values of a query parameter, and what is in the other file.
        if "properties" not in schema or name in parameters:
            continue
        kept[name] = _plain(schema)
        if name in REQUESTS:
            parts = kept[name]["properties"]
            parts["parameters"] = {"type": "object", "description": parts["parameters"]["description"], "default": {}}
        if name in responses and kept[name].get("additionalProperties") is False:
            del kept[name]["additionalProperties"]
    return _only(document, kept)


def _only(document: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    return {"openapi": document["openapi"], "info": document["info"], "paths": {}, "components": {"schemas": schemas}}


def _parameters(document: dict[str, Any]) -> set[str]:
    """Return the names of the schemas of the parameters of jobs."""
    return set(_references(document["components"]["schemas"][REQUESTS[0]]["properties"]["parameters"]))


def _values(schema: Any) -> Any:
    """Return a schema of parameters with the types of the values alone, whose limits the service checks."""
    if isinstance(schema, list):
        return [_values(option) for option in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: schema[key] for key in TYPES if key in schema}
    if "prefixItems" in schema:  # JSON has no tuples
        kept["items"] = schema["prefixItems"][0]
    plain = {key: _values(value) for key, value in kept.items()}
    if "properties" in schema:
        plain["properties"] = {name: _values(child) for name, child in schema["properties"].items()}
    return plain


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
    described = openapi_document()
    TARGET.write_text(generate(described))
    PARAMETERS.write_text(generate_parameters(described))
