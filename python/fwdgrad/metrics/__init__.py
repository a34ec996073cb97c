"""Metrics of maps: curves of the score, localization, sparseness, agreement, sanity.

>>> import torch
>>> from fwdgrad import metrics
>>> metrics.gini(torch.tensor([0.0, 0.0, 0.0, 1.0]))
0.75
"""

from fwdgrad.metrics.agreement import cosine, pearson, spearman, top_k_overlap
from fwdgrad.metrics.chance import random_order
from fwdgrad.metrics.curves import Curve, deletion, insertion, rise_blur
from fwdgrad.metrics.information import InformationCurve, information_curve, median_curve
from fwdgrad.metrics.localization import pointing_game, share_inside
from fwdgrad.metrics.sanity import consistency, invariance, layers_of, randomised, shifted
from fwdgrad.metrics.sparseness import gini

__all__ = [
    "Curve",
    "InformationCurve",
    "consistency",
    "cosine",
    "deletion",
    "gini",
    "information_curve",
    "insertion",
    "invariance",
    "layers_of",
    "median_curve",
    "pearson",
    "pointing_game",
    "random_order",
    "randomised",
    "rise_blur",
    "share_inside",
    "shifted",
    "spearman",
    "top_k_overlap",
]
