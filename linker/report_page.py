"""The report's HTML: plain text in, one offline page out. Everything that comes from outside is escaped here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from html import escape
from statistics import median
from typing import Any

from linker.config import ROOT_DIR

PLOT_POINTS = 140  # a curve: enough for a card as wide as it gets, and 1 kB
TEMPLATE = ROOT_DIR / "workflow" / "report" / "page.html"
STEADY = {"background": ("background_variance", "background, variance over time, levels squared"),
          "head": ("head_motion", "head, motion a frame, ‰ of the crop"),
          "colour": ("colour_drift", "background, drift of colour, levels")}  # fmt: skip
RIM = "rim_variance", "rim between head and background, variance over time, levels squared"
STATES = ("done", "refused", "failed", "faulty", "waiting")
CHECKS = {"pass": "pass", "warn": "warn", "fail": "fail", "not applicable": "none"}  # state -> class
HINTS = {
    "manifest": "Correct this line of the manifest and run it again; the other rows are not done again.",
    "missing": "Check the path in the manifest; paths are relative to the manifest's folder.",
    "empty": "The file has no content; export it again.",
    "undecodable": "Save the file again as WAV, FLAC, MP3, M4A or Opus.",
    "truncated": "The file ends early; copy or export it again.",
    "no_audio": "Give a file that has a sound track.",
    "too_short": "Give more speech.",
    "too_long": "Cut the audio, or raise limits.max_audio_s.",
    "silent": "Check the recording's level and channel.",
    "no_speech": "Check that somebody speaks in this file.",
    "not_an_image": "Save the portrait again as JPEG or PNG.",
    "too_large": "Give a smaller file, or raise the limit in the settings (limits).",
    "too_small": "Give a larger portrait, or one in which the face fills more of the picture.",
    "no_face": "Give a portrait that shows the face from the front, or name a box in the column face.",
    "several_faces": "Choose one in the column face: its number from the left (0 = the first) or a box x0,y0,x1,y1.",
    "bad_choice": "Correct the column face: an index that exists, or a box inside the picture.",
    "not_upright": "Turn the portrait upright.",
    "checks": "Look at the checks in red; the video waits in draft/. finish.failed_checks=deliver lets it through.",
    "error": "Look into the log named above, then run again: only what is missing is done.",
}


@dataclass(frozen=True)
class Card:
    """What the page tells of one row. Links are relative to the page and already quoted, '' for what is not there.

    `seconds` is the work on the row itself, without the preparations that it shares with others; `facts` its sidecar.
    """

    clip: str
    state: str
    step: str = ""
    kind: str = ""
    reason: str = ""
    title: str = ""
    portrait: str = ""
    audio: str = ""
    video: str = ""
    poster: str = ""
    debug: str = ""
    is_draft: bool = False
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def render(manifest: str, cards: list[Card], settings: dict[str, Any], note: str = "") -> str:
    """The whole page. `settings` are the run's, by group; `facts` of a card is its deliverable's sidecar; `note` is a
    line below the figures."""
    counts = Counter(card.state for card in cards)
    parts = {
        "title": escape(f"{manifest} - LinguaLinker report"),
        "manifest": escape(manifest),
        "bar": "".join(f'<i class="{state}" style="flex:{counts[state]}"></i>' for state in STATES if counts[state]),
        "figures": _figures(cards, counts),
        "note": f'<p class="meta">{escape(note)}</p>' if note else "",
        "chips": _chips(counts, Counter(_worst(card) for card in cards)),
        "problems": _problems(cards),
        "cards": "\n".join(_card(index, card) for index, card in enumerate(cards)),
        "settings": _settings(cards, settings),
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda hole: parts[hole[1]], template)  # one pass: no hole in what is filled in


def parted(cards: Iterable[Card], part_bytes: int) -> Iterator[list[Card]]:
    """The cards in pieces whose HTML has at most about `part_bytes`; one that is larger by itself loses its video."""
    part: list[Card] = []
    size = 0
    for card in cards:
        if (weight := _weight(card)) > part_bytes:
            card = replace(card, video="")
            weight = _weight(card)
        if part and size + weight > part_bytes:
            yield part
            part, size = [], 0
        part.append(card)
        size += weight
    yield part


def _weight(card: Card) -> int:
    return len((_card(0, card) + _problems([card])).encode())


def _figures(cards: list[Card], counts: Counter[str]) -> str:
    video_s = sum(card.facts.get("duration_s", 0) for card in cards if card.state == "done")
    work_s = sum(card.seconds for card in cards)
    found = [(str(counts[state]), state) for state in STATES if counts[state]]
    found += [(_clock(video_s), "of video"), (_clock(work_s), "of generating and finishing")]
    if shares := [share for card in cards if (share := _swims(card)) is not None]:
        found += [(f"{100 * median(shares):.1f} %", "of the background's variance left, median")]
    return "".join(f"<li><b>{number}</b>{name}</li>" for number, name in found)


def _swims(card: Card) -> float | None:
    """The share of the background's variance over time that stabilising left."""
    told = card.facts.get("steadiness") or {}
    before, after = (told.get(when, {}).get("background_variance") for when in ("before", "after"))
    return after / before if before and after is not None and _has_checks(card) else None


