"""How nbgrader grades the exercises of this course; README.md in this folder says how to use it."""

import os
import sys
from pathlib import Path

from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearOutput,
    ComputeChecksums,
    LockCells,
    SaveCells,
)

ROOT = Path(__file__).resolve().parent.parent

# The notebooks run in folders of nbgrader's, far from the helpers. Kernels inherit all this.
os.environ["PYTHONPATH"] = str(ROOT)
# nbgrader calls a program of its own environment by its bare name.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["COURSE_GRADING"] = "1"  # a check that is not right raises, which costs its point
os.environ.setdefault("COURSE_PROFILE", "quick")
os.environ.setdefault("COURSE_RUNS", str(Path.cwd() / "runs"))

c = get_config()  # noqa: F821 - given by Jupyter
c.CourseDirectory.course_id = "first-fine-tune"
# The notebooks hold no solutions. nbgrader's step that removes them would take the stubs as well.
c.GenerateAssignment.preprocessors = [
    LockCells,
    ClearOutput,
    CheckCellMetadata,
    ComputeChecksums,
    SaveCells,
    CheckCellMetadata,
]
c.Execute.timeout = 3600  # seconds a cell; training takes minutes
c.Execute.startup_timeout = 300  # a class is graded on a machine that has other things to do
c.Execute.iopub_timeout = 120
