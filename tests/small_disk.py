"""A real file system of a few megabytes that a test can fill, lock and free again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BLOCK = 4096


class NoMountError(Exception):
    """Why there is none: this user or this machine may not mount."""


class SmallDisk:
    """A tmpfs on a folder of the test; who made it closes it."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        folder.mkdir()
        self.folder = folder
        self._mount("-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder))

    @staticmethod
    def _mount(*arguments: str) -> None:
        try:
            done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
        except FileNotFoundError as error:
            raise NoMountError("there is no program `mount`.") from error
        if done.returncode:
            raise NoMountError(done.stderr.strip())

    @property
    def free_bytes(self) -> int:
        """What a file may still take."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all space but so much."""
        take = (self.free_bytes - leave_bytes) // BLOCK * BLOCK
        if take <= 0:
            return
        with (self.folder / "ballast").open("ab") as file:
            os.posix_fallocate(file.fileno(), file.tell(), take)

    def make_room(self) -> None:
        """Give back what ``fill`` took."""
        (self.folder / "ballast").unlink(missing_ok=True)

    def read_only(self, yes: bool = True) -> None:
        """Let nobody write; fails while a file is open for writing."""
        self._mount("-o", f"remount,{'ro' if yes else 'rw'}", str(self.folder))

    @contextmanager
    def read_only_folder(self, folder: Path) -> Iterator[None]:
        """Let nobody write into a folder that is in use; files that are open stay writable."""
        self._mount("--bind", str(folder), str(folder))
        try:
            self._mount("-o", "remount,bind,ro", str(folder))
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)

    def grow(self, size_bytes: int) -> None:
        """Be larger, for a test whose files are."""
        self._mount("-o", f"remount,size={size_bytes}", str(self.folder))

    def close(self) -> None:
        """Unmount it, with everything on it."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True, capture_output=True)
