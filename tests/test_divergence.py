"""The KL estimate against the definition: log-probabilities of whole rows, by plain softmax, one by one."""

from __future__ import annotations

import pytest
import torch

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.divergence import mean_kl
from auto_bot_tuner.evaluation.generation import respond
from tests.models import gpt2_tokenizer, tiny_model

CHATS = [[{"role": "user", "content": text}] for text in ("Hi", "What is the capital of France?", "Sort 3, 1, 2.")]
SAMPLED = GenerationConfig(temperature=1.0, max_new_tokens=7)


def test_kl_is_the_mean_log_ratio_of_the_policy_s_own_samples():
    policy, reference, tokenizer = tiny_model("llama", 0), tiny_model("llama", 1), gpt2_tokenizer()
    responses = respond(policy, tokenizer, CHATS, SAMPLED)

    def logprob(model, prompt, answer):
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].double()
        steps = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
        return sum(float(step[token]) for step, token in zip(steps, answer, strict=True))

    prompts = [PromptFormat.from_tokenizer(tokenizer).encode_prompt(chat) for chat in CHATS]
    with torch.no_grad():
        ratios = [
            logprob(policy, prompt, response.token_ids) - logprob(reference, prompt, response.token_ids)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
    assert mean_kl(reference, tokenizer, CHATS, responses) == pytest.approx(sum(ratios) / 3, abs=1e-4)


def test_a_policy_has_not_moved_from_itself():
    policy, tokenizer = tiny_model("gpt2", 0), gpt2_tokenizer()
    assert mean_kl(policy, tokenizer, CHATS, respond(policy, tokenizer, CHATS, SAMPLED)) == pytest.approx(0, abs=1e-4)
