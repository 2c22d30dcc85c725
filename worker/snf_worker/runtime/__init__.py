"""The processes: launcher, workers that take jobs from queues, and the supervision of the processes of attempts."""
