"""The results as Markdown and PNG files, and the tables and pictures of ``docs/reproduction.md``, without training."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.paper import tables
from benchmarks.paper.provenance import exported, machines
from snf_models.disk import make_folder, write_atomically

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reproduction.md"
LIKELIHOODS = ("dense", "convolutional", "glow")
LARGE = ("cifar10", "imagenet32")

Lines = Callable[[Path], list[str]]

BLOCKS: dict[str, Lines] = {
    "table1": lambda results: tables.likelihoods(results, LIKELIHOODS, "python -m benchmarks.paper table1"),
    "table1-gaps": lambda results: tables.gaps(results, LIKELIHOODS),
    "table1-code": tables.code_curves,
    "table2": lambda results: tables.likelihoods(results, LARGE, "python -m benchmarks.paper table2"),
    "table2-gaps": lambda results: tables.gaps(results, LARGE),
    "table3": tables.times,
    "table3-times": tables.milliseconds,
    "figure2": tables.inverses,
    "figure3": tables.final_angles,
    "figure4": tables.growth,
    "projection": lambda results: tables.gradients(results, "projection", "python -m benchmarks.paper projection"),
    "multiplier": lambda results: tables.gradients(results, "multiplier", "python -m benchmarks.paper multiplier"),
    "images": lambda _results: tables.images(),
    "machines": machines,
    "exported": exported,
}
"""The blocks of the page, between the marks ``<!-- NAME -->`` and ``<!-- end -->``."""
FILES = {
    "table1": ("table1", "table1-gaps", "table1-code"),
    "table2": ("table2", "table2-gaps"),
    "table3": ("table3", "table3-times"),
    "figure2": ("figure2",),
    "figure3": ("figure3",),
    "figure4": ("figure4",),
    "projection": ("projection",),
    "multiplier": ("multiplier",),
}
"""Markdown files beside the JSON, with the blocks in them."""
PICTURES = {
    "figure2": "Samples of three models by the exact inverse, and by the learned inverse below them.",
    "figure3": "Mean angle between gradient and exact gradient by epoch.",
    "figure4": "Time of a training step against dimensions.",
    "figure5": "Validation likelihood against minutes and against epochs, for both recipes.",
    "projection": "Learning curves by the choice of the inverse kernel.",
    "multiplier": "Learning curves by the rule of the multipliers.",
}


def block(name: str, results: Path) -> list[str]:
    """Return the lines of a block, or a sentence that it was not measured, and by what it is."""
    try:
        return BLOCKS[name](results)
    except tables.Missing as missing:
        return [f"Not measured yet: `{missing}`."]


def picture(name: str, results: Path) -> list[str]:
    """Return the lines of a picture, with its path from the folder of the documents."""
    path = results / f"{name}.png"
    if not path.is_file():
        return ["Not drawn yet."]
    return [f"![{PICTURES[name]}](../{path.relative_to(ROOT).as_posix()})"]


def write_files(results: Path) -> None:
    """Write the Markdown files beside the JSON."""
    make_folder(results)
    for name, blocks in FILES.items():
        parts = ["\n".join(block(one, results)) for one in blocks]
        text = f"# {name}\n\n`python -m benchmarks.paper {name}`\n\n" + "\n\n".join(parts) + "\n"
        write_atomically(results / f"{name}.md", text.encode())


def text_of(page: str, results: Path) -> str:
    """Return the page with each block between its marks replaced.

    Args:
        page: Text of the page.
        results: Folder of the results, within the repository.

    Raises:
        ValueError: The page has no marks for a block.
    """
    wanted = {name: block(name, results) for name in BLOCKS}
    wanted |= {f"picture {name}": picture(name, results) for name in PICTURES}
    for name, lines in wanted.items():
        marked = re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", page, re.DOTALL)
        if marked is None:
            raise ValueError(f"{PAGE.name} has no marks for {name!r}")
        page = page[: marked.start()] + "\n" + "\n".join(lines) + "\n\n" + page[marked.end() :]
    return page


def write(results: Path) -> None:
    """Write the Markdown files and the page."""
    write_files(results)
    write_atomically(PAGE, text_of(PAGE.read_text(encoding="utf-8"), results).encode())
