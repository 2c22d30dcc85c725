"""A worker that receives no messages: for good, or until it has reconnected, as the command line says."""

import sys

from kombu.transport.virtual import QoS

from snf_worker.log_setup import configure_logging
from snf_worker.runtime import main
from snf_worker.runtime.main import run_worker
from snf_worker.settings import load_settings
from tests.worker.support.helpers import fake_command

if __name__ == "__main__":
    for_good = sys.argv[1] == "for-good"
    first: list[QoS] = []

    def can_consume(self: QoS) -> bool:
        first[:] = first or [self]
        return not for_good and self is not first[0]

    QoS.can_consume = can_consume
    main._RECONNECTING_S = 2.5
    settings = load_settings()
    configure_logging(settings, "worker")
    raise SystemExit(run_worker(settings, fake_command))
