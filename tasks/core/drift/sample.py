"""A seeded sample of distinct texts from a stream of any length, in memory that does not grow with it."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from hashlib import blake2b


class Sample:
    """Keeps the `size` texts whose keyed hashes are the smallest: an even draw among the distinct ones.

    Which texts those are depends on seed and texts alone, not on their order or how often each comes; below `size`
    distinct texts it has them all.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._key = seed.to_bytes(8, "little", signed=True)
        self._heap: list[tuple[int, str]] = []  # hashes negated: the largest first
        self._kept: set[str] = set()

    def add(self, texts: Iterable[str]) -> None:
        """Offer texts."""
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
        """The texts kept, in alphabetical order."""
        return sorted(self._kept)
