"""The autoencoder of the full run: diffusers' ``AutoencoderKL``, pinned, and known by the sum of its weights."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from ismkit.utils.checks import check_form
from ismkit.utils.files import DataError, file_sum, replacing, verify_sha256
from ismkit.utils.workers import collection_paused

WEIGHTS = "diffusion_pytorch_model.safetensors"
#: The form of a configuration, so far as it is used here or sizes anything; what is missing has diffusers' default.
CONFIG: dict[str, Any] = {
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels", "layers_per_block", "norm_num_groups"), int),
    "block_out_channels": [int],
    "down_block_types": [str],
    "up_block_types": [str],
    "act_fn": str,
    "scaling_factor": float,
}

#: Name: repository on the hub, its commit, SHA-256 of its weights. A commit of the hub names its large files by their
#: sums, so it pins the weights also where the sum is not written here. The two share their encoder: the second was
#: made from the first by training the decoder on (less absolute error and LPIPS, more squared error).
PINNED: dict[str, tuple[str, str, str | None]] = {
    "sd-vae-ft-mse": (
        "stabilityai/sd-vae-ft-mse",
        "31f26fdeee1355a5c34592e401dd41e45d25a493",
        "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    ),
    "sd-vae-ft-ema": ("stabilityai/sd-vae-ft-ema", "f04b2c4b98319346dad8c65879f680b1997b204a", None),
}


class ImageVAE(nn.Module):
    """Images (B, 3, H, W) in [-1, 1] to latents (B, C, H / factor, W / factor), and back.

    Usually made by :meth:`load`. The full run takes ``sd-vae-ft-mse``, as the paper does; the VAE is that of latent
    diffusion (arXiv 2112.10752).

    Args:
        vae: diffusers' ``AutoencoderKL``; it is put in eval mode.
        identity: what the VAE is known by, see below.

    Attributes:
        vae: diffusers' ``AutoencoderKL``, in eval mode, without gradients.
        identity: ``name``, ``revision`` (None for a folder), ``sha256`` of the weights file and ``scaling_factor``.
        scaling_factor: scaled latents, those that a generator sees, are the VAE's own times this number.
        channels: C, of a latent.
        factor: pixels per latent cell along each side.

    Raises:
        DataError: if the VAE also shifts its latents.

    Example:
        The tiny stand-in has the class and the shapes of the full one. To decode, latents are scaled:

        >>> import tempfile
        >>> import torch
        >>> from ismkit import ImageVAE, write_tiny_vae
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     vae = ImageVAE.load(write_tiny_vae(folder))
        >>> vae.channels, vae.factor, vae.scaling_factor
        (4, 8, 5.0)
        >>> mean, std = vae.moments(torch.zeros(2, 3, 64, 64))
        >>> mean.shape, vae.decode(mean * vae.scaling_factor).shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 3, 64, 64]))

        The real one is downloaded on the first call:

        >>> vae = ImageVAE.load("sd-vae-ft-mse")  # doctest: +SKIP
    """

    def __init__(self, vae: Any, identity: dict[str, Any]) -> None:
        super().__init__()
        if shifted := [key for key in ("shift_factor", "latents_mean") if vae.config.get(key) is not None]:
            raise DataError(f"{identity['name']} shifts its latents ({shifted[0]}): latents are only scaled here")
        self.vae = vae.eval().requires_grad_(False)
        self.identity = identity
        self.scaling_factor: float = identity["scaling_factor"]
        self.channels: int = vae.config.latent_channels
        self.factor: int = 2 ** (len(vae.config.block_out_channels) - 1)

    @classmethod
    def load(cls, name_or_folder: str | os.PathLike[str], revision: str | None = None) -> Self:
        """Load a VAE: a name in :data:`PINNED`, a folder of ``save_pretrained``, or a repository on the hub.

        Weights are safetensors only. What is not in the hub's cache is downloaded: 335 MB for the pinned ones.

        Args:
            name_or_folder: ``sd-vae-ft-mse``, ``sd-vae-ft-ema``, an existing folder, or OWNER/NAME.
            revision: commit of the hub, 40 hexadecimal digits; by default the pinned one, else required.

        Returns:
            The VAE, on the CPU.

        Raises:
            ValueError: for an unknown name, or a repository without a commit.
            DataError: if a file is missing, truncated or altered, or the VAE also shifts its latents.
        """
        name = os.fspath(name_or_folder)
        if name in PINNED:
            repository, pinned, sha256 = PINNED[name]
            folder = _from_hub(repository, revision or pinned)
            if sha256 and revision in (None, pinned):
                verify_sha256(folder / WEIGHTS, sha256, remedy="delete the file: the next call downloads it again")
            return cls._of_folder(folder, name, revision or pinned)
        if Path(name).is_dir():
            if revision is not None:
                raise ValueError(f"revision is for the hub, and {name} is a folder here: leave it out")
            return cls._of_folder(Path(name), Path(name).resolve().name, None)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            raise ValueError(f"a VAE is {', '.join(PINNED)}, a folder or OWNER/NAME on the hub, got {name!r}")
        if revision is None:
            raise ValueError(f"{name} is not a folder here; of the hub, its revision is needed: {HOW_TO_PIN}")
        return cls._of_folder(_from_hub(name, revision), name, revision)

    @classmethod
    def _of_folder(cls, folder: Path, name: str, revision: str | None) -> Self:
        for wanted in ("config.json", WEIGHTS):
            if not (folder / wanted).is_file():
                raise DataError(f"{folder / wanted} is missing: {folder} holds no AutoencoderKL of `save_pretrained`")
        with collection_paused():
            from diffusers import AutoencoderKL

        try:
            config = json.loads((folder / "config.json").read_bytes())
            check_form("config.json", config, {"_class_name": str})
            if config["_class_name"] != "AutoencoderKL":
                raise ValueError(f"it is a {config['_class_name']}")
            check_form("config.json", config, {name: form for name, form in CONFIG.items() if name in config})
            blocks = {name: len(config[name]) for name in CONFIG if name in config and CONFIG[name] in ([int], [str])}
            if len({*blocks.values()}) > 1:
                raise ValueError(f"config.json must name as many blocks everywhere, got {blocks}")
            vae = AutoencoderKL.from_pretrained(folder, use_safetensors=True, local_files_only=True)
            scale = float(vae.config.scaling_factor)
            if not 0 < scale < math.inf:
                raise ValueError(f"its scaling_factor must be positive and finite, got {scale}")
        except DataError:
            raise
        except Exception as error:  # diffusers builds whatever the sizes say, and fails in as many ways
            told = " ".join(f"{error}".split()) or type(error).__name__
            raise DataError(f"{folder} holds no AutoencoderKL that can be read: {told}") from error
        sha256 = file_sum(folder / WEIGHTS)
        return cls(vae, {"name": name, "revision": revision, "sha256": sha256, "scaling_factor": scale})

    @torch.no_grad()
    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean and standard deviation of the posterior, a diagonal Gaussian over latents that are *not* scaled.

        Args:
            images: (B, 3, H, W) in [-1, 1]; H and W are multiples of ``factor``.

        Returns:
            Two tensors (B, C, H / factor, W / factor) in the dtype of the weights.

        Raises:
            ValueError: for another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise ValueError(
                f"images must be (B, 3, H, W), H and W multiples of {self.factor}, got {tuple(images.shape)}"
            )
        posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        return posterior.mean, posterior.std

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents.

        Args:
            latents: (B, C, h, w), scaled.

        Returns:
            Images (B, 3, h * factor, w * factor), clamped to [-1, 1].

        Raises:
            ValueError: for another shape.
        """
        if latents.ndim != 4 or latents.shape[1] != self.channels:
            raise ValueError(f"latents must be (B, {self.channels}, h, w), got {tuple(latents.shape)}")
        scaled = latents.to(self.vae.device, self.vae.dtype)
        return self.vae.decode(scaled / self.scaling_factor).sample.clamp(-1, 1)


