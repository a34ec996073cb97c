"""How good is a map: curves of the score, localization, sparseness, agreement.

>>> import torch
>>> from fwdgrad import metrics
>>> metrics.gini(torch.tensor([0.0, 0.0, 0.0, 1.0]))
0.75
"""

from fwdgrad.metrics.agreement import cosine, pearson, spearman, top_k_overlap
from fwdgrad.metrics.curves import Curve, deletion, insertion, rise_blur
from fwdgrad.metrics.localization import pointing_game, share_inside
from fwdgrad.metrics.sparseness import gini

__all__ = [
    "Curve",
    "cosine",
    "deletion",
    "gini",
    "insertion",
    "pearson",
    "pointing_game",
    "rise_blur",
    "share_inside",
    "spearman",
    "top_k_overlap",
]
