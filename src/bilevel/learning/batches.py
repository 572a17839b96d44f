"""Batches of a data set: the same for the same seed and epoch, from any step on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    TensorDataset,
)

from bilevel.errors import ProblemError
from bilevel.learning.processes import Group

_NO_MORE = object()


class NamedTensors(Dataset):
    """Tensors by name whose first axes are the samples.

    Parameters
    ----------
    tensors
        All with first axes of the same length.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))


class Batches:
    """One pass over the data after the other.

    Parameters
    ----------
    data
        A tensor, a tuple or a mapping of tensors, a ``Dataset``, or a ``DataLoader``.
    batch_size
        Samples a batch in each process, unless a ``DataLoader`` says otherwise.
    group
        Each process gets its share of the data.
    seed
        Of the order, if samples are shuffled.
    shuffle
        Draw an order for each epoch; shares are then filled up to equal numbers of batches.
    name
        What messages call the data.
    """

    def __init__(
        self, data: Any, batch_size: int, group: Group, seed: int, shuffle: bool, name: str
    ) -> None:
        self._loader = data if isinstance(data, DataLoader) else None
        self._data: Any = data.dataset if isinstance(data, DataLoader) else _dataset(data, name)
        self._batch_size = batch_size
        self._group = group
        self._shuffle = shuffle
        self.samples = len(self._data) if hasattr(self._data, "__len__") else None
        if self.samples == 0:
            raise ProblemError(f"The {name} are empty; give at least one sample.")
        if self._loader is None:
            self._sampler = DistributedSampler(
                self._data, group.size, group.rank, shuffle=shuffle, seed=seed
            )
        elif shuffle and group.size > 1 and not _shares(self._loader):
            raise ProblemError(
                f"The {name} are a DataLoader without a DistributedSampler, so that each of the "
                f"{group.size} processes would train on all of them; give it such a sampler, or "
                f"give its dataset instead."
            )

    @property
    def steps(self) -> int | None:
        """How many batches an epoch has, if that is known."""
        if self._loader is None:
            return -(-len(self._sampler) // self._batch_size)
        return len(self._loader) if self.samples is not None else None

    @property
    def batch_size(self) -> int | None:
        """Samples a batch; ``None`` where the user's sampler decides."""
        return self._batch_size if self._loader is None else self._loader.batch_size

    @property
    def generators(self) -> list[torch.Generator]:
        """Generators of the user's own, which an epoch advances."""
        loader = self._loader
        inner = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
        found = [
            getattr(holder, "generator", None)
            for holder in (loader, getattr(loader, "sampler", None), inner)
        ]
        return list({id(one): one for one in found if one is not None}.values())

    def epoch(self, number: int, skip: int, seeded: Callable[[int], None]) -> Iterator[Any]:
        """Return the batches of an epoch but the first few.

        Parameters
        ----------
        number
            Of the epoch.
        skip
            How many batches are left out.
        seeded
            Called with 0 before the epoch and with a batch's number, from 1, before it is fetched.
        """
        seeded(0)
        loader = self._loader
        if loader is None:
            loader = self._own(number, skip)
            done = skip
        else:
            done = 0
            for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
                if isinstance(sampler, DistributedSampler):
                    sampler.set_epoch(number)
        batches = iter(loader)
        while True:
            done += 1
            seeded(done)
            batch = next(batches, _NO_MORE)
            if batch is _NO_MORE:
                return
            if done > skip:
                yield batch

    def _own(self, number: int, skip: int) -> DataLoader:
        size = self._batch_size
        if self._shuffle:
            self._sampler.set_epoch(number)
            order = list(self._sampler)[skip * size :]
        else:  # not filled up: every sample counts once
            order = range(self._group.rank, self.samples or 0, self._group.size)
        if isinstance(self._data, TensorDataset | NamedTensors):  # whole batches by one index
            return DataLoader(self._data, sampler=BatchSampler(order, size, False), batch_size=None)
        return DataLoader(self._data, batch_size=size, sampler=order)


def call(function: Callable[..., Any], batch: Any, *first: Any) -> Any:
    """Call a function with what a batch holds: by position, by name, or as it is."""
    if isinstance(batch, Mapping):
        return function(*first, **batch)
    if isinstance(batch, tuple | list):
        return function(*first, *batch)
    return function(*first, batch)


def moved(batch: Any, device: torch.device) -> Any:
    """Return a batch with its tensors on a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {name: moved(part, device) for name, part in batch.items()}
    if isinstance(batch, tuple | list):
        return [moved(part, device) for part in batch]
    return batch


def samples_of(batch: Any) -> int:
    """Return how many samples a batch has: the length of its first tensor, or one."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else 1
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(batch, Mapping | tuple | list):
        return next((samples_of(part) for part in parts if isinstance(part, Tensor)), 1)
    return 1


def _shares(loader: DataLoader) -> bool:
    inner = getattr(loader.batch_sampler, "sampler", None)
    return isinstance(loader.sampler, DistributedSampler) or isinstance(inner, DistributedSampler)


def _dataset(data: Any, name: str) -> Any:
    if isinstance(data, IterableDataset):
        raise ProblemError(f"The {name} are an IterableDataset; give a DataLoader over it.")
    if isinstance(data, Dataset):
        if not hasattr(data, "__len__"):
            raise ProblemError(f"The {name} have no length; give the Dataset a __len__.")
        return data
    parts: Sequence[Any] = ()
    if isinstance(data, Tensor):
        parts = data = (data,)
    elif isinstance(data, Mapping):
        parts = tuple(data.values())
    elif isinstance(data, tuple | list):
        parts = data
    if not parts or not all(isinstance(part, Tensor) for part in parts):
        raise ProblemError(
            f"The {name} are a {type(data).__name__}; give a tensor, a tuple or a mapping of "
            f"tensors, a torch Dataset or a DataLoader."
        )
    lengths = [len(part) if part.ndim else 0 for part in parts]
    if len(set(lengths)) > 1:
        raise ProblemError(
            f"The {name} have tensors of {lengths} samples (their first axes); these must agree."
        )
    return NamedTensors(data) if isinstance(data, Mapping) else TensorDataset(*parts)
