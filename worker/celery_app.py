"""The Celery application: it carries job ids, nothing else; the job store is the truth."""

from celery import Celery  # type: ignore[import-untyped]
from celery.signals import setup_logging  # type: ignore[import-untyped]

from worker.broker import celery_url
from worker.jobs import Queue
from worker.settings import Settings

TASK = "worker.run_job"
ASSIST = "worker.assist"
# Kombu emulates priorities on Redis with one list a step; 0 is served first.
FIRST, IN_ORDER = 0, 6
_STEPS = [FIRST, IN_ORDER]
_PRIORITY_SEPARATOR = "\x06\x16"
# Kombu never renews the visibility of a running task, so it must outlast any job; recovery after a crash
# comes from the lease of the job store, not from here.
_VISIBILITY_S = 7 * 24 * 3600


def make_celery(settings: Settings) -> Celery:
    """A Celery application for these settings; makes no connection."""
    app = Celery("snf", set_as_current=False)
    transport = {
        "visibility_timeout": _VISIBILITY_S,
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
        result_backend_transport_options={"visibility_timeout": _VISIBILITY_S},
        visibility_timeout=_VISIBILITY_S,
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
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        task_reject_on_worker_lost=False,
        task_queues={name.value: {"exchange": name.value, "routing_key": name.value} for name in Queue},
        task_default_queue=Queue.TRAIN_CPU.value,
        task_default_priority=IN_ORDER,
        task_create_missing_queues=False,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_concurrency=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        # A job must not be cut off because the broker restarts; its lease decides who may go on.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_proc_alive_timeout=30,
    )
    setup_logging.connect(_keep_our_logging)
    return app


def queue_keys(settings: Settings, queue: Queue) -> list[str]:
    """The Redis lists that hold the messages of a queue, one for each priority."""
    prefix = _prefix(settings)
    return [f"{prefix}{queue}{_PRIORITY_SEPARATOR}{step}" if step else f"{prefix}{queue}" for step in _STEPS]


def _prefix(settings: Settings) -> str:
    return f"{settings.key_prefix}celery:"


def _keep_our_logging(**_: object) -> None:
    """Celery leaves logging alone as long as this signal has a receiver."""
