"""The package ``snf_client``: it loads no module of the server, and programs that use it are type-checked."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from mypy import api

from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("unmeasured_processes")


def test_importing_the_client_loads_no_module_of_the_server() -> None:
    code = """
        import sys, snf_client.client
        server = ("snf_app", "snf_worker", "snf_models", "torch", "fastapi", "celery", "redis", "sklearn", "typer")
        print([name for name in server if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_the_schemas_load_neither_httpx_nor_numpy() -> None:
    code = """
        import importlib, pathlib, sys, snf_client.schemas
        for path in pathlib.Path(snf_client.schemas.__file__).parent.glob("*.py"):
            importlib.import_module(f"snf_client.schemas.{path.stem}")
        print([name for name in ("httpx", "numpy", "PIL") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


PROGRAM = """
import asyncio
from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

from snf_client import AsyncClient, Client, Event, heat_map_array
from snf_client.schemas.jobs import JobView
from snf_client.schemas.models import ModelDetail, ModelPage
from snf_client.schemas.scores import Scores


def use(client: Client) -> list[float]:
    assert_type(client.models.list(), ModelPage)
    assert_type(client.models.get("first"), ModelDetail)
    job = client.jobs.train("digits", "first", parameters={"max_steps": 3})
    assert_type(job, JobView)
    for event in client.jobs.events(job.id):
        assert_type(event, Event)
    scores = client.score("first", [Path("a.png"), "b.png", b"...", Image.new("L", (28, 28))], fdr=True)
    scores = client.score("first", np.zeros((3, 28, 28), np.uint8))
    assert_type(scores, Scores)
    for one in scores.results:
        if one.status == "ok" and one.heat_map is not None:
            print(heat_map_array(one.heat_map).shape)
    return [one.log_likelihood for one in scores.results if one.status == "ok"]


async def use_async(client: AsyncClient) -> None:
    assert_type(await client.models.get("first"), ModelDetail)
    assert_type((await client.samples.draw("first", 3)).seed, int)
    async for event in client.jobs.events("x"):
        assert_type(event, Event)
    async with asyncio.TaskGroup() as group:
        group.create_task(client.readiness())


def wrong(client: Client, other: AsyncClient) -> None:
    client.models.get(3)
    client.score("first", "a.png", alhpa=0.1)
    client.jobs.list(status="nope")
    client.score("first", [1, 2])
    other.readiness().status
"""
WRONG = 5


def test_programs_are_checked_strictly(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    first = PROGRAM[: PROGRAM.index("def wrong")].count("\n") + 1
    options = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", os.devnull]
    found, problems, _ = api.run([*options, str(program)])
    assert not problems
    lines = [int(line.split(":")[1]) for line in found.splitlines() if "program.py:" in line and ": error:" in line]
    assert len(set(lines)) == WRONG, found
    assert min(lines) > first, found
