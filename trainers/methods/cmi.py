"""CMI: a generator inverts the teacher anew each epoch, and its batch is to differ from all earlier ones (arXiv 2105.08584)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from trainers import seeding
from trainers.config import Protocol
from trainers.data._augment import standardise_unit
from trainers.methods import Case, Context, Terms
from trainers.methods._gan import TeacherView
from trainers.methods._inversion import InversionConfig, InversionMethod, Lowest, pool_faults, synthesis_batch
from trainers.methods._losses import agreement_mask, kl_per_sample
from trainers.synthesis import generator as generators
from trainers.synthesis import input_means, memory_bank
from trainers.synthesis.bn_statistics import bn_layer_faults
from trainers.synthesis.dafl_generator import DaflGenerator
from trainers.synthesis.input_means import InputMeans, Layers
from trainers.synthesis.memory_bank import MemoryBank
from trainers.synthesis.views import global_view, local_view

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
TRAITS = {"Target": "Memory", "Student": "No", "Dynamic": "Yes"}  # as CuDFKD's Table I prints it


class Config(InversionConfig):
    """Defaults: the script that trains from scratch in the benchmark of the CMI authors (zju-vipa/DataFree)."""

    iterations: int = Field(200, gt=0, description="updates of generator, latents and head in each epoch (scripts)")
    latent_dim: int = Field(256, gt=0, description="dimensions of z (scripts)")
    generator_width: int = Field(64, gt=0, description="maps before the last convolution (code)")
    generator_lr: float = Field(1e-3, gt=0, description="Adam on the generator and on z (scripts)")
    generator_beta1: float = Field(0.5, ge=0, lt=1, description="Adam (code)")
    generator_beta2: float = Field(0.999, ge=0, lt=1, description="Adam (code)")
    bn: float = Field(1.0, ge=0, description="weight of the BatchNorm statistics (scripts)")
    one_hot: float = Field(
        1.0, ge=0, description="weight of the cross-entropy with the class (scripts; 0.5 in adv-CMI)"
    )
    adversarial: float = Field(0.5, ge=0, description="weight of the student's disagreement (scripts)")
    contrastive: float = Field(0.8, ge=0, description="weight of the contrastive term (scripts)")
    contrastive_temperature: float = Field(
        0.1, gt=0, description="divides the cosines (scratch and adv scripts; 0.2 in cmi_cifar10 and Tiny-ImageNet)"
    )
    bank_images: int = Field(
        40_960, gt=0, description="entries of the memory bank, a multiple of the synthesis batch (code)"
    )
    negatives: int = Field(
        4096, ge=0, description="entries drawn from the bank in each update, fewer at the start (code)"
    )
    feature_layers: Layers = Field(
        "auto",
        description="whose inputs are compared: all norms, or the stages; auto: stages where there are four (code: ResNet34)",
    )
    head_dim: int = Field(256, gt=0, description="dimensions in which features are compared (scripts)")
    head_lr: float = Field(1e-3, gt=0, description="Adam on the head (scripts: the generator's)")
    local_scale: float = Field(
        0.25, gt=0, le=1, description="smallest share of an image that a local view shows (code)"
    )

    @model_validator(mode="after")
    def _something_to_invert(self) -> Config:
        if not (self.bn or self.one_hot or self.adversarial or self.contrastive):
            raise ValueError("one of bn, one_hot, adversarial and contrastive must be above 0")
        return self

    def inactive(self) -> frozenset[str]:
        if self.contrastive == 0:
            return frozenset(
                {
                    "contrastive_temperature",
                    "bank_images",
                    "negatives",
                    "feature_layers",
                    "head_dim",
                    "head_lr",
                    "local_scale",
                }
            )
        return frozenset({"bank_images"} if self.negatives == 0 else ())


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "scratch": {"synthesis_batch": 256},
    "cudfkd-fork": {"synthesis_batch": 512},
    "cmi-cifar10": {"contrastive_temperature": 0.2},
    "tiny": {"contrastive_temperature": 0.2, "temperature": 2.0},
    "adversarial": {"one_hot": 0.5, "synthesis_batch": 256},
}
"""scratch: zju-vipa's scratch script, batch 128. cudfkd-fork: the CIFAR-10 scripts of CuDFKD's code, batch 256. cmi-cifar10: the
script of that name. tiny: Tiny-ImageNet in CuDFKD's code. adversarial: the adv-CMI scripts WITHOUT the set of some 50 000 images
inverted beforehand that they start from, so its numbers are not theirs."""


def faults(config: Config, case: Case) -> list[str]:
    """Image sizes the generator cannot make, teachers without what is compared, banks and pools that would not fit."""
    assert case.teacher is not None
    found = pool_faults(config, case.protocol, case.info)
    if case.info.size % 4:
        found.append(f"CMI's generator needs an image size divisible by 4, got {case.info.size}")
    if config.bn > 0:
        found += bn_layer_faults(case.teacher, case.info)
    if config.contrastive > 0:
        unusable = input_means.layer_faults(case.teacher, case.info, config.feature_layers)
        found += unusable
        if config.negatives > 0 and not unusable:
            dims = input_means.dims(case.teacher, case.info.channels, case.info.size, config.feature_layers)
            found += memory_bank.faults(config.bank_images, synthesis_batch(config, case.protocol), dims)
    return found


def synthesis_images(config: Config, protocol: Protocol) -> int:
    """Views that pass through the teacher in one epoch's synthesis."""
    return config.iterations * synthesis_batch(config, protocol) * (2 if config.contrastive > 0 else 1)


