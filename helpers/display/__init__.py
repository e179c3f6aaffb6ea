"""What a notebook shows: tables, tokens, pictures and widgets, each with its message in words."""

from helpers.display.charts import (
    balance,
    batch_shapes,
    change_map,
    confusion_figure,
    distribution_strip,
    gradient_figure,
    interval_chart,
    reliability_figure,
    show,
    spread,
    two_distributions,
)
from helpers.display.curves import (
    evaluations_figure,
    history_summary,
    museum_wall,
    price_chart,
    training_curve,
)
from helpers.display.diagrams import (
    draw_all_reduce,
    draw_backward,
    draw_epoch,
    draw_padding,
    draw_parts,
    draw_shift,
    draw_three_ways,
    draw_window,
    show_road,
)
from helpers.display.tables import show_table
from helpers.display.tokens import Token, show_tokens
from helpers.display.widgets import (
    BudgetMeter,
    DistributionSlider,
    FixedQuestion,
    LiveCurve,
    LossMicroscope,
    SideBySide,
    TaskForm,
    TemplatePlayground,
)
