"""The pages for people: whatever they point to is there, and so are the commands and options that they name."""

import re
import tomllib
from pathlib import Path

import pytest

from tests.support.command_parser import find_command, options
from tests.support.documents import PAGES, blocks, page_name, spans
from tests.support.paths import ROOT

OPTIONS = {*options(), "--labels", "--once", "--regions", "--threads"}
"""Options of all commands, of the programs in examples/, and of the runner of exported models."""

TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    links = LINK.findall(page.read_text(encoding="utf-8"))
    for path, anchor in links:
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} points to {path}, which is not there"
        assert not anchor or anchor in anchors(target), f"{page.name} points to #{anchor} of {target.name}"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_options_in_sentences_and_tables_exist(page: Path) -> None:
    for span in spans(page):
        match words := span.replace("'", "").split():
            case ["snf", _, *_] | ["docker", "compose", _, _, "snf", *_]:
                if "COMMAND" in words:
                    continue
                command, rest = find_command(words)
                given = {word.partition("=")[0] for word in rest if word.startswith("-")}
                assert given <= {*options(command), "--install-completion"}, f"{page.name}: {span}"
            case [option, *_] if option.startswith("--"):
                assert option in OPTIONS, f"{page.name}: no command has the option {option}"
            case ["make", target]:
                assert target in TARGETS, f"{page.name}: {span}"
            case ["pip", "install", package]:
                assert package.removeprefix("snf-density[").removesuffix("]") in EXTRAS, f"{page.name}: {span}"
            case ["python", program, *_] if program.endswith(".py"):
                assert (ROOT / program).is_file(), f"{page.name}: {span}"


def test_extras_that_the_makefile_and_messages_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"--extra (\w+)", makefile))
    for extras in re.findall(r"'\.\[([\w,]+)\]'", makefile):
        named.update(extras.split(","))
    for package in ("app", "models", "worker"):
        for source in (ROOT / package).rglob("*.py"):
            named.update(re.findall(r"snf-density\[(\w+)\]", source.read_text(encoding="utf-8")))
    assert {"features", "test", "ray"} <= named <= EXTRAS.keys()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_are_spelled_as_after_activation(page: Path) -> None:
    commands = [line for block in blocks(page) for line in block.text.splitlines()] + spans(page)
    assert [line for line in commands if re.match(r"(\./)?\.venv/bin/", line)] == []
