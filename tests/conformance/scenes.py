"""The scenes of the recorded sessions (DESIGN §4 and §10). Each gives one recording a core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from airdraft.core.types import NeedPrefix, Opened, Origin, Prefix, RefusalCode, Refused, Sampling, StopReason
from airdraft.link.virtual_time import constant
from tests.conformance import scenes_going_on, scenes_meaning, scenes_receipts, scenes_split
from tests.conformance.kit import VERSION, Json
from tests.conformance.recording import LIMITS, PROMPT, HandDevice, HandEdge, Scene, setup_of
from tests.core.worlds import VOCABULARY, alone, noisy_draft

Files = dict[str, Json]


def files() -> Files:
    """Return every recording by its name: scene, then core."""
    found: Files = {}
    for name, scene in SCENES.items():
        for core, content in scene().items():
            kind = f"{core.split('-')[0]}-session"
            about = " ".join((scene.__doc__ or "").split())
            found[f"{name}.{core}.json"] = {"kind": kind, "version": VERSION, "about": about} | content
    return found


def _right(prompt: Sequence[int] = PROMPT, count: int = 60) -> list[int]:
    return alone(prompt, count)


def _wrong(token: int) -> int:
    return (token + 1) % VOCABULARY


def _knowing(path_length_of_miss: int | None = None) -> Callable[[Sequence[int]], int]:
    """Return a drafter that is right but at one position."""
    right = _right()

    def draft(path: Sequence[int]) -> int:
        token = right[len(path)]
        missed = len(path) == path_length_of_miss
        return _wrong(token) if missed or list(path) != right[: len(path)] else token

    return draft


# ---- both cores under the virtual clock ----


def synchronous() -> Files:
    """One frame in flight: drafts are accepted, missed and extended, to the most tokens."""
    scene = Scene(setup_of(), noisy_draft(0.7))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def seeded() -> Files:
    """Settings other than the defaults travel in Open; with penalties the edge's pass knows its paths."""
    sampling = Sampling(0.8, (1 << 64) - 1, 40, 0.95, 0.05, 1.1, 0.5, 0.25)
    scene = Scene(setup_of(sampling=sampling, max_tokens=8), noisy_draft(0.7))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def pipelined() -> Files:
    """Three frames in flight over a long round trip; the miss in one of them kills all that flew under it."""
    setup = setup_of(draft_length=3, outstanding=3, max_tokens=24)
    scene = Scene(setup, _knowing(11), up=constant(0.05), down=constant(0.05))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def _credits(count: int) -> Files:
    limits = replace(LIMITS, live_nodes=count)
    setup = setup_of(draft_length=4, outstanding=3, max_tokens=12, limits=limits)
    scene = Scene(setup, noisy_draft(0.7))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def credits_1() -> Files:
    """One live node is granted: frames are shorter than planned, and the text still ends."""
    return _credits(1)


def credits_3() -> Files:
    """Three live nodes are granted, frames of four are planned, three outstanding."""
    return _credits(3)


def acks_only() -> Files:
    """A device that drafts nothing under ahead_tokens of 1: idle once, then an empty draft for every token."""
    limits = replace(LIMITS, ahead_tokens=1)
    scene = Scene(setup_of(draft_length=0, max_tokens=8, limits=limits), noisy_draft(0.7))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def lone_acks() -> Files:
    """A device that drafts nothing under ahead_tokens of 8: it acks when half of them are unacked."""
    limits = replace(LIMITS, ahead_tokens=8)
    setup = setup_of(draft_length=0, max_tokens=24, limits=limits)
    scene = Scene(setup, noisy_draft(0.7), up=constant(0.03), down=constant(0.03))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def exhausted_drafter() -> Files:
    """A drafter that has nothing to say at some lengths: short frames, then idle, then drafts again."""

    def draft(path: Sequence[int]) -> int | None:
        return None if len(path) % 5 == 0 else _knowing()(path)

    scene = Scene(setup_of(draft_length=4, max_tokens=16), draft)
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def drafts_before_prefix() -> Files:
    """The device says no prefix follows, the edge lacks it: drafts are kept until it is complete."""
    scene = Scene(setup_of(max_tokens=12, draft_length=3, outstanding=2), noisy_draft(0.8), up=constant(0.02))
    scene.pair.attach(1, with_prefix=False)
    scene.pair.run()
    return scene.files()


