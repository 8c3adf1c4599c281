"""Provenance that a file states: C2PA, EXIF and container facts, read in a sealed process and never in the score."""

import datetime
import io
import json
import struct

import cv2
import jsonschema
import numpy as np
import pytest

from tfdfd import files
from tfdfd.detect.detector import Detector
from tfdfd.detect.results import Detection
from tfdfd.extract import worker
from tfdfd.extract.extraction import Request
from tfdfd.extract.pool import FaceExtractor
from tfdfd.media import Limits, provenance
from tfdfd.media.inputs import list_inputs, memory_input
from tfdfd.report.page import render_report

SAMPLE = files.PACKAGE / "samples" / "blended.mp4"
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def jpeg(exif=b""):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    return data[:2] + (b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif if exif else b"") + data[2:]


def exif(**texts):
    """Little-endian EXIF with texts by tag; `created` is in the EXIF directory."""
    tags = {271: texts["make"], 305: texts["software"]}
    start, body = 8 + 2 + 12 * 3 + 4, b""
    entries = b""
    for tag, text in tags.items():
        entries += struct.pack("<HHII", tag, 2, len(text), start + len(body))
        body += text
    created = texts["created"]
    entries += struct.pack("<HHII", 34665, 4, 1, start + len(body))
    body += struct.pack("<HHHII", 1, 36867, 2, len(created), start + len(body) + 2 + 12 + 4) + b"\0\0\0\0" + created
    return b"II*\0" + struct.pack("<IH", 8, 3) + entries + b"\0\0\0\0" + body


def test_exif_and_container_facts_are_cleaned_and_bounded():
    facts = exif(make=b"<b>Acme\x1b[31m\xff\0", software=b"edit " * 300 + b"\0", created=b"2026:01:02 03:04:05\0")
    read = provenance.checked(provenance.read_provenance(io.BytesIO(jpeg(facts))))["file"]
    assert read["make"] == "<b>Acme[31m\ufffd" and read["created"] == "2026:01:02 03:04:05"
    assert len(read["software"]) == 200 and read["software"].endswith(" …")
    with open(SAMPLE, "rb") as file:
        read = provenance.read_provenance(file)["file"]
    assert read["codec"] == "h264" and read["encoder"].startswith("Lavf")
    for broken in (facts[:30], facts.replace(struct.pack("<I", 8), struct.pack("<I", 2**31), 1), b"II*\0"):
        assert provenance.read_provenance(io.BytesIO(jpeg(broken)))["file"].keys() <= {"make"}


@pytest.mark.parametrize(
    "value",
    [None, {}, {"c2pa": {"status": "trusted"}, "file": {}}, {"c2pa": {"status": "absent"}, "file": {"make": 3}},
     {"c2pa": {"status": "valid", "source_types": 7}, "file": {}}, {"c2pa": {"status": "invalid"}, "file": {}}],
)  # fmt: skip
def test_a_malformed_answer_of_a_decoding_process_is_refused(value):
    with pytest.raises(ValueError):
        provenance.checked(value)


def test_a_manifest_is_summed_up():
    action = {"label": "c2pa.actions.v2", "data": {"actions": [{"digitalSourceType": f"{IPTC}digitalCapture"}]}}
    made = {"label": "c2pa.actions", "data": {"actions": [{"digitalSourceType": f"{IPTC}{provenance.GENERATED[0]}"}]}}
    active = {
        "signature_info": {"issuer": "Press", "common_name": "Desk"},
        "claim_generator_info": [{"name": "Camera", "version": "2"}],
        "assertions": [action],
    }
    store = {
        "active_manifest": "a",
        "manifests": {"a": active, "b": {"assertions": [made]}},
        "validation_state": "Valid",
    }
    result = provenance.checked({"c2pa": provenance._summary(store), "file": {}})["c2pa"]
    # A generated ingredient counts, too.
    assert result == {
        "status": "valid", "signer": "Press, Desk", "generator": "Camera 2",
        "source_types": ["trainedAlgorithmicMedia", "digitalCapture"], "ai_generated": True,
    }  # fmt: skip
    codes = [{"code": "signingCredential.untrusted"}, {"code": "assertion.dataHash.mismatch"}]
    changed = store | {"validation_state": "Invalid", "validation_status": codes}
    assert provenance._summary(changed) == {"status": "invalid", "problems": ["assertion.dataHash.mismatch"]}


def test_a_library_that_is_missing_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    read = provenance.read_provenance(io.BytesIO(jpeg()))["c2pa"]
    assert read == {"status": "not_read", "message": provenance.NO_LIBRARY} and "tfdfd[provenance]" in read["message"]


HANGS = "while True: pass"
CRASHES = "import os; os.abort()"
BOMB = "bytearray(1 << 40)"
FLOODS = "raise ValueError('x' * 100_000_000)"


