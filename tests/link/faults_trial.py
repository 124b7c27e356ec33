"""One world under faults: its numbers, both models, its history, and the end that it must come to."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from airdraft.core.drafting import NgramDrafter
from airdraft.core.receipts import ReceiptKey
from airdraft.core.rows import TargetRow
from airdraft.core.sampling import choose, penalised
from airdraft.core.session import EdgeSession, RunAhead
from airdraft.core.types import EXACT, Limits, Open, Plan, Sampling
from airdraft.link.virtual_edge import Clock
from airdraft.link.virtual_journal import Wish
from airdraft.link.virtual_world import EdgePlan, Scene, Ways, Wire, World
from tests.core.worlds import IDENTITY, VOCABULARY, pseudo_target
from tests.link.faults_history import Caught, History, Model, must
from tests.link.faults_meaning import Meaning, share
from tests.link.faults_wires import with_siblings

FINISH_S = 60.0
"""Virtual seconds within which the text is finished once faults have stopped."""

SAMPLINGS = (
    Sampling(),
    Sampling(0.8),
    Sampling(1.3, top_k=20, top_p=0.9),
    Sampling(0.7, min_p=0.02, repetition_penalty=1.4, frequency_penalty=0.3),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A world's numbers."""

    seed: int = 0
    sampling: int = 0  # index in SAMPLINGS; 0 is greedy
    edges: int = 2
    keys: int = 0  # 0: no receipts; 1: one key for all; 2: the first edge has one of its own, the last none
    draft_length: int = 4
    outstanding: int = 1
    ahead: int = 0  # frames that the device drafts past those in flight
    first_alone: bool = False  # its first token after a miss goes up at once
    rests: bool = False  # it drafts nothing behind an edge that it is not likely to overtake
    split: bool = False  # it draws what replaces a miss from a row of the target's
    acceptance: float = 0.7
    mute_every: int = 0  # the drafter has nothing to say on one path in so many; 0: always something
    live_nodes: int = 256
    ahead_tokens: int = 64
    chunk: int = 64
    prompt: int = 3
    max_tokens: int = 30
    stops: tuple[int, ...] = ()
    delay_s: float = 0.02
    pass_s: float = 0.01
    clock_offset_s: float = 0.0
    give_up_s: float = 1e9
    live_nodes_elsewhere: int = 256  # at every edge but the first
    own_draft_tokens: int = 0  # what a drafter at the edge adds to a pass
    own_lookup: bool = False  # it looks up the text's own n-grams; else it is the device's
    bonus: bool = True  # edges commit a token of their own after a draft that was right
    near_ties: float = 0.0  # share of paths after which edges differ, as under the fast profile
    dies: bool = False  # one edge is dead when faults stop, and stays so
    run_ahead: bool = False  # edges go ahead of the device
    siblings: bool = False  # a proxy hangs a wrong sibling beside every draft
    meaning: str = ""  # the protocol of a semantic session; empty: it is exact
    harmless: float = 0.5  # share of the paths on which a drafted token that is not the target's own is as good
    stateless: float = 0.0  # share of the paths for which the drafter has no state to tell
    strictness: float = 1.0  # of the judge: 0 lets nothing stand
    provisional_s: float = 0.0  # the device asks the edge to hold its own tokens back so long


# ---- targets ----


def seeded_target(rows: Sequence[int], sampling: Sampling, path: Sequence[int]) -> int:
    """Choose from logits that depend on every row of the cache."""
    return choose(seeded_row(rows), sampling, VOCABULARY, path)


def seeded_row(rows: Sequence[int]) -> NDArray[np.float32]:
    """Return logits, [V], that depend on every row of the cache."""
    noise = blake2b(repr(tuple(rows)).encode(), digest_size=VOCABULARY).digest()
    return np.frombuffer(noise, dtype=np.uint8).astype(np.float32) / np.float32(32)


def looked_up(path: Sequence[int]) -> int | None:
    """Return what followed the last place where the path's end stood before."""
    drafter = NgramDrafter()
    drafter.learn(path)
    return next(iter(drafter.propose(path, 1, lambda: False)), None)


