"""From a table to batches of token ids, all in standard `datasets` objects."""

from helpers.data.describe import describe, suggest, too_little, write_task
from helpers.data.split import leaks, lock_test_set, split_by_group
from helpers.data.table import group_key, same_text, share_of_common_words
from helpers.data.task import Task, load_examples, load_task, scored_rows, test_examples
from helpers.data.templates import Template, load_templates
from helpers.data.tokenize import (
    IGNORE,
    as_chat,
    collate,
    completion_ids,
    length_grouped_batches,
    make_labels,
    prompt_ids,
    tokenize,
)
