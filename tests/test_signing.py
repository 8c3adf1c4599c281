"""Signed hubs: who is trusted, what is refused, rotation and revocation."""

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.test_hub import MODEL, Server, write_manifest
from tests.test_publish import EXPORTED, PUBLISHED_MODEL, copy
from tfdfd.hub import HubError, HubWarning
from tfdfd.hub.manifest import Manifest
from tfdfd.hub.publish import publish, sign_hub
from tfdfd.hub.resolve import find
from tfdfd.hub.signing import TrustedKey, private_key, public_key, trust, trusted_keys

ed25519 = pytest.importorskip(
    "cryptography.hazmat.primitives.asymmetric.ed25519", reason="cryptography is missing: pip install 'tfdfd[sign]'"
)
pytestmark = pytest.mark.usefixtures("carried_hub_only", "settings")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    for name in ("TFDFD_TRUST", "TFDFD_UNSIGNED", "TFDFD_KEY_PASSWORD", "TFDFD_HUB_SHA256"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def keys(tmp_path):
    """`keys(NAME)` makes the PEM files of a private and a public key."""
    from cryptography.hazmat.primitives import serialization as pem

    def make(name, password=None, kind=ed25519.Ed25519PrivateKey.generate):
        key = kind()
        private, public = tmp_path / f"{name}-private.pem", tmp_path / f"{name}.pem"
        encryption = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
        private.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, encryption))
        private.chmod(0o600)
        public.write_bytes(key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
        return private, public

    return make


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An unsigned hub, set as `$TFDFD_HUB`."""
    root = tmp_path / "hub"
    shutil.copytree(EXPORTED, root / MODEL / "1")
    write_manifest(root, (1,))
    monkeypatch.setenv("TFDFD_HUB", str(root))
    return root


HANDLE = f"tfdfd/{MODEL}/1"


def edit(hub, change):
    manifest = json.loads((hub / "manifest.json").read_bytes())
    change(manifest["models"][MODEL]["1"])
    (hub / "manifest.json").write_text(json.dumps(manifest))


def test_without_a_trusted_key_a_hub_works_as_before(hub, keys):
    assert find(HANDLE) and trusted_keys() == {}
    sign_hub(hub, keys("alice")[0])
    assert find(HANDLE)


def test_once_a_key_is_trusted_the_hub_must_be_signed_with_it(hub, keys, monkeypatch, tmp_path):
    private, public = keys("alice")
    trust(public, hub=str(tmp_path / "another"))
    assert find(HANDLE)
    trust(public, hub=os.path.relpath(hub))
    with pytest.raises(HubError, match=r"is not signed by alice \([0-9a-f]{16}\); nothing was loaded.*trust"):
        find(HANDLE)
    sign_hub(hub, keys("mallory")[0])
    with pytest.raises(HubError, match=r"is signed by [0-9a-f]{16}, not by alice"):
        find(HANDLE)
    with pytest.raises(HubError, match="not by alice"):  # weights of the hub, as for detect
        from tfdfd.hub.weights import find_weights

        find_weights(HANDLE)
    monkeypatch.setenv("TFDFD_UNSIGNED", "allow")
    with pytest.warns(HubWarning, match="not by alice.*used all the same"):
        assert find(HANDLE)
    monkeypatch.delenv("TFDFD_UNSIGNED")
    sign_hub(hub, private)
    assert find(HANDLE).folder == hub / MODEL / "1"
    monkeypatch.delenv("TFDFD_HUB")
    assert find(PUBLISHED_MODEL).hub == "the package"  # comes with tfdfd itself


@pytest.mark.parametrize("change", ["file", "version", "value", "handle"])
@pytest.mark.parametrize("is_trusted", [True, False])
def test_a_signature_is_of_one_version_and_its_files(hub, keys, change, is_trusted):
    private, public = keys("alice")
    sign_hub(hub, private)
    if is_trusted:
        trust(public)
    assert find(HANDLE)
    manifest = json.loads((hub / "manifest.json").read_bytes())
    version = manifest["models"][MODEL]["1"]
    if change == "file":
        card = hub / MODEL / "1/model_card.json"
        card.write_bytes(card.read_bytes() + b"\n")
        write_manifest(hub, (1,))
        signatures = version["signatures"]
        edit(hub, lambda one: one.update(signatures=signatures))
    elif change == "value":
        edit(hub, lambda one: one["signatures"][0].update(signature="0" * 128))
    else:
        number, name = ("2", MODEL) if change == "version" else ("1", "meso4")
        (hub / name).mkdir(exist_ok=True)
        os.rename(hub / MODEL / "1", hub / name / number)
        (hub / "manifest.json").write_text(json.dumps({"schema": 1, "models": {name: {number: version}}}))
    with pytest.raises(HubError, match="that is not of this version: it was altered; nothing was loaded"):
        find({"version": f"tfdfd/{MODEL}/2", "handle": "tfdfd/meso4/1"}.get(change, HANDLE))


def test_keys_are_rotated_and_revoked(hub, keys, run_tfdfd):
    """The new key signs beside the old one; when readers trust it, the old one is revoked."""
    old, new = keys("old"), keys("new")
    sign_hub(hub, old[0])
    assert run_tfdfd("models", "trust", old[1], "--name", "alice", "--hub", hub)[0] == 0
    assert run_tfdfd("models", "sign", hub, "--key", new[0])[:2] == (0, f"{hub}: 1 versions signed\n")
    assert find(HANDLE)
    code, out, _ = run_tfdfd("models", "verify", hub)
    assert code == 0 and f"signed by alice ({public_key(old[1])[:16]}), an unknown key (" in out
    assert run_tfdfd("models", "trust", new[1], "--hub", hub)[0] == 0
    code, out, _ = run_tfdfd("models", "trust", old[1], "--revoke")
    assert code == 0 and "alice: revoked" in out
    assert find(HANDLE)  # the new key's signature
    edit(hub, lambda version: version["signatures"].pop())
    with pytest.raises(HubError, match="is signed by a revoked key, that of alice"):
        find(HANDLE)
    code, out, _ = run_tfdfd("models", "verify", hub)
    assert code == 1 and "broken" in out and "revoked" in out
    with pytest.raises(HubError, match="was revoked; its owner must make another one"):
        trust(old[1])
    code, out, _ = run_tfdfd("models", "trust")
    assert out.splitlines() == [
        f"{public_key(old[1])}  alice: revoked",
        f"{public_key(new[1])}  new: trusted for {hub}",
    ]


def test_a_revoked_key_is_refused_where_no_key_is_trusted(hub, keys):
    private, public = keys("stolen")
    sign_hub(hub, private)
    trust(public, revoked=True)
    with pytest.raises(HubError, match="is signed by a revoked key, that of stolen"):
        find(HANDLE)


def test_an_address_and_the_cache_are_checked(hub, keys, monkeypatch):
    private, public = keys("alice")
    with Server(hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("TFDFD_HUB", server.address)
        trust(public, hub=server.address + "/")
        with pytest.raises(HubError, match="is not signed by alice"):
            find(HANDLE)
        assert not [name for name in server.asked if name != "manifest.json"]
        sign_hub(hub, private)
        assert find(HANDLE).folder.name.startswith("1-")
        server.shutdown()
    monkeypatch.delenv("TFDFD_HUB")
    monkeypatch.setattr("tfdfd.hub.resolve.bundled", lambda: _NoHub())
    assert find(HANDLE).hub == "the cache"
    trust(public, revoked=True)
    with pytest.raises(HubError, match="of the cache is signed by a revoked key"):
        find(HANDLE)


class _NoHub:
    name = "none"

    def manifest(self):
        return Manifest()


def test_publish_signs_what_it_adds_and_keeps_the_rest(tmp_path, keys):
    alice, bob = keys("alice"), keys("bob")
    publish(PUBLISHED_MODEL, tmp_path / "hub", 1, export=copy, sign=alice[0])
    publish(PUBLISHED_MODEL, tmp_path / "hub", 2, export=copy, sign=bob[0])
    publish(PUBLISHED_MODEL, tmp_path / "hub", 3, export=copy)
    versions = Manifest.decode((tmp_path / "hub/manifest.json").read_bytes(), "x").models[MODEL]
    signed = {number: [one.key for one in version.signatures] for number, version in versions.items()}
    assert signed == {1: [public_key(alice[1])], 2: [public_key(bob[1])], 3: []}


def test_keys_that_are_none_are_refused_before_anything_is_made(tmp_path, keys):
    from cryptography.hazmat.primitives.asymmetric import ec

    other = keys("curve", kind=lambda: ec.generate_private_key(ec.SECP256R1()))
    private, public = keys("alice")
    locked, _ = keys("locked", password=b"word")
    for file, message in (
        (tmp_path / "absent.pem", "cannot be read: No such file"),
        (public, "is not a private key in PEM form"),
        (locked, "TFDFD_KEY_PASSWORD is not its password"),
        (other[0], "another kind than Ed25519; make one with 'openssl genpkey"),
    ):
        with pytest.raises(HubError, match=message):
            publish(PUBLISHED_MODEL, tmp_path / "hub", 1, export=copy, sign=file)
    private.chmod(0o644)
    with pytest.raises(HubError, match="others may read the private key.*chmod 600"):
        publish(PUBLISHED_MODEL, tmp_path / "hub", 1, export=copy, sign=private)
    assert not (tmp_path / "hub").exists()
    for file in (private, other[1]):
        with pytest.raises(HubError, match=r"is not a public key|another kind"):
            trust(file)
    assert trusted_keys() == {}


def test_an_encrypted_key_signs_with_its_password(keys, monkeypatch):
    private, public = keys("locked", password=b"word")
    monkeypatch.setenv("TFDFD_KEY_PASSWORD", "word")
    assert private_key(private).public_key().public_bytes_raw().hex() == public_key(public)


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": 2}', '{"schema": 1, "keys": {"x": {}}}', "[" * 100_000])
def test_a_damaged_list_lets_nothing_pass(hub, keys, monkeypatch, tmp_path, content):
    monkeypatch.setenv("TFDFD_TRUST", str(tmp_path / "trust.json"))
    with pytest.raises(HubError, match="is not there; 'tfdfd models trust KEY.pem' makes it"):
        find(HANDLE)
    (tmp_path / "trust.json").write_text(content)
    with pytest.raises(HubError, match="is not a list of trusted keys"):
        find(HANDLE)
    (tmp_path / "trust.json").chmod(0o664)
    with pytest.raises(HubError, match="others may write the list of trusted keys"):
        find(HANDLE)


@pytest.mark.parametrize(
    "signatures", ["x", [1], [{"key": "0" * 64}], [{"key": "0" * 64, "signature": "0" * 128}] * 17]
)
def test_damaged_signatures_are_no_manifest(hub, signatures):
    edit(hub, lambda version: version.update(signatures=signatures))
    with pytest.raises(HubError, match="signature"):
        find(HANDLE)


def test_without_the_library_a_hub_that_must_be_signed_names_the_extra(hub, keys):
    private, public = keys("alice")
    sign_hub(hub, private)
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from tfdfd.hub.resolve import find\n"
        f"print(find({HANDLE!r}).hub)"
    )
    run = lambda: subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)  # noqa: E731
    assert run().returncode == 0  # nobody asked for signatures
    trust(public)
    assert "pip install 'tfdfd[sign]'" in run().stderr
    assert isinstance(trusted_keys()[public_key(public)], TrustedKey) and Path(public).is_file()