def prompt_in_chunks() -> Files:
    """A prompt of 20 in chunks of 6."""
    limits = replace(LIMITS, prefix_chunk_tokens=6)
    prompt = [(7 * index) % VOCABULARY for index in range(20)]
    scene = Scene(setup_of(prompt, max_tokens=8, limits=limits), noisy_draft(0.7))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def long_prompt() -> Files:
    """A prompt of 600, prefilled in more than one pass."""
    limits = replace(LIMITS, prefix_chunk_tokens=256)
    prompt = [(7 * index) % VOCABULARY for index in range(600)]
    scene = Scene(setup_of(prompt, max_tokens=4, limits=limits), noisy_draft(0.7))
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def stop_id() -> Files:
    """The drafter writes the stop id and nothing after it; the text ends there."""
    right = _right()
    scene = Scene(setup_of(stop_ids=(right[12], 49), max_tokens=40), _knowing())
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def max_tokens_1() -> Files:
    """One token is asked for: nothing is drafted."""
    scene = Scene(setup_of(max_tokens=1), _knowing())
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def max_tokens_0() -> Files:
    """No token is asked for: the edge answers with a commit without ids."""
    scene = Scene(setup_of(max_tokens=0), _knowing())
    scene.pair.attach(1)
    scene.pair.run()
    return scene.files()


def reattach_same_edge() -> Files:
    """The link is cut with commits in the air; the edge kept all and repeats what the device missed."""
    setup = setup_of(draft_length=3, outstanding=3, max_tokens=20)
    scene = Scene(setup, noisy_draft(0.8), up=constant(0.04), down=constant(0.04))
    scene.pair.attach(1)
    scene.pair.run(seconds=0.17)
    scene.pair.cut()
    scene.pair.run(seconds=0.1)
    scene.pair.attach(2, with_prefix=False)
    scene.pair.run(seconds=0.1)
    scene.pair.cut()
    scene.pair.attach(3, with_prefix=True)
    scene.pair.run()
    return scene.files()


def reattach_new_edge() -> Files:
    """The edge is lost; another asks for the prefix from 0 and goes on with the same text."""
    setup = setup_of(draft_length=3, outstanding=2, max_tokens=20)
    scene = Scene(setup, noisy_draft(0.8), up=constant(0.03), down=constant(0.03))
    scene.pair.attach(1)
    scene.pair.run(seconds=0.2)
    scene.pair.cut()
    scene.pair.replace_edge()
    scene.pair.attach(2, with_prefix=False)
    scene.pair.run()
    return scene.files()


def lost_last_commit() -> Files:
    """The commit that ends the text is lost; after re-attaching the edge repeats it with its stop reason."""
    scene = Scene(setup_of(max_tokens=6), _knowing(), up=constant(0.03), down=constant(0.03))
    scene.pair.attach(1)
    while not (scene.pair.edge and scene.pair.edge.committed_length == 9):
        scene.pair.run(events=1)
    scene.pair.cut()
    scene.pair.attach(2, with_prefix=False)
    scene.pair.run()
    return scene.files()


def _evicted(*, ids_too: bool) -> Files:
    scene = Scene(setup_of(draft_length=3, outstanding=2, max_tokens=16), noisy_draft(0.8))
    scene.pair.attach(1)
    for length in (7, 13):
        while not (edge := scene.pair.edge) or edge.committed_length < length or edge.in_flight:
            scene.pair.run(events=1)
        scene.pair.evict(ids_too=ids_too)
    scene.pair.run()
    return scene.files()


def evicted_rows() -> Files:
    """The edge's cache is taken away twice: the next pass reads the text again; the device sees nothing of it."""
    return _evicted(ids_too=False)


def evicted_ids() -> Files:
    """The edge's ids are taken away twice in mid-stream: it asks for the prefix and keeps its live drafts."""
    return _evicted(ids_too=True)


