"""How ``ismkit evaluate`` scores a model: by the kit's classifiers, or images of a VAE by torch-fidelity."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ismkit.data.decoding import ENDINGS, PictureError, PictureFiles, picture_bytes, picture_files
from ismkit.evaluation import tables
from ismkit.evaluation.extractors import Extractor, load_extractor
from ismkit.evaluation.fidelity import METRICS, ImageJudge, choose
from ismkit.evaluation.judges import JUDGES, GivenJudge, Setting, as_scores, as_text, make_judge, write_csv
from ismkit.evaluation.options import ImageOptions
from ismkit.evaluation.reference import Reference, folder_reference, load_reference
from ismkit.evaluation.samples import WAIT, SampleSet, export_npz, export_png, latent_shape
from ismkit.imagenet.pixels import THREADS
from ismkit.imagenet.vae import PINNED, ImageVAE
from ismkit.models.drawing import check_decoder
from ismkit.models.saved import (
    RELEASED,
    Maker,
    check_model,
    check_normal,
    check_space,
    load_named,
    load_sampler,
    warn_of_strength,
)
from ismkit.utils.checks import as_tuple, check_form, check_kind
from ismkit.utils.files import DataError, destination, expanded, file_sum, json_sum, out_dir


class Scores(NamedTuple):
    """The result of :func:`evaluate`.

    Attributes:
        rows: a dict of NFE, w, n and the metrics for each setting.
        text: the same as a table, with the protocol for images; of images empty on all processes but the main one.
        files: kind and path of each file that was written.

    Example:
        The setting with the smallest Frechet distance. These scores are some of those that
        ``evaluate("ism_plus", nfe=[1, 4], w=[0.0], n=100)`` returns in some seconds:

        >>> from ismkit.evaluation import Scores
        >>> one = {"nfe": 1, "w": 0.0, "n": 100, "frechet": 5.295, "recall": 0.79}
        >>> four = {"nfe": 4, "w": 0.0, "n": 100, "frechet": 4.821, "recall": 0.83}
        >>> scores = Scores([one, four], text="", files=[])
        >>> min(scores.rows, key=lambda row: row["frechet"])["nfe"]
        4
    """

    rows: list[dict[str, Any]]
    text: str
    files: list[tuple[str, Path]]


def device_at_hand(name: str | None = None) -> torch.device:
    """The device that ``--device`` names: by default this process's GPU where torch sees one, else the CPU.

    Of several processes this makes one group, if there is none yet; they wait for each other for up to ``WAIT``.

    Raises:
        ValueError: for ``cuda`` if there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no CUDA device here; leave the option out to run on the CPU")
    return PartialState(cpu=name == "cpu" or not torch.cuda.is_available(), timeout=WAIT).device


def evaluate(
    model: str | os.PathLike[str] = "ism_plus",
    *,
    nfe: Sequence[int] = (1, 2, 4),
    w: Sequence[float] = (0.0, 1.0, 2.0),
    n: int | None = None,
    seed: int = 0,
    network: Maker | None = None,
    judge: GivenJudge | None = None,
    device: str | None = None,
    out: str | os.PathLike[str] | None = None,
    images: ImageOptions | None = None,
) -> Scores:
    """Score a model of image latents, if its card names a VAE or one is given, else a model of Fashion-MNIST.

    With a judge of your own, a model of anything.

    Args:
        model: the recipe of a released model, or a file of :func:`ismkit.models.saved.save_model`.
        nfe: network evaluations per sample: powers of two in 1 .. 128, or any of a network that was trained on steps
            of any length.
        w: guidance strengths, >= 0.
        n: samples per setting; of clothes and emoji 100 .. 10 000 (default: 2000), of images 10 or more (default:
            50 000), with a judge of your own as many as it scores (default: 2000).
        seed: of the noise.
        network: the class of a network of your own, or its ``module:attribute``, as for
            :func:`ismkit.models.saved.load_model`.
        judge: of your own: an object with :meth:`ismkit.evaluation.judges.Judge.score`, a function that makes one for a
            device, or its ``module:attribute``.
        device: ``cpu`` or ``cuda``; by default a GPU where there is one.
        out: CSV file to write; for images the folder of samples, features and scores (default: out/evaluation/...).
        images: how images are scored. Under several processes each draws its share.

    Returns:
        The rows, the same as text, and what was written.

    Raises:
        ValueError: for settings that do not fit, before any work; for a number of evaluations that the network was
            not trained on, before anything is drawn; for what is no judge, or does not return numbers.
        CheckpointError: if the model cannot be read.
        UserWarning: a warning, for a ``w`` far beyond those that the model was trained on.

    Example:
        >>> from ismkit import evaluate
        >>> scores = evaluate("ism_plus", nfe=[1], w=[1.0], n=100)
        >>> [row["nfe"] for row in scores.rows], scores.rows[0]["agreement"] > 0.9
        ([1], True)
    """
    images = images or ImageOptions()
    check_kind("images", images, ImageOptions)
    steps, strengths = as_tuple("nfe", nfe, empty=False), as_tuple("w", w, empty=False)
    settings = [Setting(k, strength, 1000 if n is None else n, seed) for k in steps for strength in strengths]
    for setting in settings:
        setting.check()
    settings = [setting._replace(w=float(setting.w)) for setting in settings]
    if judge is None and n is not None and n < 10:
        raise ValueError(f"n, the samples per setting, must be at least 10, got {n}")
    choose(list(images.metrics) or list(METRICS), images.features)
    if judge is not None:
        settings = [setting._replace(n=n or 2000) for setting in settings]
        return _judged(model, settings, network, judge, device_at_hand(device), out, images)
    check_model(model)
    if model in RELEASED and not images.vae:
        return _pictures(model, None, settings, n or 2000, device, out, images)
    net, card = load_sampler(model, network=network)
    if not isinstance(card, dict):  # a card is any JSON
        card = {}
    check_normal(card, model)
    warn_of_strength(card, max(setting.w for setting in settings), model)
    if card.get("vae"):
        check_form(f"the card of {model}", card, {"vae": dict})
    for setting in settings:
        setting.check(net)
    if not (images.vae or card.get("vae")):
        return _pictures(model, net, settings, n or 2000, device, out, images)
    settings = [setting._replace(n=n or tables.PAPER_N) for setting in settings]
    return _images(Path(model), net.to(device_at_hand(device)), card, settings, out, images)


