"""Templates: the shipped ones are whole, a released checkpoint's fits, mistakes are named."""

import pytest

from configs.prompts import sft_prompts
from pipelines.text.prompts import TASKS, Template, parse_templates

GOOD = {
    "system": "",
    "instruction": "What comes next?\n\n",
    "input": "Seen: {history}\n\nNext:\n",
    "item": "{sid}",
    "separator": ", ",
    "response": "{sid}\n",
}


def test_every_task_has_a_shipped_template():
    templates = parse_templates(sft_prompts())
    assert templates.keys() == TASKS.keys()
    for name, template in templates.items():
        assert template.name == name
        assert [block for block in ("system", "instruction", "input") if template.varies(block)]


def test_a_template_writes_prompts_and_answers():
    template = Template.from_config("sids_to_sid", GOOD | {"system": "{{json}} of <|im_start|>"})
    assert template.block("input", "<a_1>, <a_2>") == "Seen: <a_1>, <a_2>\n\nNext:\n"
    assert template.block("system") == "{json} of <|im_start|>"
    assert template.write_item("<a_1>") == "<a_1>"
    assert template.write_answer("<a_1>") == "<a_1>\n"
    assert Template.from_config("sids_to_sid", GOOD | {"separator": "}} {{"}).separator == "} {"
    assert [template.varies(block) for block in ("system", "instruction", "input")] == [
        False,
        False,
        True,
    ]


def change(**entries):
    return {name: value for name, value in (GOOD | entries).items() if value is not None}


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("sids_to_sids", GOOD, r"prompts: 'sids_to_sids' is not a task; there are sids_to_sid, "),
        ("sids_to_sid", change(inputs=""), r"prompts\.sids_to_sid\.inputs: unknown entry"),
        ("sids_to_sid", change(input=None), r"prompts\.sids_to_sid\.input is missing"),
        ("sids_to_sid", change(response=None), r"prompts\.sids_to_sid\.response is missing"),
        ("sids_to_sid", change(item=None), r"prompts\.sids_to_sid\.item is missing"),
        ("sids_to_sid", change(item=3), r"prompts\.sids_to_sid\.item is 3; it must be a string"),
        ("sids_to_sid", "text", r"prompts\.sids_to_sid is 'text'; it must be a dict"),
        ("sids_to_sid", change(input="Next:"), r"prompts\.sids_to_sid: \{history\} is missing"),
        ("sids_to_sid", change(input="{history} {title}"), r"\.input: unknown field \{title\}"),
        ("sids_to_sid", change(input="{history} {sid}"), r"\.input: unknown field \{sid\}"),
        ("sids_to_sid", change(input="{history:>9}"), r"unknown field \{history:>9\}"),
        ("sids_to_sid", change(input="{history!r}"), r"unknown field \{history!r\}"),
        ("sids_to_sid", change(input="{history.x}"), r"unknown field \{history\.x\}"),
        ("sids_to_sid", change(input="{history} {"), r"a brace that is meant as such is doubled"),
        ("sids_to_sid", change(input="{history} {}"), r"unknown field \{\}"),
        ("sids_to_sid", change(instruction="{x}"), r"\.instruction: unknown field \{x\}"),
        (
            "sids_to_sid",
            change(separator="{x}"),
            r"\.separator: unknown field \{x\}; it may hold n",
        ),
        ("sids_to_sid", change(item="{title}"), r"\.item: unknown field \{title\}; it may hold"),
        ("sids_to_sid", change(item="x"), r"\.item: \{sid\} is missing in 'x'"),
        ("sids_to_sid", change(response="{title}"), r"\.response: unknown field \{title\}"),
        ("sids_to_title", GOOD, r"prompts\.sids_to_title\.response: unknown field \{sid\}"),
        ("sid_to_title", GOOD, r"prompts\.sid_to_title\.item: unknown entry"),
        (
            "title_to_sid",
            {"input": "{title} is {sid}", "response": "{sid}"},
            r"prompts\.title_to_sid\.input: unknown field \{sid\}; it may hold \{title\}",
        ),
    ],
)
def test_a_mistake_in_a_template_is_named(name, config, message):
    with pytest.raises(ValueError, match=message):
        Template.from_config(name, config)
