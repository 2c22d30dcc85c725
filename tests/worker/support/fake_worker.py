"""The real worker with the fake trainer."""

from tests.worker.support.helpers import fake_command
from worker.log_setup import configure_logging
from worker.runtime.main import run_worker
from worker.settings import load_settings

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings, "worker")
    raise SystemExit(run_worker(settings, fake_command))
