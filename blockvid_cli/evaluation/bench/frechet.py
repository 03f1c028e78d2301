"""Fréchet distance between two sets of features, each taken for a Gaussian (Heusel et al. 2017)."""

from __future__ import annotations

import torch


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """|m_a - m_b|² + tr(C_a + C_b - 2 (C_a C_b)^½) of features (N, D) and (M, D), in float64."""
    (mean_a, cov_a), (mean_b, cov_b) = (_moments(features.double()) for features in (a, b))
    root = _root(cov_a)
    middle = _root(root @ cov_b @ root)
    distance = (mean_a - mean_b).square().sum() + torch.trace(cov_a + cov_b - 2 * middle)
    return max(float(distance), 0.0)


def _moments(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return features.mean(0), torch.cov(features.T)


def _root(matrix: torch.Tensor) -> torch.Tensor:
    """The symmetric root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
