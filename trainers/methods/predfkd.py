"""PRE-DFKD: a VAE learns earlier synthetic images and replays them beside new ones (Binici et al., AAAI 2022, arXiv 2201.03019)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainers import artifacts, seeding
from trainers.config import Protocol
from trainers.methods import Case, Context, Terms
from trainers.methods._losses import class_balance, l1_per_sample, one_hot_loss
from trainers.methods._novel import LOG10_E, NovelConfig, NovelMethod, novel_faults
from trainers.synthesis import vae

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
TRAITS = {"Target": "Memory", "Student": "Yes", "Dynamic": "Yes"}  # replays from a VAE that goes on learning

ADAM_EPSILON = 1e-8


class Config(NovelConfig):
    """Defaults: the CIFAR-100 ResNet34 -> ResNet18 command of the released code."""

    vae_steps: int = Field(
        4,
        ge=0,
        description="VAE updates in a cycle, one after each of its first student updates; 0: it never learns (released code)",
    )
    vae_share: float = Field(
        0.5, gt=0, le=1, description="novel images of a batch that the VAE learns: B / 2 (released code)"
    )
    vae_lr: float = Field(5e-4, gt=0, description="Adam, constant, of encoder and decoder: 0.02 / 40 (released code)")
    divergence: float = Field(1e-5, ge=0, description="weight of the latents' KL divergence (released code)")
    latent_lr: float = Field(
        0.02, gt=0, description="Adam, one step, on the latents of replayed images (released code)"
    )
    decoder_matching: bool = Field(
        True,
        description="the decoder also descends on what its latents are fitted to: that gradient is not cleared (released code)",
    )

    @model_validator(mode="after")
    def _vae_follows_student_updates(self) -> Config:
        if self.vae_steps > self.student_steps:
            raise ValueError(f"vae_steps {self.vae_steps} must not exceed student_steps {self.student_steps}")
        return self

    def inactive(self) -> frozenset[str]:
        unused = {"vae_share", "vae_lr", "divergence", "decoder_matching"} if self.vae_steps == 0 else set()
        return super().inactive() | unused


PRESETS: Mapping[str, Mapping[str, Any]] = {"released-cifar100": {}, "batch-js": {"js_reduction": "batch"}}
"""released-cifar100: the command of the authors' repository. batch-js: with the batch mean of DeepInversion's JS term, which the
released code divides by the number of classes."""


def faults(config: Config, case: Case) -> list[str]:
    """Sizes that the networks cannot make, and batches that leave the VAE or the variance of latents fewer than 2 images."""
    found = novel_faults(config, case.protocol, case.info, least=2)
    if config.vae_steps and int(config.vae_share * case.protocol.batch_size) < 2:
        found.append(
            f"vae_share {config.vae_share:g} of batch_size {case.protocol.batch_size} gives fewer than 2 images"
        )
    return found


def synthesis_images(config: Config, protocol: Protocol) -> int:
    """Images that pass teacher and a generator in one epoch to be improved: novel ones, replayed ones, those the VAE learns."""
    updates = protocol.updates_per_epoch or 0
    cycles, rest = divmod(updates, config.student_steps)
    replayed = config.replayed(protocol.batch_size)
    learnt = int(config.vae_share * protocol.batch_size) + 2 * replayed  # fitted, then learnt
    vae_updates = cycles * config.vae_steps + min(rest, config.vae_steps)
    novel = (cycles + (rest > 0)) * config.generator_steps * protocol.batch_size
    return novel + updates * replayed + vae_updates * learnt


def latent_loss(teacher_logits: Tensor, latents: Tensor, config: Config) -> Tensor:
    """What the latents of replayed images are fitted to (released code, `distill_knowledge`).

        one_hot * CE(t, argmax t) + balance * sum_c pbar_c log10 pbar_c + mean_d (var_d - 1)^2 + mean_d (mean_d)^2

    Args:
        teacher_logits: t of the decoded images, shape (M, K), with gradient to the latents.
        latents: z, shape (M, Z), M >= 2; var_d and mean_d are unbiased moments over M of dimension d.

    Returns:
        Scalar.
    """
    loss = (latents.var(dim=0) - 1).square().mean() + latents.mean(dim=0).square().mean()
    loss = loss + config.one_hot * one_hot_loss(teacher_logits)
    return loss + config.balance * LOG10_E * class_balance(teacher_logits)


def first_adam_step(values: Tensor, gradient: Tensor, lr: float) -> Tensor:
    """Values after the first step of a fresh Adam, whose moments cancel: values - lr * g / (|g| + 1e-8). Without gradient."""
    return values.detach() - lr * gradient / (gradient.abs() + ADAM_EPSILON)


def vae_loss(
    decoded: Tensor,
    images: Tensor,
    decoded_logits: Tensor,
    image_logits: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    divergence: float,
) -> Tensor:
    """What encoder and decoder minimise (released code, `train_memory_generator`).

        mean |decoded - images| + mean |t(decoded) - t(images)| + divergence * KL( N(mean, e^log_variance) || N(0, I) )

    Args:
        decoded: reconstruction, shape (M, C, H, W).
        images: what was encoded, likewise; receives no gradient.
        decoded_logits: the teacher's, shape (M, K).
        image_logits: likewise; receives no gradient.
        mean: of the encoder, shape (M, Z).
        log_variance: likewise.

    Returns:
        Scalar; the first two terms are means over all entries, the third over the batch.

    Departs from the paper: it compares the teacher's features; the released code compares images and logits.
    """
    pixels = (decoded - images.detach()).abs().mean()
    logits = l1_per_sample(decoded_logits, image_logits.detach()).mean()
    return pixels + logits + divergence * vae.latent_divergence(mean, log_variance)


class Method(NovelMethod):
    """Student batches are B novel and B / 8 decoded images; the first updates of a cycle are each followed by one of the VAE.

    Latents of decoded images are drawn afresh and fitted by one Adam step each time. In the first cycle of a trial the VAE
    learns novel images alone.
    """

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        info, sizes = context.info, {"width": config.generator_width, "seed": context.seed}
        self.encoder = vae.build_encoder(config.latent_dim, info.channels, info.size, device=context.device, **sizes)
        self.decoder = vae.build_decoder(config.latent_dim, info.channels, info.size, device=context.device, **sizes)
        self.vae_optimizer = context.adam([*self.encoder.parameters(), *self.decoder.parameters()], lr=config.vae_lr)
        self.learnt = int(config.vae_share * context.protocol.batch_size)
        self.novel = torch.empty(0)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.memory = seeding.stream(self.context.seed, "memory", epoch, device=self.context.device)
        self.without_memory = epoch == 0
        self.step = 0
        self.losses: list[Tensor] = []

    def synthesise(self) -> Terms:
        if self.step:  # the first cycle is over
            self.without_memory = False
        self.step = 0
        return super().synthesise()

    def images(self) -> Tensor:
        novel = self.novel_images()
        self.novel = novel[: self.learnt]
        return torch.cat([novel, self.remembered(self.replayed, self.memory)])

    def remembered(self, count: int, stream: torch.Generator) -> Tensor:
        """Images decoded from fitted latents by the decoder in eval mode, without gradient, shape (count, C, H, W)."""
        self.decoder.eval()
        latents, loss = self._latents(count, stream)
        (gradient,) = torch.autograd.grad(loss, latents)
        return self._decoded_after_step(latents, gradient)

    def after_student_update(self) -> None:
        self.step += 1
        if self.step <= self.config.vae_steps:
            self._update_vae()

    def _update_vae(self) -> None:
        config, teacher = self.config, self.context.frozen
        self.decoder.train()
        self.vae_optimizer.zero_grad(set_to_none=True)
        images = self.novel.float()
        if not self.without_memory:
            latents, fit = self._latents(self.replayed, self.memory)
            if config.decoder_matching:
                fit.backward()  # the decoder's gradient stays for its step below
                assert latents.grad is not None
                gradient = latents.grad
            else:
                (gradient,) = torch.autograd.grad(fit, latents)
            images = torch.cat([images, self._decoded_after_step(latents, gradient)])
        with torch.no_grad():
            image_logits = teacher(images)
        mean, log_variance = self.encoder(images)
        decoded = self.decoder(vae.sample(mean, log_variance, self.memory))
        loss = vae_loss(decoded, images, teacher(decoded), image_logits, mean, log_variance, config.divergence)
        loss.backward()
        self.vae_optimizer.step()
        self.losses.append(loss.detach())

    @torch.enable_grad()
    def _latents(self, count: int, stream: torch.Generator) -> tuple[Tensor, Tensor]:
        """Fresh z, shape (count, Z), and what it is to be fitted to."""
        latents = torch.randn((count, self.config.latent_dim), generator=stream, device=self.context.device)
        latents.requires_grad_()
        return latents, latent_loss(self.context.frozen(self.decoder(latents)), latents, self.config)

    @torch.no_grad()
    def _decoded_after_step(self, latents: Tensor, gradient: Tensor) -> Tensor:
        images: Tensor = self.decoder(first_adam_step(latents, gradient, self.config.latent_lr))
        return images

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {"loss_vae": float(torch.stack(self.losses).mean())} if self.losses else {}

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("encoder", "decoder", "vae_optimizer")}
        return super().state_dict() | parts

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name in ("encoder", "decoder", "vae_optimizer"):
            getattr(self, name).load_state_dict(state[name])

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """Novel samples, and what the memory shows."""
        super().write_artifacts(folder, epoch)
        stream = seeding.stream(self.context.seed, "artifact", epoch, "memory", device=self.context.device)
        images = self.remembered(artifacts.SAMPLES, stream)
        artifacts.write_samples(folder / "memory.png", self.pixels(images))
