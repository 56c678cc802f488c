"""Upscaling and restoring networks of the user's own: loaded by their state dicts, run in tiles, steady over time."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from linker.compose import resize, smoothstep
from linker.errors import EnvironmentError

OVERLAP_PX = 16  # of the input, around every tile
RESTORED_PX = 512  # what networks that restore faces were trained on
Enlarge = Callable[[np.ndarray], np.ndarray]  # uint8 (S,S,3) -> uint8 (side,side,3)


def load_network(path: Path, on_gpu: bool = True) -> Any:
    """A network that spandrel knows, in half precision on a GPU where one is wanted and there; its file runs no code.
    Raises EnvironmentError."""
    import torch

    with _torchvision_or_less():
        import spandrel
    weights = _read_weights(path)
    device = torch.device("cuda" if on_gpu and torch.cuda.is_available() else "cpu")
    try:
        network: Any = spandrel.ModelLoader(device).load_from_state_dict(spandrel.canonicalize_state_dict(weights))
    except (spandrel.UnsupportedModelError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentError(f"upscale.weights {path}: no network that spandrel knows ({reason})") from None
    if not isinstance(network, spandrel.ImageModelDescriptor) or network.input_channels != 3:
        raise EnvironmentError(
            f"upscale.weights {path}: {network.architecture.name} does not take an RGB picture alone"
        )
    return network.eval().half() if device.type == "cuda" and network.supports_half else network.eval()


def _read_weights(path: Path) -> dict[str, Any]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, TypeError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise EnvironmentError(f"upscale.weights {path}: cannot be read as weights ({reason})") from None


@contextmanager
def _torchvision_or_less() -> Iterator[None]:
    """spandrel imports three names of torchvision, for two of its networks. Where it is not installed, they stand in
    while spandrel is imported, and are gone again before any other package looks for torchvision."""
    if "spandrel" in sys.modules or importlib.util.find_spec("torchvision"):
        yield
        return
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    functional: Any = modules[names[-1]]
    functional.normalize, functional.rotate, functional.InterpolationMode = _normalize, _missing, ModuleType("modes")
    functional.InterpolationMode.BILINEAR = "bilinear"
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def _normalize(image: Any, mean: list[float], std: list[float], inplace: bool = False) -> Any:
    """(x - mean) / std a channel, of (..., C, H, W): what torchvision's function of this name does."""
    shape = (-1, 1, 1)
    return (image - image.new_tensor(mean).view(shape)) / image.new_tensor(std).view(shape)


def _missing(*values: Any, **named: Any) -> Any:
    raise EnvironmentError(
        "upscale.weights: this network needs torchvision; pip install torchvision, or choose another"
    )


class TiledNetwork:
    """A network on pictures of any size, tile by tile; tiles that nobody asks for are not computed."""

    def __init__(self, network: Any, tile_px: int) -> None:
        self._network, self._tile_px = network, tile_px
        self.restores_faces = network.purpose == "FaceSR"
        self.scale: int = network.scale

    def __call__(self, picture: np.ndarray, wanted: np.ndarray | None = None) -> np.ndarray:
        """uint8 (S,S,3) -> float32 (S*scale,S*scale,3) in 0..255; zero where `wanted`, bool (S,S), has nothing."""
        if self.restores_faces:
            return self._run(resize(picture, RESTORED_PX))
        side = picture.shape[0]
        padded = np.pad(picture, [(OVERLAP_PX, OVERLAP_PX), (OVERLAP_PX, OVERLAP_PX), (0, 0)], mode="reflect")
        large = np.zeros((side * self.scale, side * self.scale, 3), np.float32)
        for top in range(0, side, self._tile_px):
            for left in range(0, side, self._tile_px):
                bottom, right = min(top + self._tile_px, side), min(left + self._tile_px, side)
                if wanted is None or wanted[top:bottom, left:right].any():
                    tile = padded[top : bottom + 2 * OVERLAP_PX, left : right + 2 * OVERLAP_PX]
                    inner = self._run(tile)[self._inside(bottom - top), self._inside(right - left)]
                    large[top * self.scale : bottom * self.scale, left * self.scale : right * self.scale] = inner
        return large

    def _inside(self, length: int) -> slice:
        return slice(OVERLAP_PX * self.scale, (OVERLAP_PX + length) * self.scale)

    def _run(self, picture: np.ndarray) -> np.ndarray:
        import torch

        network = self._network
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(network.device).permute(2, 0, 1)[None]
        shown = network((pixels.to(network.dtype) / 255).contiguous())
        return shown[0].permute(1, 2, 0).float().cpu().numpy() * 255


class Steady:
    """Enlarges the frames of one clip in order. Where the input changed by no more than noise since a place was drawn,
    its pixels stay: a network makes flicker of noise. Colours are the input's, at every scale but that of details."""

    def __init__(self, network: TiledNetwork, side: int, hold_levels: float) -> None:
        self._network, self._side, self._hold = network, side, hold_levels
        self._seen: np.ndarray | None = None  # float32 (S,S,3): the input as it was where the output was last drawn
        self._drawn: np.ndarray | None = None  # float32 (side,side,3)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """uint8 (S,S,3) -> uint8 (side,side,3)."""
        if self._seen is None or self._drawn is None:
            self._seen, self._drawn = frame.astype(np.float32), self._large(frame, None)
        elif (moved := self._moved(frame, self._seen)).any():
            weight = cv2.resize(moved, (self._side, self._side), interpolation=cv2.INTER_LINEAR)[..., None]
            self._drawn = weight * self._large(frame, moved > 0) + (1 - weight) * self._drawn
            self._seen = moved[..., None] * frame + (1 - moved[..., None]) * self._seen
        return self._coloured(frame, self._drawn)

    def _moved(self, frame: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """Weight float32 (S,S) of what has to be drawn again: 0 where only noise changed."""
        change = np.abs(cv2.GaussianBlur(frame.astype(np.float32) - seen, (0, 0), 1.0)).max(axis=2)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
        return cv2.GaussianBlur(cv2.dilate(smoothstep(change, self._hold, 2 * self._hold + 1e-3), kernel), (5, 5), 0)

    def _large(self, frame: np.ndarray, wanted: np.ndarray | None) -> np.ndarray:
        return resize(self._network(frame, wanted), self._side)

    def _coloured(self, frame: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        """The drawn picture with the input's own colours and brightness below the scale of details."""
        sigma = max(self._side / frame.shape[0], 1.0) * 3
        plain = resize(frame, self._side).astype(np.float32)
        picture = drawn + cv2.GaussianBlur(plain - drawn, (0, 0), sigma)
        return np.clip(picture + 0.5, 0, 255).astype(np.uint8)
