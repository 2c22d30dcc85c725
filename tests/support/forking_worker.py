"""The worker, whose attempts are forked: `python -m tests.support.forking_worker`."""

from tests.support.fork_server import fork_server, forked_attempts
from worker.runtime.main import main

if __name__ == "__main__":
    with forked_attempts(fork_server()):
        raise SystemExit(main())