def caller_stops() -> Files:
    """The caller stops in the middle (a stop string, say): Finish, and nothing after it."""
    scene = Scene(setup_of(), noisy_draft(0.8))
    scene.pair.attach(1)
    scene.pair.run(seconds=0.12)
    scene.pair._device_does(scene.device.finish(len(scene.device.ids) - 1))
    scene.pair.run()
    return scene.files()


# ---- a device by hand ----


def _device(hand: HandDevice) -> Files:
    return {"device": hand.tape.content()}


def overtaken_device() -> Files:
    """Commits that overtake all that the device drafted, agree with a part of it, and contradict it.

    What an overtaken drafter had written past a commit that agrees goes up.
    """
    right = _right()
    hand = HandDevice(setup_of(draft_length=4, outstanding=2))
    hand.attach()
    hand.drafted(right[3:5])
    hand.received(Opened(1, 0, 3, LIMITS))
    hand.commit(right[3:9])
    begun = len(hand.tape.steps) - 1
    hand.commit(right[9:10])  # the drafter is at work on what this commit makes void
    hand.drafted(right[9:13], step=begun)
    half = len(hand.tape.steps) - 1
    hand.commit(right[10:12], Origin.ACCEPTED, seq=2)  # agrees: the work goes on
    hand.drafted(right[13:17], step=half)
    hand.commit([right[12], _wrong(right[13])], Origin.RECOVERED, seq=3)
    return _device(hand)


def refused_frame() -> Files:
    """A refusal with a seq that does not end the stream: the frame and all under it die, what was before it lives."""
    right = _right()
    hand = HandDevice(setup_of(draft_length=2, outstanding=3))
    hand.attach()
    for at in (3, 5, 7):
        hand.drafted(right[at : at + 2])
    hand.received(Refused(1, RefusalCode.RETRY_LATER, "no room now", "ids", 0.5, seq=2, ends_stream=False))
    hand.drafted(right[5:7])
    hand.received(Refused(1, RefusalCode.RETRY_LATER, "no room now", "ids", 0.5, seq=9, ends_stream=False))
    hand.commit(right[3:8], Origin.ACCEPTED, seq=4)
    return _device(hand)


def wrong_path_hash() -> Files:
    """A commit whose path hash is not that of its ids: a fault; the text stays, and goes on at another edge."""
    right = _right()
    hand = HandDevice(setup_of(draft_length=3))
    hand.attach()
    hand.drafted(right[3:6])
    hand.received(Opened(1, 0, 3, LIMITS))
    hand.commit(right[3:5], Origin.ACCEPTED, seq=1)
    hand.commit(right[5:7], hashed=b"\x00" * 8)
    hand.tape.apply({"detached": {}})
    hand.attach(2)
    hand.received(Opened(2, 0, 5, LIMITS))
    hand.commit(right[5:8], Origin.ACCEPTED, epoch=2, seq=1)
    return _device(hand)


def edge_faults() -> Files:
    """What an edge must not say: another base, too much, nothing at all, a question past the text. The text stays."""
    right = _right()
    hand = HandDevice(setup_of(draft_length=0, max_tokens=4))
    hand.attach()
    hand.received(Opened(1, 0, 3, LIMITS))
    hand.commit(right[3:4], base=4)
    hand.commit(right[3:4], base=2)
    hand.commit(right[3:8])
    hand.commit([])
    hand.received(NeedPrefix(1, 4))
    hand.received(NeedPrefix(1, 1))
    hand.commit(right[3:7], stop=StopReason.MAX_TOKENS)
    return _device(hand)


def false_ends() -> Files:
    """A commit that ends where the text does not, or for another reason, or goes on past an end: all are faults."""
    right = _right()
    hand = HandDevice(setup_of(draft_length=0, max_tokens=4, stop_ids=(right[5],)))
    hand.attach()
    hand.commit(right[3:4], stop=StopReason.STOP_TOKEN)
    hand.commit(right[3:4], stop=StopReason.MAX_TOKENS)
    hand.commit([], stop=StopReason.MAX_TOKENS)
    hand.commit(right[3:6])  # the stop id, and the text goes on
    hand.commit(right[3:6], stop=StopReason.MAX_TOKENS)
    hand.commit(right[3:7], stop=StopReason.MAX_TOKENS)  # the stop id inside
    hand.commit([*right[3:5], _wrong(right[5]), 1])  # the most tokens, and the text goes on
    hand.commit(right[3:6], stop=StopReason.STOP_TOKEN)
    return _device(hand)


