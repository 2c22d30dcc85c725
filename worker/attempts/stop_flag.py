import os
import signal
import threading
import time
from types import FrameType

from worker.runtime.lifeline import watch
from worker.runtime.process import ExitCode, StopReason


class StopFlag:
    """Flag that asks the process of a job to stop, set by a signal, a message of the parent, or its death."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = StopReason.PREEMPT

    def install(self, grace_s: float) -> None:
        """Install the handlers. If the supervisor is gone, the process is killed after ``grace_s`` seconds."""

        def on_signal(_signum: int, _frame: FrameType | None) -> None:
            self.ask()

        def on_message(message: bytes) -> None:
            self.reason = StopReason(message.decode())
            self._event.set()

        def on_orphaned() -> None:
            self._event.set()
            time.sleep(grace_s)
            # A hung process would hold the lock of the folder for ever.
            os.killpg(0, signal.SIGKILL)

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        watch(on_message, on_orphaned)

    def ask(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    @property
    def exit_code(self) -> ExitCode:
        """Exit code after a request to stop: 76 if the job was cancelled, 75 if a later attempt continues the job."""
        return ExitCode.CANCELLED if self.reason is StopReason.CANCEL else ExitCode.PREEMPTED
