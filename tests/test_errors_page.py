"""docs/errors.md lists every type of problem that the code can raise.

``pytest tests/test_errors_page.py --write-docs`` writes its table anew.
"""

import httpx
import pytest

from snf_client.errors import problem_of
from tests.support.documents import check_table
from tests.support.paths import ROOT
from tests.support.problem_types import problem_types

PAGE = ROOT / "docs" / "errors.md"


def test_the_page_lists_every_type_of_problem(request: pytest.FixtureRequest) -> None:
    elsewhere = PAGE.read_text(encoding="utf-8").partition("## Errors of jobs")[2]
    rows = ["| status | type | title | the client raises |", "|---:|---|---|---|"]
    for problem in problem_types():
        if f"`{problem.slug}`" not in elsewhere:
            raised = type(problem_of(httpx.Response(problem.status))).__name__
            rows.append(f"| {problem.status} | `{problem.slug}` | {problem.title} | `{raised}` |")
    check_table(PAGE, "\n".join(rows) + "\n", request.config)
