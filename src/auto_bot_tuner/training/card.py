"""README.md of final/: what this model is, where it comes from, how to use it; the front matter is the hub's.

It is made of what the run wrote down (run.json, metrics.jsonl, samples.jsonl), and it travels: a path of this machine
is told by its end alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from auto_bot_tuner.training.card_words import cell, code, cut, fenced, is_hub_id, portable, public
from auto_bot_tuner.training.lineage import BASE, read_record
from auto_bot_tuner.training.progress import number
from auto_bot_tuner.training.record import facts_of
from auto_bot_tuner.utils.json_files import read_lines

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer

METHODS = {"sft": "SFT", "reward": "reward model", "dpo": "DPO", "ppo": "PPO", "grpo": "GRPO", "adapter": "adapter"}
PURPOSE = {
    "sft": "A language model that learnt to answer by imitating answers (supervised fine-tuning).",
    "reward": "A reward model: it learnt from judgements to score a response to a prompt.",
    "dpo": "A language model that learnt from judged answers which ones to prefer (direct preference optimisation).",
    "ppo": "A language model that learnt from a reward: its own answers were scored, and those that did better than "
    "expected became likelier (proximal policy optimisation).",
    "grpo": "A language model that learnt from a reward: of several answers of its own to each prompt, the better ones "
    "became likelier (group-relative policy optimisation).",
}
USAGE = """## Use
```python
{opening}
messages = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens={new_tokens})
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
The tokenizer's chat template writes prompts as they were in training; the model stops by itself at its end token.

"""
WHOLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)"""
ADAPTED = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), folder)"""
# What an evaluation's figures are called where their own name says too little; the rest loses its underscores.
NAMES = {
    "accuracy": "share of tokens guessed right",
    "loss": "loss (nats per trained token)",
    "reward_std": "reward, standard deviation",
    "kl": "KL to the reference (nats per response)",
    "kl_std": "KL, standard deviation",
    "kl_per_token": "KL per token (nats)",
    "kl_k3": "KL by the k3 estimator (nats per response)",
    "eos_rate": "share of responses that end by themselves",
    "response_length": "tokens per response",
    "length_accuracy": "accuracy of length alone",
    "chosen_logprobs": "log-probability of chosen responses",
    "rejected_logprobs": "log-probability of rejected responses",
    "explained_variance": "share of variance explained",
}
OF_PAIRS = {"loss": "loss (nats per pair)", "accuracy": "share of pairs in the right order"}
MOST_SAMPLES = 4
ABOUT_THE_FOLDER = ("output_dir", "overwrite", "resume")  # settings that say nothing of the model


@dataclass
class CardFacts:
    """What `save_final` knows beside the trainer."""

    is_adapter_alone: bool  # the folder holds an adapter, whose base is on the hub
    usage: str = ""  # Markdown; empty: that of a language model
    curves: str = ""  # Markdown: the picture beside the card, or why there is none


def model_card(trainer: Trainer, metrics: dict[str, float], facts: CardFacts) -> str:
    """The whole README.md."""
    run = read_record(Path(trainer.config.output_dir)) or facts_of(trainer)
    method, line = run["method"], [(public(step["name"]), step["method"]) for step in run["lineage"]]
    ways = list(dict.fromkeys(METHODS.get(by, by) for _, by in line if by != BASE))
    title = f"{cell(line[0][0])} after {', '.join(ways[:-1])}{' and ' * (len(ways) > 1)}{ways[-1]}"
    steps = " → ".join(code(name) + (f" ({METHODS.get(by, by)})" if by != BASE else "") for name, by in line)
    trained = f"{trainer.state.step:,} step{'s' * (trainer.state.step != 1)}, {trainer.state.tokens:,} tokens"
    parts = [
        front_matter(run, facts.is_adapter_alone),
        f"# {title}\n\n",
        f"{PURPOSE.get(method, 'A language model.')} Trained with auto_bot_tuner: {trained}. Beyond prompts like those "
        "of its data nothing was measured.\n\n",
        f"**Lineage** (oldest first): {steps}\n\n",
        facts.usage or usage_of(trainer, facts.is_adapter_alone),
        data_section(run),
        evaluation_section(trainer, metrics, method),
        facts.curves,
        samples_section(Path(trainer.config.output_dir)),
        settings_section(trainer, run),
    ]
    return "".join(parts)


def front_matter(run: dict[str, Any], is_adapter_alone: bool) -> str:
    """What the hub reads. Names that mean nothing there are left out: it would refuse or mislink them."""
    base, data, method = run["lineage"][0]["name"], run["data"]["name"], run["method"]
    values: dict[str, Any] = {}
    if is_hub_id(base):
        values |= {"base_model": base, "base_model_relation": "adapter" if is_adapter_alone else "finetune"}
    if is_hub_id(data):
        values["datasets"] = [data]
    values |= {
        "library_name": "peft" if is_adapter_alone else "transformers",
        "pipeline_tag": "text-classification" if method == "reward" else "text-generation",
        "tags": [method, *(["reward-model"] if method == "reward" else []), "auto_bot_tuner"],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---\n"


def usage_of(trainer: Trainer, is_adapter_alone: bool) -> str:
    """The snippet for a language model."""
    opening = WHOLE
    if is_adapter_alone:
        adapted: Any = trainer.model
        opening = ADAPTED.format(base=adapted.active_peft_config.base_model_name_or_path)
    return USAGE.format(opening=opening, new_tokens=trainer.config.sample_max_new_tokens)


def data_section(run: dict[str, Any]) -> str:
    """The rows of this run and of the runs before it, with their hashes."""
    rows = [data_row("training", run["data"], public(run["data"]["name"]))]
    if run["eval_data"]:
        rows.append(data_row("evaluation", run["eval_data"], ""))
    for step in run["lineage"][:-1]:
        data = read_record(Path(step["name"])).get("data")
        if isinstance(data, dict):
            use = f"{METHODS.get(step['method'], step['method'])}, earlier"
            rows.append(data_row(use, data, public(str(data.get("name", "")))))
    summary = f"{fenced(run['data']['summary'])}\n" if run["data"]["summary"] else ""
    heading = "## Data\n| for | name | rows | SHA-256 of the tokenised rows |\n|---|---|---|---|\n"
    return f"{heading}{''.join(rows)}\n{summary}"


def data_row(use: str, data: dict[str, Any], name: str) -> str:
    rows = data.get("rows")  # of a run before this one, whose file may say anything
    count = f"{rows:,}" if isinstance(rows, int) else "–"
    return f"| {cell(use)} | {cell(name) or '–'} | {count} | {code(str(data.get('sha256', '–')))} |\n"


def evaluation_section(trainer: Trainer, metrics: dict[str, float], method: str) -> str:
    """The figures of the weights that were saved, beside those before the first step."""
    config, state = trainer.config, trainer.state
    logged = read_lines(Path(config.output_dir) / "metrics.jsonl")
    lines = [line for line in logged if any(name.startswith("eval_") for name in line)]
    step = state.best_step if config.keep_best and state.best_step is not None else state.step
    before = next((line for line in lines if line["step"] == 0), {})
    after: dict[str, Any] = next((line for line in reversed(lines) if line["step"] == step), dict(metrics))
    rows = [
        f"| {readable(name.removeprefix('eval_'), method)} | {figure(before.get(name))} | {figure(value)} |\n"
        for name, value in after.items()
        if name.startswith("eval_")
    ]
    if not rows:
        return "## Evaluation\nNone: the run had no evaluation rows.\n\n"
    return f"## Evaluation\n| on held-out rows | before | after step {step:,} |\n|---|---|---|\n{''.join(rows)}\n"


def readable(name: str, method: str) -> str:
    """A metric in words."""
    names = NAMES | OF_PAIRS if method in ("dpo", "reward") else NAMES
    if method in ("ppo", "grpo") and name.startswith("reward_") and name not in names:  # a part of the reward
        return f"reward by {cell(name.removeprefix('reward_'))}"
    return names.get(name, cell(name.replace("_", " ")))


def figure(value: float | None) -> str:
    """Four significant digits; a dash where there is none."""
    return "–" if value is None else number(value)


def samples_section(folder: Path) -> str:
    """The last sample answers. What a model writes is data: it stands in a fence that it cannot close."""
    lines = read_lines(folder / "samples.jsonl")
    latest = [line for line in lines if line["step"] == lines[-1]["step"]][:MOST_SAMPLES]
    if not latest:
        return ""
    texts = [
        f"{cut(sample['prompt'])}\n→ {cut(sample['response'])}{'' if sample['ended'] else ' … (did not stop)'}"
        for sample in latest
    ]
    return f"## Sample answers\n{fenced((chr(10) * 2).join(texts))}\n"


def settings_section(trainer: Trainer, run: dict[str, Any]) -> str:
    """The derived numbers, the machine, the versions; every setting folded away."""
    machine, versions = run["hardware"], run["versions"]
    hardware = f"{machine['device']}, {machine['precision']}, {machine['gpu'] or machine['processor']}, "
    hardware += f"{machine['cores']} cores" + (f", {machine['memory_gib']:g} GiB" if machine["memory_gib"] else "")
    lines = [(name, value) for name, value in run["settings"] if name != "output"]
    lines += [("seed", run["seed"]), ("processes", run["processes"]), ("hardware", hardware)]
    lines += [("time", f"{run['seconds']:,.0f} s")] if "seconds" in run else []
    lines += [("versions", ", ".join(f"{name} {version}" for name, version in versions.items()))]
    rows = "".join(f"| {name} | {cell(str(value))} |\n" for name, value in lines)
    settings = {
        field.name: portable(getattr(trainer.config, field.name))
        for field in fields(trainer.config)
        if field.name not in ABOUT_THE_FOLDER
    }
    every = fenced(json.dumps(settings, indent=1, default=str, ensure_ascii=False), "json")
    return f"## Settings\n| | |\n|---|---|\n{rows}\n<details><summary>every setting</summary>\n\n{every}\n</details>\n"
