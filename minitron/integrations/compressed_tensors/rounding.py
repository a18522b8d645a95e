"""Rounds matrices to integers with a scale a row or a group, and packs eight 4-bit integers into a word."""

# R rows, C columns, G groups of a row, I columns of a group

from collections.abc import Iterator

import torch

# Clip ratios that a group's scale is chosen from: the share of its largest weight that the range reaches. All are above
# the least that `check_weights` takes.
CLIP_RATIOS = tuple(1 - 0.025 * step for step in range(17))
# A matrix is rounded this many numbers at a time, so that its fp32 copies stay small.
CHUNK_NUMBERS = 2**20


def row_scales(weight_RC: torch.Tensor) -> torch.Tensor:
    """fp32 [R, 1]: the step at which a row's largest magnitude is half a step beyond 127; 1 where all are 0."""
    largest_R1 = weight_RC.float().abs().amax(dim=1, keepdim=True)
    return _without_zeros(largest_R1 / 127.5)


def rounded_rows(weight_RC: torch.Tensor, scale_R1: torch.Tensor) -> torch.Tensor:
    """int8 [R, C]: the nearest multiples of each row's scale, ties to even."""
    codes = ((weight / scale).round().clamp(-128, 127).to(torch.int8) for weight, scale in _chunks(weight_RC, scale_R1))
    return torch.cat([*codes])


def group_scales(weight_RC: torch.Tensor, group: int, dtype: torch.dtype) -> torch.Tensor:
    """[R, C / group] scales in a 16-bit type: of the clip ratios, each group's with the least squared error.

    Rounding to a scale that a larger weight is clipped by may be nearer, since all the others have smaller steps.
    """
    return torch.cat([_least_error(_grouped(weight, group), dtype) for weight, _ in _chunks(weight_RC, weight_RC)])


def packed_groups(weight_RC: torch.Tensor, scale_RG: torch.Tensor) -> torch.Tensor:
    """int32 [R, C / 8]: the nearest multiples of each group's scale, ties to even, from -8 to 7, packed."""
    group = weight_RC.shape[1] // scale_RG.shape[1]
    codes = (_nearest(_grouped(weight, group), scale) for weight, scale in _chunks(weight_RC, scale_RG))
    return torch.cat([pack_words(each.flatten(1)) for each in codes])


def pack_words(codes_RC: torch.Tensor) -> torch.Tensor:
    """int32 [R, C / 8]: column 8c + i in bits 4i to 4i + 3 of word c, 8 above its value.

    Source: compressed-tensors 0.20.0, compressors/pack_quantized/helpers.py; vLLM 0.32.0 reads them as uint4b8.

    >>> [hex(word) for word in pack_words(torch.tensor([[-8, -7, 0, 0, 0, 0, 0, -1]]))[0].tolist()]
    ['0x78888810']
    """
    bits = torch.arange(0, 32, 4)
    words_RW = (_grouped(codes_RC.long() + 8, 8) << bits).sum(dim=2)
    return torch.where(words_RW >= 2**31, words_RW - 2**32, words_RW).to(torch.int32)


def _least_error(weight_RGI: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    largest_RG = weight_RGI.abs().amax(dim=2)
    best_RG = least_RG = torch.full_like(largest_RG, torch.inf)
    for ratio in CLIP_RATIOS:
        scale_RG = _without_zeros((largest_RG * (ratio / 7.5)).to(dtype)).float()
        error_RG = (_nearest(weight_RGI, scale_RG) * scale_RG[:, :, None] - weight_RGI).square().sum(dim=2)
        best_RG = torch.where(error_RG < least_RG, scale_RG, best_RG)
        least_RG = torch.minimum(error_RG, least_RG)
    return best_RG.to(dtype)


def _nearest(weight_RGI: torch.Tensor, scale_RG: torch.Tensor) -> torch.Tensor:
    return (weight_RGI / scale_RG[:, :, None]).round().clamp(-8, 7)


def _without_zeros(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def _grouped(numbers_RC: torch.Tensor, size: int) -> torch.Tensor:
    return numbers_RC.reshape(len(numbers_RC), -1, size)


def _chunks(weight_RC: torch.Tensor, beside: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Some rows at a time, of a weight and of what lies beside it, in fp32."""
    rows = max(1, CHUNK_NUMBERS // weight_RC.shape[1])
    for first in range(0, len(weight_RC), rows):
        yield weight_RC[first : first + rows].float(), beside[first : first + rows].float()