def device_epochs() -> Files:
    """Frames of another epoch are dropped, also while detached; refusals that end the stream, the last by a twin."""
    right = _right()
    hand = HandDevice(setup_of(draft_length=2))
    hand.attach(3)
    hand.commit(right[3:5], epoch=2)
    hand.received(Opened(4, 0, 3, LIMITS))
    hand.received(Refused(3, RefusalCode.STALE_EPOCH, "attach with a higher one", "epoch", highest_epoch=7))
    hand.commit(right[3:5], epoch=3)
    hand.attach(8, with_prefix=False)
    hand.received(NeedPrefix(8, 0))
    hand.drafted(right[3:5])
    hand.commit(right[3:5], Origin.ACCEPTED, epoch=8, seq=1)
    hand.received(Refused(8, RefusalCode.SUPERSEDED, "a newer stream took this session", highest_epoch=9))
    return _device(hand)


def new_limits() -> Files:
    """Opened brings smaller limits than the device assumed, another edge brings larger ones."""
    right = _right()
    hand = HandDevice(setup_of(draft_length=4, outstanding=2))
    hand.attach()
    hand.drafted(right[3:7])
    hand.received(Opened(1, 0, 3, replace(LIMITS, live_nodes=7, frame_nodes=2, ahead_tokens=4)))
    hand.drafted(right[7:9])
    hand.commit(right[3:7], Origin.ACCEPTED, seq=1)
    hand.drafted(right[9:11])
    hand.tape.apply({"detached": {}})
    hand.attach(2, with_prefix=False)
    hand.received(Opened(2, 0, 7, LIMITS))
    return _device(hand)


# ---- an edge by hand ----


def _edge(hand: HandEdge) -> Files:
    return {"edge": hand.tape.content()}


def stale_and_behind() -> Files:
    """Drafts whose base is behind the committed end: the rest lives, or the frame is stale, or wholly overtaken."""
    right = _right()
    hand = HandEdge()
    hand.open()
    hand.passed()
    hand.draft(right[:3], right[3:7])  # behind: the first of four is committed
    hand.passed()
    hand.draft(right[:5], [_wrong(right[5]), 7, 8], acked=5)  # stale
    hand.draft(right[:6], right[6:8], acked=6)  # overtaken
    hand.draft([*right[:7], _wrong(right[7])], [1, 2], acked=7)  # under a node that the text contradicts
    hand.draft([*right[:8], 48], [1, 2], acked=8)  # under a node that never was
    hand.draft(right[:8], right[8:10], acked=8)
    hand.draft(right[:10], [*right[10:12], _wrong(right[12])], acked=8)  # under the frame before, which is at work
    hand.draft(right[:8], right[8:11], acked=8)  # three nodes that are live already
    hand.passed()
    hand.passed()
    hand.draft(right[:13], [], acked=13, idle=True)  # an idle device: the edge decodes by itself
    hand.passed()
    return _edge(hand)


def stop_in_draft() -> Files:
    """A stop id in the middle of a draft that is right to its end: nothing after it is committed."""
    right = _right()
    hand = HandEdge(stop_ids=(right[6],), max_tokens=40)
    hand.open()
    hand.passed()
    hand.draft(right[:4], right[4:12])
    hand.passed()
    hand.finish(7)
    return _edge(hand)


def max_tokens_in_draft() -> Files:
    """Max tokens in the middle of a draft that is right to its end."""
    right = _right()
    hand = HandEdge(max_tokens=5)
    hand.open()
    hand.draft(right[:3], right[3:13], acked=3)
    hand.passed()
    if hand.tape.work is not None:
        hand.passed()
    hand.finish(8)
    return _edge(hand)


