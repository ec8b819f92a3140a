"""Backbones come with pretrained weights, mapped by name, or not at all."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from curation import backbone as backbones
from curation.errors import ConfigError, WeightsError


def test_the_bundled_weights_fit_timms_model_name_by_name() -> None:
    file = backbones.bundled_file()
    assert file is not None
    ours = {backbones.timm_name(k): v.shape for k, v in backbones.read_weights(file).items()}
    theirs = {k: v.shape for k, v in timm.create_model("tf_efficientnet_lite0").state_dict().items()}
    assert len(ours) == 296
    assert ours == theirs


@pytest.mark.parametrize(
    ("photograph", "expected"),
    [("chelsea", "tabby, tabby cat"), ("coffee", "espresso"), ("rocket", "missile")],
)
def test_the_classifier_of_the_mapped_weights_names_what_is_in_real_photographs(photograph: str, expected: str) -> None:
    model, _, _ = backbones._load("tf_efficientnet_lite0", None)
    image = Image.fromarray(getattr(skimage.data, photograph)()).resize((224, 224))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        best = model.eval()(pixels)[0].topk(5).indices.tolist()
    info = timm.data.ImageNetInfo()
    assert expected in [info.index_to_description(i) for i in best]


def test_trunk_and_tail_together_say_what_the_whole_network_says() -> None:
    backbone = backbones.load_backbone(size=64)
    images = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        inputs = backbone.normalise(images)
        activations = backbone.trunk(inputs)
        assert torch.allclose(backbone.tail(activations), backbone.model(inputs), atol=1e-4)
    assert backbone.split
    assert activations.shape[1:] == (192, 2, 2)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_other_families_are_divided_rightly(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    model.reset_classifier(0)
    division = backbones.divide(model)
    assert division is not None
    assert backbones._agrees(model, division, 224)
    trained = {id(p) for module in division.tail_modules(model) for p in module.parameters()}
    assert trained <= {id(p) for p in model.parameters()}


def test_a_division_that_says_something_else_is_found_by_the_probe() -> None:
    model = timm.create_model("resnet18").eval()
    model.reset_classifier(0)
    right = backbones.divide(model)
    assert right is not None
    wrong = backbones.Division(right.trunk, lambda m, x: m.forward_head(m.layer4(x).relu() * 1.1), right.tail_modules)
    assert not backbones._agrees(model, wrong, 64)


def test_a_network_that_can_not_be_divided_gives_features_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "divide", lambda model: None)
    backbone = backbones.load_backbone(size=64)
    inputs = backbone.normalise(np.zeros((1, 64, 64, 3), dtype=np.uint8))
    assert not backbone.split
    assert torch.equal(backbone.tail(backbone.trunk(inputs)), backbone.model(inputs))
    assert "only a head" in backbone.describe()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_local_file(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(1)
    tensors = timm.create_model("resnet18", num_classes=7).state_dict()
    file = tmp_path / f"own{suffix}"
    save_file(tensors, file) if suffix == ".safetensors" else torch.save({"state_dict": tensors}, file)
    backbone = backbones.load_backbone("resnet18", weights=file, size=64)
    assert torch.equal(backbone.model.conv1.weight.cpu(), tensors["conv1.weight"])
    assert f"from own{suffix}" in backbone.describe()
    again = backbones.load_backbone("resnet18", weights=file, size=64)
    assert again.identity == backbone.identity, "a classifier that was left out must not change the cache's key"


def test_a_size_that_a_network_does_not_take_is_answered_with_the_one_it_does(tmp_path: Path) -> None:
    file = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), file)
    with pytest.raises(ConfigError, match=r"takes no images of 112 px; set backbone\.size to 224"):
        backbones.load_backbone("vit_tiny_patch16_224", weights=file, size=112, device="cpu")
    assert backbones.load_backbone("vit_tiny_patch16_224", weights=file, size=224, device="cpu").feature_size == 192


def test_only_a_classifier_may_be_missing_from_a_file(tmp_path: Path) -> None:
    """ConvNeXt has a normalisation in its head, which must not be left as it was made."""
    tensors = timm.create_model("convnext_atto").state_dict()
    save_file({k: v for k, v in tensors.items() if not k.startswith("head.fc.")}, tmp_path / "bare.safetensors")
    assert backbones.load_backbone("convnext_atto", weights=tmp_path / "bare.safetensors", size=64).feature_size == 320
    save_file({k: v for k, v in tensors.items() if not k.startswith("head.")}, tmp_path / "torn.safetensors")
    with pytest.raises(WeightsError, match=r"2 tensors missing.*'head.norm.weight'"):
        backbones.load_backbone("convnext_atto", weights=tmp_path / "torn.safetensors", size=64)


def test_the_bundled_file_given_as_a_file_is_the_same_backbone() -> None:
    given, bundled = (backbones.load_backbone(weights=w, size=64) for w in (backbones.bundled_file(), None))
    assert given.identity == bundled.identity
    assert given.mean == given.std == (0.5, 0.5, 0.5)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match=r"does not fit the backbone: \d+ tensors missing.*'conv_stem.*'layer1"):
        backbones.load_backbone(weights=tmp_path / "resnet.safetensors")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("ran",))

    torch.save(Evil(), tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="no file of plain weights"):
        backbones.read_weights(tmp_path / "evil.pth")


def test_without_weights_the_error_names_the_three_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"Connect to the network, or name a file .*, or take .*bundled, tf_eff"):
        backbones.load_backbone("resnet18.a1_in1k", size=64)


def test_weights_from_a_hub_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loading code of the hub's path, on a stand-in: timm takes the file in place of a download."""
    torch.manual_seed(2)
    tensors = timm.create_model("resnet18").state_dict()
    save_file(tensors, tmp_path / "hub.safetensors")
    create = timm.create_model

    def from_stand_in(name: str, pretrained: bool = False, **given: object) -> torch.nn.Module:
        overlay = {"file": str(tmp_path / "hub.safetensors")}
        return create(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **given)

    monkeypatch.setattr(timm, "create_model", from_stand_in)
    backbone = backbones.load_backbone("resnet18", size=64)
    assert torch.equal(backbone.model.conv1.weight.cpu(), tensors["conv1.weight"])
    assert backbone.origin == "from the hub"


def test_a_name_on_the_hub_keeps_its_dots_and_says_its_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a stand-in for the hub, which has one repository; its weights come from a file all the same."""
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "resnet18", "num_classes": 1000}', encoding="utf-8")

    def from_stand_in(repository: str, filename: str, **given: object) -> str:
        assert (repository, filename) == ("me/net.v2.in1k", "config.json")
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.download_from_hf", from_stand_in)
    backbone = backbones.load_backbone("hf-hub:me/net.v2.in1k", weights=tmp_path / "mine.safetensors", size=64)
    assert (backbone.name, backbone.architecture) == ("hf-hub:me/net.v2.in1k", "resnet18")
    assert backbones.create_model(backbone.architecture, 2).num_classes == 2


def test_an_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(ConfigError, match=r"no model 'resnet81'; did you mean .*resnet"):
        backbones.load_backbone("resnet81")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="device must be auto, cpu, cuda or cuda:N, got 'quantum'"):
        backbones.pick_device("quantum")


def test_identity_changes_with_the_weights_and_with_how_images_are_normalised() -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18")
    half, other = {"mean": (0.5,), "std": (0.5,)}, {"mean": (0.4,), "std": (0.5,)}
    before = backbones._digest(model, half)
    assert backbones._digest(model, other) != before
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1
    assert backbones._digest(model, half) != before
