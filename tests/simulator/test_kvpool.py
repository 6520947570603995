"""The counting KV pool against a list of single blocks (docs/engine.md, "KV blocks and the prefix cache")."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.kvpool import KVPool

Key = tuple[object, int]


@dataclass
class BlockList:
    """One entry a block: the free queue, who holds what, and under which key a block can be found."""

    total: int
    queue: list[int] = field(default_factory=list)
    key_of: dict[int, Key] = field(default_factory=dict)
    found_at: dict[Key, int] = field(default_factory=dict)
    holders: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.queue = list(range(self.total))

    def forget(self, block: int) -> None:
        key = self.key_of.pop(block, None)
        if key is not None:
            del self.found_at[key]

    def name(self, block: int, key: Key) -> None:
        self.forget(block)
        self.key_of[block] = key
        self.found_at[key] = block

    def take(self, count: int) -> list[int]:
        taken, self.queue = self.queue[:count], self.queue[count:]
        assert len(taken) == count
        for block in taken:
            self.forget(block)
            self.holders[block] = 1
        return taken

    def find(self, keys: list[Key]) -> list[int]:
        found = []
        for key in keys:
            if key not in self.found_at:
                break
            found.append(self.found_at[key])
        return found

    def admit(
        self, chain_keys: list[Key], own_keys: list[Key], count: int, watermark: int
    ) -> tuple[int, list[int]] | None:
        found = self.find(chain_keys + own_keys)
        unheld = [block for block in found if not self.holders[block]]
        if count - len(found) + len(unheld) + watermark > len(self.queue):
            return None
        for block in unheld:
            self.queue.remove(block)
        for block in found:
            self.holders[block] += 1
        blocks = found + self.take(count - len(found))
        for block in found[len(chain_keys) :]:
            self.forget(block)  # its own again, until the next preemption
        for block, key in zip(blocks, chain_keys, strict=False):
            if self.found_at.get(key) != block:
                self.name(block, key)
        return len(found), blocks

    def release(self, blocks: list[int], chained: int, own: object | None, computed: int) -> None:
        for i in reversed(range(len(blocks))):
            block = blocks[i]
            self.holders[block] -= 1
            if self.holders[block]:
                continue
            if i >= computed:
                self.forget(block)
            elif i >= chained and own is not None:
                self.name(block, (own, i - chained))
            self.queue.append(block)


@dataclass
class Live:
    request: int
    chain: list[tuple[int, int]]
    blocks: list[int]
    hits: int
    in_prefill: bool

    @property
    def chained(self) -> int:
        return sum(size for _, size in self.chain)


def keys_of(chain: list[tuple[int, int]]) -> list[Key]:
    return [(key, i) for key, size in chain for i in range(size)]


@st.composite
def chains(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    """Chains of (key, blocks) as the engine makes them: a key stands for everything up to it, with its size."""
    names: dict[tuple[int, int, int], int] = {}
    made = []
    for _ in range(draw(st.integers(1, 6))):
        chain, parent = [], -1
        for unit, size in draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), max_size=3)):
            parent = names.setdefault((parent, unit, size), len(names))
            chain.append((parent, size))
        made.append(chain)
    return made


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 30), chains(), st.data())
def test_pool_counts_what_a_list_of_blocks_holds(total: int, requests: list, data: st.DataObject) -> None:
    pool, model = KVPool(total, 4), BlockList(total)
    live: list[Live] = []
    waiting = dict.fromkeys(range(len(requests)), 0)  # request -> blocks after the chain that it had computed at most
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["admit", "admit", "grow", "finish", "preempt"]))
        if action == "admit" and waiting:
            request = data.draw(st.sampled_from(sorted(waiting)))
            chain = requests[request]
            own_keys: list[Key] = [(-1 - request, i) for i in range(waiting[request])]
            tail = data.draw(st.integers(len(own_keys) + 1, len(own_keys) + 5))
            count, watermark = sum(size for _, size in chain) + tail, data.draw(st.integers(0, 3))
            for other in live:
                other.in_prefill = False  # nobody joins before a prompt is complete
            assert pool.find(chain, -1 - request) == len(model.find(keys_of(chain) + own_keys))
            found = pool.admit(chain, -1 - request, count, watermark)
            admitted = model.admit(keys_of(chain), own_keys, count, watermark)
            if admitted is None:
                assert found == -1
            else:
                assert found == admitted[0]
                live.append(Live(request, chain, admitted[1], found, True))
                del waiting[request]
        elif action == "grow" and live:
            seq = data.draw(st.sampled_from(live))
            room = data.draw(st.integers(0, 3))
            if room <= pool.free:
                pool.take(room)
                seq.blocks += model.take(room)
                seq.in_prefill = seq.in_prefill and not room
        elif action in ("finish", "preempt") and live:
            seq = live.pop(data.draw(st.integers(0, len(live) - 1)))
            least = seq.hits if seq.in_prefill else max(seq.chained, len(seq.blocks) - 1)
            computed = data.draw(st.integers(min(least, len(seq.blocks)), len(seq.blocks)))
            own = -1 - seq.request if action == "preempt" else None
            pool.release(seq.chain, own, len(seq.blocks), computed)
            model.release(seq.blocks, seq.chained, own, computed)
            if action == "preempt":
                waiting[seq.request] = max(0, computed - seq.chained)
        assert pool.free == len(model.queue) and pool.used == total - pool.free
        held = {block for seq in live for block in seq.blocks}
        assert pool.used == len(held)
        for request, own_blocks in waiting.items():
            keys = keys_of(requests[request]) + [(-1 - request, i) for i in range(own_blocks)]
            assert pool.find(requests[request], -1 - request) == len(model.find(keys))
    for seq in live:
        pool.release(seq.chain, None, len(seq.blocks), len(seq.blocks))
    assert pool.free == total and pool.used == 0
    pool.take(total)  # every block can still be taken, and takes all memory with it
    assert pool.free == 0
    assert all(pool.find(chain, -1 - i) == 0 for i, chain in enumerate(requests))


def test_two_samples_share_the_prompt() -> None:
    pool = KVPool(10, 16)
    assert pool.admit([(7, 4)], -1, 5, 0) == 0
    assert pool.used == 5
    assert pool.admit([(7, 4)], -2, 6, 0) == 4
    assert pool.used == 7
    pool.release([(7, 4)], None, 5, 5)
    assert pool.used == 6  # the prompt is still held by the second
    pool.release([(7, 4)], None, 6, 5)
    assert pool.used == 0 and pool.find([(7, 4)], -3) == 4


def test_what_does_not_fit_changes_nothing() -> None:
    pool = KVPool(8, 16)
    assert pool.admit([(1, 2)], -1, 6, 0) == 0
    pool.release([(1, 2)], None, 6, 6)
    assert pool.admit([(1, 2)], -2, 8, 1) == -1  # two found blocks count as free until they are taken
    assert (pool.free, pool.find([(1, 2)], -2)) == (8, 2)
    assert pool.admit([(1, 2)], -2, 8, 0) == 2
    assert pool.free == 0


def test_least_recently_released_goes_first_and_a_prefix_loses_its_end_first() -> None:
    pool = KVPool(6, 16)
    for key in (1, 2):
        pool.admit([(key, 2)], -key, 3, 0)
    for key in (1, 2):
        pool.release([(key, 2)], None, 3, 3)
    assert (pool.find([(1, 2)], -9), pool.find([(2, 2)], -9)) == (2, 2)
    pool.take(2)  # the unfindable last block of 1, then the second block of 1's prefix
    assert (pool.find([(1, 2)], -9), pool.find([(2, 2)], -9)) == (1, 2)
    pool.take(1)
    assert (pool.find([(1, 2)], -9), pool.find([(2, 2)], -9)) == (0, 2)


def test_a_preempted_request_finds_its_own_blocks_and_nobody_else_does() -> None:
    pool = KVPool(8, 16)
    pool.admit([(1, 2)], -5, 6, 0)
    pool.release([(1, 2)], -5, 6, 5)
    assert pool.find([(1, 2)], -5) == 5
    assert pool.find([(1, 2)], -6) == 2
    assert pool.admit([(1, 2)], -5, 6, 0) == 5
    pool.release([(1, 2)], None, 6, 6)
    assert pool.find([(1, 2)], -5) == 2