@pytest.mark.parametrize(
    ("behavior", "reason"), [(HANGS, "not done after 1 s"), (CRASHES, "crash"), (BOMB, "MemoryError"), (FLOODS, "xxx")]
)
def test_a_manifest_that_harms_its_reader_costs_nothing_but_itself(behavior, reason, monkeypatch, tmp_path):
    patch = f"""
def read_provenance(file):
    {behavior}
"""
    boot = f"import tfdfd.media.provenance as p; exec({patch!r}, p.__dict__); from tfdfd.extract.worker import main; "
    from tfdfd.extract import pool

    monkeypatch.setattr(pool, "_BOOT", pool._BOOT.replace("from tfdfd.extract.worker import main; ", boot))
    if behavior == HANGS:
        monkeypatch.setattr(provenance, "MAX_SECONDS", 1.0)
    picture = tmp_path / "a.jpg"
    picture.write_bytes(jpeg())
    with FaceExtractor("none", limits=Limits(max_memory=1 << 30), workers=1, provenance=True) as extractor:
        for _ in range(2):  # the process that was stopped is replaced
            (item,) = list_inputs([picture]).items
            response = extractor.extract_one(item, Request(size=32))
            assert response.status == "ok" and len(response.frames[0].faces) == 1
            assert response.provenance["c2pa"]["status"] == "not_read"
            assert reason in response.provenance["c2pa"]["message"]
            assert len(response.provenance["c2pa"]["message"]) <= 200


def test_the_report_shows_provenance_beside_the_score_and_escapes_it():
    stated = {
        "c2pa": {"status": "valid", "signer": "<script>", "source_types": ["trainedAlgorithmicMedia"],
                 "ai_generated": True},
        "file": {"software": "<img src=x>"},
    }  # fmt: skip
    scored = Detection("a.jpg", "image", "ok", 0.2, "real", frames_requested=1, frames_scored=1, provenance=stated)
    html = render_report([scored], {"threshold": 0.5})
    assert "C2PA valid, AI-generated" in html and "&lt;script&gt;" in html and "&lt;img src=x&gt;" in html
    assert (
        html.count("<script>") == html.count('<script>"use strict"')
        and "<img src=x>" not in html
        and scored.verdict == "real"
    )
    for c2pa, words in (
        ({"status": "absent"}, "C2PA absent"),
        ({"status": "invalid", "problems": ["assertion.dataHash.mismatch"]}, "assertion.dataHash.mismatch"),
        (provenance.not_read("not done after 20 s")["c2pa"], "not read: <bdi>not done after 20 s"),
    ):
        scored.provenance = {"c2pa": c2pa, "file": {}}
        assert words in render_report([scored], {"threshold": 0.5})


def signed(source, mime):
    """The bytes of a file, signed by a certificate made here, as AI-generated."""
    c2pa = pytest.importorskip("c2pa", reason="the extra provenance")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    start = datetime.datetime(2026, 1, 1)

    def certificate(subject, key, issuer, issuer_key, authority):
        names = [
            x509.Name(
                [x509.NameAttribute(NameOID.ORGANIZATION_NAME, one), x509.NameAttribute(NameOID.COMMON_NAME, one)]
            )
            for one in (subject, issuer)
        ]
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
             "decipher_only"), False,
        )  # fmt: skip
        builder = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(1 + authority)
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(36500))
            .add_extension(x509.BasicConstraints(authority, None), True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=authority, crl_sign=authority, **usage), True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
        )
        if not authority:
            builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    root, leaf = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = certificate("Test Press", leaf, "Test Root", root, False)
    chain += certificate("Test Root", root, "Test Root", root, True)
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    signer = c2pa.Signer.from_info(c2pa.C2paSignerInfo(b"es256", chain, key, None))
    action = {"action": "c2pa.created", "digitalSourceType": f"{IPTC}trainedAlgorithmicMedia"}
    assertions = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
    manifest = {"claim_generator_info": [{"name": "maker", "version": "1"}], "format": mime, "assertions": assertions}
    out = io.BytesIO()
    c2pa.Builder(json.dumps(manifest)).sign(signer, mime, io.BytesIO(source), out)
    return out.getvalue()


def test_c2pa_is_read_in_a_sealed_process_and_leaves_the_score_alone():
    clip, picture = signed(SAMPLE.read_bytes(), "video/mp4"), signed(jpeg(), "image/jpeg")
    changed = bytearray(picture)
    changed[-100] ^= 1
    with FaceExtractor("none", workers=1, provenance=True) as extractor:
        read = [
            extractor.extract_one(memory_input(bytes(data), Limits()), Request(frames=1, size=32)).provenance["c2pa"]
            for data in (clip, picture, changed, jpeg())
        ]
    valid = {
        "status": "valid", "signer": "Test Press", "generator": "maker 1",
        "source_types": ["trainedAlgorithmicMedia"], "ai_generated": True,
    }  # fmt: skip
    assert read == [
        valid,
        valid,
        {"status": "invalid", "problems": ["assertion.dataHash.mismatch"]},
        {"status": "absent"},
    ]
    with Detector(frames=1) as detector:
        plain, stated = detector.detect(SAMPLE), detector.detect(clip)
    assert stated.provenance["c2pa"]["ai_generated"] and plain.provenance["c2pa"]["status"] == "absent"
    assert (stated.verdict, stated.fake_probability) == (plain.verdict, plain.fake_probability)
    schema = json.loads((files.PACKAGE / "detect/detect.schema.json").read_text("utf-8"))
    jsonschema.validate(detector.to_json([plain, stated]), schema)


def test_a_worker_asks_for_provenance_only_if_told():
    assert worker.PROVENANCE not in Request.__dataclass_fields__
    with FaceExtractor("none", workers=1) as extractor:
        assert extractor.extract_one(memory_input(jpeg(), Limits()), Request(size=32)).provenance is None
