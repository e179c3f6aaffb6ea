"""The exercises of notebook 11, held against the libraries that do the same."""

import pytest
import torch
from transformers import TopPLogitsWarper

from helpers.exercises.at_work import top_p


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_top_p_is_that_of_transformers(p, seed):
    scores = 3 * torch.randn(1, 50, generator=torch.Generator().manual_seed(seed))
    theirs = TopPLogitsWarper(p)(torch.zeros(1, 1, dtype=torch.long), scores).softmax(-1)[0]
    ours = top_p(scores.softmax(-1)[0].tolist(), p)
    assert ours == pytest.approx(theirs.tolist(), abs=1e-5)
    assert 0 < sum(value > 0 for value in ours) < 50