def target(rows: Sequence[int], sampling: Sampling, path: Sequence[int]) -> int:
    """The world's target: greedy by ``pseudo_target``, seeded by the sampler."""
    assert len(rows) == len(path)
    return pseudo_target(rows) if sampling == SAMPLINGS[0] else seeded_target(rows, sampling, path)


# ---- a trial ----


class Trial:
    """One world under faults, with its history."""

    def __init__(
        self,
        setting: Setting,
        wire: Wire | None = None,
        core: type[EdgeSession] = EdgeSession,
        ways: Ways | None = None,
    ) -> None:
        """Begin; frames pass through ``wire``, which stands for what carries them, and take as long as ``ways`` say."""
        self.setting = setting
        self.applied: Counter[str] = Counter()
        self.finish_s = 0.0  # virtual seconds from the last fault to the end
        self._memory: dict[tuple[int, ...], int] = {}
        chance = random.Random(setting.seed)
        self._sampling = replace(SAMPLINGS[setting.sampling], seed=chance.getrandbits(64) if setting.sampling else 0)
        prompt = tuple(chance.randrange(VOCABULARY) for _ in range(setting.prompt))
        stops, perfect = frozenset(setting.stops), setting.acceptance == 1.0 and not setting.near_ties
        self._meaning = (
            Meaning(setting.meaning, setting.harmless, setting.stateless, setting.strictness)
            if setting.meaning
            else None
        )
        near_ties, stands = setting.near_ties > 0, self._stands if self._meaning else None
        model = Model(prompt, stops, setting.max_tokens, self._choices, near_ties, stands)
        self.history = History(model, perfect=perfect, longest_pass_s=setting.pass_s)
        wire = with_siblings(wire or Wire()) if setting.siblings else wire or Wire()

        def made(opened: Open, limits: Limits, receipts: ReceiptKey | None, clock: Clock) -> EdgeSession:
            rule = RunAhead(clock) if setting.run_ahead else None
            own = setting.own_draft_tokens
            granted, judge = self._meaning.grant(opened) if self._meaning else (EXACT, None)
            return core(
                opened,
                limits,
                receipts,
                own_draft_tokens=own,
                run_ahead=rule,
                bonus=setting.bonus,
                granted=granted,
                judge=judge,
                clock=clock,
            )

        own_draft = looked_up if setting.own_lookup else None
        self.world = World(
            self._scene(prompt), self._choose, self._draft, self.history, wire, made, own_draft, ways, self._row,
            self._meaning.evidence if self._meaning else None, self._meaning.state if self._meaning else None,
        )  # fmt: skip
        self._guarded(self.world.begin)

    def _scene(self, prompt: tuple[int, ...]) -> Scene:
        setting = self.setting
        names = tuple(f"edge-{index}:7400" for index in range(setting.edges))
        credits = [setting.live_nodes, *[setting.live_nodes_elsewhere] * (setting.edges - 1)]
        limits = [
            Limits(
                4096,
                live_nodes=count * (2 if setting.siblings else 1),
                ahead_tokens=setting.ahead_tokens,
                prefix_chunk_tokens=setting.chunk,
            )
            for count in credits
        ]
        plan = Plan(
            setting.draft_length,
            setting.outstanding,
            setting.ahead,
            setting.first_alone,
            setting.split,
            provisional_s=setting.provisional_s,
        )
        session_id = setting.seed.to_bytes(16, "little")
        wish = Wish(
            session_id, IDENTITY, prompt, self._sampling, setting.stops, setting.max_tokens, plan, names,
            setting.give_up_s, setting.rests, self._meaning.asked if self._meaning else None,
        )  # fmt: skip
        secrets = [(b"", b"s" * 32, b"s" * 32)[setting.keys]] * setting.edges
        if setting.keys == 2:
            secrets[0], secrets[-1] = b"o" * 32, b""
        edges = [EdgePlan(*plan) for plan in zip(limits, secrets, strict=True)]
        return Scene(setting.seed, wish, tuple(edges), setting.delay_s, setting.pass_s, setting.clock_offset_s)

    # ---- both models ----

    def _next(self, path: Sequence[int]) -> int:
        key = tuple(path)
        token = self._memory.get(key)
        if token is None:
            token = self._memory[key] = target(key, self._sampling, key)
        return token

    def _choices(self, path: Sequence[int]) -> tuple[int, ...]:
        """Return what one edge or another takes after a path: the same, but for near ties."""
        token = self._next(path)
        return (token, (token + 1) % VOCABULARY) if share(b"tie", path) < self.setting.near_ties else (token,)

    def _choose(self, edge: str, rows: Sequence[int], sampling: Sampling, path: Sequence[int]) -> int:
        """The target; what it is asked under the session's own settings and path is remembered."""
        must(len(rows) == len(path), "crash", "rows and path of a pass differ in length")
        path_is_due = penalised(sampling) and tuple(path) != tuple(rows)
        if sampling != self._sampling or path_is_due:
            return target(rows, sampling, path)
        choices = self._choices(rows)
        return choices[int(share(edge.encode(), rows) * len(choices))]

    def _row(self, edge: str, rows: Sequence[int], sampling: Sampling, path: Sequence[int]) -> TargetRow:
        """Return logits, [V], of which an edge makes its choice: the target's own, but for near ties."""
        token = self._choose(edge, rows, sampling, path)
        if sampling != SAMPLINGS[0] and token == target(rows, sampling, path):
            return TargetRow.of(seeded_row(rows))
        return TargetRow.of(np.where(np.arange(VOCABULARY) == token, 1e4, 0.0).astype(np.float32))

    def _draft(self, path: Sequence[int]) -> int | None:
        """The device's drafter."""
        setting = self.setting
        if setting.mute_every and sum(path) % setting.mute_every == 0:
            return None
        agrees = share(b"draft", path) < setting.acceptance
        return self._next(path) if agrees else (self._next(path) + 1) % VOCABULARY

    def _stands(self, path: Sequence[int]) -> bool:
        """Say whether the last id of a path was drafted there and may stand in place of the target's own."""
        assert self._meaning is not None
        *before, token = path
        stops = self.setting.stops
        ends = token in stops or any(choice in stops for choice in self._choices(before))
        return not ends and token == self._draft(before) and self._meaning.may_stand(path)

    # ---- what is done ----

    def do(self, pause: int, fault: Callable[[], bool]) -> bool:
        """Let so many events pass, then a fault happen; say whether it hit a text in the making. Raises Caught."""
        return bool(self._guarded(lambda: self._do(pause, fault)))

    def _do(self, pause: int, fault: Callable[[], bool]) -> bool:
        self.world.agenda.run(events=pause)
        self.revive()
        return bool(self.world.running) and not self.world.finished and fault()

    def revive(self) -> None:
        """Let the user start the program again where it ended without the text."""
        world = self.world
        if not world.running and not world.finished:
            world.start_device(world.devices[-1].journal, world.devices[-1].wish)

    def settle(self) -> None:
        """Stop all faults; the text must be finished. Raises Caught."""
        self._guarded(self._settle)

    def _settle(self) -> None:
        world = self.world
        dead = self.edge(setting.seed) if (setting := self.setting).dies else None
        world.calm(dead=dead)
        start = world.agenda.now
        while world.running or not world.finished:
            self.revive()
            world.agenda.run(seconds=0.25)
            self.finish_s = world.agenda.now - start
            must(self.finish_s < FINISH_S, "finishes", f"no end {FINISH_S:.0f} s after the last fault")
        world.agenda.run(seconds=3.0)
        self.history.over(world.devices)

    def _guarded(self, happen: Callable[[], object]) -> object:
        try:
            return happen()
        except Caught:
            raise
        except Exception as error:
            raise Caught("crash", f"{type(error).__name__}: {error}") from error

    def edge(self, number: int) -> str:
        """Return the name of an edge."""
        return list(self.world.edges)[number % len(self.world.edges)]
