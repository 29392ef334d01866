"""Is what a model writes varied, finished, of a sensible length? Measures that need no reference answer.

They find the usual diseases of generation: loops ("the the the"), the same phrase in every answer, answers that never
end. They do not say whether an answer is *right*: `accuracy.py` does, where code can know.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.generation import Messages, Response, as_messages, respond
from auto_bot_tuner.utils.errors import UserError

LOOP_LENGTH = 4  # words: a phrase of four words said twice within one text is a loop rather than a coincidence


@dataclass(frozen=True)
class QualityReport:
    """What one model wrote, and its measures."""

    prompts: list[str]
    responses: list[Response]
    metrics: dict[str, float]


def compute_diversity_metrics(texts: Sequence[str]) -> dict[str, float]:
    """Measures over the words of all texts, each between 0 and 1 but for the lengths.

    - `distinct_1`, `distinct_2`, `distinct_3`: different n-grams / all n-grams (Li et al. 1510.03055). Falls with the
      amount of text, so compare equal amounts only.
    - `repetition`: share of a text's 4-grams that were said before in the same text, averaged over texts with any:
      loops.
    - `self_repetition`: share of a text's different 4-grams that occur in another text as well: stock phrases, mode
      collapse.
    - `unique`: different texts / texts. `empty`: share of texts without a word. `mean_words`: words per text.

    A measure without a single n-gram to count is left out. Raises UserError for no texts.

    >>> compute_diversity_metrics(["a b a b"])["distinct_1"]
    0.5
    """
    if not texts:
        raise UserError("diversity of no texts is undefined: pass at least one")
    words = [text.split() for text in texts]
    metrics = {
        "unique": len(set(texts)) / len(texts),
        "empty": sum(not row for row in words) / len(texts),
        "mean_words": fmean(map(len, words)),
    }
    for n in (1, 2, 3):
        grams = [gram for row in words for gram in ngrams(row, n)]
        if grams:
            metrics[f"distinct_{n}"] = len(set(grams)) / len(grams)
    loops = [grams for row in words if (grams := ngrams(row, LOOP_LENGTH))]
    if loops:
        metrics["repetition"] = fmean(1 - len(set(grams)) / len(grams) for grams in loops)
        texts_with = Counter(gram for grams in loops for gram in set(grams))
        metrics["self_repetition"] = fmean(fmean(texts_with[gram] > 1 for gram in set(grams)) for grams in loops)
    return metrics


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n neighbouring words, repetitions included."""
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def evaluate_generation_quality(
    model: Any, tokenizer: Any, prompts: Sequence[Messages | str], config: GenerationConfig | None = None
) -> QualityReport:
    """Let the model answer each prompt (a user message, or a conversation) and measure the answers.

    Besides the diversity metrics: `ended` (share that stopped by itself), `mean_tokens`, and `mean_logprob` per token
    (near 0: sure of itself; an over-trained model is sure of everything).
    """
    if not prompts:
        raise UserError("there are no prompts to generate from: pass at least one")
    conversations = [as_messages(prompt) for prompt in prompts]
    responses = respond(model, tokenizer, conversations, config)
    logprobs = [logprob for response in responses for logprob in response.logprobs]
    metrics = {
        "ended": fmean(response.ended for response in responses),
        "mean_tokens": fmean(len(response.token_ids) for response in responses),
        "mean_logprob": fmean(logprobs),
        **compute_diversity_metrics([response.text for response in responses]),
    }
    return QualityReport([messages[-1]["content"] for messages in conversations], responses, metrics)


def compare_model_outputs(
    models: dict[str, tuple[Any, Any]], prompts: Sequence[Messages | str], config: GenerationConfig | None = None
) -> dict[str, QualityReport]:
    """The same prompts, with the same seed, answered by several models: `{"base": (model, tokenizer), "sft": …}`.

    Each model keeps its own tokenizer and chat template.
    """
    return {name: evaluate_generation_quality(*pair, prompts, config) for name, pair in models.items()}
