"""Draw a seeded sample of distinct texts from a stream of any length, in constant memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from hashlib import blake2b


class Sample:
    """Keep the `size` texts with the smallest keyed hashes: a uniform draw among distinct texts.

    The sample depends only on the seed and the set of texts, not on their order or frequency. With fewer than `size`
    distinct texts it contains all of them.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._key = seed.to_bytes(8, "little", signed=True)
        self._heap: list[tuple[int, str]] = []  # negated hashes: the largest hash first
        self._kept: set[str] = set()

    def add(self, texts: Iterable[str]) -> None:
        """Add texts to the draw."""
        for text in texts:
            if text in self._kept:
                continue
            rank = -int.from_bytes(blake2b(text.encode(), digest_size=8, key=self._key).digest())
            if len(self._heap) < self.size:
                heapq.heappush(self._heap, (rank, text))
            elif rank > self._heap[0][0]:
                self._kept.discard(heapq.heapreplace(self._heap, (rank, text))[1])
            else:
                continue
            self._kept.add(text)

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def texts(self) -> list[str]:
        """The sampled texts, in alphabetical order."""
        return sorted(self._kept)
