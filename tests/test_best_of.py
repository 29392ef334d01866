"""Best-of-n against enumeration, and fine-tuning on the best: what is kept, what is not, and that it teaches."""

from __future__ import annotations

import math
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from auto_bot_tuner.evaluation import GenerationConfig
from auto_bot_tuner.evaluation.best_of import BestOf, best_of, best_of_kl, expected_best
from auto_bot_tuner.rewards import Attempt
from auto_bot_tuner.rollouts import PromptDataset
from auto_bot_tuner.sft import InstructionDataset, SFTConfig, SFTTrainer
from auto_bot_tuner.sft import best_of as sft_best_of
from auto_bot_tuner.sft.best_of import best_of_rows
from auto_bot_tuner.utils.errors import UsageError, UserError
from tests.models import tiny_model
from tests.reward_runs import EOS, byte_tokenizer
from tests.training_runs import SHORT_RUN

ROWS = [{"prompt": f"Question {i}?"} for i in range(6)]
SAMPLED = GenerationConfig(temperature=1.0, max_new_tokens=12, seed=3)


@pytest.fixture
def policy() -> Any:
    return tiny_model("gpt2", vocab_size=EOS + 1, bos_token_id=EOS, eos_token_id=EOS)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


class Planted:
    """Likes responses by the sum of their tokens: any two are told apart."""

    name = "planted"

    def __call__(self, attempts: Any) -> list[float]:
        return [sum(attempt.response_ids) / 100 for attempt in attempts]


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_chosen_is_the_best_of_its_own_prompt(policy: Any, tokenizer: Any) -> None:
    found = best_of(policy, tokenizer, PromptDataset(ROWS, tokenizer), Planted(), 5, SAMPLED)
    assert found.scores.shape == (6, 5) and found.components["planted"].shape == (6, 5)
    for i, chosen in enumerate(found.chosen):
        own = [attempt for attempt in found.attempts if attempt.row == ROWS[i]]
        assert len(own) == 5 and chosen in own
        assert Planted()([chosen]) == [max(Planted()(own))]
        assert found.scores[i].tolist() == pytest.approx(Planted()(own))
    assert found.scores.amax(1).mean() > found.scores.mean()


def test_the_same_seed_chooses_the_same(policy: Any, tokenizer: Any) -> None:
    dataset = PromptDataset(ROWS, tokenizer)
    first, again = (best_of(policy, tokenizer, dataset, Planted(), 3, SAMPLED) for _ in range(2))
    assert [a.response_ids for a in first.chosen] == [a.response_ids for a in again.chosen]


def test_of_equal_ones_the_first_is_chosen(policy: Any, tokenizer: Any) -> None:
    found = best_of(policy, tokenizer, PromptDataset(ROWS, tokenizer), lambda prompt, response: 1.0, 3, SAMPLED)
    assert found.chosen == found.attempts[::3]


def test_greedy_decoding_has_nothing_to_choose_from(policy: Any, tokenizer: Any) -> None:
    dataset = PromptDataset(ROWS[:1], tokenizer)
    with pytest.raises(UsageError, match=r"same response 2 times; set a temperature above 0"):
        best_of(policy, tokenizer, dataset, Planted(), 2, GenerationConfig())
    with pytest.raises(UsageError, match="at least one response"):
        best_of(policy, tokenizer, dataset, Planted(), 0, SAMPLED)


# --- its divergence, and its worth ------------------------------------------------------------------------------------


def exact_kl(probabilities: list[float], scores: list[float], n: int) -> float:
    """KL(best of n || p) by enumerating all V^n draws; the first of equal ones is chosen."""
    best = [0.0] * len(probabilities)
    for draws in product(range(len(probabilities)), repeat=n):
        winner = max(draws, key=lambda y: scores[y])
        best[winner] += math.prod(probabilities[y] for y in draws)
    assert sum(best) == pytest.approx(1)
    return sum(q * math.log(q / p) for q, p in zip(best, probabilities, strict=True) if q > 0)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_formula_bounds_the_exact_divergence(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    for vocabulary in (2, 3, 7):
        for _ in range(5):
            p = torch.rand(vocabulary, generator=generator).softmax(0).tolist()
            scores = torch.randn(vocabulary, generator=generator).tolist()
            assert -1e-12 <= exact_kl(p, scores, n) <= best_of_kl(n) + 1e-12
    assert exact_kl([0.25] * 4, [1, 1, 0, 0], n) <= best_of_kl(n) + 1e-12  # ties
    # Many unlikely responses, none like another: the bound is met, from below.
    many = exact_kl([1 / 40] * 40, list(range(40)), n)
    assert best_of_kl(n) - 0.04 <= many <= best_of_kl(n) + 1e-12


def test_the_bound_by_hand() -> None:
    assert best_of_kl(2) == pytest.approx(math.log(2) - 0.5) and best_of_kl(8) == pytest.approx(3 * math.log(2) - 7 / 8)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_worth_of_best_of_k_is_its_mean_over_all_choices_of_k(k: int) -> None:
    proxy = torch.tensor([[3.0, 1.0, 2.0, 2.0, -1.0], [0.0, 5.0, 4.0, 4.5, 4.4]])
    gold = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0], [2.0, -9.0, 0.5, 1.0, 7.0]])
    for values in (proxy, gold):
        expected = []
        for row in range(2):
            choices = list(combinations(range(5), k))
            winners = [max(choice, key=lambda i: proxy[row, i]) for choice in choices]
            expected.append(sum(float(values[row, i]) for i in winners) / len(choices))
        torch.testing.assert_close(expected_best(proxy, k, values), torch.tensor(expected))
    torch.testing.assert_close(expected_best(proxy, k), expected_best(proxy, k, proxy))
    with pytest.raises(ValueError, match="best of 6 cannot be told from 5"):
        expected_best(proxy, 6)


