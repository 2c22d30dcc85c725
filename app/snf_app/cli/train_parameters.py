# ruff: noqa: PLC0415 - what the help lists is imported only where it is shown
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from snf_app.cli.common import fail
from snf_app.cli.job_submission import split_pairs
from snf_runtime.errors import USAGE

if TYPE_CHECKING:
    from rich.table import Table

    from snf_models.pipeline.presets import TrainingRecipe
    from snf_models.training.config import TrainingConfig

NAME_COLUMNS = 24


class TrainCommand(TyperCommand):
    """Command whose help lists all training parameters and the defaults that presets change."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        from rich.console import Console
        from rich.panel import Panel

        from snf_models.pipeline.presets import parameter_groups, preset_defaults

        console = Console(highlight=False, markup=False)
        tables = {f"Parameters of --set: {title}": _table() for title in parameter_groups()}
        for table, parameters in zip(tables.values(), parameter_groups().values(), strict=True):
            for parameter in parameters:
                table.add_row(parameter.name, f"{parameter.meaning} [{parameter.values}; default: {parameter.default}]")
        tables["Defaults of presets"] = presets = _table()
        for names, changed in preset_defaults():
            presets.add_row("\n".join(names), ", ".join(f"{name}={value}" for name, value in changed.items()))
        for title, table in tables.items():
            console.print(Panel(table, title=title, title_align="left", border_style="dim"))


def _table() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=NAME_COLUMNS, style="cyan", overflow="fold")
    table.add_column()
    return table


def given_parameters(max_steps: int | None, max_minutes: float | None, pairs: list[str]) -> dict[str, Any]:
    """Return the given training parameters by name; exit with code 2 for a ``--set`` without NAME=VALUE."""
    given = {"max_steps": max_steps, "max_minutes": max_minutes, **split_pairs(pairs, "--set")}
    return {name: value for name, value in given.items() if value is not None}


def read_config(recipe: TrainingRecipe, given: dict[str, Any]) -> TrainingConfig:
    """Return the settings of a recipe with the given changes; exit with code 2 if one is invalid."""
    from pydantic import ValidationError

    from snf_models.pipeline.presets import settings_error

    try:
        return recipe.config(given)
    except ValidationError as error:
        raise fail(f"--set: {settings_error(error, recipe)}", USAGE) from error
