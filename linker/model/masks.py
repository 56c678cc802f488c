"""Region masks as the net uses them: scaled to the wanted range of motion, and the background's complement."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scale_area(mask_HW: Tensor, area_range: float) -> Tensor:
    """(H, W) scaled about its centre by sqrt(range), clipped at the border; 1 leaves it exactly as it is."""
    if area_range == 1 or not mask_HW.any():
        return mask_HW
    height, width = mask_HW.shape
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    weight = mask_HW / mask_HW.sum()
    centre = torch.stack([(weight * columns).sum(), (weight * rows).sum()])
    grid = (torch.stack([columns, rows], dim=-1) - centre) / area_range**0.5 + centre
    return F.grid_sample(mask_HW[None, None], grid[None], align_corners=True)[0, 0]


def ranged_masks(masks_3HW: Tensor, ranges: tuple[float, float, float]) -> Tensor:
    """Head, mouth and eyes with their areas scaled; disjoint: the mouth wins over the eyes, both over the head."""
    whole = scale_area(masks_3HW.sum(0).clamp(0, 1), ranges[0])
    mouth = scale_area(masks_3HW[1], ranges[1])
    eyes = torch.minimum(scale_area(masks_3HW[2], ranges[2]), 1 - mouth)
    head = masks_3HW[0] if ranges == (1.0, 1.0, 1.0) else (whole - mouth - eyes).clamp(min=0)
    return torch.stack([head, mouth, eyes])


def background_of(masks_3HW: Tensor, side: int, margin: float = 0.06) -> Tensor:
    """(1, 1, side, side): 1 where nothing should move, 0 on the dilated head, feathered between; margin in sides."""
    reach = max(round(margin * masks_3HW.shape[-1]), 1)
    head = masks_3HW.sum(0).clamp(0, 1)[None, None]
    wide = F.max_pool2d(head, 2 * reach + 1, stride=1, padding=reach)
    soft = F.avg_pool2d(wide, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
    return 1 - F.adaptive_avg_pool2d(torch.maximum(soft, wide * head), side)
