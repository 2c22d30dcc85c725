"""Everything that `snf up` starts, whose processes are forked: `python -m tests.support.forking_house`."""

from tests.support.fork_server import fork_server, forked_by
from worker.launch.launcher import supervise
from worker.settings import load_settings

if __name__ == "__main__":
    with forked_by(fork_server(), "worker.launch.child_process"):
        raise SystemExit(supervise(load_settings(), worker="tests.support.forking_worker"))
