"""A wall clock that a test steps for real, by a library in front of the C library."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

STEPPING_CLOCK = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long step(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("STEP_FILE"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    int rc = syscall(SYS_clock_gettime, which, now);
    if (which == CLOCK_REALTIME) now->tv_sec += step();
    return rc;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec fine;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &fine);
    now->tv_sec = fine.tv_sec;
    now->tv_usec = fine.tv_nsec / 1000;
    return 0;
}
"""


class NoCompilerError(Exception):
    """Why there is no such clock: nothing here makes the library."""


def build_stepping_clock(folder: Path) -> Path:
    """The library, for LD_PRELOAD; the clock is as many seconds off as the file STEP_FILE says."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise NoCompilerError("a C compiler on Linux makes the clock that steps; none is here")
    (folder / "step.c").write_text(STEPPING_CLOCK)
    library = folder / "step.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(library), str(folder / "step.c")], check=True
    )
    return library
