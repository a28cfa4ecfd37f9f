"""Steps cut into phases: what may run at the same time, and what runs alone."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from taut.backends.cpu.kernels.maps import LOOKUP
from taut.backends.schedule.layout import Buffer
from taut.backends.schedule.phases import SLOTS, Phase, lifetimes_of, segments_of
from taut.backends.schedule.steps import PythonStep, Step
from taut.ir.machine import Machine


@st.composite
def programs(draw) -> list[Step | PythonStep]:
    """Each step writes a buffer of its own, or part of the last one's, and reads earlier ones."""
    buffers: list[Buffer] = [Buffer("input", 64)]
    steps: list[Step | PythonStep] = []
    for _ in range(draw(st.integers(1, 25))):
        reads = draw(st.lists(st.sampled_from(buffers), min_size=1, max_size=3))
        if len(buffers) == 1 or draw(st.booleans()):
            buffers.append(Buffer("arena", draw(st.sampled_from([64, 4096, 400_000]))))
        elif draw(st.booleans()):
            reads.append(buffers[-1])  # in place
        else:
            reads = [b for b in reads if b is not buffers[-1]] or [buffers[0]]
        chunks = draw(st.sampled_from([1, 1, 2, 8]))
        if draw(st.integers(0, 9)) == 0:
            steps.append(PythonStep(lambda arrays: arrays, [], [], reads, [buffers[-1]]))
        else:
            steps.append(Step(LOOKUP, [0, 0, chunks], reads, [buffers[-1]]))
    return steps


@settings(max_examples=200, deadline=None)
@given(programs(), st.sampled_from([1, 2, 4]))
def test_no_step_runs_beside_one_that_it_depends_on(steps, threads):
    segments = segments_of(steps, Machine(threads=threads))
    lifetimes = lifetimes_of(segments)
    groups: list[list[Step | PythonStep]] = []
    for segment in segments:
        if segment.python:
            groups.append([segment.python])
        groups.extend([*phase.steps] for phase in segment.phases)
        for phase in segment.phases:
            assert 1 <= len(phase.tasks) <= (SLOTS if threads > 1 else 1)
            assert threads > 1 or len(phase.steps) == 1
            _check(phase, steps)
    places = {step: i for i, group in enumerate(groups) for step in group}
    assert [places[s] for s in steps] == sorted(places[s] for s in steps)
    for step in steps:
        for buffer in (*step.reads, *step.writes):
            first, last = lifetimes[buffer]
            assert first <= places[step] <= last


def _check(phase: Phase, steps: list[Step | PythonStep]) -> None:
    for task in phase.tasks:
        others = [s for t in phase.tasks if t is not task for s in t.steps]
        for step in task.steps:
            assert not {b for s in others for b in s.writes} & set(step.reads)
            earlier = [s for s in phase.steps if steps.index(s) < steps.index(step)]
            assert not {b for s in earlier for b in s.reads} & set(step.writes)
        order = [steps.index(s) for s in task.steps]
        assert order == sorted(order) and (task.alone or len(order) == 1)


def test_small_steps_that_follow_one_another_share_a_phase():
    a, b, c, d = (Buffer("arena", n) for n in (64, 64, 64, 1 << 20))
    chain = [Step(LOOKUP, [0, 0, 2], [x], [y]) for x, y in ((a, b), (b, c), (c, d))]
    (segment,) = segments_of(chain, Machine(threads=2))
    assert [len(phase.steps) for phase in segment.phases] == [2, 1]
    assert segment.phases[0].tasks[0].alone and not segment.phases[1].tasks[0].alone
