"""The Celery application: it carries job ids, nothing else; the job store is the truth."""

from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from celery.signals import setup_logging  # type: ignore[import-untyped]
from kombu.connection import Connection

from worker.broker.connection import celery_url
from worker.queues import Queue
from worker.settings import Settings

TASK = "worker.run_job"
ASSIST = "worker.assist"
# Kombu emulates priorities on Redis with one list a step; 0 is served first.
FIRST, IN_ORDER = 0, 6
_STEPS = [FIRST, IN_ORDER]
_PRIORITY_SEPARATOR = "\x06\x16"


def make_celery(settings: Settings) -> Celery:
    """Return a Celery application for these settings; makes no connection.

    A message is gone from the broker as soon as a worker has it. Leases and the reconciler bring back what that loses.
    An acknowledgement that has to reach the broker later could fail in an outage, and Kombu would wait for it for ever.
    """
    app = Celery("snf", set_as_current=False)
    transport = {
        "ack_emulation": False,
        "global_keyprefix": _prefix(settings),
        "priority_steps": _STEPS,
        # Priorities come first all the same; between queues of one worker nobody starves.
        "queue_order_strategy": "round_robin",
        "sep": _PRIORITY_SEPARATOR,
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
        "retry_on_timeout": True,
    }
    app.conf.update(
        broker_url=celery_url(settings),
        broker_transport_options=transport,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_pool_acquire_timeout=settings.broker_timeout_s,
        task_publish_retry_policy={
            "max_retries": 2,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
        },
        task_ignore_result=True,
        task_acks_late=False,
        task_queues={name.value: {"exchange": name.value, "routing_key": name.value} for name in Queue},
        task_default_queue=Queue.TRAIN_CPU.value,
        task_default_priority=IN_ORDER,
        task_create_missing_queues=False,
        # Only the tasks in hand count, at most one; unacknowledged messages are not counted as well.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=0,
        worker_pool="worker.runtime.tasks:WakingThreads",
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # A job must not be cut off because the broker restarts; its lease decides who may go on.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_proc_alive_timeout=30,
    )
    app.amqp.Connection = PromptConnection
    setup_logging.connect(_keep_our_logging)
    return app


class PromptConnection(Connection):
    """A connection that is made again within seconds after an outage of any length."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Retry as Kombu does, with pauses of 1 to 3 s instead of 2 to 30 s."""
        pauses = {"interval_start": 1, "interval_step": 1, "interval_max": 3}
        return super().ensure_connection(*args, **pauses | options)  # type: ignore[no-untyped-call]


def queue_keys(settings: Settings, queue: Queue) -> list[str]:
    """Return the Redis lists that hold the messages of a queue: first in line, then in order."""
    prefix = _prefix(settings)
    return [f"{prefix}{queue}{_PRIORITY_SEPARATOR}{step}" if step else f"{prefix}{queue}" for step in _STEPS]


def _prefix(settings: Settings) -> str:
    return f"{settings.key_prefix}celery:"


def _keep_our_logging(**_: object) -> None:
    """Celery leaves logging alone as long as this signal has a receiver."""
