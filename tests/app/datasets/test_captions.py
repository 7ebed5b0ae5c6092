"""The caption template."""

import pytest

from app.datasets.captions import (
    DEFAULT_TEMPLATE,
    check_template,
    render,
)
from app.errors import Invalid


@pytest.mark.parametrize(
    ("task", "trigger", "caption", "expected"),
    [
        ("style", "inkwash", "a red apple", "inkwash, a red apple, in the style of inkwash"),
        ("photography", "fuji400", "a street", "fuji400, a street, in the style of fuji400"),
        ("product", "sks mug", "on a table", "sks mug, on a table"),
        ("character", "mira", "smiling", "mira, smiling"),
        ("style", "inkwash", "", "inkwash, in the style of inkwash"),
        ("style", "", "a red apple", "a red apple"),
        ("product", "", "", ""),
        ("product", " mug ", " red,  blue , ", "mug, red, blue"),
        ("product", "a{b}", "{trigger} & {0}", "a{b}, {trigger} & {0}"),
    ],
)
def test_empty_fields_leave_no_dangling_comma(task, trigger, caption, expected):
    filled = render(DEFAULT_TEMPLATE, task=task, trigger_word=trigger, caption=caption)
    assert filled == expected


def test_a_custom_template_uses_its_own_words():
    template = "photo of {trigger} {{raw}}: {caption}"
    filled = render(template, task="product", trigger_word="mug", caption="on a table")
    assert filled == "photo of mug {raw}: on a table"


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("{trigger}, {name}", "{name}"),
        ("{trigger.__class__}", "{trigger.__class__}"),
        ("{caption[0]}", "{caption[0]}"),
        ("{trigger!r}", "{trigger!r}"),
        ("{caption:>999999999}", "{caption:>999999999}"),
        ("{}", "{}"),
        ("{0}", "{0}"),
        ("{trigger", "malformed"),
        ("trigger}", "malformed"),
    ],
)
def test_any_other_field_is_refused_by_name(template, named):
    with pytest.raises(Invalid) as refused:
        check_template(template)
    assert named in str(refused.value)
