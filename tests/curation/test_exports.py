"""An exported model carries what its user needs and predicts the same, or is not written."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from safetensors import safe_open
from tests_stand_ins import content_id, draw

from curation import exports, features
from curation.backbone import load_backbone
from curation.config import BackboneSettings, Settings, TrainingSettings
from curation.errors import ConfigError, CurationError
from curation.exports import export_model, load_exported
from curation.features import FeatureStore, ViewFeatures
from curation.heads import HeadModel
from curation.images import PixelCache
from curation.project import Project
from curation.records import Sample
from curation.runs import write_json
from curation.training import FineTuned, fine_tune
from curation.view_heads import ViewModel, ViewTrainer

Trained = tuple[FineTuned, list[Sample]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("pictures")
    truth = draw(folder, 24)
    samples = [Sample(content_id(folder / path), path, folder / path, "train") for path in truth]
    labels = np.array([0 if name == "left" else 1 for name in truth.values()])
    store = FeatureStore(load_backbone(size=64, device="cpu"), PixelCache(folder / "p", 64), folder / "f")
    settings = TrainingSettings(epochs=1, batch_size=8)
    return fine_tune(store, samples, labels, ("c1", "c2"), settings=settings, seed=0), samples


@pytest.fixture(scope="module", params=[False, True], ids=["mirrored", "turned"])
def viewed(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[ViewModel, list[Sample]]:
    patched = pytest.MonkeyPatch()
    patched.setattr(features, "_SMALLEST_VIEW", 64)
    folder, backbone = tmp_path_factory.mktemp("views"), trained[0].network.store.backbone
    views = ViewFeatures(backbone, folder, rotation_invariant=request.param)
    assert views.sizes == [64, 32]
    patched.undo()
    labels = np.arange(24) % 2
    trainer = ViewTrainer(views, TrainingSettings(), lambda samples: np.arange(len(samples)))
    model = trainer.train(trained[1], labels, ("c1", "c2"), seed=0, augmentations=(), checkpoint=Path(), progress=None)
    return model, trained[1]


@pytest.mark.e2e
@pytest.mark.parametrize("viewed", [True], indirect=True, ids=["turned"])  # both ways with safetensors, in a second
def test_onnx_of_a_head_on_views_takes_the_images_at_each_size(
    viewed: tuple[ViewModel, list[Sample]], tmp_path: Path
) -> None:
    model, samples = viewed
    file = tmp_path / "model.onnx"
    assert export_model(model, ["left", "right"], file, "onnx", samples[:4]) < 1e-3
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["preprocessing"])["views"] == [[64, 64], [32, 32]]
    assert json.loads(about["preprocessing"])["turned"] == [False, True]
    assert [given.name for given in session.get_inputs()] == ["pixels_64", "pixels_32"]
    given = {f"pixels_{size}": model.views.decode(samples[4:9], size) for size in (64, 32)}
    (found,) = session.run(None, given)
    assert np.allclose(found, model.predict(samples[4:9]).probabilities, atol=1e-3)


def test_safetensors_of_a_head_on_views_hold_the_backbone_and_the_head(
    viewed: tuple[ViewModel, list[Sample]], tmp_path: Path
) -> None:
    model, samples = viewed
    file = tmp_path / "model.safetensors"
    assert export_model(model, ["left", "right"], file, "safetensors", samples[:4]) < 1e-3
    network = load_exported(file.read_bytes())
    pixels = [torch.from_numpy(model.views.decode(samples[4:9], size)) for size in (64, 32)]
    with torch.inference_mode():
        found = network(*pixels).numpy()
    assert np.allclose(found, model.predict(samples[4:9]).probabilities, atol=1e-3)
    assert np.ptp(found[:, 0]) > 0.1, "they differ from image to image"


@pytest.mark.e2e
def test_onnx_takes_pixels_and_gives_the_models_probabilities(trained: Trained, tmp_path: Path) -> None:
    model, samples = trained
    file = tmp_path / "model.onnx"
    assert export_model(model, ["left", "größer"], file, "onnx", samples[:4]) < 1e-3
    assert str(Path(exports.__file__).parent.parent).encode() not in file.read_bytes(), "no folder of this machine"
    assert b"site-packages" not in file.read_bytes()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["class_names"]) == ["left", "größer"]
    assert json.loads(about["preprocessing"])["resize"] == [64, 64]
    pixels = np.array(model.network.store.pixels.pixels(samples[4:9]))  # another number of images than was traced
    (found,) = session.run(None, {"pixels": pixels})
    assert np.allclose(found, model.predict(samples[4:9]).probabilities, atol=1e-3)
    assert np.ptp(found[:, 0]) > 0.1, "they differ from image to image"


def test_safetensors_is_a_state_that_timm_loads(trained: Trained, tmp_path: Path) -> None:
    model, samples = trained
    file = tmp_path / "model.safetensors"
    export_model(model, ["left", "right"], file, "safetensors", samples[:4])
    with safe_open(str(file), framework="pt") as opened:
        about = json.loads(opened.metadata()["curation"])
        state = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 — not a mapping
    assert json.loads(about["class_names"]) == ["left", "right"]
    prepared = json.loads(about["preprocessing"])
    theirs = timm.create_model(about["architecture"], num_classes=2)
    theirs.load_state_dict(state)
    theirs.eval()
    pixels = torch.from_numpy(np.array(model.network.store.pixels.pixels(samples[4:9])))
    images = (pixels / 255 - torch.tensor(prepared["mean"])) / torch.tensor(prepared["std"])
    with torch.inference_mode():
        found = theirs(images.permute(0, 3, 1, 2)).softmax(dim=1).numpy()
    assert np.allclose(found, model.predict(samples[4:9]).probabilities, atol=1e-3)


def test_an_export_that_predicts_otherwise_is_not_written(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, samples = trained
    run = exports._run_safetensors
    monkeypatch.setattr(exports, "_run_safetensors", lambda content, pixels: run(content, [255 - p for p in pixels]))
    with pytest.raises(CurationError, match="predicts otherwise than the model"):
        export_model(model, ["left", "right"], tmp_path / "model.safetensors", "safetensors", samples[:4])
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_exported_is_said(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, samples = trained
    with pytest.raises(ConfigError, match="format 'pickle' is not known; use onnx or safetensors"):
        export_model(model, ["left", "right"], tmp_path / "model", "pickle", samples[:1])
    monkeypatch.setattr(exports.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"onnxruntime; install with `pip install 'curation-toolkit\[onnx\]'`"):
        export_model(model, ["left", "right"], tmp_path / "model.onnx", "onnx", samples[:1])


def project_on(trained: Trained, root: Path, method: str) -> Project:
    """A project on copies of the images, its one iteration having trained this model."""
    (root / "images").mkdir()
    for sample in trained[1]:
        shutil.copy(sample.file, root / "images")
    rows = [f"{s.path},{'left' if number % 2 else 'right'}\n" for number, s in enumerate(trained[1])]
    (root / "labels.csv").write_text("path,label\n" + "".join(rows))
    settings = Settings(backbone=BackboneSettings(size=64), training=TrainingSettings(method=method))
    project, _ = Project.create(root / "p", root / "images", root / "labels.csv", settings=settings)
    trained[0].save(project.paths.iteration(1) / "model.safetensors")
    write_json(project.paths.iteration(1) / "train.json", {})
    return project


def test_images_that_are_gone_or_changed_hinder_no_export(trained: Trained, tmp_path: Path) -> None:
    project = project_on(trained, tmp_path, "auto")
    (tmp_path / "images" / "000.png").unlink()
    changed = tmp_path / "images" / "001.png"
    before = changed.stat()
    raw = bytearray(changed.read_bytes())
    raw[-1] ^= 1
    changed.write_bytes(raw)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # looks as it did, so that only reading tells
    assert project.export_model(tmp_path / "model.safetensors", "safetensors")["difference"] < 1e-3
    assert {one.path for one in project.aside} == {"000.png", "001.png"}


def test_whether_a_model_is_a_head_alone_is_said_by_its_file(trained: Trained, tmp_path: Path) -> None:
    project = project_on(trained, tmp_path, "head")
    assert project.export_model(tmp_path / "model.safetensors", "safetensors")["iteration"] == 1
    flat = np.zeros(8, dtype=np.float32)
    head = HeadModel(trained[0].network.store, ("c1", "c2"), flat, flat, np.zeros((2, 8), np.float32), flat[:2])
    head.save(project.paths.iteration(1) / "model.safetensors")
    project.settings = replace(project.settings, training=TrainingSettings(method="auto"))
    with pytest.raises(ConfigError, match="model of iteration 1 is a head alone, which can't be exported"):
        project.export_model(tmp_path / "head.safetensors", "safetensors")
