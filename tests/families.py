"""Small checkpoints with random weights, one for each family of models that the course may meet.

Their tokenizers are the families' own classes, trained on the reviews, so that each has its own
manners: which special tokens there are, which are added, and how a space is written.
"""

import atexit
import csv
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    Gemma2Config,
    GemmaConfig,
    GemmaTokenizer,
    GPT2Config,
    GPT2Tokenizer,
    GPTNeoXConfig,
    GPTNeoXTokenizer,
    LlamaConfig,
    LlamaTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
    RobertaTokenizer,
    T5Config,
    T5Tokenizer,
)

# llama, gemma, gemma2: a BOS token is added; llama: no pad token either, and a space before words.
# qwen2, qwen3: byte-level, nothing is added, the pad token is not the end token; a chat template.
# gpt2: no pad token. gpt_neox: a pad token of its own. t5, flan_t5, bart: an end token is added.
DECODERS = ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma", "gemma2"]
ENCODER_DECODERS = ["t5", "flan_t5", "bart"]
FAMILIES = DECODERS + ENCODER_DECODERS

REVIEWS = Path(__file__).parent.parent / "data" / "reviews.csv"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
VOCABULARY = 600
WINDOW = 256


@cache
def family_folder(name: str) -> Path:
    """Folder of a saved checkpoint of that family with its tokenizer; gone when Python ends."""
    folder = _folder() / name
    tokenizer = family_tokenizer(name)
    family_model(name).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="families-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def family_model(name: str, seed: int = 0) -> torch.nn.Module:
    """A model of that family with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    config = _config(name)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return auto.from_config(config).eval()


def _config(name: str) -> PretrainedConfig:
    tokenizer = family_tokenizer(name)
    ids = {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")
    }
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "max_position_embeddings": WINDOW,
        # Larger than usual, so that a random model has clear likes and dislikes.
        "initializer_range": 0.3,
        **ids,
    }
    match name:
        case "llama":
            return LlamaConfig(**common, **heads, tie_word_embeddings=False)
        case "qwen2":
            del heads["head_dim"]
            return Qwen2Config(**common, **heads, tie_word_embeddings=True)
        case "qwen3":
            return Qwen3Config(**common, **heads, tie_word_embeddings=True)
        case "gpt2":
            sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": WINDOW}
            # With its usual dropout.
            return GPT2Config(vocab_size=len(tokenizer), initializer_range=0.3, **sizes, **ids)
        case "gpt_neox":
            return GPTNeoXConfig(**common, num_attention_heads=4, hidden_dropout=0.1)
        case "gemma":
            return GemmaConfig(**common, **heads)
        case "gemma2":
            # Caps that are felt: the head's numbers are not those of a plain matrix product.
            caps = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0}
            return Gemma2Config(**common, **heads, **caps, sliding_window=WINDOW)
        case "t5" | "flan_t5":
            sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
            del ids["bos_token_id"]
            if name == "flan_t5":  # as T5 1.1: a gated MLP, and a head of its own
                sizes |= {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
            return T5Config(vocab_size=len(tokenizer), decoder_start_token_id=0, **sizes, **ids)
        case "bart":
            sizes = {
                f"{side}_{what}": size
                for side in ("encoder", "decoder")
                for what, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 64}.items()
            }
            return BartConfig(
                vocab_size=len(tokenizer),
                d_model=32,
                max_position_embeddings=WINDOW,
                init_std=0.3,
                decoder_start_token_id=tokenizer.eos_token_id,
                forced_eos_token_id=tokenizer.eos_token_id,
                **sizes,
                **ids,
            )
    raise KeyError(name)


@cache
def family_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer of that family, with about 600 tokens learned from the reviews."""
    match name:
        case "llama":
            return LlamaTokenizer(
                **_sentencepiece_bpe(("<unk>", "<s>", "</s>")), add_bos_token=True
            )
        case "qwen2" | "qwen3":
            words = _byte_level(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
            tokenizer = Qwen2Tokenizer(**words, eos_token="<|im_end|>")
            tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
            tokenizer.chat_template = CHATML
            return tokenizer
        case "gpt2":
            return GPT2Tokenizer(**_byte_level(("<|endoftext|>",)))
        case "gpt_neox":
            return GPTNeoXTokenizer(**_byte_level(("<|endoftext|>", "<|padding|>")))
        case "gemma" | "gemma2":
            return GemmaTokenizer(
                **_sentencepiece_bpe(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")),
                add_bos_token=True,
            )
        case "t5" | "flan_t5":
            return T5Tokenizer(vocab=_unigram(("<pad>", "</s>", "<unk>")), extra_ids=0)
        case "bart":
            return RobertaTokenizer(**_byte_level(("<s>", "<pad>", "</s>", "<unk>", "<mask>")))
    raise KeyError(name)


@cache
def _texts() -> list[str]:
    with open(REVIEWS, encoding="utf-8", newline="") as file:
        return [row["review_body"] for row in csv.DictReader(file)][:300]


def _byte_level(specials: tuple[str, ...]) -> dict:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_texts(), trainer)
    return _vocab_and_merges(raw)


def _sentencepiece_bpe(specials: tuple[str, ...]) -> dict:
    """Words that begin with "▁" for the space, and one token for each byte, for all the rest."""
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["▁"],
        show_progress=False,
    )
    raw.train_from_iterator(_texts(), trainer)
    return _vocab_and_merges(raw)


def _vocab_and_merges(raw: Tokenizer) -> dict:
    model = json.loads(raw.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def _unigram(specials: tuple[str, ...]) -> list[tuple[str, float]]:
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(specials),
        unk_token="<unk>",
        show_progress=False,
    )
    raw.train_from_iterator(_texts(), trainer)
    return [tuple(pair) for pair in json.loads(raw.to_str())["model"]["vocab"]]
