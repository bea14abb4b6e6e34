"""How ``ismkit evaluate`` scores a model: clothes by the kit's own classifier, images of a VAE by torch-fidelity."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ismkit.evaluation import tables
from ismkit.evaluation.extractors import Extractor, load_extractor
from ismkit.evaluation.fidelity import METRICS, ImageJudge, choose
from ismkit.evaluation.judges import FashionJudge, Setting, as_text, write_csv
from ismkit.evaluation.reference import Reference, folder_images, image_files, load_reference, make_reference
from ismkit.evaluation.samples import SampleSet, export_npz, export_png, latent_shape
from ismkit.imagenet.vae import PINNED, ImageVAE
from ismkit.models.saved import RELEASED, load_generator, load_sampler
from ismkit.utils.files import file_sum, json_sum, out_dir

OF_IMAGES = ("vae", "reference", "metrics", "features", "batch", "npz", "png", "download")


def device_at_hand(name: str | None = None) -> torch.device:
    """The device that ``--device`` names: by default this process's GPU where torch sees one, else the CPU.

    Raises:
        ValueError: for ``cuda`` where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; leave the option out to run on the CPU")
    return PartialState(cpu=name == "cpu" or not torch.cuda.is_available()).device


def evaluate(args: argparse.Namespace) -> int:
    """Score a model as its card says: one with a ``vae`` on its card, or given ``--vae``, draws images."""
    if args.model in RELEASED and not args.vae:
        return _clothes(args)
    net, card = load_sampler(args.model)
    if not (args.vae or card.get("vae")):
        return _clothes(args)
    return _images(args, net.to(device_at_hand(args.device)), card)


def _clothes(args: argparse.Namespace) -> int:
    if given := [f"--{name}" for name in OF_IMAGES if getattr(args, name)]:
        raise ValueError(f"{given[0]} goes with a model of image latents: {args.model} draws clothes (or give --vae)")
    device = device_at_hand(args.device)
    judge, net = FashionJudge.load(device), load_generator(args.model).to(device)
    rows = judge.table(net, nfe=args.nfe, w=args.w, n=args.n or 2000, seed=args.seed)
    print(as_text(rows))
    if args.out:
        print(f"table: {write_csv(rows, args.out)}")
    return 0


def _images(args: argparse.Namespace, net: torch.nn.Module, card: Mapping[str, Any]) -> int:
    """Draw, embed and score under one or many processes; the first one prints and writes."""
    metrics = choose(args.metrics or list(METRICS), args.features)
    settings = [Setting(nfe, float(w), args.n or tables.PAPER_N, args.seed) for nfe in args.nfe for w in args.w]
    for setting in settings:
        setting.check()
    digest = file_sum(Path(args.model))
    folder = Path(args.out or out_dir() / "evaluation" / f"{Path(args.model).stem}-{digest[:8]}")
    device, state = device_at_hand(args.device), PartialState()
    vae = _vae(args.vae, card).to(device)
    names = dict.fromkeys(metric.extractor for metric in metrics.values())
    with state.local_main_process_first():  # downloads once per machine
        extractors = {name: load_extractor(name, device, download=args.download) for name in names}
    needing = {metric.extractor for metric in metrics.values() if metric.layer != "logits"}
    side = latent_shape(net)[1] * vae.factor
    with state.main_process_first():  # makes the statistics of a folder, the others find them
        given = args.reference or []
        references = _references(given, {name: extractors[name] for name in names if name in needing}, side, folder)
    model = {"sha256": digest, "weights": _weights(card)}
    judge = ImageJudge(vae, metrics, extractors, references, folder, model, args.batch or 100)
    rows = judge.table(net, settings)
    if not state.is_main_process:
        return 0
    protocol = judge.protocol(settings[0])
    print(tables.as_text(rows, metrics, protocol))
    for path in tables.write(rows, metrics, protocol, folder):
        print(f"table: {path}")
    for setting in settings:
        samples = SampleSet.open(judge.place(setting))
        if args.npz:
            print(f"samples: {export_npz(samples, samples.folder.with_suffix('.npz'))}")
        if args.png:
            print(f"samples: {export_png(samples, samples.folder / 'png')}")
    return 0


def _vae(given: str | None, card: Mapping[str, Any]) -> ImageVAE:
    """The VAE of ``--vae`` or of the card; ValueError if the two differ in weights or scale."""
    trained = card.get("vae") or {}
    name = given or (trained["name"] if trained.get("name") in PINNED else None)
    if name is None:
        raise ValueError(f"--vae: give the folder of the VAE of this model's latents, {trained.get('name')}")
    vae = ImageVAE.load(name)
    for key in ("sha256", "scaling_factor"):
        if trained.get(key) not in (None, vae.identity[key]):
            told = f"its {key} is {trained[key]}, that of {name} is {vae.identity[key]}"
            raise ValueError(f"--vae: the model was trained on latents of another VAE: {told}")
    return vae


def _weights(card: Mapping[str, Any]) -> str:
    decay = card.get("run", {}).get("recipe", {}).get("slow")
    average = f"slow EMA, decay {decay}" if decay is not None else "average not stated on its card"
    return f"{average}, {card.get('steps', 'unknown')} steps"


def _references(given: list[str], extractors: Mapping[str, Extractor], side: int, folder: Path) -> dict[str, Reference]:
    """The reference of each feature network: from files, or made of a folder of pictures and kept."""
    found: dict[str, Reference] = {}
    for text in given:
        if Path(text).is_dir():
            found |= {
                name: _of_folder(Path(text), net, side, folder) for name, net in extractors.items() if name not in found
            }
        else:
            reference = load_reference(text)
            if reference.extractor in found:
                raise ValueError(f"--reference: two files for the features of {reference.extractor}")
            found[reference.extractor] = reference
    return found


def _of_folder(pictures: Path, extractor: Extractor, side: int, folder: Path) -> Reference:
    files = image_files(pictures)
    told = [[str(path.relative_to(pictures)), path.stat().st_size] for path in files]
    key = json_sum([told, side, extractor.identity])[:12]
    path = folder / f"reference-{extractor.name}-{key}.safetensors"
    if path.is_file():
        return load_reference(path)
    about = {"source": f"{len(files)} pictures of the folder {pictures.name}", "crop": f"ADM's, {side} pixels"}
    return make_reference(folder_images(files, side), extractor, path, about, total=-(-len(files) // 100))
