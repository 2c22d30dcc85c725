"""The worker, whose attempts are forked: `python -m tests.support.forking_worker`."""

from tests.support.fork_server import ForkServer, forked_attempts
from worker.runtime.main import main

if __name__ == "__main__":
    with forked_attempts(ForkServer()):
        raise SystemExit(main())
