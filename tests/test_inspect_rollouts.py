"""`inspect --method ppo|grpo`: the numbers printed are the tensors that the trainer's first rollout has."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import main
from auto_bot_tuner.grpo import GRPOConfig, GRPOTrainer
from auto_bot_tuner.rlhf import PPOConfig, PPOTrainer, create_value_network_from_reward_model
from auto_bot_tuner.rollouts import PromptDataset
from auto_bot_tuner.rollouts.rollout import Rollout
from commands.inspect_rollouts import token_table
from tests.rl_runs import early_letters, letter_model, letter_reward_model, letter_tokenizer

ROWS = [{"prompt": "abc", "answer": "m"}, {"prompt": "nopqr", "answer": "z"}, {"prompt": "tu", "answer": "b"}]
INSPECT = ["inspect", "--model", "policy", "--dataset", "rows.jsonl", "--eval-fraction", "0", "--max-new-tokens", "12"]
EARLY = "def early(prompt, response):\n    return sum(c <= 'm' for c in response) / max(len(response), 1)\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, another one to compare with, a reward model and rows."""
    path = tmp_path_factory.mktemp("models")
    for name, seed in (("policy", 0), ("other", 1)):
        letter_model(seed=seed).save_pretrained(path / name)
        letter_tokenizer().save_pretrained(path / name)
    letter_reward_model().save_pretrained(path / "reward", letter_tokenizer())
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (path / "early.py").write_text(EARLY)
    return path


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def shown(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert main.main([*INSPECT, *flags]) == 0
    return capsys.readouterr().out


def token_lines(out: str) -> list[list[float]]:
    """The numbers of each line of a token table: place, then the columns."""
    lines = re.findall(r"^ *(\d+) +\S+ +((?:[+-]\d+\.\d{3} *)+)$", out, re.MULTILINE)
    return [[float(place), *map(float, numbers.split())] for place, numbers in lines]


def sums(out: str) -> list[float]:
    found = re.search(r"^ +sum +((?:[+-]\d+\.\d{3} *)+)$", out, re.MULTILINE)
    assert found is not None
    return [float(number) for number in found[1].split()]


def the_trainers_own(trainer: Any, dataset: Any, prompts: int = 1) -> Rollout:
    rollout, _ = trainer.write_and_score(dataset, range(prompts), trainer.samples_per_prompt, 1)
    trainer.judge(rollout)
    return rollout


# --- PPO ------------------------------------------------------------------------------------------------------------


def test_ppos_numbers_are_the_trainers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--reward-model", "reward", "--value-from", "reward_model", "--reference", "other"]
    out = shown(capsys, "--method", "ppo", *flags, "--kl-coefficient", "0.3")
    dataset, reward_model = PromptDataset(ROWS, letter_tokenizer()), letter_reward_model()
    config = PPOConfig(kl_coefficient=0.3, max_new_tokens=12, whiten_advantages=False, output_dir=str(tmp_path))
    trainer = PPOTrainer(
        letter_model(),
        create_value_network_from_reward_model(reward_model),
        reward_model,
        letter_model(seed=1).requires_grad_(False),
        letter_tokenizer(),
        dataset,
        None,
        config,
    )
    rollout = the_trainers_own(trainer, dataset)
    length = int(rollout.lengths[0])
    reference, rewards, values, advantages = (
        getattr(rollout, name)[0, :length] for name in ("reference_logprobs", "rewards", "values", "advantages")
    )
    logprobs = rollout.logprobs[0, :length]
    columns = [logprobs, reference, logprobs - reference, rewards, values, advantages]
    expected = torch.stack([torch.arange(length), *columns], dim=1)
    torch.testing.assert_close(torch.tensor(token_lines(out)), expected.float(), atol=6e-4, rtol=0)
    assert sums(out) == pytest.approx([float(column.sum()) for column in columns[:4]], abs=6e-4)
    score = float(rollout.scores[0])
    raw = float(rollout.raw_scores[0]) if rollout.raw_scores is not None else score
    ended = "ended" if rollout.ended[0] else "cut off"
    assert f"response 0: {length} tokens, {ended}, score {raw:.3f}" in out
    assert ("used as" in out) == (not rollout.ended[0])
    # What a response earns in all: its score less the price of its divergence.
    assert sums(out)[3] == pytest.approx(score - 0.3 * sums(out)[2], abs=2e-3)


def test_log_probabilities_are_the_models_own(capsys: pytest.CaptureFixture[str]) -> None:
    """The oracle reads the response back from the table and asks both models, one forward pass each."""
    out = shown(capsys, "--method", "ppo", "--reward", "ended", "--reference", "other", "--rows", "2")
    assert out.count(" prompt ") >= 2 and "prompt 2" not in out
    vocabulary = letter_tokenizer().get_vocab()
    for block, row in zip(out.split("response 0:")[1:], ROWS, strict=False):
        tokens = re.findall(r"^ *\d+ +(\S+) +[+-]", block, re.MULTILINE)
        prompt = [vocabulary[letter] for letter in f"{row['prompt']}?"]
        ids = torch.tensor([[*prompt, *(vocabulary[token] for token in tokens)]])
        numbers = torch.tensor(token_lines(block))
        for column, seed in ((1, 0), (2, 1)):
            every = letter_model(seed=seed).eval()(ids).logits.detach()[0, :-1].log_softmax(-1)
            found = every.gather(1, ids[0, 1:, None])[len(prompt) - 1 :, 0]
            torch.testing.assert_close(numbers[:, column], found, atol=6e-4, rtol=0)


def test_a_new_run_has_no_divergence_and_a_new_value_network_knows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--method", "ppo", "--reward", "early.py:early")
    numbers = torch.tensor(token_lines(out))
    assert len(numbers) > 0
    assert numbers[:, 3].abs().max() <= 1e-3  # KL from itself
    assert not numbers[:, 5].any()  # values
    assert "values are 0" in out and "--value-from reward_model" in out
    begun = shown(capsys, "--method", "ppo", "--reward-model", "reward", "--value-from", "reward_model")
    assert "values are 0" not in begun


# --- GRPO -----------------------------------------------------------------------------------------------------------


def test_grpos_group_and_tokens_are_the_trainers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--method", "grpo", "--reward", "early.py:early", "--group-size", "5", "--reference", "other")
    dataset = PromptDataset(ROWS, letter_tokenizer())
    config = GRPOConfig(group_size=5, max_new_tokens=12, beta=0.5, output_dir=str(tmp_path))
    other = letter_model(seed=1).requires_grad_(False)
    trainer = GRPOTrainer(letter_model(), early_letters, letter_tokenizer(), dataset, other, None, config)
    rollout = the_trainers_own(trainer, dataset)
    group = re.findall(r"^ *(\d+) +(-?\d+\.\d{3}) +([+-]\d+\.\d{3}) +(\d+) +(\S*)( ■)? *$", out, re.MULTILINE)
    assert rollout.advantages is not None and rollout.reference_logprobs is not None
    assert [int(place) for place, *_ in group] == list(range(5))
    assert [float(score) for _, score, *_ in group] == pytest.approx(rollout.scores.tolist(), abs=6e-4)
    own = rollout.advantages[:, 0].tolist()
    assert [float(advantage) for _, _, advantage, *_ in group] == pytest.approx(own, abs=6e-4)
    assert [int(tokens) for _, _, _, tokens, *_ in group] == rollout.lengths.tolist()
    assert [text for *_, text, _ in group] == [attempt.response for attempt in rollout.attempts]
    assert [bool(mark) for *_, mark in group] == rollout.ended.tolist()

    row = max(range(5), key=lambda i: abs(own[i]))  # the one that moves the policy most
    assert f"response {row}: " in out
    length = int(rollout.lengths[row])
    logprobs, reference = rollout.logprobs[row, :length], rollout.reference_logprobs[row, :length]
    columns = [torch.arange(length), logprobs, reference, logprobs - reference, torch.full((length,), own[row])]
    expected = torch.stack([column.float() for column in columns], dim=1)
    torch.testing.assert_close(torch.tensor(token_lines(out)), expected, atol=6e-4, rtol=0)


def test_without_a_reference_grpo_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--method", "grpo", "--reward", "0.5*early.py:early", "ended", "--group-size", "2")
    assert re.search(r"token +log p +advantage", out) and "score: 0.5 * early.py:early + ended" in out
    assert re.search(r"score -?\d\.\d{3} \(early.py:early [\d.]+, ended [\d.]+\)", out)


# --- the view -------------------------------------------------------------------------------------------------------


def test_a_response_cannot_command_the_terminal_and_its_blanks_are_seen(gpt2_tokenizer: Any) -> None:
    from auto_bot_tuner.rewards import Attempt

    ids = gpt2_tokenizer("a b\n\x1b[31mé 🟢")["input_ids"]
    zeros = torch.zeros(1, len(ids))
    rollout = Rollout(
        rows=[0],
        samples=1,
        attempts=[Attempt([{"role": "user", "content": "x"}], "", False, {}, [87], ids)],
        responses=torch.tensor([ids]),
        mask=torch.ones(1, len(ids), dtype=torch.bool),
        ended=torch.tensor([False]),
        logprobs=zeros,
        advantages=zeros,
    )
    console = Console(width=100, force_terminal=False, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(token_table(gpt2_tokenizer, rollout, 0))
    out = capture.get()
    assert "\x1b" not in out and "␣b" in out and "⏎" in out and "∅" in out and "🟢" in out
    assert len(re.findall(r"^ *\d+ ", out, re.MULTILINE)) == len(ids)


def test_no_rows_are_the_summary_alone(capsys: pytest.CaptureFixture[str]) -> None:
    out = shown(capsys, "--method", "grpo", "--reward", "ended", "--rows", "0")
    assert "prompts  3 of 3 rows" in out and "log p" not in out


@pytest.mark.parametrize(
    ("flags", "words", "code"),
    [
        (["--method", "ppo"], ["nothing says what a response is worth", "--reward-model"], 2),
        (["--method", "grpo"], ["nothing says what a response is worth", "--reward "], 2),
        (["--method", "grpo", "--reward", "endd"], ["did you mean ended?"], 2),
        (["--method", "ppo", "--reward", "ended", "--value-from", "reward_model"], ["--value-from policy"], 2),
        (["--method", "ppo", "--reward-model", "nowhere"], ["--reward-model nowhere: no such folder"], 1),
        (["--method", "ppo", "--reward-model", "policy"], ["holds no reward head"], 1),
        (["--method", "ppo", "--reward", "ended", "--loss"], ["--loss", "log p of each token"], 2),
        (["--method", "sft", "--reward", "ended"], ["--method sft writes no responses"], 2),
        (["--method", "ppo", "--reward", "ended", "--max-prompt-length", "9"], ["longest prompt of PPO"], 2),
        (["--method", "grpo", "--reward", "ended", "--reference", "no/such/folder"], ["no/such/folder"], 1),
    ],
)
def test_what_is_refused_is_one_line(
    flags: list[str], words: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*INSPECT, *flags]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and not [word for word in words if word not in err], err
