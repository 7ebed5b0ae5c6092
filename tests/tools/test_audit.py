"""An audit fails for what is known, and says so when nobody could be asked."""

from tools.audit import Answer, read, verdict

REPORT = {
    "dependencies": [
        {"name": "sound", "version": "1.0", "vulns": []},
        {"name": "mirrored", "skip_reason": "Dependency not found on PyPI"},
        {
            "name": "unsound",
            "version": "2.0",
            "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2"], "fix_versions": ["2.1"]}],
        },
    ]
}


def test_a_known_vulnerability_fails_the_audit_and_names_the_fix() -> None:
    answer = read(REPORT)
    assert (answer.asked, answer.skipped) == (2, ["mirrored"])
    text, status = verdict({"api.txt": answer, "build.txt": None})
    assert status == 1
    assert "unsound 2.0: PYSEC-1 CVE-2; fixed in 2.1" in text


def test_an_audit_that_could_ask_nobody_says_so() -> None:
    for answer in (None, Answer(asked=0, skipped=["all of them"])):
        text, status = verdict({"api.txt": answer})
        assert status == 0
        assert text.startswith("NOT AUDITED")


def test_packages_that_nobody_could_be_asked_about_are_named() -> None:
    text, status = verdict({"api.txt": Answer(asked=3, skipped=["odd 1.0"]), "build.txt": None})
    assert status == 0
    assert "nothing known against 3 packages" in text
    assert "nobody could be asked about odd 1.0" in text
    assert "build.txt: NOT AUDITED" in text