HOW_TO_PIN = (
    "the commit, 40 hexadecimal digits, that `huggingface_hub.HfApi().repo_info(NAME, repo_type=...).sha` "
    "or the page 'Files and versions' names"
)


def check_commit(revision: str) -> None:
    """Raise ValueError unless ``revision`` is a commit: a branch or a tag may change from one day to the next."""
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise ValueError(f"revision must be a commit, got {revision!r}: {HOW_TO_PIN}")


def _from_hub(repository: str, revision: str) -> Path:
    """The folder of the hub's cache with a VAE's configuration and weights, downloaded if they are not there."""
    check_commit(revision)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(repository, WEIGHTS, revision=revision), str):
        print(f"downloading {repository} at {revision} (the VAE) from the hub", flush=True)
    try:
        hf_hub_download(repository, "config.json", revision=revision)
        return Path(hf_hub_download(repository, WEIGHTS, revision=revision)).parent
    except OSError as error:
        raise DataError(
            f"{repository} at {revision} cannot be had from the hub ({error}); without a network, give the folder "
            f"that holds its config.json and {WEIGHTS}"
        ) from error


def write_tiny_vae(folder: str | os.PathLike[str], seed: int = 0) -> Path:
    """Write a folder of ``save_pretrained`` with an untrained VAE, for trying things out.

    It has the class and the shape of the full one: 3 channels to 4, eight pixels to a cell, a posterior much narrower
    than the spread of its means, set by a bias. It has 0.1 % of its weights, drawn from ``seed``; the scaling factor
    gives the means of photographs a standard deviation of about 1. The global generator is left alone.

    Args:
        folder: where its configuration and weights go; made if missing.
        seed: of the weights.

    Returns:
        The folder, for :meth:`ImageVAE.load`.

    Example:
        >>> import tempfile
        >>> from ismkit import ImageVAE, write_tiny_vae
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     first, second, other = (
        ...         ImageVAE.load(write_tiny_vae(f"{folder}/{name}", seed=seed)).identity["sha256"]
        ...         for name, seed in (("first", 0), ("second", 0), ("other", 1))
        ...     )
        >>> first == second, first == other
        (True, False)
    """
    with collection_paused():
        from diffusers import AutoencoderKL

    blocks = 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * blocks,
            up_block_types=("UpDecoderBlock2D",) * blocks,
            block_out_channels=(8, 16, 16, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
            mid_block_add_attention=False,
            scaling_factor=5.0,
        )
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -8.0  # log variance: a standard deviation of about 0.02
    with tempfile.TemporaryDirectory() as new:  # a kill leaves no half of a file
        vae.save_pretrained(new)
        for path in sorted(Path(new).iterdir()):
            with replacing(Path(folder) / path.name) as file:
                file.write(path.read_bytes())
    return Path(folder)