def adversarial_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """What rewards images that both take for the same class, but not equally surely (CMI, "decision adversarial").

        L = -1/B sum_i 1[argmax s_i = argmax t_i] KL(t_i || s_i), T = 1

    Args:
        student_logits: s, shape (B, K), of the frozen student, with gradient to the images.
        teacher_logits: t, shape (B, K), likewise.

    Returns:
        Scalar in nats. Images without agreement count as zeros in the mean.
    """
    return -(agreement_mask(student_logits, teacher_logits) * kl_per_sample(student_logits, teacher_logits, 1.0)).mean()


def contrastive_loss(local: Tensor, whole: Tensor, current: int, temperature: float) -> Tensor:
    """How hard an image's local view is to match with its own global view, among those of all images (CMI's L_cr).

        c_i = CE(u_i . w / T, i);  L = mean_(i <= N) c_i + mean_(i > N) c_i, the second where there are cached rows

    Args:
        local: u, projected features of the local views, unit rows, shape (N + N', D): the batch first, then cached ones.
        whole: w, those of the global views in the same order; receives no gradient.
        current: N.
        temperature: T > 0.

    Returns:
        Scalar in nats.
    """
    with torch.autocast(local.device.type, enabled=False):
        cosines = local.float() @ whole.detach().float().T  # (N + N', N + N')
        rows = F.cross_entropy(cosines / temperature, torch.arange(len(local), device=local.device), reduction="none")
    loss = rows[:current].mean()
    return loss + rows[current:].mean() if len(rows) > current else loss


class Head(nn.Module):
    """Features (B, d) to unit vectors (B, D): linear d -> d, ReLU, linear d -> D."""

    def __init__(self, dims: int, head_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dims, dims), nn.ReLU(), nn.Linear(dims, head_dim))

    def forward(self, features: Tensor) -> Tensor:
        return F.normalize(self.layers(features).float(), dim=1)


