"""Ask the model: few-shot prompts, constrained answers and free ones."""

from helpers.inference.batches import InferenceError
from helpers.inference.few_shot import (
    Budget,
    draw_shots,
    few_shot_prompt,
    fit_shots,
    prompt_budget,
    shots_prefix,
)
from helpers.inference.generate import (
    answer_both_ways,
    answer_form,
    answer_length,
    generate_answers,
)
from helpers.inference.score import choice_accuracy, pick_choices, predict_answers, score_choices
