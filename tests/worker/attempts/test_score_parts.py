"""The output of a scoring job: who may name it, and who may read what is written there."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from snf_models.bulk.plan import BulkPlan
from snf_models.errors import LocationRefused
from snf_models.locations.location import Location
from snf_worker.attempts.run_attempt import StopFlag
from snf_worker.attempts.score import assist, open_parts
from snf_worker.jobs.record import ExitCode, Job
from snf_worker.process_setup import USER_UMASK
from snf_worker.settings import Settings
from tests.support.fork_server import fork_server
from tests.support.paths import IMPORT_PATH, ROOT
from tests.worker.support.helpers import new_job

PLAN = BulkPlan(model="m:1", weights_sha256="", dataset="d", source_digest="", alpha=0.05, count=1)


def spec_of(output: Path) -> Job:
    parameters = {"output": Location.parse(str(output)).url}
    return new_job(type="score", model="m:1", dataset="d", parameters=parameters)


def test_a_link_that_was_made_after_the_check_leads_nowhere(tmp_path: Path) -> None:
    """Or the settings have changed before a retry."""
    (allowed := tmp_path / "allowed").mkdir()
    (tmp_path / "outside").mkdir()
    settings = Settings(home=tmp_path / "home", allowed_locations=(Location.parse(str(allowed)).url,))
    spec = spec_of(allowed / "scores")
    open_parts(tmp_path, spec, settings, PLAN)
    (allowed / "scores").rename(tmp_path / "earlier")
    (allowed / "scores").symlink_to(tmp_path / "outside")
    with pytest.raises(LocationRefused, match=r"scores may not be named over HTTP"):
        open_parts(tmp_path, spec, settings, PLAN)
    (tmp_path / "job.json").write_text(spec.model_dump_json())
    assert assist(tmp_path, settings, StopFlag()) == ExitCode.REFUSED
    assert not list((tmp_path / "outside").iterdir())


SERVICE = """
import os, sys
from pathlib import Path
from tests.support.fork_server import fork_server
from tests.support.paths import ROOT
from snf_worker.process_setup import protect_home
os.umask(0o027)
protect_home(Path(sys.argv[1]) / "home")
command = [sys.executable, "-m", "tests.worker.support.given_program", sys.argv[2], sys.argv[1]]
raise SystemExit(fork_server().popen(command, stdout=sys.stdout.buffer, env=os.environ, cwd=ROOT).wait())
"""
ATTEMPT = """
import sys
from pathlib import Path
from snf_models.bulk.tables import table_of
from tests.worker.attempts.test_score_parts import PLAN, spec_of
from snf_worker.attempts.run_attempt import StopFlag
from snf_worker.attempts.score import assist, open_parts
from snf_worker.process_setup import user_umask
from snf_worker.settings import Settings
base = Path(sys.argv[1])
settings = Settings(home=base / "home", allowed_locations=(base.as_uri(),))
parts = open_parts(base, spec_of(base / "lots" / "scores"), settings, PLAN)
parts.write(0, table_of([{"path": "a.png", "is_anomaly": False}]))
with user_umask():
    parts.finish()
"""


def test_other_users_may_read_scores_where_the_umask_of_the_service_allows_it(tmp_path: Path) -> None:
    """As with the workers, a process that keeps its files private starts the attempt. Both are forks."""
    variables = {name: value for name, value in os.environ.items() if name != USER_UMASK} | {"PYTHONPATH": IMPORT_PATH}
    command = [sys.executable, "-m", "tests.worker.support.given_program", SERVICE, str(tmp_path), ATTEMPT]
    with (tmp_path / "said").open("wb") as output:
        service = fork_server().popen(command, stdout=output, env=variables, cwd=ROOT)
    assert service.wait(60) == 0, (tmp_path / "said").read_text()
    scores = tmp_path / "lots" / "scores"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (scores.parent, scores, *scores.iterdir())}
    assert modes == {
        "lots": 0o750,
        "scores": 0o750,
        "_plan.json": 0o640,
        "_summary.json": 0o640,
        "part-000000.parquet": 0o640,
    }
