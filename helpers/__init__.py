"""The tested code behind the notebooks, in packages along the road of the data.

data → model → inference → training → evaluation → display → exercises: each may use those before
it and none that comes after it. The modules beside the packages are used by all of them.
"""

__all__ = ["setup_notebook"]  # noqa: F822 - __getattr__ has it


def __getattr__(name: str) -> object:
    """Fetch setup_notebook when it is asked for: `import helpers` alone loads no PyTorch."""
    if name == "setup_notebook":
        from helpers.profiles import setup_notebook

        return setup_notebook
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
