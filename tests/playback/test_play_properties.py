"""Whatever verbs, reconnects and deaths come in whatever order, a watcher sees each event once."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from tests.conftest import Start, example_configuration, merge
from tests.playback.stage import PAGE, RING, Recording, Stage, Viewer, at, play_settings
from tests.servers import GatewayProcess, Valkey

pytestmark = pytest.mark.asyncio(loop_scope="session")

END_MS = 10_000
# Many share a time, more than a page of them now and then, and types are mixed.
RECORDING = Recording(
    sorted([*range(0, END_MS, 100), *[3000] * 12, *[7777] * 7]),
    sorted([*range(50, END_MS, 200), *[3000] * 3]),
    [0, 1, 2999, 3000, 3001, 5000, 9999, END_MS, END_MS],
)
VIEWERS = 4


@dataclass
class Scene:
    """The stage, a second gateway that can be killed, and where each run began."""

    stage: Stage
    mortal: GatewayProcess
    run_starts: dict[int, int] = field(default_factory=dict)

    @property
    def ports(self) -> list[int]:
        return [self.stage.first.port, self.mortal.port]

    def viewer(self, number: int) -> Viewer:
        viewers = self.stage.viewers
        return viewers[number % len(viewers)]

    def is_complete(self, viewer: Viewer) -> bool:
        """Whether it has come to the end of the last run."""
        return viewer.runs().get(max(self.run_starts), [])[-1:] == RECORDING.events[-1:]

    async def note_run(self) -> None:
        """Where the present run began, from the record itself."""
        session = await self.stage.first.gateway.sessions.get(self.stage.tenant)
        assert session is not None
        self.run_starts[session.clock.run] = session.clock.run_start_ms - session.clock.start_ms


class Step(Protocol):
    async def act(self, scene: Scene) -> None: ...


@dataclass(frozen=True)
class Send:
    """A verb, by the gateway that does not die; refused where the state forbids it."""

    verb: str
    body: dict[str, Any] = field(default_factory=dict)

    async def act(self, scene: Scene) -> None:
        answer = await scene.stage.controls.put(scene.stage.session, self.verb, **self.body)
        assert answer.status_code in (200, 409), answer.text
        await scene.note_run()


@dataclass(frozen=True)
class Initialise:
    """The session once more, over the same range."""

    async def act(self, scene: Scene) -> None:
        session_id = scene.stage.session
        answer = await scene.stage.controls.init(at(0), at(END_MS), session_id=session_id)
        assert answer.status_code == 201, answer.text
        await scene.note_run()


@dataclass(frozen=True)
class Enter:
    """One more watcher, by either gateway."""

    gateway: int

    async def act(self, scene: Scene) -> None:
        stage = scene.stage
        if len(stage.viewers) < VIEWERS:
            viewer = stage.enter_at(*scene.ports, receive_buffer=2048)
            viewer.drop(scene.ports[self.gateway])
            await viewer.opened()


@dataclass(frozen=True)
class Drop:
    """A connection breaks; the watcher comes back by either gateway."""

    viewer: int
    gateway: int

    async def act(self, scene: Scene) -> None:
        scene.viewer(self.viewer).drop(scene.ports[self.gateway])


@dataclass(frozen=True)
class Halt:
    """A watcher reads nothing for a while."""

    viewer: int

    async def act(self, scene: Scene) -> None:
        scene.viewer(self.viewer).pause()


@dataclass(frozen=True)
class Resume:
    viewer: int

    async def act(self, scene: Scene) -> None:
        scene.viewer(self.viewer).resume()


@dataclass(frozen=True)
class Pass:
    """Time goes by, which is what plays."""

    ms: int

    async def act(self, scene: Scene) -> None:
        await asyncio.sleep(self.ms / 1000)


@dataclass(frozen=True)
class Die:
    """The second gateway is killed, and started again."""

    async def act(self, scene: Scene) -> None:
        scene.mortal.kill()
        await asyncio.to_thread(scene.mortal.start)


speeds = st.sampled_from([1, 10, 50, 200, 1000])
which = st.integers(0, VIEWERS - 1)
gateways = st.integers(0, 1)
playing = st.one_of(
    st.builds(Send, st.just("start"), speeds.map(lambda speed: {"replay_speed": speed})),
    st.builds(Send, st.just("stop")),
    st.builds(
        Send,
        st.just("seek"),
        st.sampled_from([0, 1, 2950, 3000, 5001, 9999, END_MS]).map(
            lambda ms: {"timestamp": at(ms)}
        ),
    ),
    st.builds(Pass, st.integers(0, 40)),
)
watching = st.one_of(
    st.builds(Enter, gateways),
    st.builds(Drop, which, gateways),
    st.builds(Halt, which),
    st.builds(Resume, which),
)
programs: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(playing, playing, watching, watching, st.builds(Initialise)), max_size=20
)
with_deaths: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(playing, playing, playing, watching, watching, watching, st.builds(Die)), max_size=30
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def make_scene(
    start_gateway: Start, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Callable[[], Scene]]:
    tenant = str(uuid4())
    sections = play_settings(watch_endpoint={"replay_batch_size": PAGE, "ring_events": RING})
    content = example_configuration()
    merge(content, {"store": {"url": valkey.url}, "tenants": {"default": tenant}, **sections})
    mortal = GatewayProcess(tmp_path_factory.mktemp("mortal"), content)
    await asyncio.to_thread(mortal.start)
    async with start_gateway(tenant=tenant, send_buffer=8 << 10, **sections) as first:
        yield lambda: Scene(Stage(first, first, str(uuid4())), mortal)
    mortal.stop()


async def run(scene: Scene, steps: list[Step]) -> None:
    note("\n".join(map(repr, steps)))
    stage = scene.stage
    await stage.begin(RECORDING, end_ms=END_MS, text="x" * 200)
    await scene.note_run()
    try:
        for step in (Enter(0), Enter(1), *steps):
            await step.act(scene)
        for viewer in stage.viewers:
            viewer.resume()
        # What is left is played to the end, where everybody has to have everything.
        await Send("seek", {"timestamp": at(END_MS - 2000)}).act(scene)
        await stage.start(100_000)
        for viewer in stage.viewers:
            await viewer.sees(scene.is_complete, "the last event of the last run")
            check(viewer, scene.run_starts)
    finally:
        await stage.close()


def check(viewer: Viewer, run_starts: dict[int, int]) -> None:
    runs = viewer.runs()
    assert viewer.errors == []
    for run, events in runs.items():
        due = RECORDING.between(run_starts[run], END_MS)
        assert set(events) <= set(due)
        if run > min(runs):
            # It began while this one was watching: it is owed all of it, from its start.
            assert events == due[: len(events)]
    assert runs[max(runs)] == RECORDING.between(END_MS - 2000, END_MS)


ordinary = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ordinary
@given(steps=programs)
async def test_a_watcher_sees_each_event_once_whatever_verbs_and_reconnects_come(
    make_scene: Callable[[], Scene], steps: list[Step]
) -> None:
    await run(make_scene(), steps)


@settings(ordinary, max_examples=2)
@given(steps=with_deaths)
@example(
    steps=[
        Send("start", {"replay_speed": 10}),
        Die(),
        Send("seek", {"timestamp": at(3000)}),
        Pass(40),
        Die(),
        Send("stop"),
        Drop(0, 1),
        Send("start", {"replay_speed": 50}),
    ]
)
async def test_a_watcher_sees_each_event_once_though_a_gateway_dies(
    make_scene: Callable[[], Scene], steps: list[Step]
) -> None:
    await run(make_scene(), steps)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(ordinary, max_examples=3000, derandomize=False)
@given(steps=st.one_of(programs, programs, programs, with_deaths))
async def test_a_watcher_sees_each_event_once_in_many_more_programs(
    make_scene: Callable[[], Scene], steps: list[Step]
) -> None:
    await run(make_scene(), steps)
