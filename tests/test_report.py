"""The report: every row is told, nothing from outside becomes markup, nothing is fetched, and it stays small."""

from __future__ import annotations

import base64
import csv
import re
import shutil
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from film import film
from hypothesis import given
from hypothesis import strategies as st

from linker.config import Settings
from linker.manifest import read_manifest
from linker.records import write_json
from linker.report import report
from linker.report_page import HINTS, Card, parted, render

HOSTILE = """</script><img src=x onerror=alert(1)> "q" 'a' {{cards}} & \\1"""
FACTS: dict[str, Any] = {
    "size_px": [64, 48], "duration_s": 0.32, "language": "fr", "warnings": ["sounds like <en>"],
    "checks": [{"name": "pictures", "state": "pass", "value": 8, "limit": 8, "note": ""}],
    "inputs": {"portrait": {"file": "<b>.png", "sha256": "ab" * 32}}, "frame_md5": "cd" * 16, "pcm_md5": "ef" * 16,
    "video": "good.mp4", "frames": 8, "fps": 25, "loudness": {"integrated_lufs": -21.5},
    "curves": {"step_s": 0.04, "mouth": [0, 1, 2, 1] * 50, "level": [0, 0.2, 0.4, 0.1] * 50, "wave": [0.5] * 200},
    "steadiness": {
        "before": {"background_variance": 4.0, "head_motion": 3.5, "colour_drift": 6.25},
        "after": {"background_variance": 0.02, "head_motion": 3.4, "colour_drift": 0.5},
        "curves": {when: dict.fromkeys(("background", "colour", "head"), [0.0, 1.5, 0.5] * 10)
                   for when in ("before", "after")},
    },
    "generation": {"state": "done", "seed": 3, "key": "k"}, "versions": {"linker": "0.1.0"}, "consent_ref": "C-7",
}  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [has for name, has in self.tags if name == tag and all(has.get(key) == wanted[key] for key in wanted)]


class Results:
    """A results folder with one row in every state: done, refused, failed, waiting, and one faulty line."""

    def __init__(self, root: Path) -> None:
        self.root, self.results = root, root / "results"
        self.status, self.page = self.results / "status.tsv", self.results / "report" / "index.html"
        lines = [["clip", "portrait", "audio", "language", "title"]]
        for clip in ("good", "refused", "failed", "waiting"):
            (root / f"{clip}.png").write_text("a picture")
            lines.append([clip, f"{clip}.png", "speech.wav", "fr", HOSTILE if clip == "good" else ""])
        lines.append(["../x", "good.png", "speech.wav", "fr", ""])
        (root / "speech.wav").write_text("sound")
        self.manifest = root / "jobs.csv"
        with self.manifest.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(lines)
        self.rows = {row.clip: row for row in read_manifest(self.manifest).rows}
        self._deliver("good")
        refusal = {"kind": "no_face", "reason": "no face\tfound\nanywhere", "step": "crop_face"}
        write_json(self.portrait("refused") / "crop.json", {"refusal": refusal})
        log = self.results / "logs" / "upscale_video" / "failed.log"
        log.parent.mkdir(parents=True)
        log.write_text("Traceback\nerror: the disk is full\n")
        (self.results / "settings.yaml").write_text(yaml.safe_dump(Settings().model_dump(mode="json")))

    def portrait(self, clip: str) -> Path:
        return self.results / "portraits" / self.rows[clip].portrait_id

    def _deliver(self, clip: str) -> None:
        frames = [np.full((48, 64, 3), 10 * index, np.uint8) for index in range(8)]
        video = self.results / "videos" / f"{clip}.mp4"
        film(video, frames, 8)
        write_json(video.with_suffix(".json"), {"clip": clip, **FACTS})
        write_json(self.results / "clips" / clip / "delivered.json", {"video": video.name})
        entry = {"state": "done", "seconds": 9.5}
        write_json(self.results / "shards" / "s000" / "ledger.json", {"rows": {clip: entry}})
        for step, name in (("crop_face", self.rows[clip].portrait_id), ("mux_audio", clip)):
            benchmark = self.results / "benchmarks" / step / f"{name}.jsonl"
            benchmark.parent.mkdir(parents=True)
            benchmark.write_text('{"s": 1.0}\n{"s": 2.5, "max_rss": 100}\n')
        self.portrait(clip).mkdir(parents=True)
        (self.portrait(clip) / "debug.png").write_bytes(b"a picture")

    def run(self) -> Page:
        report(self.results, self.manifest, self.status, self.page)
        return Page(self.page.read_text(encoding="utf-8"))

    def table(self) -> dict[str, dict[str, str]]:
        with self.status.open(encoding="utf-8") as stream:
            return {line["clip"]: line for line in csv.DictReader(stream, delimiter="\t")}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path)


