"""The real worker with the fake trainer."""

from snf_worker.log_setup import configure_logging
from snf_worker.runtime.main import run_worker
from snf_worker.settings import load_settings
from tests.worker.support.helpers import fake_command

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings, "worker")
    raise SystemExit(run_worker(settings, fake_command))
