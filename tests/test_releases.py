"""Dependencies of a release: floors above known vulnerabilities, a lock file, and a bill of materials."""

import configparser
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tfdfd.cli.main import VERBS
from tools import release

ROOT = Path(__file__).parent.parent
LOCKED = ("edge", "heif", "serve")
_PIN = re.compile(r"^(\S+)==(\S+?)(?: ; (.+?))? \\$")


def requirements(*extras):
    """The requirements of the package and of these extras; of all extras without any."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    groups = dict(config["options.extras_require"])
    texts = [config["options"]["install_requires"], *(groups[name] for name in extras or groups)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "tfdfd["))]


def pins():
    """`(name, version, marker)` of each pin in the lock file, and the number of its hashes."""
    lines = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    found = {}
    for line in lines:
        if match := _PIN.match(line):
            found[match.groups()] = 0
        elif line.startswith("    --hash=sha256:"):
            found[next(reversed(found))] += 1
        else:
            assert line.startswith("#"), f"a line that is neither a pin nor a hash: {line!r}"
    return found


def test_each_floor_above_an_advisory_is_the_one_that_the_document_gives():
    page = (ROOT / "docs/security.md").read_text("utf-8").split("## Dependencies")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    floors = {}
    for one in requirements():
        at_least = [spec.version for spec in one.specifier if spec.operator == ">="]
        assert len(at_least) == 1 and not one.url, f"{one} has no floor"
        floors.setdefault(canonicalize_name(one.name), set()).update(at_least)
    for name, versions, advisories in rows[2:]:
        assert floors[name.strip("`")] == set(re.findall(r"\d+(?:\.\d+)+|\d+", re.sub("Python [0-9.]+", "", versions)))
        assert re.search(r"(CVE|PYSEC)-\d{4}-\d+|GHSA(-[a-z0-9]{4}){3}|keras/releases", advisories), name


def test_the_lock_has_hashes_and_meets_every_floor():
    locked = pins()
    assert all(locked.values()), [pin for pin, hashes in locked.items() if not hashes]
    for one in requirements(*LOCKED):
        versions = [pin[1] for pin in locked if pin[0] == canonicalize_name(one.name)]
        assert versions, f"{one} is not locked; run `make lock`"
        # A pin for another Python may be another requirement's.
        within = [version for version in versions if one.specifier.contains(version)]
        assert within and (one.marker or within == versions), f"{one}: {versions} is locked; run `make lock`"


def test_the_bill_of_materials_lists_the_wheel_and_what_is_locked(tmp_path):
    pytest.importorskip("cyclonedx_py", reason="cyclonedx-bom (extra release) is not installed")
    wheel = tmp_path / "tfdfd-1.2.3-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    text = release.bill_of_materials(ROOT / "requirements.lock", wheel)
    assert text == release.bill_of_materials(ROOT / "requirements.lock", wheel)
    bill = json.loads(text)
    assert bill["bomFormat"] == "CycloneDX" and bill["metadata"]["component"]["purl"] == "pkg:pypi/tfdfd@1.2.3"
    listed = {(one["name"], one["version"]) for one in bill["components"]}
    assert listed == {pin[:2] for pin in pins()}
    assert all(reference["hashes"] for one in bill["components"] for reference in one["externalReferences"])
    broken = tmp_path / "requirements.lock"
    broken.write_text("numpy\n")
    with pytest.raises(SystemExit, match="not valid"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(release, "sha256", lambda file: "no digest")
        release.bill_of_materials(broken, wheel)


def test_the_threat_model_has_every_verb_and_says_what_is_not_promised():
    model = (ROOT / "SECURITY.md").read_text("utf-8").split("## Threat model")[1]
    rows = [line.strip("|").split("|") for line in model.splitlines() if line.startswith("|")][2:]
    assert all(len(row) == 5 and all(cell.strip() for cell in row) for row in rows)
    missing = set(VERBS) - set(re.findall(r"`([a-z-]+)`", model))
    assert not missing, f"SECURITY.md does not say what {missing} may be given"


def test_the_security_page_names_tests_that_are_there():
    section = (ROOT / "docs/security.md").read_text("utf-8").split("\n## Tests\n")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 16
    for row in rows:
        for file, words in re.findall(r"`(\w+\.py)`(?: \((.+?)\))?", row):
            text = (ROOT / "tests" / file).read_text("utf-8")
            for word in re.findall(r"`(\w+)`", words):
                assert re.search(rf"^def test_\w*{word}", text, re.MULTILINE), f"{file} has no test of {word!r}"
