"""numba's ``njit`` with a cache that is renewed when any source that a kernel may hold changes.

A cached kernel holds copies: of the functions that it inlines and of the constants that it names,
wherever they are written. numba looks at the kernel's own file alone, so an edit of a shared
helper would leave some kernels old and make others new: counts and exposure with different
supports, say. Here every kernel carries a digest of all modules with kernels, of its package and
of this one, and of the modules at this level (``constants``), which kernels may freeze.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache as once
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache
from numba.core.dispatcher import Dispatcher

_OWN = Path(__file__).parent
_MARK = __name__.encode()  # a module with kernels imports this one


def njit(
    function: Callable[..., Any] | None = None, *, cache: bool = False, **options: Any
) -> Callable[..., Any]:
    """Compile with numba's ``njit``; a cached kernel never outlives a source that it holds.

    Parameters
    ----------
    function : callable, optional
        What to compile, where the decorator has no options.
    cache : bool
        Keep what was compiled, in NUMBA_CACHE_DIR, else beside the source, else in the user's
        cache folder; where none of them can be written, kernels are compiled in every process.
    **options
        Of ``numba.njit``.

    Returns
    -------
    callable
        The kernel, or the decorator that makes it.
    """

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        kernel = numba.njit(**options)(function)
        if cache and isinstance(kernel, Dispatcher):  # with NUMBA_DISABLE_JIT it is the function
            try:
                kernel._cache = _SourcesCache(function)  # pyright: ignore[reportAttributeAccessIssue]
            except RuntimeError as reason:
                if "no locator" not in str(reason):
                    raise
                warnings.warn(
                    "No folder can be written for compiled kernels, so every start compiles them; "
                    "set NUMBA_CACHE_DIR.",
                    stacklevel=2,
                )
        return kernel

    return compiled if function is None else compiled(function)


def share_out(count: int, work: Callable[[int, int], None]) -> None:
    """Call ``work(first, last)`` for parts of ``range(count)``, at once on numba's threads.

    numba would do it by ``parallel=True``, and compile the whole kernel three times. ``work``
    holds the interpreter unless what it calls has ``nogil=True``.
    """
    parts = min(numba.get_num_threads(), count)
    if parts < 2:
        work(0, count)
        return
    edges = [count * k // parts for k in range(parts + 1)]
    for _ in _threads().map(work, edges[:-1], edges[1:]):
        pass


@once
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(numba.get_num_threads(), thread_name_prefix="kernel")


os.register_at_fork(after_in_child=_threads.cache_clear)  # a child has none of these threads


def kernel_sources(package: str) -> list[Path]:
    """Files whose text decides what kernels of ``package`` (a top-level name) do, in order."""
    found = [*_OWN.glob("*.py"), *_modules_with_kernels(_OWN)]
    if package != _OWN.name:
        for folder in getattr(sys.modules.get(package), "__path__", ()):
            found += _modules_with_kernels(Path(folder))
    return sorted(set(found))


def _modules_with_kernels(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.py") if _MARK in path.read_bytes()]


@once
def _digest(package: str) -> str:
    digest = hashlib.sha256(
        llvmlite.__version__.encode()
    )  # numba and Python are looked at by numba
    for path in kernel_sources(package):
        text = path.read_bytes()
        digest.update(f"\n{path.name} {len(text)}\n".encode())
        digest.update(text)
    return digest.hexdigest()


class _SourcesCache(FunctionCache):
    """numba's cache of one kernel: stamped with all sources, and safe beside other processes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._cache_file._source_stamp  # of the kernel's own file
        self._cache_file._source_stamp = (stamp, _digest(function.__module__.partition(".")[0]))

    # numba replaces index and data one after the other: another process could read one's index
    # and the other's data, a kernel of another signature.

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        with self._locked() as held:
            return super().load_overload(sig, target_context) if held else None

    def save_overload(self, sig: Any, data: Any) -> None:
        with self._locked() as held:
            try:
                if held:
                    super().save_overload(sig, data)
            except OSError as reason:  # a full disk costs time, not the run
                warnings.warn(f"A compiled kernel was not kept: {reason}", stacklevel=2)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold the folder of this cache; False where it is gone or cannot be locked."""
        try:
            lock = os.open(Path(self.cache_path) / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            yield False
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield True
        finally:
            os.close(lock)
