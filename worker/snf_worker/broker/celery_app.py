"""The Celery application, which sends job ids to workers. The records in the job store decide the rest."""

from typing import Any

from celery import Celery  # type: ignore[import-untyped]
from celery.signals import setup_logging  # type: ignore[import-untyped]
from kombu.connection import Connection

from snf_worker.broker.connection import celery_url
from snf_worker.jobs.record import Queue
from snf_worker.settings import Settings

TASK = "worker.run_job"
ASSIST = "worker.assist"
# Kombu emulates priorities on Redis with one list for each step; 0 is served first.
FIRST, IN_ORDER = 0, 6
_STEPS = [FIRST, IN_ORDER]
_PRIORITY_SEPARATOR = "\x06\x16"


def make_celery(settings: Settings) -> Celery:
    """Return a Celery application for the broker URL and the job queues; it connects on first use."""
    app = Celery("snf", set_as_current=False)
    transport = {
        "ack_emulation": False,
        "global_keyprefix": _prefix(settings),
        "priority_steps": _STEPS,
        # Applies between queues of equal priority: none of a worker's queues starves.
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
        # Leases and the reconciler replace lost messages: in an outage Kombu would wait for ever to acknowledge late.
        task_acks_late=False,
        task_queues={name.value: {"exchange": name.value, "routing_key": name.value} for name in Queue},
        task_default_queue=Queue.TRAIN_CPU.value,
        task_default_priority=IN_ORDER,
        task_create_missing_queues=False,
        # A worker takes one message at a time.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=0,
        worker_pool="snf_worker.runtime.main:WakingThreads",
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # A job must survive a restart of the broker; its lease decides whether it may go on.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_proc_alive_timeout=30,
    )
    app.amqp.Connection = PromptConnection
    setup_logging.connect(_keep_our_logging)
    return app


class PromptConnection(Connection):
    """Celery connection to the message broker that retries every 1 to 3 s during an outage."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect with pauses of 1 to 3 s between retries, instead of Kombu's 2 to 30 s."""
        pauses = {"interval_start": 1, "interval_step": 1, "interval_max": 3}
        return super().ensure_connection(*args, **pauses | options)  # type: ignore[no-untyped-call]


def queue_keys(settings: Settings, queue: Queue) -> list[str]:
    """Return the keys of a queue's two Redis lists of messages, in the order in which they are served."""
    prefix = _prefix(settings)
    return [f"{prefix}{queue}{_PRIORITY_SEPARATOR}{step}" if step else f"{prefix}{queue}" for step in _STEPS]


def _prefix(settings: Settings) -> str:
    return f"{settings.key_prefix}celery:"


def _keep_our_logging(**_: object) -> None:
    """Keep Celery from configuring logging, which it does unless this signal has a receiver."""