def _chips(counts: Counter[str], checks: Counter[str]) -> str:
    names = [("", f"all {counts.total()}"), *((state, f"{state} {counts[state]}") for state in STATES if counts[state])]
    names += [(f"check-{state}", f"{word} {checks[state]}") for state, word in
              (("warn", "with warnings"), ("fail", "with failed checks")) if checks[state]]  # fmt: skip
    pressed = {"": "true"}
    return "\n".join(
        f'<button type="button" data-state="{state}" aria-pressed="{pressed.get(state, "false")}">{name}</button>'
        for state, name in names
    )


def _worst(card: Card) -> str:
    """The worst state of a card's checks: fail, warn, pass, or '' where there are none."""
    found = {check["state"] for check in card.facts.get("checks", [])} if _has_checks(card) else set()
    return next((state for state in ("fail", "warn", "pass") if state in found), "")


def _has_checks(card: Card) -> bool:
    """Checks are shown of what the row shows: its finished video, or the draft that is held back."""
    return card.state == "done" or card.is_draft


def _problems(cards: list[Card]) -> str:
    """The table of rows that people have to act on, each with a link to its card."""
    bad = [(index, card) for index, card in enumerate(cards) if card.state not in ("done", "waiting")]
    if not bad:
        return ""
    lines = "".join(
        f'<tr><td><a href="#row-{index}">{escape(card.clip)}</a></td><td class="state {card.state}">{card.state}</td>'
        f"<td>{escape(card.step)}</td><td>{escape(card.reason)}</td></tr>"
        for index, card in bad
    )
    noun = "row needs" if len(bad) == 1 else "rows need"
    summary = f"<summary>{len(bad)} {noun} attention</summary>"
    return f'<details class="problems" open>{summary}<div><table>{lines}</table></div></details>'


def _card(index: int, card: Card) -> str:
    words = escape(" ".join([card.clip, card.title, card.portrait, card.audio, card.state, card.step, card.kind,
                             card.reason, str(card.facts.get("language", ""))]))  # fmt: skip
    return (
        f'<article class="card {card.state}" id="row-{index}" tabindex="-1" data-state="{card.state}"'
        f' data-check="{_worst(card)}" data-words="{words}">'
        f'{_stage(card)}<div class="text"><div class="head"><h2 dir="auto">{escape(card.title or card.clip)}</h2>'
        f'<span class="state {card.state}">{card.state}</span></div><p class="meta">{_meta(card)}</p>'
        f"{_summary(card)}{_notes(card)}{_plot(card)}{_details(card)}</div></article>"
    )


def _stage(card: Card) -> str:
    if not card.video:
        words = "too large to be shown here" if card.poster else "no video"
        return f'<div class="stage empty"><p>{words}</p></div>'
    poster = f' poster="{escape(card.poster)}"' if card.poster else ""
    name = escape(f"Video {card.clip}")
    return (f'<div class="stage"><video controls preload="none" playsinline src="{escape(card.video)}"{poster}'
            f' aria-label="{name}"></video></div>')  # fmt: skip


def _meta(card: Card) -> str:
    facts, words = card.facts, [card.clip] if card.title else []
    if facts and card.state == "done":
        width, height = facts["size_px"]
        words += [facts["language"], f"{facts['duration_s']:.2f} s", f"{width} x {height}"]
    else:
        words += [name for name in (card.portrait, card.audio) if name]
        words += [f"next: {card.step.replace('_', ' ')}"] if card.state == "waiting" and card.step else []
    return escape(" · ".join(words))


