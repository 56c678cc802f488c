"""generate: the gated diffusion model, loaded once, makes the clips of a shard's rows, several side by side.

Every window is kept as soon as it exists, in the row's lease (rows.py), under a key of everything that decides the
row's frames: a killed row goes on at the window where it stopped, a row that is done is skipped, and changed inputs
never mix with old windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linker.clip import Clip, Unreadable, Workshop
from linker.config import GenerateSettings
from linker.engine import Engine, Recipe, load_engine
from linker.model.sample import ClipConditions, Windows, sample_windows
from linker.process import return_freed_memory
from linker.rows import Lease, Queue, opened
from linker.writing import Writing


def generate(shard: Path, ledger: Path, settings: GenerateSettings) -> None:
    """Make the rows of the `shard` listing that no other worker has; `ledger` tells what became of them."""
    recipe = Recipe.of(settings)
    with opened(shard, ledger, settings) as queue:
        queue.limit = recipe.rows
        if lease := queue.claim():
            engine = load_engine(settings, tiny=recipe.needs_tiny(queue.rows.values()))
            with Writing(engine) as writing:
                Worker(engine, queue, writing, lease).work()


class Worker:
    """Denoises rows together, as many as the queue allows: when one ends, the next takes its seat. The batch keeps its
    size to the end, so that a row's bits do not depend on how many others there are."""

    def __init__(self, engine: Engine, queue: Queue, writing: Writing, first: Lease) -> None:
        self.engine, self.queue, self.writing = engine, queue, writing
        self.workshop, self.batch = Workshop(engine, queue.root, queue.folder), Batch(engine)
        self.seats: list[Clip | None] = []
        self.first: Lease | None = first
        self.closing: dict[Clip, Future[None]] = {}

    def work(self) -> None:
        """Until no row is left for this worker."""
        while True:
            if not any(self.seats):  # the queue halves its limit when memory runs out
                self.seats = [None] * self.queue.limit
            self.fill_seats()
            if any(self.seats):
                self.denoise()
                return_freed_memory()
            elif self.closing:
                wait(self.closing.values(), return_when=FIRST_COMPLETED)
            else:
                return
            self.publish_finished()
            self.leave_lost()

    def fill_seats(self) -> None:
        """Seat a row on every empty seat, one after the other: the first of a batch says which others fit."""
        for seat, clip in enumerate(self.seats):
            self.seats[seat] = clip or self.begin_next()

    def begin_next(self) -> Clip | None:
        """The next row that can be begun now; rows that cannot be are refused alone."""
        while lease := self.first or self.queue.claim(self.fits):
            self.first = None
            clip: Clip | None = None
            with lease.attempt():
                clip = self.begin(lease)
            if clip and clip.is_unfinished:
                return clip
        return None

    def fits(self, row: dict[str, Any]) -> bool:
        """True for a row that can be denoised with those that are: by the same steps, guidance and sampler."""
        recipe = self.engine.recipe
        wanted = recipe.sampling(recipe.preset(row["preset"]))
        return all(clip.sampling == wanted for clip in self.seats if clip)

    def begin(self, lease: Lease) -> Clip | None:
        """The row as a clip, with the windows that it has on their way to its file."""
        try:
            clip = self.workshop.begin(lease, len(self.seats))
        except Unreadable as error:
            lease.refuse("unreadable", str(error))
            return None
        for window in range(clip.window):
            self.writing.add(clip, window)
        self.close_made(clip)
        return clip

    def denoise(self) -> None:
        """One window of every seated row. What goes wrong with all of them is each one's matter: they are given back,
        and then made one by one."""
        seated = [clip for clip in self.seats if clip]
        try:
            latents = self.batch.denoise(self.seats)
        except Exception as error:
            for clip in seated:
                if self.holds(clip):  # the first one's failure may have given all of them back
                    with clip.lease.attempt():
                        raise error
            return
        for clip, window in zip(self.seats, latents, strict=True):
            if clip:
                with clip.lease.attempt():
                    self.keep(clip, window[None])
        self.seats = [clip if clip and clip.is_unfinished else None for clip in self.seats]

    def keep(self, clip: Clip, latents_1FChw: Tensor) -> None:
        """Store a window and hand it to the writer; refuse the row when it is no picture."""
        if not torch.isfinite(latents_1FChw).all():
            self.writing.drop(clip)
            return clip.lease.refuse("not_finite", "the model's answer holds NaN or infinity")
        window = clip.store(latents_1FChw)
        clip.lease.progress(clip.window, clip.windows)
        self.writing.add(clip, window)
        self.close_made(clip)

    def close_made(self, clip: Clip) -> None:
        """With its last window made, let a clip's file be finished, whatever becomes of the other rows."""
        if not clip.is_unfinished:
            clip.lease.made = True
            self.closing[clip] = self.writing.close(clip)

    def publish_finished(self) -> None:
        """Publish the rows whose files are whole."""
        for clip in [clip for clip, answer in self.closing.items() if answer.done()]:
            answer = self.closing.pop(clip)
            with clip.lease.attempt():
                clip.lease.check()
                answer.result()
                clip.lease.publish(clip.entry(), clip.video)

    def leave_lost(self) -> None:
        """Let go of rows that are no longer this worker's: given back, refused, or given to another."""
        for clip in [clip for clip in self.seats if clip and not self.holds(clip)]:
            self.writing.drop(clip)
        self.seats = [clip if clip and self.holds(clip) else None for clip in self.seats]

    def holds(self, clip: Clip) -> bool:
        return self.queue.held.get(clip.lease.clip) is clip.lease


class Batch:
    """Clips side by side; what they share from window to window is gathered again when one changes."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._seated: list[Clip] = []

    @torch.inference_mode()
    def denoise(self, seats: Sequence[Clip | None]) -> Tensor:
        """The next window of every clip, (B, F, C, h, w) in float32; an empty seat repeats the first clip taken."""
        anyone = next(clip for clip in seats if clip)
        clips = [clip or anyone for clip in seats]
        if self._seated != clips:
            self._seated, self._shared = clips, ClipConditions.together([clip.conditions for clip in clips])
        windows = Windows.together([clip.next_window() for clip in clips])
        with self.engine.compiling(), self.engine.autocast():
            return sample_windows(self.engine.model, self._shared, windows, anyone.sampling).float()
