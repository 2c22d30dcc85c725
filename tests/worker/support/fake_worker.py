"""The real worker with the stand-in trainer."""

from tests.worker.support.helpers import stand_in_command
from worker.log_setup import configure_logging
from worker.runtime.main import run_worker
from worker.settings import load_settings

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings, "worker")
    raise SystemExit(run_worker(settings, stand_in_command))
