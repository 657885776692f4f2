"""Killed and stopped at any moment: a rerun continues, and ends as if nothing had been."""

from __future__ import annotations

import random
import signal

import pytest

from .conftest import Disturbance, Stress


def killed_and_rerun(stress: Stress, moments: list[Disturbance]) -> int:
    """Kill at each moment, rerun. Returns how often there was something to kill."""
    hits = 0
    for moment in moments:
        stress.clear()
        code = stress.start(disturbance=moment).wait()
        assert code in (0, -signal.SIGKILL)
        hits += code != 0
        rerun = stress.start()
        assert rerun.wait() == 0, (moment, rerun.err)
        stress.check_all_is_well()
    return hits


def moments(stress: Stress, count: int, seed: int) -> list[Disturbance]:
    """Half of them at random file operations and the like, half at random times."""
    rng = random.Random(seed)
    by_event = [
        Disturbance(signal.SIGKILL, event=rng.randint(1, stress.events)) for _ in range(count - count // 2)
    ]
    by_time = [
        Disturbance(signal.SIGKILL, after=rng.uniform(0.01, stress.seconds)) for _ in range(count // 2)
    ]
    return by_event + by_time


def test_killed_at_2_random_moments(stress: Stress) -> None:
    assert killed_and_rerun(stress, moments(stress, 2, seed=0)) >= 1


@pytest.mark.slow
def test_killed_at_40_random_moments(stress: Stress) -> None:
    assert killed_and_rerun(stress, moments(stress, 40, seed=1)) >= 30


def test_killed_again_and_again_it_still_gets_on(stress: Stress) -> None:
    """Without a run in between that comes through."""
    for event in (0.5, 0.7, 0.9):
        stress.start(disturbance=Disturbance(signal.SIGKILL, event=int(stress.events * event))).wait()
    assert stress.start().wait() == 0
    stress.check_all_is_well()


STOPS = {
    "recording the first checkpoint": ("record/consumers.py:update", 1),
    "recording the second checkpoint": ("store/entry.py:finish", 13),
    "scoring": ("names/clip_dissect.py:find", 3),
    "writing a table": ("store/atomic.py:write_bytes_atomic", 2),
    "writing an entry": ("store/entry.py:_write", 12),
    "HDF5 calling back": ("store/entry.py:seek", 40),
    "combining": ("run/folder.py:_write_stacked", 1),
}


# These at every run of the tests, the others by hand.
_ALWAYS = ("recording the second checkpoint", "writing an entry", "combining")


@pytest.mark.parametrize(
    ("where", "number"),
    [
        pytest.param(
            where,
            (signal.SIGTERM, signal.SIGUSR1)[place % 2],
            marks=() if where in _ALWAYS else pytest.mark.slow,
            id=where,
        )
        for place, where in enumerate(STOPS)
    ],
)
def test_stopped_by_a_signal_it_keeps_what_is_done(stress: Stress, where: str, number: int) -> None:
    call, nth = STOPS[where]
    stopped = stress.start(disturbance=Disturbance(number, call=call, nth=nth))
    assert stopped.wait() == 75, stopped.err
    assert f"stopped by {signal.Signals(number).name}" in stopped.err
    assert "run the same command again" in stopped.err
    kept = sorted(path for path in stress.cache.rglob("*.h5"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert not list(stress.root.rglob("*.tmp"))
    rerun = stress.start()
    assert rerun.wait() == 0, rerun.err
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    recorded = sum(path.parent.parent.name == "activations" for path in kept)
    answer = rerun.json()
    # One of the recordings is that of random weights, for the floors.
    assert answer["forward_passes"] + answer["floor_passes"] == 4 - recorded
    stress.check_all_is_well()


@pytest.mark.slow
def test_stopped_at_60_random_moments_it_always_ends_with_75(stress: Stress) -> None:
    """A signal is never lost, wherever Python code may be called from."""
    rng = random.Random(2)
    for _ in range(60):
        stress.clear()
        moment = Disturbance(signal.SIGTERM, event=rng.randint(stress.events // 10, stress.events * 9 // 10))
        stopped = stress.start(disturbance=moment)
        assert stopped.wait() == 75, (moment, stopped.err)
        assert "Traceback" not in stopped.err
    assert stress.start().wait() == 0
    stress.check_all_is_well()
