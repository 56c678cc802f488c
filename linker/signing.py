"""C2PA manifests (content credentials): made, signed with the user's key, and read back, without any network."""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from linker.config import ProvenanceSettings
from linker.errors import EnvironmentError

CARRIERS = (".mp4", ".mov")  # files that a manifest can be written into; Matroska is none
_FORMATS = {
    **{".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"},
    **{".tif": "image/tiff", ".tiff": "image/tiff", ".wav": "audio/wav", ".mp3": "audio/mpeg", ".flac": "audio/flac"},
    **{".m4a": "audio/mp4", ".mp4": "video/mp4", ".mov": "video/quicktime"},
}
_OFFLINE = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True)
class Identity:
    """Who signs: PEM bytes of the certificates (the signing one first) and of the key, and C2PA's name of its kind."""

    certificates: bytes
    private_key: bytes
    algorithm: str


def load_identity(settings: ProvenanceSettings) -> Identity | None:
    """The user's key, a throwaway one when that is asked for, or None. Raises EnvironmentError for a wrong key."""
    if settings.certificate and settings.private_key:
        return _users_identity(Path(settings.certificate), Path(settings.private_key))
    if settings.certificate or settings.private_key:
        raise EnvironmentError("provenance: certificate and private_key belong together; name both or neither")
    return test_identity() if settings.test_key else None


def _users_identity(certificate: Path, private_key: Path) -> Identity:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    try:
        chain, key_pem = certificate.read_bytes(), private_key.read_bytes()
        leaf = x509.load_pem_x509_certificates(chain)[0]
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (OSError, ValueError, TypeError) as error:
        where = f"provenance.certificate {certificate}, provenance.private_key {private_key}"
        raise EnvironmentError(f"{where}: cannot be used ({error}); needed PEM files, the key not encrypted") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise EnvironmentError(f"{private_key}: is not the key of the first certificate in {certificate}")
    return Identity(chain, key_pem, _algorithm(key))


def _algorithm(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size in (256, 384, 521):
        return {256: "es256", 384: "es384", 521: "es512"}[key.key_size]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise EnvironmentError("provenance.private_key: needed EC P-256, P-384 or P-521, RSA from 2048 bits, or Ed25519")


@cache
def test_identity() -> Identity:
    """A key and certificates made here and now, whose names say that they prove nothing."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(common: str) -> x509.Name:
        words = {NameOID.ORGANIZATION_NAME: "TEST KEY, proves nothing", NameOID.COMMON_NAME: common}
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in words.items()])

    def certificate(subject: str, key: Any, is_root: bool) -> Any:
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        made = x509.CertificateBuilder().subject_name(named(subject)).issuer_name(named("test root"))
        made = made.public_key(key.public_key()).serial_number(x509.random_serial_number())
        made = made.not_valid_before(start).not_valid_after(start + datetime.timedelta(days=365))
        made = made.add_extension(x509.BasicConstraints(is_root, None), critical=True)
        usage = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                               "encipher_only", "decipher_only"), False)  # fmt: skip
        usage |= {"digital_signature": not is_root, "key_cert_sign": is_root, "crl_sign": is_root}
        made = made.add_extension(x509.KeyUsage(**usage), critical=True)
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        if not is_root:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
            made = made.add_extension(purpose, critical=False).add_extension(issuer, critical=False)
        return made.sign(root_key, hashes.SHA256())

    root_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = [certificate("test signer", leaf_key, False), certificate("test root", root_key, True)]
    pem = serialization.Encoding.PEM
    key_pem = leaf_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Identity(b"".join(item.public_bytes(pem) for item in chain), key_pem, "es256")


def sign(source: Path, signed: Path, manifest: dict[str, Any], ingredients: list[Path], identity: Identity) -> None:
    """Write `source` with the manifest as `signed`; ingredients keep the credentials that they bring.

    Raises EnvironmentError when the key or its certificate is not accepted.
    """
    import c2pa

    algorithm = getattr(c2pa.C2paSigningAlg, identity.algorithm.upper())
    signed.unlink(missing_ok=True)  # the library refuses to write over anything
    try:
        info = c2pa.C2paSignerInfo(algorithm, identity.certificates, identity.private_key, None)
        with (
            c2pa.Context(settings=c2pa.Settings.from_dict(_OFFLINE)) as context,
            c2pa.Builder(manifest, context=context) as builder,
            c2pa.Signer.from_info(info) as signer,
        ):
            for path in ingredients:
                _add_ingredient(builder, path)
            builder.sign_file(str(source), str(signed), signer)
    except c2pa.C2paError as error:
        raise EnvironmentError(
            f"C2PA: {signed.name} cannot be signed ({str(error).splitlines()[0]}); see provenance.certificate"
        ) from None


def _add_ingredient(builder: Any, path: Path) -> None:
    kind = _FORMATS.get(path.suffix.lower(), "application/octet-stream")
    with path.open("rb") as stream:
        told = {"title": path.name, "format": kind, "relationship": "inputTo"}
        builder.add_ingredient(json.dumps(told), kind, stream)


def read(path: Path) -> dict[str, Any]:
    """What a reader finds: {"state", "signer", "faults", "manifest"}; state 'absent' where there is no manifest.

    'Valid' means whole and unchanged since it was signed; who signed is for the viewer's list of trusted names.
    """
    import c2pa

    try:
        with (
            c2pa.Context(settings=c2pa.Settings.from_dict(_OFFLINE)) as context,
            c2pa.Reader(str(path), context=context) as reader,
        ):
            found = json.loads(reader.json())
    except c2pa.C2paError as error:
        absent = "ManifestNotFound" in str(error) or "ManifestNotFound" in type(error).__name__
        return {"state": "absent" if absent else "unreadable", "signer": "", "faults": [str(error)], "manifest": {}}
    manifest = found["manifests"][found["active_manifest"]]
    faults = [entry["code"] for entry in found.get("validation_status", [])]
    signer = manifest.get("signature_info", {})
    name = ", ".join(signer[key] for key in ("common_name", "issuer") if signer.get(key))
    return {"state": found.get("validation_state", "Invalid"), "signer": name, "faults": faults, "manifest": manifest}