def tree() -> Files:
    """A tree with two first candidates: the branch that is the target's is followed, and its rows are gathered."""
    right = _right()
    hand = HandEdge()
    hand.open()
    hand.passed()
    other = _wrong(right[4])
    hand.draft(right[:4], (other, right[4], 9, right[5], right[6]), parents=(-1, -1, 0, 1, 3))
    hand.passed()
    hand.draft(right[:8], right[8:10])
    hand.passed()
    hand.draft(right[:11], (right[11], _wrong(right[11]), right[12], _wrong(right[12])), parents=(-1, -1, 0, 0))
    hand.passed()
    return _edge(hand)


def frames_under_nodes() -> Files:
    """Frames that hang under any node of an earlier frame; a node already live is the same node."""
    right = _right()
    hand = HandEdge()
    hand.open()
    first = _wrong(right[6])
    hand.draft(right[:3], [*right[3:6], first], acked=3)
    hand.draft(right[:6], right[6:8], acked=3)
    hand.draft(right[:5], [right[5], (right[6] + 2) % VOCABULARY], acked=3)
    hand.draft([*right[:3], 49, 48], [1], acked=3)
    hand.passed()
    if hand.tape.work is not None:
        hand.passed()
    return _edge(hand)


def edge_epochs() -> Files:
    """A newer stream supersedes; an open not above the highest epoch is stale; passes and frames of another drop."""
    right = _right()
    hand = HandEdge()
    hand.open(epoch=2)
    hand.open(epoch=4, prefix=False)  # the pass of epoch 2 is still at work
    hand.passed()
    hand.draft(right[:3], right[3:5], epoch=2, acked=3)
    hand.leave(2)
    hand.open(epoch=4, prefix=False)
    hand.open(epoch=3, prefix=False)
    hand.draft(right[:3], right[3:5], epoch=4, acked=3)
    hand.passed()
    if hand.tape.work is not None:
        hand.passed()
    hand.finish(3, epoch=2)
    hand.finish(6, epoch=4)
    return _edge(hand)


def new_settings() -> Files:
    """A session is re-opened with other settings, which is refused, and then as it was."""
    hand = HandEdge()
    hand.open()
    hand.passed()
    hand.leave()
    hand.open(epoch=2, prefix=False, sampling=Sampling(temperature=1.0))
    hand.open(epoch=2, prefix=False, max_tokens=25)
    hand.open(_right()[:4], epoch=2, prefix=False)
    return _edge(hand)


def too_long() -> Files:
    """Prompt and answer pass the edge's context; then they fit."""
    hand = HandEdge(limits=replace(LIMITS, context_tokens=16), max_tokens=13)
    hand.open(prefix=False, max_tokens=14)
    hand.open(epoch=2)
    return _edge(hand)


def _ends(spoil: Callable[[HandEdge, list[int]], Json]) -> Files:
    right = _right()
    hand = HandEdge(limits=replace(LIMITS, live_nodes=4, frame_nodes=6))
    hand.open()
    hand.passed()
    hand.draft(right[:4], right[4:6])
    hand.passed()
    spoil(hand, right)
    hand.draft(right[:7], right[7:8], acked=7)  # the stream has ended
    hand.open(right[:7], epoch=2, prefix=False)
    return _edge(hand)


def seq_gap() -> Files:
    """A seq that is not the next one ends the stream; the session goes on in the next epoch."""
    return _ends(lambda hand, right: hand.draft(right[:7], right[7:8], seq=3))


def seq_repeated() -> Files:
    """A seq that was used ends the stream; the session goes on in the next epoch."""
    return _ends(lambda hand, right: hand.draft(right[:7], right[7:8], seq=1))


def ack_falls() -> Files:
    """An ack that falls ends the stream."""
    return _ends(lambda hand, right: hand.draft(right[:3], [], acked=3))


def ack_too_far() -> Files:
    """An ack past the committed end ends the stream."""
    return _ends(lambda hand, right: hand.draft(right[:8], [], acked=8))


def credits_exceeded() -> Files:
    """One live node more than granted ends the stream."""
    return _ends(lambda hand, right: hand.draft(right[:7], right[7:12]))