def _notes(card: Card) -> str:
    notes = [_note("Warning", warning, "") for warning in card.facts.get("warnings", []) if card.state == "done"]
    if card.reason:
        where = f"{card.step}: {card.kind}".strip(": ").replace("_", " ")
        notes.append(_note(where, card.reason, HINTS.get(card.kind, HINTS["error"])))
    if card.video and card.state != "done" and not card.is_draft:
        notes.append(_note("Video of an earlier run", "The last good video was kept.", ""))
    return "".join(notes)


def _note(head: str, text: str, hint: str) -> str:
    tail = f"<i>{escape(hint)}</i>" if hint else ""
    return f'<div class="note"><b>{escape(head)}</b>{escape(text)}{tail}</div>'


def _details(card: Card) -> str:
    """What is folded away: debug picture, timings, checks, provenance."""
    picture = f'<h3>Face and masks</h3><img loading="lazy" alt="Face, landmarks and masks" src="{escape(card.debug)}">'
    parts = [picture if card.debug else "", _times(card.timings)]
    if _has_checks(card):
        parts += [_steadiness(card), _checks(card.facts.get("checks", [])), _provenance(card)]
    inside = "".join(parts)
    return f"<details><summary>Details</summary>{inside}</details>" if inside else ""


def _times(timings: dict[str, float]) -> str:
    if not timings:
        return ""
    longest = max(max(timings.values()), 1e-9)
    lines = "".join(
        f"<tr><td>{escape(step.replace('_', ' '))}</td>"
        f'<td><span style="width:{100 * seconds / longest:.0f}%"></span></td><td>{seconds:.1f} s</td></tr>'
        for step, seconds in timings.items()
    )
    return f'<h3>Time by step</h3><table class="times">{lines}</table>'


def _summary(card: Card) -> str:
    """How many checks passed, and the words of those that did not."""
    if not _has_checks(card) or not card.facts.get("checks"):
        return ""
    checks = card.facts["checks"]
    counts = Counter(check["state"] for check in checks)
    told = " ".join(f'<span class="{css}">{counts[state]} {escape(state)}</span>'
                    for state, css in CHECKS.items() if counts[state])  # fmt: skip
    bad = [check for check in checks if check["state"] in ("warn", "fail")]
    named = "".join(f'<li class="{check["state"]}">{escape(check["name"])}: {escape(_value(check["value"]))}</li>'
                    for check in bad)  # fmt: skip
    return f'<p class="checks">{told}</p>' + (f'<ul class="checks">{named}</ul>' if named else "")


def _checks(checks: list[dict[str, Any]]) -> str:
    lines = "".join(
        f'<tr><td class="{CHECKS.get(check["state"], "none")}">{escape(str(check["state"]))}</td>'
        f"<td>{escape(str(check['name']))}{_aside(check.get('note'))}</td>"
        f"<td>{escape(_value(check['value']))}</td><td>{escape(_value(check['limit']))}</td></tr>"
        for check in checks
    )
    head = "<tr><th></th><th>check</th><th>value</th><th>limit</th></tr>"
    return f'<h3>Checks</h3><table class="list">{head}{lines}</table>' if lines else ""


def _aside(note: str | None) -> str:
    return f"<small>{escape(note)}</small>" if note else ""


def _plot(card: Card) -> str:
    """Waveform, level of the sound and opening of the mouth over time, as one SVG; what is loud should be open."""
    curves = card.facts.get("curves") or {}
    if not _has_checks(card) or not curves.get("mouth"):
        return ""
    mouth, level, wave = (_thinned(curves[name]) for name in ("mouth", "level", "wave"))
    loudness = card.facts.get("loudness", {}).get("integrated_lufs")
    heard = f"{loudness:.1f} LUFS" if isinstance(loudness, float) else "no loudness"
    bars = "".join(f"M{x} {20 - round(19 * y)}V{20 + round(19 * y)}" for x, y in enumerate(wave))
    words = f"Waveform, level of the sound, and mouth; {heard}"
    return (
        f'<figure><svg viewBox="0 0 {max(len(mouth), 2)} 70" preserveAspectRatio="none" role="img"'
        f' aria-label="{words}">'
        f'<path class="wave" d="{bars}"/><path class="level" d="M0 70L{_line(level)}L{len(level) - 1} 70Z"/>'
        f'<path class="mouth" d="M{_line(mouth)}"/></svg>'
        f'<figcaption><i class="level"></i>sound <i class="mouth"></i>mouth<b>{heard}</b></figcaption></figure>'
    )


