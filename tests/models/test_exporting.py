"""Networks for other programs: the file answers what the network answers, for any batch, or is not written."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ismkit.method.guidance import TwoPassCFG
from ismkit.method.sampling import sample
from ismkit.models import exporting
from ismkit.models.autoencoder import SmallAutoencoder
from ismkit.models.exporting import ExportError, export, export_decoder
from ismkit.models.nets import DiT, ToyMLP
from ismkit.models.saved import released, save_model
from ismkit.models.spaces import SPACES, load_autoencoder
from tests.commandline import Ismkit, fill

needs_onnx = pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no ONNX Runtime")


class Own(nn.Module):
    """A network of other code."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.label, self.body = nn.Embedding(num_classes + 1, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return self.body(torch.cat([x, torch.stack([t, d, w], 1), self.label(y)], 1).tanh())


class Looks(Own):
    """One whose path depends on its numbers."""

    def forward(self, x: Tensor, t: Tensor, d: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def mlp() -> nn.Module:
    return fill(ToyMLP(dim=2, width=8, depth=1, num_classes=3))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (2,)),
    "dit": (lambda: fill(DiT(size=4, channels=4, patch=2, width=16, depth=1, heads=2, num_classes=3)), (4, 4, 4)),
    "two calls": (lambda: TwoPassCFG(mlp(), 3).eval(), (2,)),  # type: ignore[arg-type]
    "own": (lambda: fill(Own(3)), (2,)),
}


