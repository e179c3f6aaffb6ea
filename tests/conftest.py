"""How hypothesis draws its examples: the same ones each time, however slow the machine is."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "course",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("course")
