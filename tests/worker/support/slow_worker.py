"""A worker of scorings whose parts take time to read, and whose processes are forks."""

from snf_worker.log_setup import configure_logging
from snf_worker.runtime import supervisor
from snf_worker.runtime.main import run_worker
from snf_worker.settings import load_settings
from tests.support.fork_server import fork_server, forked_attempts
from tests.worker.support import slow_score

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings, "worker")
    vars(supervisor)["helper_command"] = slow_score.helper_command
    with forked_attempts(fork_server()):
        raise SystemExit(run_worker(settings, slow_score.command))