# --- fine-tuning on the best ------------------------------------------------------------------------------------------


def config(tmp_path: Path, **settings: Any) -> SFTConfig:
    given = {"from_best_of": 4, "reward": ("ended",), "best_of_max_new_tokens": 12, "seed": 3}
    return SFTConfig(**{**SHORT_RUN, "output_dir": str(tmp_path), **given, **settings})


def attempts(*responses: tuple[str, bool]) -> list[Attempt]:
    return [Attempt([{"role": "user", "content": "Q?"}], text, ended, {}, [1], [2]) for text, ended in responses]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the model is said to have written, instead of letting one write."""

    def plant(responses: list[tuple[str, bool]], scores: list[list[float]]) -> None:
        found = BestOf(attempts(*responses), torch.tensor(scores, dtype=torch.float32), {})
        monkeypatch.setattr(sft_best_of, "best_of", lambda *_: found)

    return plant


def test_what_is_kept_and_what_is_not(written: Any, tokenizer: Any, tmp_path: Path) -> None:
    cut = (False, False, False, False, True, False, True, True, True, False)
    written(
        [(text, not was_cut) for text, was_cut in zip("abcdefghij", cut, strict=True)],
        [[0, 1], [1, 1], [9, 3], [0, 5], [0, 2]],
    )
    rows, summary = best_of_rows(None, tokenizer, ROWS[:5], config(tmp_path, from_best_of=2), 100)
    # a < b; c = d; f ended, but is worse than the average of its prompt; g and h were cut off; i < j.
    assert [row["messages"][-1]["content"] for row in rows] == ["b", "j"]
    assert rows[0]["messages"][0] == {"role": "user", "content": "Q?"}
    assert summary.drop_reasons == {"no difference": 2, "none ended": 1} and summary.kept == 2
    assert summary.mean == pytest.approx(22 / 10) and summary.best == pytest.approx((1 + 1 + 9 + 5 + 2) / 5)
    assert "kept     2 best answers (left out: no difference 2, none ended 1)" in str(summary)
    assert "reward   ended: mean 2.200, best of 2 3.600" in str(summary)


def test_where_nothing_is_worth_imitating_the_error_says_why(written: Any, tokenizer: Any, tmp_path: Path) -> None:
    two = config(tmp_path, from_best_of=2)
    written([("a", True), ("b", True)], [[1.0, 1.0 + 1e-6]])
    with pytest.raises(UserError, match=r"one better than the others by ended \(mean 1\.000\); raise --from-best-of"):
        best_of_rows(None, tokenizer, ROWS[:1], two, 100)
    written([("a", False), ("b", False)], [[0.0, 1.0]])
    with pytest.raises(UserError, match="all cut off; raise --best-of-max-new-tokens"):
        best_of_rows(None, tokenizer, ROWS[:1], two, 100)
    with pytest.raises(UsageError, match=r"max_length 12 leaves no room for a prompt before .* 12"):
        best_of_rows(None, tokenizer, ROWS[:1], two, 12)


def test_prompt_and_answer_fit_into_a_training_row(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """So no best answer loses its end token to max_length."""
    length = PromptDataset(ROWS, tokenizer).lengths[0]
    rows, summary = best_of_rows(policy, tokenizer, [*ROWS, {"prompt": "long " * 9}], config(tmp_path), length + 12)
    assert summary.prompts == len(ROWS)
    dataset = InstructionDataset(rows, tokenizer, length + 12, "chat")
    assert all(row["labels"][-1] == EOS for row in dataset)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"from_best_of": 1}, "has nothing to choose from"),
        ({"from_best_of": 4, "reward": ()}, "go together"),
        ({"from_best_of": 0, "reward": ("gold",)}, "go together"),
        ({"best_of_temperature": 0.0}, "greater than or equal to 0.01"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=words):
        config(tmp_path, **settings)


def test_imitating_the_best_raises_the_reward(policy: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Likes short answers. A random model hardly ever ends one early; the best of eight of its own teach it to."""

    class Short:
        name = "short"

        def __call__(self, attempts: Any) -> list[float]:
            return [-len(attempt.response_ids) / 12 for attempt in attempts]

    rows = [{"prompt": f"Question {i}?"} for i in range(48)]
    settings = config(tmp_path, from_best_of=8, reward=("given",), num_epochs=8, learning_rate=1e-2)
    unseen = PromptDataset([{"prompt": f"Another {i}?"} for i in range(16)], tokenizer)
    before = best_of(policy, tokenizer, unseen, Short(), 8, SAMPLED).scores.mean()
    kept, summary = best_of_rows(policy, tokenizer, rows, settings, 100, reward=Short())
    assert summary.best > summary.mean
    SFTTrainer(policy, tokenizer, InstructionDataset(kept, tokenizer, 100, "chat"), None, settings).train()
    after = best_of(policy, tokenizer, unseen, Short(), 8, SAMPLED).scores.mean()
    assert after > before + 0.1, (before, after, summary)
