"""The runner itself: what fails on a page is seen, with its place; what hides is found."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.settings import REPOSITORY
from tests.docs.checks import wrong_with
from tests.docs.commands import commands_in
from tests.docs.pages import Block, UnreadablePage, blocks_of
from tests.docs.reader import BlockFailed, Reader, Stage

SOMEWHERE = REPOSITORY / "docs" / "somewhere.md"


def block(text: str, language: str = "sh", line: int = 10, **marks: str) -> Block:
    named = {name.replace("_", " "): value for name, value in marks.items()}
    return Block(SOMEWHERE, line, language, text, named)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    stage = Stage({"LORAWRIGHT_URL": "http://there"}, {"http://localhost:8000": "http://there"})
    with Reader(tmp_path, stage) as opened:
        yield opened


def page(tmp_path: Path, text: str) -> list[Block]:
    path = tmp_path / "page.md"
    path.write_text(text)
    return blocks_of(path)


def test_a_block_that_fails_is_told_with_its_line_and_output(reader: Reader) -> None:
    reader.run(block("echo before"))
    with pytest.raises(BlockFailed, match=r"docs/somewhere\.md:21\n(.|\n)*gone wrong"):
        reader.run(block("true\necho gone wrong; false\ntrue\n", line=20))


@pytest.mark.parametrize(
    "text",
    [
        "false",
        "false | true",
        'x=$(false); echo "$x"',
        "echo $never_set",
        "no_such_program",
        "exit 1",
        "curl http://127.0.0.1:9/",
        "( exit 3 )",
    ],
)
def test_no_failure_passes(reader: Reader, text: str) -> None:
    with pytest.raises(BlockFailed, match=r"somewhere\.md:10\n"):
        reader.run(block(text))


def test_a_python_block_that_raises_is_told_with_its_line_and_output(reader: Reader) -> None:
    with pytest.raises(BlockFailed, match=r"somewhere\.md:31\n(.|\n)*ZeroDivisionError"):
        reader.run(block("one = 1\none / 0\n", "python", line=30))


def test_variables_and_folders_carry_on_from_block_to_block(reader: Reader) -> None:
    reader.run(block("api=http://localhost:8000/v1\nexport WORD=riso\nmkdir deep"))
    reader.run(block('test "$api" = http://there/v1\ncd deep'))
    reader.run(block("import os\nword = os.environ['WORD']", "python"))
    reader.run(block("assert word == 'riso'\nassert os.environ['LORAWRIGHT_URL']", "python"))
    reader.run(block("test $(basename $PWD) = deep"))


def test_ids_are_those_that_the_page_printed_last(reader: Reader) -> None:
    old, new = "ds_" + 32 * "a", "ds_" + 32 * "b"
    reader.run(block(f"echo {old} {new}"))
    reader.run(block(f"test ds_… = {new}"))
    reader.run(block(f'echo {old}\ntest \'{{"ds_…"}}\' = \'{{"{old}"}}\' && test "ds_…" = {old}'))
    reader.run(block(f"seen = 'ds_…'\nassert seen == '{old}'", "python"))
    with pytest.raises(BlockFailed, match="gen_… was never printed; ds was"):
        reader.run(block("seen = 'gen_…'", "python"))
    with pytest.raises(BlockFailed, match="lora_… was never printed"):
        reader.run(block("echo lora_…"))


def test_what_should_be_refused_must_be_and_for_that_reason(reader: Reader) -> None:
    reader.run(block("echo dataset_empty; false", refused="dataset_empty"))
    reader.run(block("echo the page goes on"))
    with pytest.raises(BlockFailed, match="should be refused"):
        reader.run(block("true", refused="dataset_empty"))
    with pytest.raises(BlockFailed, match="should say dataset_empty"):
        reader.run(block("echo something else; false", refused="dataset_empty"))


def test_files_are_written_and_the_examples_are_a_copy(reader: Reader) -> None:
    reader.run(block('{"a": 1}', "json", file="request.json"))
    reader.run(block('test "$(cat request.json)" = \'{"a": 1}\'\nrm examples/README.md'))
    assert (REPOSITORY / "examples" / "README.md").exists()


def test_console_blocks_run_what_follows_the_prompt(reader: Reader) -> None:
    with pytest.raises(BlockFailed, match=r"somewhere\.md:12\n"):
        reader.run(block("$ echo one\none\n$ false\n", "console"))


def test_what_is_left_in_the_background_ends_with_the_page(tmp_path: Path) -> None:
    with Reader(tmp_path, Stage({}, {})) as reader:
        reader.run(block("sleep 600 &\necho $! > pid"))
    pid = (tmp_path / "pid").read_text().strip()
    # It was killed; a busy machine may take a moment to notice.
    _, living = psutil.wait_procs(_processes(int(pid)), timeout=60)
    assert living == []


def _processes(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [] if process.status() == psutil.STATUS_ZOMBIE else [process]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (block("lorawright trian x"), "no such command"),
        (block("lorawright train x --triger y"), "no option --triger"),
        (block("x=$(lorawright lora fetch ink)"), "no such command"),
        (block("make tset"), "no target tset"),
        (block("curl $api/dataset"), "/v1/dataset is no address"),
        (block('curl -X PUT "$api/datasets/$dataset"'), "no address for PUT"),
        (block("curl https://loras.example.com/v1/nothing"), "no address of the API"),
        (block("LORAWRIGHT_PROT=1 make up"), "LORAWRIGHT_PROT is no setting"),
        (block("python -m worker.ml.trainign"), "no module worker.ml.trainign"),
        (block("cat examples/ink-stile/fox.txt"), "does not exist"),
        (block("if true"), "syntax error"),
        (block("if True", "python"), "line 1"),
        (block("make test", ""), "the language is ''"),
        (block("make test", "shell"), "the language is 'shell'"),
        (block("lorawright jobs", "text"), "this is a command"),
        (block("lorawright jobs", "console"), "no line begins with"),
        (block('{"a": 1}', "json"), "say which schema"),
        (block('{"a": 1', "json", file="x.json"), "delimiter"),
        (block('{"type": "x"}', "json", schema="Problem"), "required"),
        (block('[[rule]]\nname = "x"\nwrods = ["y"]', "toml"), "wrods"),
        (block('[[base_models]]\nid = "x"', "toml"), "title"),
        (block('predicton_type = "epsilon"', "toml"), "predicton_type"),
        (block("[general]\nshufle_caption = true", "toml"), "no key of dataset.toml"),
        (block("a: [", "yaml"), "flow"),
    ],
    ids=lambda value: value.text if isinstance(value, Block) else "",
)
def test_mistakes_are_found_without_running(text: Block, reason: str) -> None:
    assert any(reason in wrong for wrong in wrong_with(text)), wrong_with(text)
    unrun = Block(text.page, text.line, text.language, text.text, {**text.marks, "not run": "x"})
    assert len(wrong_with(unrun)) == len(wrong_with(text))


def test_commands_are_found_among_comments_quotes_and_documents() -> None:
    script = """
# don't make this
a=1 b="x; y" curl -H "$auth" $api/jobs | get id   # it's the newest
cat <<END > body.json
it's a lorawright body
END
x=$(lorawright jobs) && make up
"""
    found = [words[0] for words in commands_in(script)]
    assert [name for name in found if name in ("curl", "make", "cat")] == ["curl", "cat", "make"]
    assert "lorawright" in found
    assert ["curl", "-H", "$auth", "$api/jobs"] in commands_in(script)


def test_marks_belong_to_the_block_that_follows(tmp_path: Path) -> None:
    text = "<!-- not run: a reason -->\n```sh\nmake up\n```\n\n```sh\nmake lint\n```\n"
    first, second = page(tmp_path, text)
    assert (first.line, first.not_run, second.line, second.not_run) == (3, True, 7, False)


@pytest.mark.parametrize(
    "text",
    [
        "Words:\n\n    lorawright jobs\n",
        "<!-- not-run: mistyped -->\n```sh\nmake up\n```\n",
        "<!-- not run: -->\n```sh\nmake up\n```\n",
        "<!-- not run: nothing follows -->\n\nWords.\n",
    ],
)
def test_what_nobody_could_read_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UnreadablePage):
        page(tmp_path, text)
