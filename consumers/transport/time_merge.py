"""Messages of several topics in the order in which they were sent.

A broker hands over one topic after the other. After a pause of the reader that may be hours of
neutrons before the first start of a dwell; merged by their time stamps they come together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable

from consumers.wire import RawMessage

Place = tuple[str, int]  # topic, partition


class _Queue:
    """What waits of one topic and partition."""

    def __init__(self) -> None:
        self.waiting: deque[tuple[int, RawMessage]] = deque()  # time that never falls, message
        self.newest_ns = -1
        self.bytes = 0


class TimeMerge:
    """Holds messages until no older one of the same partition can come.

    Order within a topic is kept: a time stamp that falls counts as the largest before it.
    """

    def __init__(self) -> None:
        self._queues: dict[int, dict[str, _Queue]] = {}

    def put(self, messages: Iterable[RawMessage]) -> None:
        """Take what was read."""
        for message in messages:
            topics = self._queues.setdefault(message.partition, {})
            queue = topics.get(message.topic)
            if queue is None:
                queue = topics[message.topic] = _Queue()
            queue.newest_ns = max(queue.newest_ns, message.timestamp_ns)
            queue.waiting.append((queue.newest_ns, message))
            queue.bytes += len(message.value)

    def take(self, behind: Collection[Place]) -> list[RawMessage]:
        """Messages whose turn has come.

        Parameters
        ----------
        behind : collection of (topic, partition)
            Of which the broker holds more than was put: what comes there may be older.
        """
        found: list[RawMessage] = []
        for partition, topics in self._queues.items():
            unseen = [t for t, p in behind if p == partition]
            while True:
                ready = [(q.waiting[0][0], t) for t, q in topics.items() if q.waiting]
                if not ready:
                    break
                _, topic = min(ready)
                # what may come of a topic that was read to here is not older than this
                limit = min(
                    (
                        topics[t].newest_ns if t in topics else -1
                        for t in unseen
                        if t not in topics or not topics[t].waiting
                    ),
                    default=None,
                )
                next_ns = min((n for n, t in ready if t != topic), default=None)
                queue = topics[topic]
                before = len(found)
                while queue.waiting:
                    time_ns, message = queue.waiting[0]
                    if limit is not None and time_ns > limit:
                        break
                    if next_ns is not None and time_ns > next_ns:
                        break
                    if topic in unseen and len(queue.waiting) == 1 and len(found) > before:
                        break  # empty, it would hold the others back: look again
                    queue.waiting.popleft()
                    queue.bytes -= len(message.value)
                    found.append(message)
                if len(found) == before:
                    break
        return found

    def ahead(self, bytes_each: int) -> set[Place]:
        """Topics of which more than so many bytes wait; read the others first."""
        return {
            (topic, partition)
            for partition, topics in self._queues.items()
            for topic, queue in topics.items()
            if queue.bytes > bytes_each
        }

    def waiting(self, topic: str, partition: int) -> int:
        """Messages that were put and not taken."""
        queue = self._queues.get(partition, {}).get(topic)
        return 0 if queue is None else len(queue.waiting)

    def drop(self, partition: int) -> None:
        """Forget what waits of a partition: somebody else reads it."""
        self._queues.pop(partition, None)
