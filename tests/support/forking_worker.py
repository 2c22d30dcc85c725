"""The worker, whose attempts are forked: `python -m tests.support.forking_worker`."""

from snf_worker.runtime.main import main
from tests.support.fork_server import fork_server, forked_attempts

if __name__ == "__main__":
    with forked_attempts(fork_server()):
        raise SystemExit(main())
