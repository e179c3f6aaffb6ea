"""The course's examples in TRL's SFTTrainer, for several devices.

    accelerate launch --config_file data/accelerate/fsdp.yaml data/accelerate/sft.py

COURSE_TASK and COURSE_PROFILE choose task, model and sizes, as in the notebooks. The last line says
how the model was really spread.
"""

import tempfile

import torch
from trl import SFTConfig, SFTTrainer

from helpers.data import load_examples, load_task
from helpers.model import load_model
from helpers.training import TrainSettings

settings = TrainSettings()
rows = load_examples(load_task())["train"].select_columns(["prompt", "completion"])
model, tokenizer = load_model(device="cpu")  # the trainer puts it where it belongs
with tempfile.TemporaryDirectory() as folder:
    config = SFTConfig(
        folder,
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=4,
        max_length=None,  # by default it cuts, without a word
        bf16=settings.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    if trainer.accelerator.is_main_process:
        state = trainer.accelerator.state
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        print(f"{len(losses)} steps, loss {losses[0]:.3f} at first, {losses[-1]:.3f} at last")
        print(f"{state.num_processes} processes, spread as {state.distributed_type}")
