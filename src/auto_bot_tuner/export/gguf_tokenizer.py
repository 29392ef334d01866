"""A tokenizer in GGUF's metadata: its tokens, their kinds, and what llama.cpp does before it looks them up.

A GGUF file holds no tokenizer.json. It names one of llama.cpp's own algorithms instead, which has to cut every text as
the original does; which one does is found out by trying, on texts made of the vocabulary itself, and not by a name.

tokenizer.ggml.model   gpt2   byte-level BPE: tokens, merges, and in tokenizer.ggml.pre how text is cut before merging
                       llama  SentencePiece BPE: tokens and scores; the pair whose joined token scores highest is joined
"""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import Any, NamedTuple

from auto_bot_tuner.data.chat_template import own_bos
from auto_bot_tuner.export.checking import TEXTS
from auto_bot_tuner.utils.errors import UserError

# gguf.TokenType
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
AFTER_WORDS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
INSTEAD = "export --format safetensors instead"


class Cut(NamedTuple):
    """How llama.cpp cuts a text before it merges: one regular expression after the other."""

    regexes: tuple[str, ...]
    takes_whole_tokens: bool  # a piece that is a token is taken as it is, whatever the merges say


# As src/llama-vocab.cpp has them (LLAMA_VOCAB_PRE_TYPE_…).
CUTS = {
    "gpt-2": Cut((GPT2,), False),
    "llama-bpe": Cut((CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + AFTER_WORDS,), True),
    "qwen2": Cut((CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + AFTER_WORDS,), False),
    "smollm": Cut((r"\p{N}", GPT2), False),
    "tekken": Cut((WORD + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",), True),
}


def tokenizer_metadata(tokenizer: Any, rows: int) -> dict[str, Any]:
    """What follows `tokenizer.` in the file: name → value, for a model whose embedding has so many rows.

    Raises:
        UserError: llama.cpp has no tokenizer that cuts text as this one does.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = state["model"]["type"]
    if kind != "BPE":
        raise UserError(f"GGUF export knows byte-level and SentencePiece BPE, and this tokenizer is {kind}: {INSTEAD}")
    own = sentencepiece(state, tokenizer) if state["model"].get("byte_fallback") else byte_level(state, tokenizer)
    tokens, kinds = tokens_and_kinds(state, tokenizer, rows)
    special = {
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
        "eot": end_of_turn(tokenizer),
    }
    return {
        **own,
        "ggml.tokens": tokens,
        "ggml.token_type": kinds,
        **({"ggml.scores": scores(state, tokens)} if own["ggml.model"] == "llama" else {}),
        **{f"ggml.{name}_token_id": token for name, token in special.items() if token is not None},
        "ggml.add_bos_token": bool(own_bos(tokenizer)),
        "ggml.add_eos_token": False,
        "chat_template": tokenizer.chat_template,
    }


def end_of_turn(tokenizer: Any) -> int | None:
    """The token by which the template ends an answer, where that is another than eos."""
    from auto_bot_tuner.data.prompt_format import PromptFormat

    token = PromptFormat.from_tokenizer(tokenizer).stop_token_ids[0]
    return token if token != tokenizer.eos_token_id else None


def tokens_and_kinds(state: dict[str, Any], tokenizer: Any, rows: int) -> tuple[list[str], list[int]]:
    """A token for every row of the embedding: those beyond the vocabulary get a name that never occurs."""
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {token["id"]: token for token in state["added_tokens"]}
    tokens, kinds = [], []
    for number in range(rows):
        token = by_id.get(number)
        if token is None:
            token, kind = f"[PAD{number}]", UNUSED
        elif number == tokenizer.unk_token_id and number != tokenizer.eos_token_id:
            kind = UNKNOWN
        elif number in added:
            kind = CONTROL if added[number]["special"] else USER_DEFINED
        elif state["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x"):
            kind = BYTE
        else:
            kind = NORMAL
        tokens.append(token)
        kinds.append(kind)
    return tokens, kinds


# --- byte-level BPE -------------------------------------------------------------------------------------------------


def byte_level(state: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """GPT-2's kind: merges, and the name of the first of llama.cpp's cuts that gives the same tokens."""
    if '"ByteLevel"' not in json.dumps(state["pre_tokenizer"]):
        raise UserError(f"GGUF export knows byte-level and SentencePiece BPE, and this tokenizer is neither: {INSTEAD}")
    if (state["normalizer"] or {}).get("type") not in (None, "NFC"):  # llama.cpp leaves NFC out, for Qwen too
        raise UserError(
            f"llama.cpp does not normalise text, as this tokenizer does ({state['normalizer']['type']}): {INSTEAD}"
        )
    if not state["model"]["merges"]:  # it refuses the file
        raise UserError(f"llama.cpp reads no byte-level BPE without merges, as this tokenizer is: {INSTEAD}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    return {"ggml.model": "gpt2", "ggml.pre": cut_of(tokenizer.backend_tokenizer), "ggml.merges": merges}


def cut_of(tokenizer: Any) -> str:
    """The name of the cut under which every probe text becomes the same ids, for a tokenizer of the tokenizers library.

    Raises:
        UserError: there is none.
    """
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    texts = probes(tokenizer)
    expected = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    twin = Tokenizer.from_str(tokenizer.to_str())  # the same vocabulary and merges behind another cut
    for name, cut in CUTS.items():
        steps = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in cut.regexes]
        twin.pre_tokenizer = pre_tokenizers.Sequence(
            [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        twin.model.ignore_merges = cut.takes_whole_tokens
        if all(
            twin.encode(text, add_special_tokens=False).ids == ids for text, ids in zip(texts, expected, strict=True)
        ):
            return name
    raise UserError(
        f"llama.cpp has no pre-tokenizer known here ({', '.join(CUTS)}) that cuts text as this tokenizer does: "
        f"{INSTEAD}"
    )


def probes(tokenizer: Any, count: int = 400, length: int = 40) -> list[str]:
    """Texts to tell tokenizers apart by: those of `TEXTS`, and tokens of the vocabulary in any order."""
    lot = random.Random(0)
    rows = tokenizer.get_vocab_size()
    drawn = [tokenizer.decode([lot.randrange(rows) for _ in range(length)]) for _ in range(count)]
    return [*TEXTS, *drawn]


# --- SentencePiece BPE ----------------------------------------------------------------------------------------------


def sentencepiece(state: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Llama-2's kind: a space is "▁", unknown characters are spelled in bytes.

    Raises:
        UserError: joining by scores gives other tokens than the tokenizer's own merges.
    """
    from auto_bot_tuner.data.tokenization import _without_word_start_prefix

    prefixed = bool(_without_word_start_prefix(tokenizer)[1])
    tokens = sorted(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
    by_score = ScoreJoiner(state["model"]["vocab"], scores(state, tokens))
    original = tokenizer.backend_tokenizer
    for text in probes(original, count=100):
        plain = text.replace("<", "‹")  # control tokens are found before either algorithm starts
        words = ("▁" if prefixed and plain else "") + plain.replace(" ", "▁")
        if by_score.encode(words) != original.encode(plain, add_special_tokens=False).ids:
            raise UserError(f"llama.cpp would cut text otherwise than this SentencePiece tokenizer does: {INSTEAD}")
    return {"ggml.model": "llama", "ggml.pre": "default", "ggml.add_space_prefix": prefixed}


def scores(state: dict[str, Any], tokens: list[str]) -> list[float]:
    """The earlier a token was learned, the higher: minus the rank of the first merge that makes it."""
    rank: dict[str, int] = {}
    for position, merge in enumerate(state["model"]["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        rank.setdefault(left + right, position)
    never = -1e9  # single characters and control tokens: no pair makes them
    return [-float(rank[token]) if token in rank else never for token in tokens]


class ScoreJoiner:
    """llama.cpp's SentencePiece (llm_tokenizer_spm): join the neighbours whose token scores highest, leftmost first."""

    def __init__(self, vocab: dict[str, int], token_scores: list[float]) -> None:
        self.vocab, self.scores = vocab, token_scores

    def encode(self, text: str) -> list[int]:
        pieces = list(text)
        while True:
            pairs = [(a + b, i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in self.vocab]
            if not pairs:
                break
            joined, at = max(pairs, key=lambda pair: (self.scores[self.vocab[pair[0]]], -pair[1]))
            pieces[at : at + 2] = [joined]
        ids: list[int] = []
        for piece in pieces:
            byte_ids = [self.vocab.get(f"<0x{byte:02X}>") for byte in piece.encode("utf-8")]
            ids += [self.vocab[piece]] if piece in self.vocab else [i for i in byte_ids if i is not None]
        return ids