def test_status_tells_every_row(results: Results) -> None:
    results.run()
    table = results.table()
    states = {clip: line["state"] for clip, line in table.items()}
    same = {state: state for state in ("refused", "failed", "waiting")}
    assert states == {"good": "done", **same, "line 6": "faulty"}
    assert (table["good"]["video"], table["good"]["seconds"]) == ("videos/good.mp4", "12.0")
    assert (table["refused"]["step"], table["refused"]["kind"]) == ("crop_face", "no_face")
    assert table["refused"]["reason"] == "no face found anywhere"  # one line, one cell
    assert "disk is full" in table["failed"]["reason"]
    assert len(results.status.read_text().splitlines()) == 6


def test_links_are_relative_and_lead_to_files(results: Results) -> None:
    page = results.run()
    video = page.all("video")[0]
    links = [video["src"], *(image["src"] for image in page.all("img"))]
    assert video["preload"] == "none"
    assert str(video["poster"]).startswith("data:image/jpeg;base64,/9j/")  # the page holds its pictures
    assert len(links) == 2
    for link in links:
        assert link is not None
        assert not link.startswith("/")
        assert (results.page.parent / link).is_file()


def test_the_page_fetches_nothing(results: Results) -> None:
    text = (results.run(), results.page.read_text(encoding="utf-8"))[1]
    assert "http://" not in text
    assert "https://" not in text
    assert not re.search(r"<(link|iframe|object|embed)|@import|url\(", text)
    assert "default-src 'none'" in text


def test_hostile_words_stay_words(results: Results) -> None:
    page = results.run()
    assert HOSTILE in page.text
    assert len(page.all("script")) == 1
    assert not page.all("img", src="x")
    assert not [has for _, has in page.tags if "onerror" in has]
    assert "sounds like <en>" in page.text
    assert "portrait (<b>.png)" in page.text


def test_every_field_is_escaped() -> None:
    facts = {**FACTS, "language": HOSTILE, "generation": {HOSTILE: [HOSTILE, {HOSTILE: 1}]}, "consent_ref": HOSTILE}
    facts |= {
        "warnings": [HOSTILE],
        "checks": [{"name": HOSTILE, "state": "fail", "value": HOSTILE, "limit": 0, "note": HOSTILE}],
    }
    words = dict.fromkeys(("clip", "step", "kind", "reason", "title", "portrait", "audio", "video", "poster", "debug"))
    for state in ("done", "refused", "waiting"):
        card = Card(**dict.fromkeys(words, HOSTILE), state=state, timings={HOSTILE: 1.0}, facts=facts)
        page = Page(render(HOSTILE, [card], {HOSTILE: {HOSTILE: HOSTILE}, "plain": HOSTILE}))
        assert len(page.all("script")) == 1
        assert not [has for _, has in page.tags if "onerror" in has]
        assert len(page.all("article")) == 1


def test_refusals_say_what_to_do(results: Results) -> None:
    text = results.run().text
    assert HINTS["no_face"] in text
    assert HINTS["error"] in text
    assert HINTS["manifest"] in text
    assert "4 rows need attention" not in text  # a waiting row needs none
    assert "3 rows need attention" in text


def test_timings_checks_provenance_and_settings_are_there(results: Results) -> None:
    text = results.run().text
    timings = ("crop face2.5 s", "generate9.5 s")
    for words in (*timings, "passpictures", "cd" * 16, "generation: seed", "max_side_px"):
        assert words in text


def test_a_kept_video_of_a_row_that_now_fails_is_told_as_such(results: Results) -> None:
    refusal = {"kind": "silent", "reason": "no sound", "step": "normalize_audio"}
    write_json(results.results / "audio" / results.rows["good"].audio_id / "loudness.json", {"refusal": refusal})
    page = results.run()
    assert "Video of an earlier run" in page.text
    assert results.table()["good"]["video"] == ""


