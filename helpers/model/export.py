"""Hand a model on: as one GGUF file, for llama.cpp and Ollama, and to the Hugging Face Hub."""

import json
from pathlib import Path

import numpy as np
from gguf import MODEL_ARCH, GGUFWriter, LlamaFileType, TokenType, get_tensor_name_map
from httpx import HTTPError
from huggingface_hub import HfApi, metadata_load
from huggingface_hub.utils import HFValidationError, validate_repo_id
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from helpers.model.card import LIMITS
from helpers.model.load import SPECIAL_IDS, ModelError

# What a folder must hold before others get it, and what its card must say.
FILES = ("README.md", "config.json", "model.safetensors", "tokenizer.json")
CARD = ("base_model", "datasets", "license", "model-index")
# SmolLM2's way of cutting a text before its merges apply; llama.cpp knows it by the name smollm.
SPLITTERS = ["Digits", "ByteLevel"]


def write_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> Path:
    """Write weights, tokenizer and chat template as one GGUF file; matrices in 16 bits (F16).

    Nothing is compiled for that. llama.cpp and Ollama run the file, and can make smaller ones of
    it. Returns the file, which appears when all of it is there.

    Raises ModelError for another architecture than Llama's or another tokenizer than SmolLM2's,
    and when the file cannot be written.
    Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
    """
    stated = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    splitters = (stated.get("pre_tokenizer") or {}).get("pretokenizers", [])
    same_tokens = [one["type"] for one in splitters] == SPLITTERS
    if model.config.model_type != "llama" or not same_tokens or stated["model"]["type"] != "BPE":
        raise ModelError(
            "This file can only be made from a Llama with SmolLM2's tokenizer. llama.cpp's "
            "convert_hf_to_gguf.py knows all others: give it the model's folder."
        )
    file = Path(file)
    part = file.with_name(f"{file.name}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writer = GGUFWriter(part, "llama")
        _describe(writer, model, tokenizer, stated)
        _add_weights(writer, model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        part.replace(file)
    except OSError as error:
        raise ModelError(
            f"The model could not be written to {file}: {error}. It needs about "
            f"{2 * model.num_parameters() / 1e6:.0f} MB there. Free some space or name another "
            "file."
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return file


def _describe(
    writer: GGUFWriter, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stated: dict
) -> None:
    """Everything but the weights. stated: what the tokenizers library saves of the tokenizer."""
    config = model.config
    heads = config.num_attention_heads
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    special = {one["id"] for one in stated["added_tokens"] if one["special"]}
    ids = range(len(tokenizer))
    kinds = [TokenType.CONTROL if i in special else TokenType.NORMAL for i in ids]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(ids))
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in stated["model"]["merges"]])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    for ours, theirs in SPECIAL_IDS.items():
        writer.add_uint32(f"tokenizer.ggml.{theirs}", getattr(tokenizer, f"{ours}_id"))
    writer.add_chat_template(tokenizer.chat_template)


def _add_weights(writer: GGUFWriter, model: PreTrainedModel) -> None:
    """The tensors, under GGUF's names: matrices in 16 bits, vectors in 32."""
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():  # a tied head is not in it twice
        tensor = parameter.detach().float().cpu()
        part = name.split(".")[-2]
        if part in heads:
            # GGUF wants the two halves of each head, which turn together, in alternating rows.
            halves = tensor.view(heads[part], 2, -1, tensor.shape[-1])
            tensor = halves.transpose(1, 2).reshape(tensor.shape)
        kind = np.float32 if tensor.dim() == 1 else np.float16
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy().astype(kind))


def publish(folder: Path, repository: str, dry_run: bool = True) -> list[str]:
    """Send a saved model to the Hugging Face Hub, or only say what would be sent.

    folder: as `save_model` writes it. repository: "your-name/model-name"; a new one is private.
    dry_run: look at everything, send nothing, need no network.
    Returns the names of the files.

    Raises ModelError when a file is missing, when the card does not say what the model was made
    from, with which data, under which licence, how good it is and what it is not for, and when the
    Hub does not take it.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ModelError(f"The Hub does not allow this name: {error} Choose another.") from error
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ModelError(
            f"{folder} lacks {', '.join(missing)}. Save the model there first (save_model), with "
            "its card as README.md."
        )
    card = metadata_load(folder / "README.md") or {}
    silent = [key for key in CARD if not card.get(key)]
    if f"{LIMITS}- " not in (folder / "README.md").read_text(encoding="utf-8"):
        silent.append("limits")
    if silent:
        raise ModelError(
            f"The card says nothing about {', '.join(silent)}. Score the model, and give what "
            "card_metadata makes of the scores to model_card, with sentences on its limits."
        )
    files = sorted(file.name for file in folder.iterdir() if file.is_file())
    if not dry_run:
        api = HfApi()
        try:
            api.create_repo(repository, private=True, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=files)
        except (OSError, HTTPError) as error:
            raise ModelError(
                f"The Hub did not take the model: {error}\nNothing is lost: it is all still in "
                f"{folder}. Log in with `hf auth login`, make sure that the network can be "
                "reached (and that HF_HUB_OFFLINE is not set), and call publish again."
            ) from error
    return files
