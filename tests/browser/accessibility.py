"""Accessibility of a page as it stands, by axe."""

from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]

RUN = """
options => axe.run(document, options).then(({passes, violations}) => ({passes: passes.length, violations}))
"""


def axe(page: Page) -> None:
    """Raises AssertionError that names each violation of WCAG 2.1 A, AA and of best practice, with its elements."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    answer = page.evaluate(RUN, {"runOnly": RULES, "resultTypes": ["violations"]})
    assert answer["passes"], "axe found nothing to look at"
    assert not answer["violations"], "\n".join(map(_told, answer["violations"]))


def _told(violation: dict[str, Any]) -> str:
    head = f"{violation['id']} ({violation['impact']}): {violation['help']}, {violation['helpUrl']}"
    nodes = (f"  {node['target']} {node['html']}\n    {node['failureSummary']}" for node in violation["nodes"])
    return "\n".join([head, *nodes])
