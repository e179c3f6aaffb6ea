"""The tested code behind the notebooks, in the order that data flows."""
