"""How hypothesis draws its examples: the same ones each time, however slow the machine is.

And what is only collected when it is named: tests/browser takes minutes and needs a browser,
tests/binder takes an hour.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "course",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("course")

collect_ignore = ["binder", "browser"]
