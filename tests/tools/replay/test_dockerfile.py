"""A Dockerfile is read as a builder reads it, and what is not understood is refused."""

import pytest

from tools.replay.dockerfile import DockerfileError, command, expand, pairs, parse

SAMPLE = """\
# A comment
ARG KIND=slim
FROM python:3.11-${KIND} AS build
ARG NAME
RUN one \\
    # said in between
    && two

COPY --from=other /a /b
FROM build
ENV A=1 \\
    # said in between
    B="2 3"
CMD ["run", "it"]
"""


def test_stages_have_their_steps_with_continued_lines_joined() -> None:
    parsed = parse(SAMPLE, {})
    build, last = parsed.stages
    assert (build.base, build.name, last.base) == ("python:3.11-slim", "build", "build")
    assert [(step.line, step.word, step.rest) for step in build.instructions] == [
        (4, "ARG", "NAME"),
        (5, "RUN", "one && two"),
        (9, "COPY", "/a /b"),
    ]
    assert build.instructions[2].flags == {"from": "other"}
    assert parsed.find("build") is build


def test_a_build_argument_wins_over_its_default() -> None:
    assert parse(SAMPLE, {"KIND": "full"}).stages[0].base == "python:3.11-full"


def test_values_stand_in_the_place_of_variables() -> None:
    told = expand(r"$A ${B} ${C:-otherwise} ${C} \$A", {"A": "1", "B": "2"})
    assert told == "1 2 otherwise  $A"


def test_env_sets_quoted_values_whole() -> None:
    (env,) = [step for step in parse(SAMPLE, {}).stages[1].instructions if step.word == "ENV"]
    assert pairs(env, {}) == {"A": "1", "B": "2 3"}


def test_a_command_is_a_list_or_for_the_shell() -> None:
    assert command('["run", "it"]') == ["run", "it"]
    assert command("run it") == ["/bin/sh", "-c", "run it"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("FROM a\nADD b c\n", "line 2: ADD is not known here"),
        ("FROM a\nRUN --mount=type=cache,target=/x b\n", "line 2: RUN --mount is not known here"),
        ("FROM a\nCOPY --chown=me b c\n", "line 2: COPY --chown is not known here"),
        ("FROM a\nRUN <<EOF\n", "line 2: RUN with a here-document"),
        ("RUN a\n", "line 1: RUN before FROM"),
        ("FROM a b\n", "line 1: FROM a b is not understood"),
        ("FROM a\nRUN b \\\n", "line 2: the file ends within RUN"),
        ("# nothing\n", "there is no FROM"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(DockerfileError, match=told):
        parse(text, {})
