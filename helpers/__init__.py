"""The tested code behind the notebooks, in the order that data flows.

Last come the exercises, in helpers.checks: they may use all the others, and none uses them.
"""
