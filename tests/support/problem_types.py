"""All types of problems that the code can answer, read in its source, so that the documents can list each of them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from snf_app.http.errors import KINDS, STATUSES
from snf_models.datasets.uploads import TITLES
from snf_models.errors import ErrorKind
from tests.support.paths import ROOT

STANDARD = {
    "not-found": (404, "Not Found"),
    "method-not-allowed": (405, "Method Not Allowed"),
    "content-too-large": (413, "Content Too Large"),
    "too-many-connections": (503, "Too many connections"),
}
"""Problems that are raised by their status alone."""


@dataclass(frozen=True, order=True)
class ProblemType:
    """Status, type and titles of a problem; 500 for an error of a job."""

    status: int
    slug: str
    title: str


def problem_types() -> list[ProblemType]:
    """Return all types of problems of our packages but the client, by status and type."""
    given = {slug: (STATUSES[ErrorKind.INVALID], title) for slug, title in TITLES.items()}
    titles = {
        (status, slug): {title: None} for table in (STANDARD, KINDS, given) for slug, (status, title) in table.items()
    }
    for folder in ("app", "worker", "models", "runtime/snf_runtime"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for problem in _in_file(path):
                titles.setdefault((problem.status, problem.slug), {})[problem.title] = None
    return sorted(ProblemType(status, slug, "; ".join(every)) for (status, slug), every in titles.items())


def _in_file(path: Path) -> Iterator[ProblemType]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            yield from _of_class(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from _of_call(node.func.id, [_constant(argument) for argument in node.args])
        elif isinstance(node, ast.Dict):
            members = {_constant(key): _constant(value) for key, value in zip(node.keys, node.values, strict=True)}
            slug, title = members.get("type"), members.get("title")
            if isinstance(slug, str) and isinstance(title, str) and "detail" in members:
                yield ProblemType(500, slug, title)


def _of_class(node: ast.ClassDef) -> Iterator[ProblemType]:
    values = {
        target.id: statement.value
        for statement in node.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    } | {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
    slug, title = _constant(values.get("slug")), _constant(values.get("title"))
    if isinstance(slug, str) and isinstance(title, str):
        kind = values.get("kind")
        name = kind.id if isinstance(kind, ast.Name) else kind.attr if isinstance(kind, ast.Attribute) else "FAILED"
        yield ProblemType(STATUSES[ErrorKind[name]], slug, title)


def _of_call(name: str, given: list[object]) -> Iterator[ProblemType]:
    match name, given:
        case (("ImageError" | "DatasetRefused"), [str(slug), str(title), *_]):
            yield ProblemType(422, slug, title)
        case "_error", [str(slug), str(title), *_]:
            yield ProblemType(500, slug, title)


def _constant(node: ast.expr | None) -> object:
    return node.value if isinstance(node, ast.Constant) else None
