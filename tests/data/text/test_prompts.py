"""What is put before a query."""

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.prompts import check_one_prompt, prompt_of, prompts_of, query_prompt

PROMPTS = {"digits": "Find the number.", "plain": ""}


def test_a_sentence_becomes_a_prompt():
    assert query_prompt("Find it.") == "Find it.\nQuery:"
    assert query_prompt("") == ""


@pytest.mark.parametrize(
    ("task", "prompts", "given", "expected"),
    [
        ("digits", PROMPTS, None, "Find the number.\nQuery:"),
        ("plain", PROMPTS, None, ""),
        ("", PROMPTS, None, ""),
        (None, PROMPTS, None, ""),
        ("", {"": "Find."}, None, "Find.\nQuery:"),
        ("anything", {}, None, ""),
        ("digits", PROMPTS, "Its own:", "Its own:"),
        ("unknown", PROMPTS, "Its own:", "Its own:"),
        ("digits", PROMPTS, "", ""),
    ],
)
def test_one_query(task, prompts, given, expected):
    assert prompt_of(task, prompts, prompt=given) == expected
    assert prompts_of(2, prompts, tasks=[task, None], given=[given, "b"]) == [expected, "b"]


def test_queries_without_tasks_or_prompts():
    assert prompts_of(2, PROMPTS) == ["", ""]
    assert prompts_of(0, PROMPTS) == []
    with pytest.raises(ValueError, match="zip"):
        prompts_of(2, PROMPTS, tasks=["digits"])


def test_a_task_without_a_prompt():
    expected = (
        "queries, line 3: the task 'digit' has no prompt, expected one of digits, plain. "
        "Correct the task, or add data.batch.prompts.digit="
    )
    with pytest.raises(MrlError) as caught:
        prompt_of("digit", PROMPTS, "queries, line 3")
    assert str(caught.value) == expected
    with pytest.raises(MrlError, match=r"no prompt.*\. Write \{x\} for digit$"):
        prompts_of(1, PROMPTS, tasks=["digit"], hint="write {x} for {task}")


def test_a_task_or_a_prompt():
    check_one_prompt("digits", None)
    check_one_prompt(None, "Find.")
    with pytest.raises(MrlError, match="--task: both prompt and task are given"):
        check_one_prompt("digits", "Find.", "--task")
