"""What is known of memory: peaks of tries, and kills for want of it."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from liteflow.execution import memory
from liteflow.execution.jobs import Job
from liteflow.execution.memory import Gauge, OomWatch, tree_rss_bytes
from liteflow.execution.slots import SlotEngine
from tests.conftest import wait_until

MIB = 2**20

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc: Linux only")


@linux
def test_the_memory_of_children_counts() -> None:
    code = "held = bytearray(b'x') * (50 << 20); print(flush=True); input()"
    before = tree_rss_bytes(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert tree_rss_bytes(os.getpid()) - before > 50 * MIB
        child.communicate(b"\n")
    assert tree_rss_bytes(child.pid) == 0, "it is gone"


@linux
def test_a_gauge_keeps_the_peak_and_sees_what_was_between_its_samples() -> None:
    gauge = Gauge(os.getpid(), time.monotonic())
    assert gauge.peak_bytes is None
    gauge.sample()
    first = gauge.peak_bytes
    assert first is not None
    # More than this process ever held before, and given back before anybody looks again.
    size = memory._high_water_bytes(os.getpid()) + 20 * MIB
    with mmap.mmap(-1, size) as held:
        for place in range(0, size, 4096):
            held[place] = 1
    gauge.sample()
    assert gauge.peak_bytes is not None
    assert gauge.peak_bytes >= size


@linux
def test_looks_become_rarer_up_to_a_limit() -> None:
    gauge = Gauge(os.getpid(), time.monotonic())
    pauses = []
    for _ in range(10):
        gauge.sample()
        pauses.append(gauge.due_at - time.monotonic())
    assert pauses[0] < 2 * memory.FIRST_SAMPLE_S
    assert pauses[-1] == pytest.approx(memory.LONGEST_PAUSE_S, abs=0.1)


def test_kills_are_counted_from_the_first_file_that_counts(tmp_path: Path) -> None:
    events, vmstat = tmp_path / "memory.events", tmp_path / "vmstat"
    events.write_text("low 0\noom 7\noom_kill 2\noom_group_kill 9\n")
    vmstat.write_text("nr_free_pages 5\noom_kill 40\n")
    watch = OomWatch(str(tmp_path / "missing"), str(events), str(vmstat))
    assert watch.knows
    assert watch.kills() == 2
    events.write_text("oom_kill 3\n")
    assert watch.kills(newer_than=time.monotonic() - 60) == 2, "it was read a moment ago"
    assert watch.kills() == 3


def test_nobody_counts(tmp_path: Path) -> None:
    watch = OomWatch(str(tmp_path / "missing"))
    assert not watch.knows
    assert watch.kills() == 0


@linux
def test_this_system_counts() -> None:
    assert OomWatch().knows


class DeadSlot:
    """A slot whose process has ended."""

    def __init__(self, status: int) -> None:
        self.process = subprocess.CompletedProcess([], status)


@pytest.mark.parametrize(
    ("status", "kills", "peak", "said"),
    [
        (-9, 1, 1288490189, "killed by SIGKILL; probably by the kernel for want of memory (it held 1.3 GB)"),
        (-9, 1, None, "killed by SIGKILL; probably by the kernel for want of memory"),
        (-9, 0, 1288490189, "killed by SIGKILL"),
        (-9, None, None, "killed by SIGKILL (out of memory?)"),
        (-11, 1, None, "killed by SIGSEGV"),
        (3, 1, None, "ended with exit code 3"),
    ],
)
def test_a_kill_for_want_of_memory_is_said_to_be_likely(
    tmp_path: Path, status: int, kills: int | None, peak: int | None, said: str
) -> None:
    counter = tmp_path / "memory.events"
    if kills is not None:
        counter.write_text("oom_kill 5\n")
    engine = SlotEngine(1)
    try:
        engine._oom = OomWatch(str(counter))
        job = Job(1, None, 0, 1, 1, None, (), 1, (), "t", -1, None, 5.0, 1000)  # type: ignore[arg-type]
        job.oom_kills, job.peak_rss_bytes = engine._oom.kills(), peak
        if kills is not None:
            counter.write_text(f"oom_kill {5 + kills}\n")
        assert engine._why_dead(DeadSlot(status), job).endswith(said)  # type: ignore[arg-type]
    finally:
        engine.close(kill=True)


GREEDY = "import time\nheld = bytearray(b'x') * (200 << 20)\ntime.sleep(60)"


@linux
def test_the_kernels_killer_is_counted_for_real() -> None:
    """In a cgroup with a limit, as root; the only place where it can be made to kill one process and no other."""
    group = next((path for path in _limited_groups() if path is not None), None)
    if group is None:
        pytest.skip("needs root and a writable memory cgroup")
    try:
        watch = OomWatch("/proc/vmstat")
        before = watch.kills()
        child = subprocess.Popen(
            [sys.executable, "-c", f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n{GREEDY}"]
        )
        assert child.wait(timeout=60) == -signal.SIGKILL
        wait_until(lambda: watch.kills() > before, "the count goes up")
    finally:
        wait_until(lambda: _removed(group), "the cgroup is empty")


def _limited_groups() -> list[Path | None]:
    """A new cgroup with a limit of 50 MB, of version 2 or 1."""
    name = f"liteflow-test-{os.getpid()}"
    return [
        _limited(Path("/sys/fs/cgroup") / name, "memory.max", "memory.swap.max"),
        _limited(Path("/sys/fs/cgroup/memory") / name, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    ]


def _limited(group: Path, limit: str, swap: str) -> Path | None:
    if not group.parent.joinpath("cgroup.procs").exists():
        return None
    try:
        group.mkdir()
    except OSError:
        return None
    try:
        (group / limit).write_text(str(50 * MIB))
        if (group / swap).exists():
            (group / swap).write_text("0" if limit == "memory.max" else str(50 * MIB))
    except OSError:
        group.rmdir()
        return None
    return group


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except OSError:
        return False
    return True