def superfluous_prefix() -> Files:
    """A prefix that nobody asked for, longer than the text, is superfluous: the stream goes on."""
    return _ends(lambda hand, right: hand.received(Prefix(1, 0, tuple(right[:9]))))


def prefix_from_middle() -> Files:
    """A re-attach whose digest does not fit what the edge has: it cuts back to the last ack and asks from there."""
    right = _right()
    hand = HandEdge()
    hand.open()
    hand.passed()
    hand.draft(right[:4], right[4:8])
    hand.passed()
    hand.leave()
    other = [*right[:4], _wrong(right[4]), 7]
    hand.open(other, epoch=2, prefix=False)
    hand.draft(other, [8, 9], epoch=2, acked=6)  # kept until the prefix is complete
    hand.received(Prefix(2, 6, (1,)))  # begins past what is there: not the answer
    hand.received(Prefix(2, 4, (other[4],)))
    hand.received(Prefix(2, 5, (other[5],)))
    hand.passed()
    return _edge(hand)


def prefix_from_zero() -> Files:
    """The prefix does not have the digest even after the rest came: the edge asks from 0, then refuses."""
    right = _right()
    hand = HandEdge()
    hand.open()
    hand.passed()
    hand.draft(right[:4], [], acked=4)
    hand.leave()
    other = [9, *right[1:4], 7]
    hand.open(other, epoch=2, prefix=False)
    hand.received(Prefix(2, 4, (7,)))
    hand.received(Prefix(2, 0, tuple(other)))
    hand.leave(2)
    hand.open(other, epoch=3, prefix=False, digest=bytes(32))
    hand.received(Prefix(3, 5, ()))  # begins past what is there
    hand.received(Prefix(3, 0, tuple(other)))
    return _edge(hand)


def prefix_mismatch() -> Files:
    """A first prefix without the digest that Open promised is refused."""
    hand = HandEdge()
    hand.open(digest=bytes(32))
    return _edge(hand)


def prefix_too_long() -> Files:
    """A prefix longer than Open promised is refused."""
    hand = HandEdge()
    hand.open(prefix=False)
    hand.received(Prefix(1, 0, (1, 2, 3, 4)))
    return _edge(hand)


def evicted_under_drafts() -> Files:
    """Rows, then ids are lost while a draft is live; what comes back must lead to the path hash that was kept."""
    right = _right()
    hand = HandEdge()
    hand.open()
    hand.passed()
    hand.evict()
    hand.draft(right[:4], right[4:7])
    hand.passed()
    hand.evict(ids_too=True)
    hand.draft(right[:8], right[8:10])
    hand.received(Prefix(1, 0, tuple(right[:5])))
    hand.received(Prefix(1, 5, tuple(right[5:8])))
    hand.passed()
    hand.evict(ids_too=True)
    hand.received(Prefix(1, 0, (9, *right[1:11])))
    return _edge(hand)


SCENES: dict[str, Callable[[], Files]] = {
    scene.__name__.replace("_", "-"): scene
    for scene in (
        synchronous,
        seeded,
        pipelined,
        credits_1,
        credits_3,
        acks_only,
        lone_acks,
        exhausted_drafter,
        drafts_before_prefix,
        prompt_in_chunks,
        long_prompt,
        stop_id,
        max_tokens_1,
        max_tokens_0,
        reattach_same_edge,
        reattach_new_edge,
        lost_last_commit,
        evicted_rows,
        evicted_ids,
        caller_stops,
        overtaken_device,
        refused_frame,
        wrong_path_hash,
        edge_faults,
        false_ends,
        device_epochs,
        new_limits,
        stale_and_behind,
        stop_in_draft,
        max_tokens_in_draft,
        tree,
        frames_under_nodes,
        edge_epochs,
        new_settings,
        too_long,
        seq_gap,
        seq_repeated,
        ack_falls,
        ack_too_far,
        credits_exceeded,
        superfluous_prefix,
        prefix_from_middle,
        prefix_from_zero,
        prefix_mismatch,
        prefix_too_long,
        evicted_under_drafts,
        *scenes_going_on.SCENES,
        *scenes_receipts.SCENES,
        *scenes_split.SCENES,
        *scenes_meaning.SCENES,
    )
}
