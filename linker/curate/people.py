"""Who speaks in which segment, and who must stay together when the segments are split."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from linker.curate.doubles import Look

if TYPE_CHECKING:
    from linker.curate.funnel import Judged

SAME_PERSON = 0.92  # correlation of two mean upright faces; of strangers hardly any pair reaches 0.8
Unit = tuple[str, int]  # a video and a slot: one face that was followed


@dataclass(frozen=True)
class Person:
    """`name` is the list's word or made from the face's first video; `together` what decides the split, the same for
    all who share a name, a video or a face; `alike` other names of the list whose faces look the same."""

    name: str
    together: str
    alike: tuple[str, ...] = ()


def find_people(kept: list[Judged], looks: dict[str, Look]) -> dict[str, Person]:
    """Segment key -> who. A face that was followed through a video is one person however it changes; faces of different
    videos are the same where they look the same, or where the list says so."""
    faces = _mean_faces(kept, looks)
    listed = {_unit(segment): segment.video.identity for segment in kept if segment.video.identity}
    pairs = [(a, b) for a, b in _alike(faces) if a[0] != b[0]]
    names = _names(sorted(faces), listed, pairs)
    groups = _Groups()
    for unit in faces:
        groups.join(f"person {names[unit]}", f"video {unit[0]}")
    for a, b in pairs:
        groups.join(f"video {a[0]}", f"video {b[0]}")
    others: dict[str, set[str]] = defaultdict(set)
    for a, b in pairs:
        if names[a] != names[b]:
            others[names[a]].add(names[b])
            others[names[b]].add(names[a])
    first = groups.firsts()
    people = {
        unit: Person(name, first[f"video {unit[0]}"], tuple(sorted(others[name]))) for unit, name in names.items()
    }
    return {segment.key: people[_unit(segment)] for segment in kept}


def _unit(segment: Judged) -> Unit:
    return segment.video.id, segment.slot or 0


def _mean_faces(kept: list[Judged], looks: dict[str, Look]) -> dict[Unit, np.ndarray]:
    """A unit vector for each face that was followed."""
    found: dict[Unit, list[np.ndarray]] = defaultdict(list)
    for segment in kept:
        found[_unit(segment)].append(looks[segment.key].face)
    sums = {unit: np.sum(faces, 0) for unit, faces in found.items()}
    return {unit: face / max(float(np.linalg.norm(face)), 1e-6) for unit, face in sums.items()}


def _alike(faces: dict[Unit, np.ndarray]) -> list[tuple[Unit, Unit]]:
    """Pairs of faces that look the same, the most alike first."""
    units, found = sorted(faces), list[tuple[float, Unit, Unit]]()
    table = np.stack([faces[unit] for unit in units]) if units else np.zeros((0, 1))
    for i, unit in enumerate(units):
        near = table[:i] @ table[i]
        found += [(-float(near[j]), units[int(j)], unit) for j in np.flatnonzero(near > SAME_PERSON)]
    return [(a, b) for _, a, b in sorted(found)]


def _names(units: list[Unit], listed: dict[Unit, str], pairs: list[tuple[Unit, Unit]]) -> dict[Unit, str]:
    """The list's word; for others that of the face they look like, so that two names of the list are never one."""
    groups = _Groups()
    for unit in units:
        groups.join(str(unit), str(unit))
    words: dict[str, str] = {str(unit): listed.get(unit, "") for unit in units}
    for a, b in pairs:
        one, two = groups.of(str(a)), groups.of(str(b))
        if not (words[one] and words[two] and words[one] != words[two]):
            word = words[one] or words[two]
            groups.join(one, two)
            words[groups.of(one)] = word
    first = groups.firsts()
    return {unit: words[groups.of(str(unit))] or _made(first[str(unit)]) for unit in units}


def _made(first: str) -> str:
    return f"person-{hashlib.sha256(first.encode()).hexdigest()[:8]}"


class _Groups:
    """Names that belong together."""

    def __init__(self) -> None:
        self.above: dict[str, str] = {}

    def of(self, name: str) -> str:
        """The name that stands for a group."""
        while self.above.setdefault(name, name) != name:
            self.above[name] = self.above[self.above[name]]
            name = self.above[name]
        return name

    def join(self, one: str, two: str) -> None:
        self.above[self.of(one)] = self.of(two)

    def firsts(self) -> dict[str, str]:
        """Each name with the first of its group in the alphabet: names that come later change nothing."""
        least: dict[str, str] = {}
        for name in sorted(self.above):
            least.setdefault(self.of(name), name)
        return {name: least[self.of(name)] for name in self.above}
