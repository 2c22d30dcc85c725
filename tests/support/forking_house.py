"""Everything that `snf up` starts, whose processes are forked: `python -m tests.support.forking_house`."""

from snf_worker.runtime.launcher import supervise
from snf_worker.settings import load_settings
from tests.support.fork_server import fork_server, forked_by

if __name__ == "__main__":
    with forked_by(fork_server(), "snf_worker.process_setup"):
        raise SystemExit(supervise(load_settings(), worker="tests.support.forking_worker"))