def test_a_broken_video_has_no_poster_and_stops_nothing(results: Results) -> None:
    (results.results / "videos" / "good.mp4").write_bytes(b"not a video")
    page = results.run()
    assert "poster" not in page.all("video")[0]
    assert len(page.all("article")) == 5


def test_a_poster_is_drawn_again_only_when_the_video_is_newer(results: Results) -> None:
    results.run()
    poster = results.page.parent / "posters" / "videos-good.jpg"
    first = poster.stat().st_mtime_ns
    results.run()
    assert poster.stat().st_mtime_ns == first
    time.sleep(0.02)
    (results.results / "videos" / "good.mp4").touch()
    results.run()
    assert poster.stat().st_mtime_ns > first


def test_nothing_but_a_manifest_gives_a_page(tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("clip,portrait,audio\n../x,gone.png,gone.wav\n")
    report(tmp_path / "r", tmp_path / "jobs.csv", tmp_path / "r" / "status.tsv", tmp_path / "r" / "index.html")
    assert "faulty" in (tmp_path / "r" / "status.tsv").read_text()


def in_parts(results: Results) -> list[Path]:
    folder = results.page.parent / "parts"
    report(results.results, results.manifest, results.status, results.page, folder)
    return sorted(folder.iterdir())


def test_parts_hold_their_videos_and_need_no_file(results: Results) -> None:
    (part,) = in_parts(results)
    assert part.name == "1-5.html"
    page = Page(part.read_text(encoding="utf-8"))
    assert "rows 1 to 5 of 5" in page.text
    (video,) = page.all("video")
    assert str(video["src"]).startswith("data:video/mp4;base64,")
    assert [has["src"] for has in page.all("img")] == []
    (copy,) = (results.page.parent / "previews").iterdir()
    first = copy.stat().st_mtime_ns
    in_parts(results)
    assert copy.stat().st_mtime_ns == first


def test_a_video_that_cannot_be_copied_stops_no_part(results: Results) -> None:
    write_json(results.results / "videos" / "good.json", {"clip": "good", **FACTS, "frames": 9})
    (part,) = in_parts(results)
    assert Page(part.read_text(encoding="utf-8")).all("video") == []


@given(st.lists(st.integers(0, 60), max_size=30))
def test_parts_have_every_row_once_and_are_small(sizes: list[int]) -> None:
    cards = [Card(str(index), "done", video="v" * 1000 * size, poster="p") for index, size in enumerate(sizes)]
    parts = list(parted(cards, 50_000))
    assert [card.clip for part in parts for card in part] == [card.clip for card in cards]
    assert max(len(render("m", part, {})) for part in parts) < 50_000 + len(render("m", [], {})) + 500
    lost = [card for part in parts for card in part if not card.video and sizes[int(card.clip)]]
    assert all(sizes[int(card.clip)] > 45 for card in lost)
    assert all("too large to be shown here" in render("m", [card], {}) for card in lost)


def test_a_thousand_rows() -> None:
    cards = [Card(f"clip-{index}", "done", title=HOSTILE, video="v.mp4", timings={"generate": 3.0}, facts=FACTS)
             for index in range(1000)]  # fmt: skip
    text = render("jobs.csv", cards, {})
    assert text.count("<article") == 1000
    assert len(text) < 6e6


def test_what_failed_is_a_manifest(results: Results) -> None:
    results.run()
    again = read_manifest(results.results / "failed.csv")
    assert again.faults == ()
    assert [(row.clip, row.portrait) for row in again.rows] == [
        (clip, results.rows[clip].portrait) for clip in ("refused", "failed")
    ]
    own = {row.clip: row for row in again.rows}
    assert all(replace(own[clip], line=0) == replace(results.rows[clip], line=0) for clip in own)


def held_back(results: Results) -> None:
    """The failed row, as its checks left it."""
    words = (
        "error: failed: the finished video failed its checks and stays in draft/: black pictures: found 25, needed 0"
    )
    (results.results / "logs" / "upscale_video" / "failed.log").unlink()
    log = results.results / "logs" / "mux_audio" / "failed.log"
    log.parent.mkdir()
    log.write_text(words)
    failing = {"name": "black pictures", "state": "fail", "value": 25, "limit": 0, "note": ""}
    film(results.results / "draft" / "failed.mp4", [np.zeros((48, 64, 3), np.uint8)] * 2, 2)
    told = {**FACTS, "video": "failed.mp4", "checks": [*FACTS["checks"], failing]}
    write_json(results.results / "draft" / "failed.json", told)


def test_a_draft_is_shown_with_the_checks_that_hold_it_back(results: Results) -> None:
    held_back(results)
    page = results.run()
    card = page.all("article", **{"data-state": "failed"})[0]
    assert card["data-check"] == "fail"
    assert "../draft/failed.mp4" in [video["src"] for video in page.all("video")]
    assert HINTS["checks"] in page.text
    assert "black pictures: 25" in page.text


def test_the_plot_shows_mouth_and_sound(results: Results) -> None:
    page = results.run()
    shapes = {str(has["class"]): str(has["d"]) for has in page.all("path")}
    assert {"wave", "level", "mouth", "before", "after"} == shapes.keys()
    assert all(re.fullmatch(r"[MLVZ\d ]+", shape) for shape in shapes.values())
    assert "-21.5 LUFS" in page.text


def test_the_page_tells_what_stabilising_did(results: Results) -> None:
    page = results.run()
    assert "background, variance over time, levels squared4.000.02" in page.text
    assert "background, drift of colour, levels6.250.50" in page.text
    assert "0.5 %of the background's variance left, median" in page.text
    assert len(page.all("path", **{"class": "before"})) == len(page.all("path", **{"class": "after"})) == 3


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def browse(page: Path, folder: Path, asked: str = "", wait_ms: int = 2000) -> Page:
    """The page as Chromium has it once its scripts have run; without `wait_ms`, once all in it has loaded."""
    wait = [f"--virtual-time-budget={wait_ms}"] if wait_ms else []
    words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *wait, "--dump-dom",
             f"--user-data-dir={folder}", f"{page.as_uri()}#{asked}"]  # fmt: skip
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=120, check=True)
    return Page(done.stdout)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
