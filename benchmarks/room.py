"""How much memory and processor time learners at one server need: `python -m benchmarks.room`.

Starts some kernels at once, as so many learners would, and has each do what a notebook does: import
the libraries, load the starting model, answer rows, train a few steps. After each stage it prints
the memory of each kernel (its own, and with its share of what all have in common) and the processor
time that was used.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
from jupyter_client.manager import start_new_kernel

STAGES = {
    "libraries imported": "from helpers import setup_notebook; setup_notebook('01_prompt')",
    "model loaded": """
from helpers.model import load_model
from helpers.data import load_examples, load_task
model, tokenizer = load_model("smollm2-135m")
rows = load_examples(load_task())["validation"].select(range(12))
""",
    "12 rows answered": """
from helpers.inference import score_choices
_ = score_choices(model, tokenizer, list(rows["prompt"]), load_task().choices)
""",
    "4 steps of 8 rows trained": """
from helpers.data import collate, tokenize
from helpers.training import TrainSettings, make_optimizer, training_memory, training_step
settings = TrainSettings()
optimizer = make_optimizer(model, settings)
batch = collate(tokenize(rows, tokenizer, model.config).to_list()[:8], tokenizer.pad_token_id)
with training_memory(model, settings.low_memory):
    for _ in range(4):
        training_step(model, optimizer, [batch], settings)
""",
}


def measure(kernels: int) -> None:
    """Print a line for each stage. Raises RuntimeError with what went wrong in a kernel."""
    root = os.getcwd()
    started = [start_new_kernel(cwd=root) for _ in range(kernels)]
    processes = [psutil.Process(manager.provisioner.process.pid) for manager, _ in started]
    print(f"{kernels} kernels at once, {os.environ.get('OMP_NUM_THREADS', 'all')} threads each")
    used = 0.0
    for stage, code in STAGES.items():
        begin = time.monotonic()
        with ThreadPoolExecutor(kernels) as at_once:
            asked = [
                at_once.submit(client.execute, code, reply=True, timeout=600)
                for _, client in started
            ]
        for reply in (one.result()["content"] for one in asked):
            if reply["status"] != "ok":
                raise RuntimeError("\n".join(reply["traceback"]))
        seconds = time.monotonic() - begin
        memory = [process.memory_full_info() for process in processes]
        own, with_share = max(m.uss for m in memory), max(getattr(m, "pss", m.rss) for m in memory)
        total = sum(sum(process.cpu_times()[:2]) for process in processes)
        print(
            f"{stage:26} own {own / 1e9:.2f} GB, with its share {with_share / 1e9:.2f} GB; "
            f"{seconds:5.1f} s, processor {(total - used) / kernels:5.1f} s a kernel",
            flush=True,
        )
        used = total
    for manager, client in started:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
