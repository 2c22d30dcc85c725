"""The paper's tables and figures, measured again: ``SNF_DATA_DIR=... python -m benchmarks.paper COMMAND``.

- table1: test likelihoods on MNIST of dense, convolutional and Glow rows
- table2: bits per dimension of Glow on CIFAR-10
- table3: paired ratios of the times of training steps and samples
- figure3: angles between gradients and exact gradients over the trainings of table1
- figure4: time of a training step against dimensions
- figure5: likelihood against time and epochs, the curves of table1 by both recipes
- projection: the inverse kernel as the projection of the exact inverse, beyond the paper
- multiplier: fixed, GECO and MDMM multipliers, two-layer inverses, and the constraint on Jacobian-vector products
- page: Markdown and pictures from stored results, without training

Trainings go on from their checkpoints in ``--work`` when a command is run again.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.common import cores, machine, parser_of, write_results
from benchmarks.needs import data_dir, end
from benchmarks.paper import growth, page, pictures, step_times, store
from benchmarks.paper.plan import PlanDiffers
from benchmarks.paper.recipes import RECIPES, Recipe
from benchmarks.paper.rows import GROUPS
from benchmarks.paper.run import Stopped
from benchmarks.paper.turns import Options, train_group
from snf_models.errors import FolderTaken

WORK = Path.home() / ".cache" / "snf-density" / "paper"


PICTURES = ("figure3", "figure4", "figure5", "projection", "multiplier")


class Trained(NamedTuple):
    """A command that trains rows, ``group/row``, by recipes where it has no ``--recipe``."""

    rows: tuple[str, ...]
    recipes: tuple[Recipe, ...]
    dataset: str = "mnist"


TRAINED = {
    "table1": Trained(("dense/*", "convolutional/*", "glow/*"), RECIPES),
    "table2": Trained(("cifar10/*",), ("published",), "cifar10"),
    "figure3": Trained(("dense/snf", "convolutional/snf"), ("published",)),
    "figure5": Trained(("dense/*", "convolutional/*"), RECIPES),
    "projection": Trained(("projection/*",), ("converged",)),
    "multiplier": Trained(("multiplier/*",), ("converged",)),
}


def main() -> int:
    """Run a command; 1 where it was stopped and goes on when it is run again."""
    parser = parser_of("paper", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in (*TRAINED, "table3", "figure4", "page"):
        add_options(commands.add_parser(name), name)
    arguments = parser.parse_args()
    if arguments.command != "page":
        torch.set_num_threads(arguments.threads)
        try:
            (train if arguments.command in TRAINED else measure)(arguments)
        except Stopped as stopped:
            print(f"{stopped}; run the command again to continue")
            return 1
        except (PlanDiffers, FolderTaken) as refused:
            end(str(refused))
    draw(arguments.results)
    return 0


def add_options(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--results", type=Path, default=store.RESULTS, help="folder of JSON, Markdown and PNG")
    if name == "page":
        return
    command.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    command.add_argument("--threads", type=int, default=cores(), help="on the CPU (default: %(default)s)")
    if name in TRAINED:
        command.add_argument("--budget", type=float, default=40.0, help="minutes a row (default: %(default)g)")
        command.add_argument("--steps", type=int, help="steps of every row, in place of a budget")
        command.add_argument("--seeds", type=int, nargs="+", default=[0])
        command.add_argument("--recipe", choices=RECIPES, help="one recipe alone")
        command.add_argument("--rows", nargs="+", default=["*"], metavar="GROUP/ROW", help="such as 'dense/*'")
        command.add_argument("--test-images", type=int, help="most test images, in place of the group's")
        command.add_argument("--work", type=Path, default=WORK, help="folder of checkpoints (default: %(default)s)")
    else:
        command.add_argument("--rounds", type=int, default=9, help="paired rounds (default: %(default)s)")
        if name == "table3":
            names = [group.name for group in step_times.GROUPS]
            command.add_argument("--groups", nargs="+", default=names, choices=names)


def train(arguments: argparse.Namespace) -> None:
    """Train the rows of a command by its recipes."""
    command = TRAINED[arguments.command]
    data_dir(command.dataset)
    recipes: tuple[Recipe, ...] = command.recipes if arguments.recipe is None else (arguments.recipe,)
    for name, group in GROUPS.items():
        rows = tuple(
            row.name
            for row in group.rows
            if all(
                any(fnmatch(f"{name}/{row.name}", one) for one in patterns)
                for patterns in (command.rows, arguments.rows)
            )
        )
        options = Options(
            arguments.work,
            arguments.results,
            None if arguments.steps is not None else arguments.budget,
            arguments.steps,
            tuple(arguments.seeds),
            arguments.device,
            arguments.threads,
            rows,
            arguments.test_images,
        )
        for recipe in recipes if rows else ():
            train_group(group, recipe, options)


def measure(arguments: argparse.Namespace) -> None:
    described = {"machine": machine(arguments.threads), "device": arguments.device}
    found: dict[str, Any]
    if arguments.command == "figure4":
        found = growth.measure(arguments.rounds, arguments.device)
    else:
        data_dir("mnist", *(["cifar10"] if "cifar10" in arguments.groups else []))
        known = store.read(arguments.results, "table3") or {"groups": {}}
        chosen = tuple(group for group in step_times.GROUPS if group.name in arguments.groups)
        found = {"groups": known["groups"] | step_times.measure(arguments.rounds, arguments.device, chosen)}
    write_results(arguments.results, arguments.command, described | found)


def draw(results: Path) -> None:
    """Write pictures and tables from stored results."""
    names = [name for name in PICTURES if pictures.draw(results, name)]
    page.write(results)
    print(f"wrote {', '.join(f'{name}.png' for name in names) or 'no picture'} and the tables in {results}")


if __name__ == "__main__":
    raise SystemExit(main())