class Contrast:
    """The contrastive side of CMI: views, features, the head that persists, and the bank of earlier features."""

    def __init__(self, config: Config, context: Context, batch: int) -> None:
        self.config = config
        self.context = context
        self.means = InputMeans(context.frozen, config.feature_layers)
        info = context.info
        with torch.no_grad(), self.means:
            context.frozen(torch.zeros((1, info.channels, info.size, info.size), device=context.device))
        dims = self.means.features().shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seeding.stream_seed(context.seed, "weights", "head"))
            self.head = Head(dims, config.head_dim).to(context.device)
        self.optimizer = context.adam(self.head.parameters(), lr=config.head_lr)
        self.bank = None
        if config.negatives > 0:
            self.bank = MemoryBank(context.pool_folder, config.bank_images, batch, dims)

    def loss(
        self, images: Tensor, whole: Tensor, views: torch.Generator, cached: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """`contrastive_loss` of a batch, and the features of its local views.

        Args:
            images: in [0, 1], shape (N, C, H, W).
            whole: features of their global views, shape (N, d).
            views: draws the local views; on the device.
            cached: draws from the bank; on the CPU.
        """
        info, config = self.context.info, self.config
        with self.means:
            self.context.frozen(standardise_unit(local_view(images, info, config.local_scale, views), info))
        local = self.means.features()
        rows, columns = local, whole.detach()
        if self.bank is not None and len(self.bank):
            old_local, old_whole = self.bank.sample(config.negatives, cached, self.context.device)
            rows, columns = torch.cat([local, old_local]), torch.cat([columns, old_whole])
        with torch.no_grad():
            columns = self.head(columns)
        return contrastive_loss(self.head(rows), columns, len(local), config.contrastive_temperature), local

    def state_dict(self) -> dict[str, Any]:
        state = {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state if self.bank is None else state | {"bank": self.bank.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])


class Method(InversionMethod):
    """Before each epoch a fresh generator and its latents make one batch; the student trains on all batches so far."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.view = TeacherView(context, statistics=config.bn > 0, pooled=False)
        self.contrast = Contrast(config, context, self.synthesis_batch) if config.contrastive > 0 else None

    def invert(self) -> tuple[Tensor, Terms]:
        config, contrast, device = self.config, self.contrast, self.context.device
        generator = self.new_generator().to(memory_format=self.context.memory_format)  # type: ignore[call-overload]
        size = (self.synthesis_batch, config.latent_dim)
        latent = torch.randn(size, generator=self.stream("latent"), device=device).requires_grad_()
        optimizer = self.context.adam(
            [*generator.parameters(), latent],
            lr=config.generator_lr,
            betas=(config.generator_beta1, config.generator_beta2),
        )
        labels = self.labels()
        global_views, local_views, cached = self.stream("global"), self.stream("local"), self.stream("bank", "cpu")
        lowest = Lowest()
        terms: Terms = {}
        for _ in range(config.iterations):
            images = generator(latent).float()
            seen = standardise_unit(global_view(images, self.context.info, global_views), self.context.info)
            terms, whole = self.terms(seen, labels)
            features: tuple[Tensor, ...] = ()
            if contrast is not None and whole is not None:
                loss, local = contrast.loss(images, whole, local_views, cached)
                terms["contrastive"] = config.contrastive * loss
                features = (local, whole)
                contrast.optimizer.zero_grad(set_to_none=True)
            total = torch.stack(list(terms.values())).sum()
            lowest.offer(total, images, *features)
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            optimizer.step()
            if contrast is not None:
                contrast.optimizer.step()
        images, *kept = lowest.tensors
        if contrast is not None and contrast.bank is not None:
            contrast.bank.append(*kept)
        return images, terms

    def new_generator(self) -> DaflGenerator:
        """Weights N(0, 0.02) from a stream of this epoch; in train mode, for its statistics are those of its batch."""
        config, info = self.config, self.context.info
        return generators.fresh(
            lambda: DaflGenerator(config.latent_dim, info.channels, info.size, width=config.generator_width),
            init="normal",
            seed=seeding.stream_seed(self.context.seed, "inversion", self.epoch),
            device=self.context.device,
        )

    def terms(self, seen: Tensor, labels: Tensor) -> tuple[Terms, Tensor | None]:
        """Weighted terms of the global views, and their features where they are compared."""
        config, whole = self.config, None
        terms: Terms = {}
        if self.contrast is None:
            teacher_logits = self.view.logits(seen)
        else:
            with self.contrast.means as means:
                teacher_logits = self.view.logits(seen)
            whole = means.features()
        if config.bn > 0:
            terms["bn"] = config.bn * self.view.bn
        if config.one_hot > 0:
            terms["one_hot"] = config.one_hot * F.cross_entropy(teacher_logits.float(), labels)
        if config.adversarial > 0:
            terms["adversarial"] = config.adversarial * adversarial_loss(self.context.student(seen), teacher_logits)
        return terms, whole

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        return state if self.contrast is None else state | {"contrast": self.contrast.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.contrast is not None:
            self.contrast.load_state_dict(state["contrast"])