def _refuse_options(images: ImageOptions, why: str) -> None:
    """Raise ValueError if there are options that go with models of image latents alone."""
    if changed := [f.name for f in fields(images) if getattr(images, f.name) != f.default]:
        raise ValueError(f"--{changed[0]} goes with a model of image latents: {why}")


def _judged(
    model: str | os.PathLike[str],
    settings: list[Setting],
    network: Maker | None,
    judge: Any,
    device: torch.device,
    out: str | os.PathLike[str] | None,
    images: ImageOptions,
) -> Scores:
    """The scores that a judge of the caller's gives."""
    _refuse_options(images, "a judge of your own has settings of its own")
    if out:
        destination(out := expanded(out))
    mine = make_judge(judge, device, settings)
    net, card = load_named(model, network=network)
    warn_of_strength(card, max(setting.w for setting in settings), model)
    for setting in settings:
        setting.check(net)
    net = net.to(device)
    rows: list[dict[str, Any]] = []
    scores: dict[str, float] | None = None
    for setting in settings:
        asked = {"nfe": setting.nfe, "w": setting.w, "n": setting.n}
        scores = as_scores(mine.score(net, setting), taken=asked, before=scores)
        rows.append(asked | scores)
    return Scores(rows, as_text(rows), [("table", write_csv(rows, out))] if out else [])


def _pictures(
    model: str | os.PathLike[str],
    net: torch.nn.Module | None,
    settings: list[Setting],
    n: int,
    device: str | None,
    out: str | os.PathLike[str] | None,
    images: ImageOptions,
) -> Scores:
    """Scores of clothes or emoji; without a network, of the released model."""
    _refuse_options(images, f"{model} draws clothes or emoji (or give --vae)")
    if out:
        destination(out := expanded(out))  # what cannot be written is refused before anything is drawn
    if net is None:
        net, card = load_named(model)
        warn_of_strength(card, max(setting.w for setting in settings), model)
    try:
        space, where = check_space(net, model), device_at_hand(device)
    except ValueError as error:
        raise ValueError(f"{error}; models of anything else are scored by a judge of your own, --judge") from error
    judge, net = JUDGES[space].load(where), net.to(where)
    nfe, w = (list(dict.fromkeys(values)) for values in zip(*((s.nfe, s.w) for s in settings), strict=True))
    rows = judge.table(net, nfe=nfe, w=w, n=n, seed=settings[0].seed)
    return Scores([dict(row) for row in rows], as_text(rows), [("table", write_csv(rows, out))] if out else [])