@pytest.mark.parametrize(
    ("asked", "shown"),
    [("", 5), ("state=done", 1), ("state=check-fail", 1), ("words=no+face", 1), ("state=done&words=nothing", 0)],
)
def test_a_browser_shows_it(results: Results, asked: str, shown: int) -> None:
    held_back(results)
    results.run()
    page = browse(results.page, results.root / "browser", asked)
    assert [has for _, has in page.tags if "onerror" in has] == []
    assert len([has for has in page.all("article") if "hidden" not in has]) == shown
    count = "5 rows" if shown == 5 else f"{shown} of 5 rows"
    assert count in page.text


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_keys_move_unfold_and_filter(results: Results) -> None:
    results.run()
    event = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {{key: '{}', bubbles: true}}));"
    press = "".join(event.format(key) for key in "jjkd")
    told = "document.body.dataset.here = document.activeElement.id;"
    typed = event.format("/")
    typed += "document.body.dataset.then = document.activeElement.id;"
    text = results.page.read_text(encoding="utf-8")
    pressed = results.page.with_name("pressed.html")
    pressed.write_text(text.replace("</body>", f"<script>{press}{told}{typed}</script></body>"), encoding="utf-8")
    page = browse(pressed, results.root / "browser")
    body = page.all("body")[0]
    assert (body["data-here"], body["data-then"]) == ("row-0", "words")
    assert any("open" in has for has in page.all("details") if "class" not in has)


@pytest.mark.skipif(not CHROMIUM, reason="no chromium: apt-get install chromium")
def test_a_part_plays_as_snakemakes_report_shows_it(results: Results) -> None:
    """In a frame whose address holds the page: it reaches no file, and its origin is nobody's."""
    (part,) = in_parts(results)
    tell = """<script>const video = document.querySelector("video"); video.preload = "auto";
      video.onloadeddata = () => parent.postMessage([video.readyState, video.duration], "*");</script></body>"""
    page = part.read_text(encoding="utf-8").replace("</body>", tell)
    frame = f"data:text/html;charset=utf8;filename=1-5.html;base64,{base64.b64encode(page.encode()).decode()}"
    outside = results.root / "outside.html"
    listen = "<script>onmessage = told => document.body.dataset.told = told.data.join(' ');</script>"
    outside.write_text(f"<body>{listen}<iframe src='{frame}'></iframe></body>")
    told = str(browse(outside, results.root / "browser", wait_ms=0).all("body")[0]["data-told"])
    assert int(told.split()[0]) >= 2  # HAVE_CURRENT_DATA
    assert float(told.split()[1]) == pytest.approx(0.32, abs=0.001)
