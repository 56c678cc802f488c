"""How a file says that it was generated, by whom and from what: C2PA, XMP, and the AIGC key. All of it offline.

Three marks of the same facts. XMP (IPTC's digital source type) and AIGC (the JSON of GB 45438-2025, where it looks
for it: moov/udta/meta) are in every file; XMP and C2PA tell the facts, AIGC, whose fields are given, their SHA-256.
C2PA is signed where the user names a key; Matroska cannot carry it, and there XMP and AIGC are tags. Whatever copies a
file's streams loses all three: marks are written last, then read back.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from linker import __version__, signing
from linker.boxes import append_xmp, read_xmp
from linker.media import probe
from linker.records import atomic
from linker.signing import CARRIERS, Identity

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
ASSERTION = "org.lingualinker.generation"
COMMENT = "AI-generated video: LinguaLinker moved this portrait to the speech."
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:ll="urn:lingualinker:1">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">{title}</rdf:li></rdf:Alt></dc:title>
<xmp:CreatorTool>{tool}</xmp:CreatorTool>
<Iptc4xmpExt:DigitalSourceType>{source_type}</Iptc4xmpExt:DigitalSourceType>
{facts}
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True)
class Marks:
    """What a file was found to say: the packet of XMP, the AIGC object, and C2PA as `signing.read` tells it."""

    xmp: str
    aigc: str
    c2pa: dict[str, Any]


def facts_of(row: dict[str, Any], entry: dict[str, Any], hashes: dict[str, str], producer: str) -> dict[str, str]:
    """The facts that all marks carry, as text; `hashes` are SHA-256 of portrait, audio, settings and
    the upscaling network."""
    told = {
        "producer": producer,
        "clip": row["clip"],
        **{f"{name}_sha256": value for name, value in hashes.items()},
        "weights": entry.get("weights", ""),
        "generation_key": entry.get("key", ""),
        "seed": entry.get("seed", ""),
        "consent_ref": row.get("consent_ref", ""),
        "licence_ref": row.get("licence_ref", ""),
    }
    return {name: str(value) for name, value in told.items() if value != ""}


def xmp_packet(title: str, facts: dict[str, str]) -> str:
    """The facts as XMP, in their order."""
    lines = "\n".join(f"<ll:{name}>{escape(value)}</ll:{name}>" for name, value in facts.items())
    return _XMP.format(title=escape(title), tool=f"LinguaLinker {__version__}", source_type=SOURCE_TYPE, facts=lines)


def aigc_label(facts: dict[str, str]) -> str:
    """The implicit label of GB 45438-2025 (TC260-PG-20257A): Label 1 = certainly generated. ReservedCode1, the
    producer's own field for integrity, holds the SHA-256 of the facts' JSON (keys sorted, no spaces)."""
    label = dict.fromkeys(("Label", "ContentProducer", "ProduceID", "ReservedCode1", "ContentPropagator",
                           "PropagateID", "ReservedCode2"), "")  # fmt: skip
    produced = facts.get("generation_key") or facts["clip"]
    told = json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    label |= {"Label": "1", "ContentProducer": facts["producer"], "ProduceID": produced,
              "ReservedCode1": f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"}  # fmt: skip
    return json.dumps(label, ensure_ascii=False, separators=(",", ":"))


def tags(path: Path, title: str, facts: dict[str, str]) -> dict[str, str]:
    """What the encoder writes into a file of this name: title, comment, AIGC, and XMP where there is no box for it."""
    written = {"title": title, "comment": COMMENT, "AIGC": aigc_label(facts)}
    return written if path.suffix in CARRIERS else {**written, "XMP": xmp_packet(title, facts)}


def manifest(title: str, facts: dict[str, str]) -> dict[str, Any]:
    """The C2PA manifest: created by generation, by this program, with the facts as an assertion of its own."""
    tool = {"name": "LinguaLinker", "version": __version__}
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE, "softwareAgent": tool}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}, {"label": ASSERTION, "data": facts}]
    return {"claim_generator_info": [tool], "title": title, "assertions": assertions}


def mark(path: Path, title: str, facts: dict[str, str], ingredients: list[Path], identity: Identity | None) -> None:
    """Add to an encoded file what its encoder could not: XMP, then C2PA over everything. Nothing follows."""
    if path.suffix not in CARRIERS:
        return
    append_xmp(path, xmp_packet(title, facts))
    if identity:
        with atomic(path) as signed:
            signing.sign(path, signed, manifest(title, facts), ingredients, identity)


def read_marks(path: Path) -> Marks:
    """The marks of a finished file, as they are."""
    found = probe(path).metadata
    is_carrier = path.suffix in CARRIERS
    xmp = read_xmp(path) if is_carrier else found.get("XMP", "")
    c2pa = signing.read(path) if is_carrier else {"state": "absent", "signer": "", "faults": [], "manifest": {}}
    return Marks(xmp, found.get("AIGC", ""), c2pa)


def c2pa_fault(found: dict[str, Any], facts: dict[str, str], ingredients: list[str]) -> str:
    """What is wrong with a manifest that was read, '' when it is whole and says what it should."""
    if found["state"] not in ("Valid", "Trusted"):
        return f"{found['state']} ({', '.join(found['faults'])})" if found["faults"] else str(found["state"])
    said = {item["label"]: item["data"] for item in found["manifest"].get("assertions", [])}
    created = [action.get("digitalSourceType") for action in said.get("c2pa.actions.v2", {}).get("actions", [])
               if action["action"] == "c2pa.created"]  # fmt: skip
    if created != [SOURCE_TYPE]:
        return "does not say that it was created by generation"
    if said.get(ASSERTION) != facts:
        return "tells other facts"
    inputs = [item.get("title") for item in found["manifest"].get("ingredients", [])]
    return "" if sorted(inputs) == sorted(ingredients) else f"names the ingredients {inputs}"