def _steadiness(card: Card) -> str:
    """Background and head before and after stabilising: numbers, and a small figure over time."""
    told = card.facts.get("steadiness") or {}
    if not told:
        return ""
    lines = "".join(
        f"<tr><td>{escape(words)}</td><td>{_short(told['before'].get(name))}</td><td>{_short(told['after'].get(name))}</td></tr>"
        for name, words in (*STEADY.values(), RIM)
    )
    curves, count = told["curves"], max(len(told["curves"]["before"]["head"]), 2)
    paths = "".join(
        f'<path class="{when}" d="M{_band(curves[when][name], curves["before"][name], 32 * row)}"/>'
        for row, name in enumerate(STEADY)
        for when in ("before", "after")
        if curves[when][name]
    )
    words = "Over time, before and after: how far the background is from its first picture, the head's motion, colour"
    return (
        f'<h3>Background stabilised</h3><figure class="steady"><svg viewBox="0 0 {count - 1} 96"'
        f' preserveAspectRatio="none" role="img" aria-label="{words}">{paths}</svg><figcaption><i class="before"></i>'
        'before <i class="after"></i>after<b>from the top</b></figcaption></figure>'
        f"<table><tr><th></th><th>before</th><th>after</th></tr>{lines}</table>"
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{float(value):.2f}"


def _band(curve: list[float], before: list[float], top: int) -> str:
    """Points of a curve from 0 to what it reached before stabilising, in a band of 32."""
    high = max(1e-9, *map(float, before), *map(float, curve))
    return "L".join(f"{x} {top + 30 - round(27 * float(y) / high)}" for x, y in enumerate(curve))


def _thinned(curve: list[float]) -> list[float]:
    """At most PLOT_POINTS of a curve: the largest of pieces of equal length."""
    piece = -(-len(curve) // PLOT_POINTS)
    return [max(map(float, curve[start : start + piece])) for start in range(0, len(curve), piece)]


def _line(curve: list[float]) -> str:
    """Points of a curve between 0 and its largest, in the lower part of the plot."""
    low, high = min(curve), max(curve)
    return "L".join(f"{x} {69 - round(28 * (y - low) / max(high - low, 1e-9))}" for x, y in enumerate(curve))


def _provenance(card: Card) -> str:
    facts, inputs = card.facts, card.facts.get("inputs", {})
    lines = {f"{name} ({source['file']})": source["sha256"] for name, source in inputs.items()}
    lines |= {"frames, MD5": facts.get("frame_md5", ""), "sound, MD5": facts.get("pcm_md5", "")}
    generation = {key: value for key, value in facts.get("generation", {}).items() if key not in ("refusal", "video")}
    lines |= {f"generation: {key}": _value(value) for key, value in generation.items()}
    lines |= {key: facts[key] for key in ("consent_ref", "licence_ref") if facts.get(key)}
    return f"<h3>Provenance</h3>{_table(lines.items(), 'stacked')}"


def _settings(cards: list[Card], settings: dict[str, Any]) -> str:
    groups = {name: group for name, group in settings.items() if isinstance(group, dict)}
    plain = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    groups = {"run": plain, **groups, "versions": _versions(cards)}
    parts = [
        f"<div><h3>{escape(name)}</h3>{_table(group.items(), 'plain')}</div>" for name, group in groups.items() if group
    ]
    told = "".join(parts) or "<p>No record of the settings: this run was not started by linker run.</p>"
    return f'<details><summary>Settings and versions of this run</summary><div class="settings">{told}</div></details>'


def _versions(cards: list[Card]) -> dict[str, str]:
    return next((card.facts["versions"] for card in cards if card.facts.get("versions")), {})


def _table(lines: Iterable[tuple[str, Any]], css: str) -> str:
    cells = "".join(f"<tr><th>{escape(str(key))}</th><td>{escape(_value(value))}</td></tr>" for key, value in lines)
    return f'<table class="{css}">{cells}</table>'


def _value(value: Any) -> str:
    """A JSON value as people write it."""
    if isinstance(value, list):
        return " x ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_value(inner)}" for key, inner in value.items())
    return "-" if value is None or value == "" else str(value)


def _clock(seconds: float) -> str:
    """'0:42' or '1:03:09'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
