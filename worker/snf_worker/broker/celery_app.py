"""The Celery application, whose messages wake a worker for a queue. The job store decides which job it takes."""

from typing import Any

import redis
from celery import Celery  # type: ignore[import-untyped]
from celery.signals import setup_logging  # type: ignore[import-untyped]
from kombu.connection import Connection
from kombu.exceptions import OperationalError

from snf_worker.broker.connection import celery_url
from snf_worker.errors import BrokerDown
from snf_worker.jobs.record import Queue
from snf_worker.settings import Settings

TASK = "worker.run_job"


def make_celery(settings: Settings) -> Celery:
    """Return a Celery application for the broker URL and the job queues; it connects on first use."""
    app = Celery("snf", set_as_current=False)
    transport = {
        "ack_emulation": False,
        "global_keyprefix": _prefix(settings),
        # None of a worker's queues starves.
        "queue_order_strategy": "round_robin",
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


def wake(celery: Celery, queue: Queue) -> None:
    """Ask a worker to take the first job of a queue; raise ``BrokerDown``."""
    try:
        celery.send_task(TASK, queue=queue.value, ignore_result=True)
    except (OperationalError, redis.RedisError, OSError) as error:
        raise BrokerDown(f"the broker takes no messages: {error}") from error


def queue_key(settings: Settings, queue: Queue) -> str:
    """Return the key of the Redis list with the messages of a queue."""
    return f"{_prefix(settings)}{queue}"


def _prefix(settings: Settings) -> str:
    return f"{settings.key_prefix}celery:"


def _keep_our_logging(**_: object) -> None:
    """Keep Celery from configuring logging, which it does unless this signal has a receiver."""
