"""The order of torch's own samplers, drawn as one tensor from the same generator."""

from __future__ import annotations

from typing import Any, Iterator, Optional


def whole_order(torch: Any, loader: Any) -> Optional[Iterator[Any]]:
    """Batches of indices cut from one tensor, in the order of torch's own samplers.

    None for any other sampler. The same numbers are drawn from the same generator, at the same
    moment: when the first batch is asked for.
    Source: torch.utils.data.sampler, RandomSampler.__iter__ and BatchSampler.__iter__ (2.13).
    """
    data = torch.utils.data
    sampler = loader.sampler
    if (
        type(loader.batch_sampler) is not data.BatchSampler
        or loader.batch_sampler.sampler is not sampler
    ):
        return None
    if type(loader.dataset) in (data.IterableDataset,) or loader._dataset_kind != 0:
        return None
    if type(sampler) is data.RandomSampler:
        if sampler.replacement or sampler.num_samples != len(sampler.data_source):
            return None
    elif type(sampler) is not data.SequentialSampler:
        return None

    def batches() -> Iterator[Any]:
        length = len(sampler.data_source)
        generator = None
        if type(sampler) is data.SequentialSampler:
            order = torch.arange(length, device="cpu").numpy()
        else:
            generator = sampler.generator
            if generator is None:
                generator = torch.Generator()
                generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
            order = torch.randperm(length, generator=generator).cpu().numpy()
        size = loader.batch_sampler.batch_size
        whole = length - length % size
        for start in range(0, whole, size):
            yield order[start : start + size]
        if generator is not None:
            torch.randperm(length, generator=generator)  # RandomSampler draws once more at its end
        if whole < length and not loader.batch_sampler.drop_last:
            yield order[whole:]

    return batches()
