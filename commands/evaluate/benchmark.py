"""`evaluate benchmark`: the tasks that published figures are measured with, through lm-eval (an extra)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from commands.evaluate.arguments import ModelArguments
from commands.evaluate.inputs import load_model
from commands.evaluate.printing import check_picture, columns

if TYPE_CHECKING:  # it imports torch, and flags are parsed before anything heavy is
    from auto_bot_tuner.evaluation.benchmark_scores import Score


@dataclass(config=STRICT, kw_only=True)
class BenchmarkArguments(ModelArguments):
    """What does the model score in lm-eval's tasks? Those of published figures (arc_easy, hellaswag, gsm8k, …), or a
    YAML file of yours; with standard error and 95 % interval. Needs the extra: uv pip install lm-eval."""

    # Tasks, groups, patterns such as arc_*, or YAML files; "list" prints all names and does nothing else.
    tasks: tuple[str, ...]
    # Hub id, local folder, run folder, LoRA checkpoint folder, or a bundled name such as tiny.
    model: str = ""
    # Folder with task files (.yaml) of yours; their !function lines run code of that folder.
    include_path: str = ""
    # Ask only the first so many questions of each task, to try it out. 0: all.
    limit: NonNegativeInt = 0
    # Solved examples before each question. None: as each task says.
    num_fewshot: NonNegativeInt | None = None
    # Ask in the model's chat format, as an assistant is asked. Off: raw text, as base models are measured.
    apply_chat_template: bool = False
    # Texts computed at once.
    batch_size: PositiveInt = 8
    # Draw the scores into this file: .png, .svg or .pdf.
    plot: str = ""


def measure(arguments: BenchmarkArguments) -> dict[str, Any]:
    """Find the tasks, load the model, let it do them and print; the scores for `--json`."""
    check_picture(arguments.plot)

    from auto_bot_tuner.evaluation.benchmark import HowToAsk, find_tasks, require_lm_eval, run_tasks, task_names

    require_lm_eval()
    if arguments.tasks == ("list",):
        names = task_names(arguments.include_path)
        print("\n".join(names))
        return {"names": names}
    if not arguments.tasks or not arguments.model:
        raise UsageError("say what does what: --model MODEL --tasks TASK (--tasks list prints their names)")
    tasks = find_tasks(arguments.tasks, arguments.include_path)
    model, tokenizer = load_model(arguments)
    how = HowToAsk(
        limit=arguments.limit,
        num_fewshot=arguments.num_fewshot,
        chat_format=arguments.apply_chat_template,
        batch_size=arguments.batch_size,
    )
    scores = run_tasks(model, tokenizer, tasks, how)
    print_scores(arguments, scores)
    if arguments.plot:
        from auto_bot_tuner.evaluation.answer_charts import draw_scores

        draw_scores(scores, arguments.plot, f"{arguments.model}, lm-eval")
        print(f"picture: {arguments.plot}")
    return {"scores": [asdict(score) for score in scores]}


def print_scores(arguments: BenchmarkArguments, scores: list[Score]) -> None:
    """One row for each task and metric."""
    rows: list[list[str] | None] = []
    for i, score in enumerate(scores):
        is_new = not i or scores[i - 1].task != score.task
        rows += [None] if i and is_new else []
        spread = "" if score.stderr is None else f"{score.stderr:.4f}"
        low_high = "" if score.interval is None else f"{score.interval[0]:.3f} to {score.interval[1]:.3f}"
        asked = [str(score.questions), str(score.shots)] if is_new else ["", ""]
        name = score.metric if score.higher_is_better else f"{score.metric} (less is better)"
        rows.append([score.task if is_new else "", name, f"{score.value:.4f}", spread, low_high, *asked])
    columns(f"{arguments.model} in lm-eval's tasks", ["task", "metric", "score", "±", "95 %", "asked", "shots"], rows)
    if arguments.limit:
        print(f"the first {arguments.limit} questions of each task: not to be compared with published figures")
    print(
        "asked in the model's chat format"
        if arguments.apply_chat_template
        else "asked in raw text; to ask in the model's own chat format: --apply-chat-template"
    )
