"""How often somebody may guess: the more wrong tokens of an address, the longer it waits."""

from __future__ import annotations

import hashlib
import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5  # wrong tokens of an address that are held back only
FIRST_S = 0.1  # for which the first is held back; each further one twice as long
HELD_S = 5.0  # longest
LONGEST_S = 300.0  # that an address waits
FORGOTTEN_AFTER_S = 900.0
PENDING = 8  # refusals of one address that are held back at a time
ADDRESSES = 1000
ALL_PER_MINUTE = 120  # wrong tokens of all addresses together
KNOWN = 1000  # tokens that were right


@dataclass(slots=True)
class _Failures:
    """Wrong tokens of one address."""

    count: int = 0
    last_s: float = 0.0
    until_s: float = 0.0  # before which no other is looked at
    pending: int = 0  # refusals that are held back


class Attempts:
    """Wrong tokens by address, and tokens that were right.

    A token that was right before is never held up, so whoever guesses locks out nobody who is in;
    who comes in anew from such an address waits.

    Parameters
    ----------
    monotonic : callable
        Clock in seconds.
    """

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._failures: OrderedDict[str, _Failures] = OrderedDict()
        self._all: deque[float] = deque(maxlen=ALL_PER_MINUTE)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def known(self, token: str) -> bool:
        """Whether a token was right before."""
        return _mark(token) in self._known

    def right(self, token: str) -> None:
        """A token was right."""
        self._known[_mark(token)] = None
        self._known.move_to_end(_mark(token))
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """Seconds until a token of an address is looked at again; 0: now."""
        now, failures = self._monotonic(), self._of(address)
        if failures.pending >= PENDING:
            return HELD_S
        left = failures.until_s - now
        if len(self._all) == ALL_PER_MINUTE:
            left = max(left, self._all[0] + 60.0 - now)
        return max(left, 0.0)

    def wrong(self, address: str) -> tuple[int, float]:
        """A token was wrong.

        Returns
        -------
        int, float
            How many there were of this address, and for how many seconds to hold the answer back.
        """
        now, failures = self._monotonic(), self._of(address)
        failures.count += 1
        failures.last_s = now
        self._all.append(now)
        hold_s = min(FIRST_S * 2.0 ** min(failures.count - 1, 16), HELD_S)
        beyond = failures.count - FREE
        if beyond >= 0:
            failures.until_s = now + hold_s + min(2.0 ** min(beyond, 16), LONGEST_S)
        return failures.count, hold_s

    def holding(self, address: str, change: int) -> None:
        """A refusal is held back, or no more."""
        self._of(address).pending += change

    def _of(self, address: str) -> _Failures:
        """Failures of an address; those of long ago, and of too many addresses, are forgotten."""
        place = _place(address)
        failures = self._failures.pop(place, None) or _Failures()
        if self._monotonic() - failures.last_s > FORGOTTEN_AFTER_S:
            failures.count, failures.until_s = 0, 0.0
        self._failures[place] = failures
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        return failures


def _mark(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _place(address: str) -> str:
    """What stands for an address: in IPv6 one person has a whole network of them."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(known, ipaddress.IPv6Address) and not known.is_loopback:
        return str(ipaddress.ip_network((known, 64), strict=False))
    return address
