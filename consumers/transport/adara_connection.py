"""What an ADARA source and an ADARA server share: addresses that are safe."""

from __future__ import annotations

import ipaddress
import re

from simulations.errors import InputError

PORT = 31415  # usual


def checked_address(address: str, *, allow_unencrypted: bool) -> tuple[str, int]:
    """Host and port, if what goes over them stays where it may.

    Parameters
    ----------
    address : str
        ``HOST:PORT``, ``HOST`` or ``[IPv6]:PORT``.
    allow_unencrypted : bool
        Leave this machine.

    Raises
    ------
    InputError
        If the address is none, or leaves this machine.
    """
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?", address)
    port = int(match[2] or PORT) if match else -1
    if match is None or port > 65535:
        raise InputError(f"ADARA address is {address!r}; expected HOST:PORT, e.g. 127.0.0.1:{PORT}")
    host = match[1].strip("[]")
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not local and not allow_unencrypted:
        raise InputError(
            f"{address}: leaves this machine, and ADARA knows neither encryption nor passwords; "
            "expected a loopback address. On a network that you trust, set "
            "source.adara.allow_unencrypted: true in the experiment file"
        )
    return host, port
