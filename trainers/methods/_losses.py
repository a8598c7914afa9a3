"""Building blocks that several methods share: divergences between logits, and terms on a teacher's answer to synthetic images."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_per_sample(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Softened KL divergence from teacher to student, one value a sample (Hinton et al. 2015, Sec. 2).

        l_i = T^2 * sum_j p_ij (log p_ij - log q_ij),  p = softmax(t / T), q = softmax(s / T)

    Args:
        student_logits: s, shape (B, K).
        teacher_logits: t, shape (B, K); the target distribution.
        temperature: T > 0.

    Returns:
        Shape (B,), in nats times T^2.
    """
    log_q = F.log_softmax(student_logits.float() / temperature, dim=1)
    log_p = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(dim=1)


def l1_per_sample(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean absolute difference of raw logits over the classes: l_i = 1/K sum_j |s_ij - t_ij|. Shape (B,)."""
    return (student_logits.float() - teacher_logits.float()).abs().mean(dim=1)


def one_hot_loss(teacher_logits: Tensor) -> Tensor:
    """Cross-entropy of the teacher with its own decision, batch mean: CE(t, argmax_j t_j). Pulls images towards sure answers.

    Args:
        teacher_logits: t, shape (B, K), with gradient to the images.

    Returns:
        Scalar in nats.
    """
    return F.cross_entropy(teacher_logits.float(), teacher_logits.argmax(dim=1))


def class_balance(teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Negative entropy of the batch's mean prediction: sum_c pbar_c log pbar_c, pbar = mean_i softmax(t_i / T).

    Minimising it spreads a batch over the classes. 1e-12 inside the logarithm guards classes that never occur.

    Returns:
        Scalar in nats, between -ln K and 0.
    """
    mean = F.softmax(teacher_logits.float() / temperature, dim=1).mean(dim=0)
    return (mean * (mean + 1e-12).log()).sum()


def activation_loss(pooled: Tensor) -> Tensor:
    """Negative mean magnitude of the teacher's pooled feature: -mean |f|. Scalar."""
    return -pooled.float().abs().mean()


def agreement_mask(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """1 where student and teacher decide alike, else 0. Shape (B,), float, without gradient."""
    return (student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).float().detach()


def js_divergence(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 3.0, clamp: float = 0.01
) -> Tensor:
    """The reversed Jensen-Shannon form of DeepInversion's released code, batch mean.

        P = softmax(s / T), Q = softmax(t / T), M = (P + Q) / 2, all clamped to [clamp, 1 - clamp]
        J = 1/2 sum M (log M - log P) + 1/2 sum M (log M - log Q)

    This is the divergence of the mixture from each part, not the textbook JSD, and after clamping the vectors
    do not sum to 1 (with 100 classes the floor equals a flat prediction, so J can be slightly negative).

    Returns:
        Scalar in nats.
    """
    p = F.softmax(student_logits.float() / temperature, dim=1)
    q = F.softmax(teacher_logits.float() / temperature, dim=1)
    m = (p + q) / 2
    if clamp > 0:
        p, q, m = (x.clamp(clamp, 1 - clamp) for x in (p, q, m))
    per_sample = 0.5 * (m * (m.log() - p.log())).sum(dim=1) + 0.5 * (m * (m.log() - q.log())).sum(dim=1)
    return torch.mean(per_sample)


def distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, form: Literal["kl", "l1"], temperature: float
) -> Tensor:
    """The student's loss in the CMI authors' benchmark and its forks, batch mean.

        kl: 1/B sum_i T^2 KL_T(t_i || s_i);  l1: 1/(B K) sum_ij |s_ij - t_ij|, T unused

    Returns:
        Scalar.
    """
    if form == "l1":
        return l1_per_sample(student_logits, teacher_logits).mean()
    return kl_per_sample(student_logits, teacher_logits, temperature).mean()
