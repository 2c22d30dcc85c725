"""A job store whose answers are lost on the way."""

from typing import Any

from snf_worker.broker.connection import redis_client
from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import Job, Status
from snf_worker.jobs.store import _LEAVE, JobStore
from snf_worker.settings import Settings


class LosesAnswers(JobStore):
    """A job store whose next answers are lost on the way, by method."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(redis_client(settings), settings.key_prefix)
        self.lose: dict[str, int] = {}

    def _lost(self, method: str) -> None:
        if self.lose.get(method, 0):
            self.lose[method] -= 1
            raise BrokerDown(f"the answer to {method} is lost")

    def take(self, *args: Any, **more: Any) -> tuple[str, int] | None:
        found = super().take(*args, **more)
        self._lost("take")
        return found

    def get(self, job_id: str) -> Job:
        found = super().get(job_id)
        self._lost("get")
        return found

    def _run(self, script: str, subject: str, *args: Any) -> Any:
        answer = super()._run(script, subject, *args)
        if script == _LEAVE:
            self._lost("leave")
        return answer

    def put_back(self, *args: Any, **more: Any) -> Status:
        self._lost("put_back")
        return super().put_back(*args, **more)
