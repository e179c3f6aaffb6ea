"""The tested code behind the notebooks, in the order that data flows.

Last come the exercises, in helpers.checks: they may use all the others, and none uses them.
"""

__all__ = ["setup_notebook"]


def __getattr__(name: str) -> object:
    """Fetch setup_notebook when it is asked for: `import helpers` alone loads no PyTorch."""
    if name == "setup_notebook":
        from helpers.profiles import setup_notebook

        return setup_notebook
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
