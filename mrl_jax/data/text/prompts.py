"""What is put before a query: the prompt of its task, or words given as they are.

A config or a model holds one sentence a task; before a query it stands as "<sentence>\\nQuery:",
the form that Qwen3-Embedding was trained with.
"""

from collections.abc import Mapping, Sequence

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError

CORRECT_TASK = "correct the task, or add data.batch.prompts.{task}="


def query_prompt(sentence: str) -> str:
    """A task's sentence as it stands before a query; nothing for an empty one."""
    return f"{sentence}\nQuery:" if sentence else ""


def prompt_of(
    task: str | None,
    prompts: Mapping[str, str],
    where: object = None,
    *,
    prompt: str | None = None,
    hint: str = CORRECT_TASK,
) -> str:
    """What stands before one query, word for word.

    Args:
        task: of the query; None and "" are no task.
        prompts: sentence of each task. Without any, tasks have no prompts; with some, a task
            must have one.
        where: what the error names: a line, a query, a model's folder.
        prompt: the query's own words, which stand in place of its task's.
        hint: of the error; "{task}" in it becomes the task.

    Raises:
        MrlError: there are prompts, and none for this task.
    """
    if prompt is not None:
        return prompt
    task = task or ""
    if task and prompts and task not in prompts:
        raise MrlError(
            f"the task {task!r} has no prompt, expected one of {', '.join(sorted(prompts))}",
            where=where,
            hint=hint.replace("{task}", task),
        )
    return query_prompt(prompts.get(task, ""))


@checked
def prompts_of(
    count: int,
    prompts: Mapping[str, str],
    *,
    tasks: Sequence[str | None] | None = None,
    given: Sequence[str | None] | None = None,
    hint: str = CORRECT_TASK,
) -> list[str]:
    """`prompt_of` each of `count` queries, of which some may have `tasks`, or words `given`.

    Raises:
        MrlError: there are prompts, and none for a task.
    """
    pairs = zip(tasks or [None] * count, given or [None] * count, strict=True)
    return [prompt_of(task, prompts, prompt=words, hint=hint) for task, words in pairs]


def check_one_prompt(task: str | None, prompt: str | None, where: object = None) -> None:
    """Raises an `MrlError` where both a task, which brings its prompt, and a prompt are given."""
    if task is not None and prompt is not None:
        problem = "both prompt and task are given, and a task brings its own prompt"
        raise MrlError(problem, where=where, hint="pass one of them")


def check_task(
    task: str | None,
    prompts: Mapping[str, str],
    model: object,
    *,
    where: object = "--task",
    hint: str = "correct it, or pass the words themselves with --prompt",
) -> None:
    """Refuse a task that a model has no prompt for; None is no task.

    Args:
        task, prompts: the task, and the model's sentence of each.
        model: its folder.
        where, hint: of the error.

    Raises:
        MrlError: naming the tasks that there are.
    """
    if task is not None and task not in prompts:
        tasks = sorted(filter(None, prompts))
        known = f"only for {', '.join(tasks)}" if tasks else "nor for any other"
        problem = f"the model in {model} has no prompt for {task!r}, {known}"
        raise MrlError(problem, where=where, hint=hint)
