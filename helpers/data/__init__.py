"""From a table to batches of token ids, all in standard `datasets` objects."""

from helpers.data.describe import describe, personal, suggest, too_little, write_task
from helpers.data.formats import TableError
from helpers.data.split import (
    SplitError,
    leaked_rows,
    leaks,
    lock_test_set,
    open_test_set,
    split_at_random,
    split_by_group,
)
from helpers.data.table import (
    TableReport,
    group_key,
    load_table,
    same_text,
    share_of_common_words,
)
from helpers.data.task import (
    Task,
    TaskError,
    load_examples,
    load_task,
    scored_rows,
    test_examples,
)
from helpers.data.templates import (
    NoExample,
    Template,
    TemplateError,
    load_templates,
)
from helpers.data.tokenize import (
    IGNORE,
    TokenizeError,
    as_chat,
    collate,
    completion_ids,
    length_grouped_batches,
    make_labels,
    prompt_ids,
    tokenize,
)
