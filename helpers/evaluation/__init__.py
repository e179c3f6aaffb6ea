"""How good is a model, how sure is that, and what does it forget?"""

from helpers.evaluation.baselines import baseline_predictions, majority_label, rival_answers
from helpers.evaluation.forgetting import (
    EvalResult,
    EvalSuite,
    load_prose,
    load_questions,
    mix,
    tokenize_text,
)
from helpers.evaluation.metrics import (
    ScoringError,
    accuracy,
    holds_answer,
    load_metric,
    macro_f1,
    main_metric,
    read_answer,
    right_answers,
    rouge,
    row_scores,
    score_all,
    table_cell,
)
from helpers.evaluation.prompt_search import (
    best_prompt,
    build_prompts,
    calibrate,
    kept_prompts,
    label_bias,
    predict_with,
    search_prompts,
)
from helpers.evaluation.scoreboard import Scoreboard, boards_json, boards_page, scoreboard
from helpers.evaluation.uncertainty import (
    bootstrap_interval,
    expected_calibration_error,
    groups_of,
    interval_ahead,
    mean_interval,
    paired_change,
    paired_test,
    share_of,
    verdict_of,
    wilson_interval,
)