def asked(rows: int, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Other questions than those that the export compares."""
    rng = torch.Generator().manual_seed(rows)
    t, w = torch.rand(2, rows, generator=rng)
    return torch.randn(rows, *shape, generator=rng), t, torch.full((rows,), 0.25), w, torch.arange(rows) % 4


@pytest.mark.parametrize("name", NETS)
def test_torch_export_gives_the_same_bits_for_any_batch(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    net, path = make(), tmp_path / "new" / "net.pt2"
    found = export(net, path, shape, "torch")
    assert (found.difference, found.sha256) == (0.0, hashlib.sha256(path.read_bytes()).hexdigest())
    assert found.largest > 0.01
    program = torch.export.load(path).module()
    for rows in (1, 3, 11):
        assert torch.equal(program(*asked(rows, shape)), net(*asked(rows, shape)))
    assert [each.name for each in path.parent.iterdir()] == ["net.pt2"]


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_onnx_answers_as_the_network_for_any_batch(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    make, shape = NETS[name]
    net, path = make(), tmp_path / "net.onnx"
    found = export(net, path, shape, card={"licence": "mine"})
    assert found.difference <= 1e-5 * found.largest
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    kept = json.loads(session.get_modelmeta().custom_metadata_map["ismkit"])
    assert (kept["shape"], kept["num_classes"], kept["card"]) == (list(shape), net.num_classes, {"licence": "mine"})
    assert [each.name for each in session.get_inputs()] == ["x", "t", "d", "w", "y"]
    for rows in (1, 3, 11):
        query = asked(rows, shape)
        (answer,) = session.run(["s"], {key: part.numpy() for key, part in zip("xtdwy", query, strict=True)})
        torch.testing.assert_close(torch.from_numpy(answer), net(*query), rtol=1e-4, atol=1e-5)
    assert capfd.readouterr() == ("", "")
    assert [each.name for each in tmp_path.iterdir()] == ["net.onnx"]


def test_a_card_that_is_no_json_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"card must be JSON, got \{'net': "):
        export(mlp(), tmp_path / "net.pt2", (2,), "torch", card={"net": object()})
    assert not list(tmp_path.iterdir())


def small() -> SmallAutoencoder:
    """With a scaling that is not the identity, and random weights."""
    autoencoder = SmallAutoencoder((1, 14, 14), channels=2, widths=(8, 8), fill=-1.0)
    fill(autoencoder)
    autoencoder.mean.copy_(torch.tensor([0.5, -2.0]))
    autoencoder.std.copy_(torch.tensor([0.25, 4.0]))
    return autoencoder.requires_grad_(False)


@pytest.mark.parametrize("format_", ["torch", pytest.param("onnx", marks=[needs_onnx, pytest.mark.slow])])
def test_a_decoder_makes_the_same_pictures_for_any_batch(format_: Any, tmp_path: Path) -> None:
    autoencoder, path = small(), tmp_path / f"decoder{exporting.FORMATS[format_]}"
    assert export_decoder(autoencoder, path, format_).difference <= 1e-5
    run: Any
    if format_ == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        run = lambda z: torch.from_numpy(session.run(["image"], {"z": z.numpy()})[0])  # noqa: E731
    else:
        run = torch.export.load(path).module()
    for rows in (1, 5, 200):
        z = torch.randn(rows, *autoencoder.latent, generator=torch.Generator().manual_seed(rows))
        torch.testing.assert_close(run(z), autoencoder.decode(z), rtol=1e-4, atol=1e-5)


@needs_onnx
@pytest.mark.slow
def test_numbers_of_half_precision_are_stored_so_without_loss(tmp_path: Path) -> None:
    """And no other ones; nor does the file say where the source files lie."""
    import onnx

    net = fill(ToyMLP(dim=2, width=64, depth=1, num_classes=3)).half().float().eval()
    net.embed.weight.data[0, 0] = 0.1  # which half precision has not
    plain, halved = tmp_path / "plain.onnx", tmp_path / "half.onnx"
    assert export(net, plain, (2,)).difference == export(net, halved, (2,), half=True).difference
    assert halved.stat().st_size < 0.65 * plain.stat().st_size
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(halved).graph.initializer}
    assert kinds["embed.weight"] == onnx.TensorProto.FLOAT
    assert kinds["conditioning.y.weight.half"] == onnx.TensorProto.FLOAT16
    assert b".py" not in plain.read_bytes()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda s: s + 1e-2,
        lambda s: s * float("nan"),
        lambda s: s * (float("nan") if len(s) == 7 else 1),  # not in the first batch that is compared
        lambda s: s[:, :1],
    ],
)
def test_a_file_that_answers_otherwise_is_not_left(
    wrong: Callable[[Tensor], Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = exporting._WRITERS["torch"]

    def spoilt(*args: Any) -> Callable[..., Tensor]:
        run = write(*args)
        return lambda query: wrong(run(query))

    monkeypatch.setitem(exporting._WRITERS, "torch", spoilt)
    path = tmp_path / "net.pt2"
    path.write_text("from an earlier call")
    with pytest.raises(
        ExportError, match=r"is not written: the exported network answers otherwise, by|answers \(1, 1\)"
    ):
        export(mlp(), path, (2,), "torch")
    assert path.read_text() == "from an earlier call"
    assert [each.name for each in tmp_path.iterdir()] == ["net.pt2"]


@pytest.mark.parametrize("format_", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_what_has_no_graph_is_refused_in_one_line(format_: Any, tmp_path: Path) -> None:
    path = tmp_path / f"net{exporting.FORMATS[format_]}"
    with pytest.raises(ExportError, match=r"^net cannot be exported, a Looks: .+") as caught:
        export(Looks(3).eval(), path, (2,), format_)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"format": "tflite"}, "format must be one of onnx, torch, got 'tflite'"),
        ({"path": "net.onnx"}, r"path must end in \.pt2 for the format torch, got 'net.onnx'"),
        ({"shape": (0,)}, r"shape must be the sizes of one sample, such as \(4, 8, 8\), got \(0,\)"),
        ({"net": ToyMLP(width=8, depth=1)}, "net must be in eval mode, on the CPU and in float32"),
        ({"half": True}, "half must be False for the format torch, got True"),
        ({"net": ToyMLP(width=8, depth=1).eval().half()}, "net must be in eval mode, on the CPU and in float32"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        export(**{"net": mlp(), "path": "net.pt2", "shape": (2,), "format": "torch"} | given)
    assert list(tmp_path.iterdir()) == []


def test_only_an_autoencoder_that_is_ready_has_its_decoder_exported(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="autoencoder must be a SmallAutoencoder"):
        export_decoder(mlp(), tmp_path / "decoder.pt2", "torch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape must have even sides, got"):
        SmallAutoencoder((1, 29, 29), channels=2, widths=(8, 8), fill=-1.0)
    with pytest.raises(ValueError, match="autoencoder must be in eval mode, on the CPU and in float32"):
        export_decoder(small().train(), tmp_path / "decoder.pt2", "torch")
    assert list(tmp_path.iterdir()) == []


def test_the_command_exports_a_model(tmp_path: Path, ismkit_: Ismkit) -> None:
    save_model(mlp(), tmp_path / "points.safetensors", {"steps": 5})
    answer = ismkit_("export", "points.safetensors", "--format", "torch")
    assert answer.status == 0, answer.err
    path = tmp_path / "out" / "points.pt2"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    first, second = answer.out.splitlines()
    assert first == f"{path} (SHA-256 {digest}): net(x, t, d, w, y) -> s for x of (B, 2)"
    assert second.startswith("largest difference from the network 0, largest answer ")
    torch.export.load(path, extra_files=(kept := {"ismkit.json": ""}))
    assert json.loads(kept["ismkit.json"]) == {"shape": [2], "num_classes": 3, "levels": 7, "card": {"steps": 5}}
    save_model(mlp(), tmp_path / "run" / "model.safetensors", {"steps": 5})
    assert ismkit_("export", "run/model.safetensors", "--format", "torch").status == 0
    assert sorted(each.name for each in path.parent.iterdir()) == ["points.pt2", "run.pt2"]
    answer = ismkit_("export", "points.safetensors", "--format", "torch", "-o", "points.onnx")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    save_model(fill(Own(3)), tmp_path / "own.safetensors", {})
    answer = ismkit_("export", "own.safetensors", "--format", "torch")
    assert "holds a network of other code, tests.models.test_exporting:Own, which is imported only if" in answer.err
    options = ["--network", f"{__name__}:Own", "--format", "torch"]
    answer = ismkit_("export", "own.safetensors", *options)
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "net must be one whose card says the shape of its samples" in answer.err
    save_model(fill(Own(3)), tmp_path / "own.safetensors", {"shape": [2]})
    assert ismkit_("export", "own.safetensors", *options).status == 0


@needs_onnx
@pytest.mark.slow
def test_the_command_halves_a_released_model(tmp_path: Path, ismkit_: Ismkit) -> None:
    """Its weights are stored in half precision: nothing is lost, and the page of a live model loads half the bytes."""
    weights = sum(weight.numel() for weight in released("ism_plus")[0].parameters())
    answer = ismkit_("export", "ism_plus", "--half", "-o", "half.onnx")
    assert answer.status == 0, answer.err
    assert 2 * weights < (tmp_path / "half.onnx").stat().st_size < 2.1 * weights
    answer = ismkit_("export", "ism_plus", "--half", "--format", "torch")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "half must be False for the format torch, got True" in answer.err


def test_the_command_writes_the_decoder_beside_the_model(tmp_path: Path, ismkit_: Ismkit) -> None:
    net = fill(ToyMLP(dim=256, width=8, depth=1, num_classes=10))
    save_model(net, tmp_path / "small.safetensors", {"shape": list(SPACES["clothes"].shape)})
    answer = ismkit_("export", "small.safetensors", "--format", "torch", "--decoder", "-o", "new/net.pt2")
    assert answer.status == 0, answer.err
    path = tmp_path / "new" / "net.decoder.pt2"
    assert sorted(each.name for each in path.parent.iterdir()) == ["net.decoder.pt2", "net.pt2"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    *_, third, last = answer.out.splitlines()
    assert third == f"{Path('new/net.decoder.pt2')} (SHA-256 {digest}): decoder(z) -> image for z of (B, 4, 8, 8)"
    assert float(re.findall(r"^largest difference from the decoder (\S+),", last)[0]) <= 1e-5
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.export.load(path).module()(z), load_autoencoder().decode(z), rtol=1e-4, atol=1e-5)


def test_a_decoder_that_cannot_be_written_is_refused_before_the_network_is_exported(
    tmp_path: Path, ismkit_: Ismkit
) -> None:
    (tmp_path / "net.decoder.pt2").mkdir()
    answer = ismkit_("export", "ism_plus", "--format", "torch", "--decoder", "-o", "net.pt2")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "net.decoder.pt2 is a folder" in answer.err
    assert not (tmp_path / "net.pt2").exists()


def test_a_model_without_a_decoder_is_refused_before_anything_is_written(tmp_path: Path, ismkit_: Ismkit) -> None:
    save_model(mlp(), tmp_path / "points.safetensors", {})
    answer = ismkit_("export", "points.safetensors", "--format", "torch", "--decoder")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    spaces = "clothes (4, 8, 8) and emoji (8, 8, 8); points.safetensors does not"
    assert f"--decoder needs a model that draws latents of the kit's spaces, {spaces}" in answer.err
    assert not list(tmp_path.rglob("*.pt2"))


@needs_onnx
@pytest.mark.slow
def test_the_commands_files_draw_what_the_kit_draws(tmp_path: Path, ismkit_: Ismkit) -> None:
    """The same two files that the book's pages load."""
    import onnxruntime

    answer = ismkit_("export", "ism_plus", "--half", "--decoder", "-o", "clothes.onnx")
    assert answer.status == 0, answer.err
    net, decoder = (
        onnxruntime.InferenceSession((tmp_path / name).read_bytes(), providers=["CPUExecutionProvider"])
        for name in ("clothes.onnx", "clothes.decoder.onnx")
    )
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    y, one = torch.arange(4), torch.ones(4)
    (step,) = net.run(["s"], {k: v.numpy() for k, v in zip("xtdwy", (x, 0 * one, one, one, y), strict=True)})
    (images,) = decoder.run(["image"], {"z": x.numpy() + step})
    wanted = load_autoencoder().decode(sample(released("ism_plus")[0], x, y, w=1.0, nfe=1))
    torch.testing.assert_close(torch.from_numpy(images), wanted, rtol=1e-4, atol=1e-4)


def test_a_missing_extra_is_one_line_with_the_remedy(ismkit_: Ismkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "NEEDED", ("onnx", "no_such_package"))
    monkeypatch.setattr("ismkit.models.saved.released", lambda *_: pytest.fail("loaded"))
    answer = ismkit_("export", "ism_plus")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert "--format onnx needs no_such_package: pip install 'ismkit[export]'" in answer.err


def test_the_ending_of_the_other_format_is_answered_with_that_format(tmp_path: Path) -> None:
    """A message with PosixPath, and without a remedy."""
    with pytest.raises(ValueError, match=r"got '[^']*x\.pt2': give the format torch, --format torch"):
        export(ToyMLP(width=8, depth=1).eval(), tmp_path / "x.pt2", (2,))
