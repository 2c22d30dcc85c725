"""Discrete-event simulation of replicas of the service, from measured costs.

A replica is an event loop, which handles one request after the other, and a scoring thread. The thread takes up to 32
waiting images whenever it is free, and never waits for more. A request that finds 64 others of its caller waiting is
refused with 429. A client gives requests to the replicas in turn.

All of them share a number of cores, which may be a fraction: two threads of one physical core may together be as fast
as 1.3 cores. While k threads work on c cores, each runs at the speed min(k, c) / k.

What it assumes:

- Costs are constants. Those of a small request and of a cold cache are the same as in a row of many.
- The work of the event loop for a request is divided in equal halves before and after its batch. Small images are
  decoded there.
- The interpreter lock is not modelled: event loop and scoring thread never wait for each other. Scoring releases it in
  its long steps, and holds it between them.
- The operating system divides cores equally and at once.
- With infinitely many cores each thread runs as if it were alone. Plans extrapolate with that to machines that were not
  measured: shared caches, memory bandwidth and the load balancer cost nothing.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from typing import TypeAlias

from benchmarks.installation import percentile

Action: TypeAlias = Callable[[], None]

BATCH = 32
"""Most images of a batch, as in ``app/scoring/fair_line.py`` for small images."""
MAX_WAITING = 64
"""Requests of one caller that may wait: half of ``SNF_QUEUE_REQUESTS``."""


@dataclass(frozen=True)
class Costs:
    """Seconds of one core for each part of a request with one image.

    Attributes:
        batch: A batch, without its images (a).
        image: Each image of a batch (b).
        head: Reading a request until it is admitted or refused.
        body: Reading and decoding the image.
        answer: Writing the answer.
        wake: Waking the event loop with the scores of a batch, whatever their number.
        client: Sending a request and reading its answer, in the client.
    """

    batch: float
    image: float
    head: float
    body: float
    answer: float
    wake: float
    client: float

    @property
    def most_per_second(self) -> float:
        """Images a second of a scoring thread whose batches are full."""
        return BATCH / (self.batch + BATCH * self.image)

    @property
    def most_requests_per_second(self) -> float:
        """Requests a second of an event loop whose batches are full."""
        return BATCH / (self.wake + BATCH * (self.head + self.body + self.answer))


@dataclass
class Cores:
    """A clock, timers, and cores that all running work shares equally."""

    capacity: float
    now: float = 0.0
    _passed: float = 0.0
    """Seconds of work that each running piece of work has had, counted from the start."""
    _running: list[tuple[float, int, Action]] = field(default_factory=list)
    _timers: list[tuple[float, int, Action]] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def work(self, seconds: float, done: Action) -> None:
        """Begin ``seconds`` of work of one core, and call ``done`` when they are over."""
        heappush(self._running, (self._passed + seconds, next(self._numbers), done))

    def at(self, moment: float, action: Action) -> None:
        """Call ``action`` at a moment."""
        heappush(self._timers, (moment, next(self._numbers), action))

    def run(self, end: float) -> None:
        """Let time pass until ``end``, or until nothing is left to do."""
        while self._running or self._timers:
            count = len(self._running)
            speed = min(count, self.capacity) / count if count else 0.0
            finish = self.now + (self._running[0][0] - self._passed) / speed if count else float("inf")
            due = self._timers[0][0] if self._timers else float("inf")
            moment = min(finish, due)
            if moment > end:
                return
            self._passed += (moment - self.now) * speed
            self.now = moment
            _, _, action = heappop(self._running if finish <= due else self._timers)
            action()


class Thread:
    """A thread that does one piece of work after the other, in the order in which they came."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._line: deque[tuple[float, Action]] = deque()
        self._busy = False

    def do(self, seconds: float, done: Action) -> None:
        """Append work."""
        self._line.append((seconds, done))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._line)
        if self._busy:
            seconds, done = self._line.popleft()
            self._cores.work(seconds, lambda: self._end(done))

    def _end(self, done: Action) -> None:
        done()
        self._next()


