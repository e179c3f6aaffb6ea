"""The tested code behind the notebooks, in packages along the road of the data.

data → model → inference → training → evaluation → display → exercises: each may use those before
it and none that comes after it. The modules beside the packages are used by all of them.
"""

from helpers.profiles import setup_notebook as setup_notebook  # loads no PyTorch