def _images(
    path: Path,
    net: torch.nn.Module,
    card: Mapping[str, Any],
    settings: list[Setting],
    out: str | os.PathLike[str] | None,
    images: ImageOptions,
) -> Scores:
    """Draw, embed and score under one or many processes; the first one writes."""
    metrics = choose(list(images.metrics) or list(METRICS), images.features)
    digest, state = file_sum(path), PartialState()
    folder = expanded(out or out_dir() / "evaluation" / f"{path.stem}-{digest[:8]}")
    device = next(net.parameters()).device
    vae = _vae(images.vae, card, path).to(device)
    names = dict.fromkeys(metric.extractor for metric in metrics.values())
    with state.local_main_process_first():  # downloads once per machine
        extractors = {name: load_extractor(name, device, download=images.download) for name in names}
    needing = {metric.extractor for metric in metrics.values() if metric.layer != "logits"}
    side = latent_shape(net)[1] * vae.factor
    needed = {name: extractors[name] for name in names if name in needing}
    references = _references(list(images.reference), needed, side, folder)
    model = {"sha256": digest, "weights": _weights(card)}
    judge = ImageJudge(vae, metrics, extractors, references, folder, model, images.batch, tf32=images.tf32)
    rows = judge.table(net, settings)
    if not state.is_main_process:
        return Scores(rows, "", [])
    protocol = judge.protocol(max(settings, key=lambda setting: setting.nfe))  # one step needs no fresh noise
    files = [("table", table) for table in tables.write(rows, metrics, protocol, folder)]
    for setting in settings:
        samples = SampleSet.open(judge.place(setting))
        if images.npz:
            files.append(("samples", export_npz(samples, samples.folder.with_name(f"{samples.folder.name}.npz"))))
        if images.png:
            files.append(("samples", export_png(samples, samples.folder / "png")))
    return Scores(rows, tables.as_text(rows, metrics, protocol), files)


def _vae(given: str | None, card: Mapping[str, Any], model: Path) -> ImageVAE:
    """The VAE of ``--vae`` or of the card; ValueError if the two differ in weights or scale."""
    trained = card.get("vae") or {}
    name = given or (trained["name"] if trained.get("name") in PINNED else None)
    if name is None:
        raise ValueError(f"--vae: give the folder of the VAE of this model's latents, {trained.get('name')}")
    vae = ImageVAE.load(name)
    check_decoder(card, vae, model)
    return vae


def _weights(card: Mapping[str, Any]) -> str:
    decay: Any = card
    for name in ("run", "recipe", "slow"):  # a card is any JSON
        decay = decay.get(name) if isinstance(decay, Mapping) else None
    average = f"slow EMA, decay {decay}" if decay is not None else "average not stated on its card"
    return f"{average}, {card.get('steps', 'unknown')} steps"


def _references(given: list[str], extractors: Mapping[str, Extractor], side: int, folder: Path) -> dict[str, Reference]:
    """The reference of each feature network: from files, or made of a folder of pictures and kept."""
    found: dict[str, Reference] = {}
    for text in given:
        if Path(text).is_dir():
            missing = {name: net for name, net in extractors.items() if name not in found}
            found |= _of_folder(Path(text), missing, side, folder)
        else:
            reference = load_reference(text)
            if reference.extractor in found:
                raise ValueError(f"--reference: two files for the features of {reference.extractor}")
            found[reference.extractor] = reference
    return found


class _Plan(NamedTuple):
    """The pictures of a folder, the file of each feature network's statistics, and for which it is not there."""

    found: PictureFiles
    places: dict[str, Path]
    missing: list[str]


def _of_folder(pictures: Path, extractors: Mapping[str, Extractor], side: int, folder: Path) -> dict[str, Reference]:
    # One process looks, or each would read the training set, or find files that others make; all raise a refusal alike.
    sent: list[Any] = [None]
    if PartialState().is_main_process:
        try:
            sent = [_planned(pictures, extractors, side, folder)]
        except DataError as error:
            sent = [error]
    (plan,) = broadcast_object_list(sent)
    if isinstance(plan, DataError):
        raise plan
    found = plan.found
    said = f"{len(found.names)} pictures of the folder {pictures.name}" + (f" ({found.said})" if found.said else "")
    about = {"source": said, "crop": f"ADM's, {side} pixels"}
    for name in plan.missing:
        folder_reference(found.paths, side, extractors[name], plan.places[name], about)
    return {name: load_reference(path) for name, path in plan.places.items()}


def _planned(pictures: Path, extractors: Mapping[str, Extractor], side: int, folder: Path) -> _Plan:
    found = picture_files(pictures)
    if not found.names:
        raise DataError(f"{pictures} holds no pictures ({', '.join(ENDINGS)})")
    paths = found.paths
    sums: list[str] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), 10_000):  # all at once would be a million calls in memory
            sums += pool.map(_content, paths[start : start + 10_000])
    contents = [[name, digest] for name, digest in zip(found.names, sums, strict=True)]
    keys = {name: json_sum([contents, side, net.identity])[:12] for name, net in extractors.items()}
    places = {name: folder / f"reference-{name}-{key}.safetensors" for name, key in keys.items()}
    return _Plan(found, places, [name for name, place in places.items() if not place.is_file()])


def _content(path: Path) -> str:
    try:
        picture_bytes(path)
    except PictureError as error:
        raise PictureError(f"{path} is no picture that can be used: {error}") from error
    return file_sum(path)