class Replica:
    """A service process: an event loop, a line of images, and the scoring thread."""

    def __init__(self, cores: Cores, costs: Costs) -> None:
        self._cores = cores
        self._costs = costs
        self._loop = Thread(cores)
        self._line: deque[Callable[[bool], None]] = deque()
        self._scoring = False

    def ask(self, answered: Callable[[bool], None]) -> None:
        """Take a request; ``answered`` is called with True for a score and False for a refusal."""

        def check() -> None:
            if len(self._line) >= MAX_WAITING:
                answered(False)
            else:
                self._loop.do(self._costs.body, queue)

        def queue() -> None:
            if len(self._line) >= MAX_WAITING:
                answered(False)
                return
            self._line.append(answered)
            if not self._scoring:
                self._score()

        self._loop.do(self._costs.head, check)

    def _score(self) -> None:
        batch = [self._line.popleft() for _ in range(min(BATCH, len(self._line)))]
        self._scoring = bool(batch)
        if batch:
            self._cores.work(self._costs.batch + len(batch) * self._costs.image, lambda: self._deliver(batch))

    def _deliver(self, batch: list[Callable[[bool], None]]) -> None:
        self._loop.do(self._costs.wake, lambda: None)
        for answered in batch:
            self._loop.do(self._costs.answer, partial(answered, True))
        self._score()


@dataclass(frozen=True)
class Outcome:
    """What a simulation comes down to: answers a second, latencies of scores in milliseconds, share of refusals."""

    admitted_per_s: float
    p50_ms: float
    p99_ms: float
    refused: float


class Simulation:
    """Replicas with a client, for one run.

    Args:
        costs: Costs of each part of a request.
        replicas: Number of replicas.
        cores: Cores that replicas and client share; infinite where each thread has its own.
    """

    def __init__(self, costs: Costs, replicas: int, cores: float) -> None:
        self._cores = Cores(cores)
        self._costs = costs
        self._client = Thread(self._cores)
        self._turns = itertools.cycle([Replica(self._cores, costs) for _ in range(replicas)])
        self._scored: list[tuple[float, float]] = []
        """Moments at which requests were due, and seconds until their scores."""
        self._refused = 0

    def poisson(self, per_second: float, seconds: float, seed: int) -> Outcome:
        """Send requests at random moments, whether or not earlier ones are answered."""
        chance = random.Random(seed)
        due = 0.0
        while (due := due + chance.expovariate(per_second)) < seconds:
            self._cores.at(due, self._ask)
        self._cores.run(float("inf"))
        return self._outcome(seconds, 0.0)

    def closed(self, clients: int, seconds: float) -> Outcome:
        """Let each of several clients send its next request as soon as it has an answer, after a second of warm-up."""
        begin = 1.0
        for number in range(clients):
            self._cores.at(1e-3 * number, lambda: self._ask(again=True))
        self._cores.run(begin + seconds)
        return self._outcome(seconds, begin)

    def _ask(self, again: bool = False) -> None:
        due = self._cores.now
        replica = next(self._turns)

        def answered(scored: bool) -> None:
            self._client.do(self._costs.client / 2, lambda: record(scored))

        def record(scored: bool) -> None:
            if scored:
                self._scored.append((self._cores.now, self._cores.now - due))
            else:
                self._refused += 1
            if again:
                self._ask(again=True)

        self._client.do(self._costs.client / 2, lambda: replica.ask(answered))

    def _outcome(self, seconds: float, begin: float) -> Outcome:
        took = [1e3 * latency for moment, latency in self._scored if moment >= begin]
        return Outcome(
            admitted_per_s=len(took) / seconds,
            p50_ms=percentile(took, 0.5),
            p99_ms=percentile(took, 0.99),
            refused=self._refused / (self._refused + len(took)),
        )
