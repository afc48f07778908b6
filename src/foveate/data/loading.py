"""Items of a data set by (epoch, index), batch by batch, in this process or in others.

What an epoch sees is a function of (seed, epoch) alone.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from foveate._processes import end_with_parent
from foveate._random import derive, seed_all, undisturbed

Key = tuple[int, int]
_START = "fork" if sys.platform == "linux" else None
"""How processes begin: in one that was forked from a server, PyTorch would start another server,
which imports everything anew for each of them."""


class Epochs:
    """Which items each batch of an epoch has.

    Several processes that train one model together each have a :meth:`share` of them.

    Args:
        items: how many there are.
        batch_size: items a batch.
        seed: shuffles, and leaves out a last batch that is not full; None keeps order and all.
    """

    def __init__(self, items: int, batch_size: int, seed: int | None) -> None:
        self.items = items
        self.batch_size = min(batch_size, items)
        self.seed = seed
        self.epoch = 0
        self.rank, self.world_size = 0, 1

    def share(self, rank: int, world_size: int) -> Self:
        """What one of several processes has of the same epochs.

        Of shuffled batches it has its part of every one, so that the batches of all processes
        together are those of one alone. Of items in order it has one stretch, so that what the
        processes say of theirs, one after the other, is in order. Each item is in one share.

        Raises:
            ValueError: if there are fewer items than processes, or a batch has no equal parts.
        """
        if self.seed is None and self.items < world_size:
            raise ValueError(
                f"{self.items} images held out cannot be shared among {world_size} processes: take "
                "fewer devices"
            )
        if self.seed is not None and self.batch_size % world_size:
            raise ValueError(
                f"a batch of {self.batch_size} images cannot be shared equally among {world_size} "
                f"processes: take a multiple of {world_size}"
            )
        same = copy.copy(self)
        same.rank, same.world_size = rank, world_size
        return same

    @property
    def of_batch(self) -> slice:
        """Which items of a shuffled batch are this process's."""
        size = self.batch_size // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def _of_all(self) -> slice:
        """Which items, in order, are this process's."""
        ends = (number * self.items // self.world_size for number in range(self.world_size + 1))
        first, last = list(ends)[self.rank : self.rank + 2]
        return slice(first, last)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.seed is not None:
            return self.items // self.batch_size
        mine = self._of_all()
        return -(-(mine.stop - mine.start) // -(-self.batch_size // self.world_size))

    def begin_epoch(self) -> tuple[list[Tensor], torch.Generator]:
        """The items of each batch, every generator set, and one that decides what follows.

        That one is the same in every process; the others differ, so that what is dropped at random
        does.
        """
        generator = torch.Generator()
        if self.seed is None:
            mine = torch.arange(self.items)[self._of_all()]
            return list(mine.split(-(-self.batch_size // self.world_size))), generator
        seed_all(self.seed, self.epoch, *([0, self.rank] if self.rank else []))
        generator.manual_seed(derive(self.seed, self.epoch, 1) % 2**63)
        order = torch.randperm(self.items, generator=generator)
        return [
            batch[self.of_batch] for batch in order.split(self.batch_size)[: len(self)]
        ], generator


class KeyedLoader:
    """Loads batches of keys; the processes stay from epoch to epoch.

    Args:
        dataset: gives an item for (epoch, index).
        collate: makes a batch of a list of items.
        processes: that load; 0 for the process at hand.
    """

    def __init__(self, dataset: Dataset, collate: Callable[[list], Any], processes: int) -> None:
        self.dataset, self.collate, self.processes = dataset, collate, processes
        self._chunks: list[list[Key]] = []
        self._loader: DataLoader | None = None

    def here(self) -> KeyedLoader:
        """The same items, loaded by the process at hand."""
        return KeyedLoader(self.dataset, self.collate, 0)

    def __call__(self, chunks: list[list[Key]]) -> Iterator[Any]:
        """The batches of ``chunks``, in order."""
        if self.processes == 0:
            for chunk in chunks:
                with undisturbed():
                    batch = self.collate([self.dataset[key] for key in chunk])
                yield batch
            return
        # The list is changed in place: the loader and its processes stay.
        self._chunks[:] = chunks
        if self._loader is None:
            self._loader = DataLoader(
                self.dataset,
                batch_sampler=self._chunks,
                num_workers=self.processes,
                collate_fn=self.collate,
                persistent_workers=True,
                worker_init_fn=end_with_parent,
                multiprocessing_context=_START,
            )
        yield from self._loader
