"""Everything that `snf up` starts, with a worker whose attempts are forked: `python -m tests.support.forking_house`."""

from worker.launch.launcher import supervise
from worker.settings import load_settings

if __name__ == "__main__":
    raise SystemExit(supervise(load_settings(), worker="tests.support.forking_worker"))
