"""docs/dependencies.md lists what the images hold, under licences that are known."""

from tools.make_dependencies import PAGE, locked, page


def test_the_page_is_as_the_locks_and_the_metadata_are_now() -> None:
    assert PAGE.read_text() == page(), "run `python -m tools.make_dependencies`"


def test_every_locked_package_has_a_licence() -> None:
    text = PAGE.read_text()
    for lock in ("api.txt", "worker-cpu.txt"):
        for package, version in locked(lock).items():
            (row,) = [line for line in text.splitlines() if line.startswith(f"| {package} |")]
            cells = [cell.strip() for cell in row.strip("|").split("|")]
            assert cells[1] == version
            assert cells[2] not in ("", "not told"), package
    for package in locked("worker-cuda.txt"):
        assert f"`{package}`" in text or f"| {package} |" in text
