"""Nobody in two splits: one video, one name and one face stay together, whatever is added later."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from linker.curate.doubles import Look, find_doubles
from linker.curate.funnel import Judged, split_of
from linker.curate.people import Person, find_people
from linker.footage import Video

RNG = np.random.default_rng(2)
FACES = np.linalg.qr(RNG.standard_normal((768, 8)))[0].T  # of eight people


def segment(video: str, number: int, slot: int = 0, identity: str = "") -> Judged:
    return Judged(
        Video(video, Path(f"/{video}.mp4"), identity=identity), number, 0, 100, slot, "", "", "", [], {}
    )  # fmt: skip


def look(face: np.ndarray, noise: float = 0.0) -> Look:
    changed = face + noise * RNG.standard_normal(768) / 768**0.5
    return Look(changed / np.linalg.norm(changed), np.arange(4, dtype=np.uint64), RNG.random(100))


def people(*found: tuple[Judged, Look]) -> dict[str, Person]:
    return find_people([one for one, _ in found], {one.key: seen for one, seen in found})


def test_a_face_that_changes_within_a_video_stays_one_person() -> None:
    told = people((segment("v", 0), look(FACES[0])), (segment("v", 1), look(FACES[1])))
    assert len({(who.name, who.together) for who in told.values()}) == 1


def test_two_faces_of_a_video_are_two_people_who_stay_together() -> None:
    told = people((segment("v", 0), look(FACES[0])), (segment("v", 1, slot=1), look(FACES[1])))
    assert len({who.name for who in told.values()}) == 2
    assert len({who.together for who in told.values()}) == 1


def test_a_face_in_two_videos_is_one_person_and_another_is_not() -> None:
    one, two = (segment("a", 0), look(FACES[0], 0.2)), (segment("b", 0), look(FACES[0], 0.2))
    told = people(one, two, (segment("c", 0), look(FACES[1])))
    names = [who.name for who in told.values()]
    assert names[0] == names[1] != names[2]


def test_two_names_of_the_list_with_one_face_are_told_and_kept_together() -> None:
    told = people(
        (segment("a", 0, identity="ann"), look(FACES[0], 0.1)),
        (segment("b", 0, identity="bob"), look(FACES[0], 0.1)),
        (segment("c", 0, identity="cem"), look(FACES[1])),
    )
    ann, bob, cem = told.values()
    assert [(who.name, who.alike) for who in (ann, bob, cem)] == [("ann", ("bob",)), ("bob", ("ann",)), ("cem", ())]
    assert ann.together == bob.together != cem.together


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2), st.integers(0, 7)), min_size=1, max_size=12))
def test_nobody_is_in_two_splits_and_strangers_move_nobody(shots: list[tuple[str, int, int]]) -> None:
    found = [(segment(video, i, slot), look(FACES[face])) for i, (video, slot, face) in enumerate(shots)]
    told = people(*found)
    for name in ("video", "face"):
        groups: dict[object, set[str]] = {}
        for (one, _), (_, _, face) in zip(found, shots, strict=True):
            together = told[one.key].together
            slots = {f for v, s, f in shots if (v, s) == (one.video.id, one.slot)}
            if name == "video" or slots == {face}:  # a face that was followed by itself
                groups.setdefault(one.video.id if name == "video" else face, set()).add(split_of(together))
        assert all(len(splits) == 1 for splits in groups.values())
    later = people(*found, (segment("0 earlier name", 99), look(RNG.standard_normal(768))))
    assert {key: later[key] for key in told} == told


def test_doubles_are_found_in_a_time_that_grows_with_the_footage() -> None:
    count = 100
    hashes = np.arange(20, dtype=np.uint64)  # one wall in every picture
    looks = {f"s{i}": Look(FACES[0], hashes, RNG.random(60)) for i in range(count)}
    looks["again"] = Look(FACES[0], hashes, looks["s7"].opening)
    assert find_doubles({key: looks[key] for key in ["s7", "s8", "again"]}) == {"again": "s7"}
    assert find_doubles({**{k: Look(FACES[0], hashes, np.zeros(10)) for k in list(looks)[:count]}}) == {}
