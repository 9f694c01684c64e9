"""Alarms of live runs: what is wrong or done, told to people who are away, until they say so."""

from steering.alarms.book_store import AlarmFolder
from steering.alarms.routes import AlarmAnswer, AlarmList, alarm_router
from steering.alarms.watch import Watch, watching

__all__ = [
    "AlarmAnswer",
    "AlarmFolder",
    "AlarmList",
    "Watch",
    "alarm_router",
    "watching",
]
