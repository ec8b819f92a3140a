"""A model as a file for others: ONNX, or safetensors; checked to predict the same.

Both carry the names of the classes and how images are prepared. ONNX takes plain pixels, so that normalising and the
temperature are inside. Of a fine-tuned network safetensors hold what timm loads, the temperature folded into the
classifier; of a head on views they hold the backbone, which timm loads, and the head: ``load_exported`` puts both
together. Such a model looks at an image at several sizes, and both formats take it at each of them.
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import logging
import warnings
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from curation.backbone import classifier_of
from curation.errors import ConfigError, CurationError
from curation.networks import softmax
from curation.records import Sample
from curation.runs import write_whole
from curation.training import FineTuned
from curation.view_heads import ViewModel, arrays_of, head_of, network_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from curation.backbone import Backbone

FORMATS = ("onnx", "safetensors")
#: Probabilities of the exported model may differ by this much, which is what other kernels round differently.
TOLERANCE = 1e-3

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]


def export_model(
    model: FineTuned | ViewModel, class_names: Sequence[str], file: Path, file_format: str, samples: Sequence[Sample]
) -> float:
    """Write ``model`` in a format of ``FORMATS``; returns by how much its probabilities differ on ``samples`` at most.

    ``class_names`` are in the order of the model's classes. The file is read back and must predict the same as the
    model; where it does not, nothing is left and CurationError is raised. Raises ConfigError for another format, or
    where the packages for ONNX are not installed.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"format '{file_format}' is not known; use {' or '.join(FORMATS)}")
    expected = model.predict(samples).probabilities
    about = describe(model, class_names)
    pixels = _pixels(model, samples)
    content = _onnx(model, about) if file_format == "onnx" else _safetensors(model, about)
    found = _run_onnx(content, pixels) if file_format == "onnx" else _run_safetensors(content, pixels)
    difference = float(np.abs(found - expected).max(initial=0.0))
    if not difference <= TOLERANCE:  # also where it is no number
        raise CurationError(
            f"the {file_format} export of {_backbone(model).name} predicts otherwise than the model (by "
            f"{difference:.2g}), so {file} was not written; report it with the versions of torch and timm"
        )
    write_whole(file, content)
    return difference


def describe(model: FineTuned | ViewModel, class_names: Sequence[str]) -> dict[str, str]:
    """What somebody needs in order to use the model, as text by name."""
    backbone, sizes = _backbone(model), _sizes(model)
    resize: dict[str, Any] = {"resize": [sizes[0], sizes[0]]}
    output = "softmax gives calibrated"
    if isinstance(model, ViewModel):
        resize["views"] = [[size, size] for size in sizes]
        resize["turned"] = model.views.turned
        output = "calibrated"
    return {
        "class_names": json.dumps(list(class_names), ensure_ascii=False),
        "class_ids": json.dumps(list(model.class_ids)),
        "architecture": backbone.architecture,
        "preprocessing": json.dumps(
            {
                "color": "RGB, transparency on white, EXIF orientation applied",
                **resize,
                "how": "squashed to the square; Lanczos where a side shrinks, else bicubic",
                "mean": list(backbone.mean),
                "std": list(backbone.std),
            }
        ),
        "output": f"{output} probabilities, in the order of class_names",
    }


def load_exported(content: bytes) -> torch.nn.Module:
    """What ``safetensors`` of a head on views hold, as one network; see ``network_of`` for what it takes and gives."""
    from safetensors.torch import load

    from curation.backbone import create_model

    about, tensors = _about(content), load(content)
    prepared = json.loads(about["preprocessing"])
    backbone = create_model(about["architecture"], 0)
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in tensors.items() if k.startswith("backbone.")})
    arrays = {k.removeprefix("head."): v.numpy() for k, v in tensors.items() if k.startswith("head.")}
    turned = prepared.get("turned", [False] * len(prepared["views"]))
    return network_of(backbone.eval(), prepared["mean"], prepared["std"], head_of(arrays), turned)


def _backbone(model: FineTuned | ViewModel) -> Backbone:
    return model.views.backbone if isinstance(model, ViewModel) else model.network.store.backbone


def _sizes(model: FineTuned | ViewModel) -> list[int]:
    return model.views.sizes if isinstance(model, ViewModel) else [_backbone(model).size]


def _inputs(model: FineTuned | ViewModel) -> list[str]:
    """Names of what the ONNX graph takes: the images, at each size where there are several."""
    return ["pixels"] if isinstance(model, FineTuned) else [f"pixels_{size}" for size in model.views.sizes]


def _pixels(model: FineTuned | ViewModel, samples: Sequence[Sample]) -> list[Pixels]:
    """The images at each size, (images, side, side, 3)."""
    if isinstance(model, FineTuned):
        return [np.array(model.network.store.pixels.pixels(samples))]
    return [model.views.decode(samples, size) for size in model.views.sizes]


def _whole_model(model: FineTuned) -> Any:
    """The timm model that was fine-tuned, with a classifier that gives calibrated logits; on the CPU."""
    network = model.network
    whole = copy.deepcopy(network.model).cpu().float().eval()
    whole.reset_classifier(len(model.class_ids))
    import torch

    classifier = classifier_of(whole)
    with torch.no_grad():
        classifier.weight.copy_(network.head.weight.cpu() / model.temperature)
        classifier.bias.copy_(network.head.bias.cpu() / model.temperature)
    return whole.requires_grad_(False)


def _safetensors(model: FineTuned | ViewModel, about: dict[str, str]) -> bytes:
    from safetensors.torch import save

    if isinstance(model, FineTuned):
        tensors = {name: tensor.contiguous() for name, tensor in _whole_model(model).state_dict().items()}
    else:
        import torch

        state = copy.deepcopy(model.views.backbone.model).cpu().float().state_dict()
        tensors = {f"backbone.{name}": tensor.contiguous() for name, tensor in state.items()}
        tensors |= {f"head.{name}": torch.from_numpy(array) for name, array in arrays_of(model.head).items()}
    # One entry: safetensors writes several in any order, and the same model must be the same file.
    return bytes(save(tensors, metadata={"curation": json.dumps(about, ensure_ascii=False)}))


def _about(content: bytes) -> dict[str, str]:
    """What the bytes of a safetensors file say of the model."""
    length = int.from_bytes(content[:8], "little")
    found: dict[str, str] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["curation"])
    return found


def _run_safetensors(content: bytes, pixels: Sequence[Pixels]) -> Floats:
    """Probabilities (images, classes) by what somebody else would do: timm's model of that name, given the file."""
    import torch
    from safetensors.torch import load

    from curation.backbone import create_model

    about = _about(content)
    prepared = json.loads(about["preprocessing"])
    if "views" in prepared:
        with torch.inference_mode():
            return np.asarray(load_exported(content)(*map(torch.from_numpy, pixels)).double().numpy())
    model = create_model(about["architecture"], len(json.loads(about["class_names"])))
    model.load_state_dict(load(content))
    model.eval()
    mean, std = (torch.tensor(prepared[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = model((torch.from_numpy(pixels[0]).permute(0, 3, 1, 2) / 255 - mean) / std)
    return softmax(logits.double().numpy())


def _onnx(model: FineTuned | ViewModel, about: dict[str, str]) -> bytes:
    """The model as one ONNX graph: images (images, side, side, 3) uint8 to ``probabilities`` (images, classes)."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}; install with `pip install 'curation-toolkit[onnx]'`")
    import onnx
    import torch

    names, count = _inputs(model), torch.export.Dim("images", min=1)
    examples = tuple(torch.zeros((2, size, size, 3), dtype=torch.uint8) for size in _sizes(model))
    with _silent():
        program = torch.onnx.export(
            _network(model), examples, dynamo=True, input_names=names, output_names=["probabilities"],
            dynamic_shapes=(tuple({0: count} for _ in names),),
        )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    _forget_where(graph)
    onnx.helper.set_model_props(graph, about)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def _network(model: FineTuned | ViewModel) -> torch.nn.Module:
    """A model from pixels, one uint8 tensor a size, to probabilities (images, classes); on the CPU."""
    import torch

    backbone = _backbone(model)
    if isinstance(model, ViewModel):
        plain = copy.deepcopy(backbone.model).cpu().float().eval()
        return network_of(plain, backbone.mean, backbone.std, model.head, model.views.turned)
    tuned = _whole_model(model)

    class FromPixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = tuned
            self.mean = torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255
            self.std = torch.tensor(backbone.std).view(1, 3, 1, 1) * 255

        def forward(self, *pixels: torch.Tensor) -> torch.Tensor:
            images = (pixels[0].permute(0, 3, 1, 2).float() - self.mean) / self.std
            return torch.softmax(self.model(images), dim=1)

    return FromPixels()


def _forget_where(graph: Any) -> None:
    """Take out the source lines that torch notes at every node: they name folders of the machine that exported."""
    parts = (graph.graph.node, graph.graph.value_info, graph.graph.input, graph.graph.output, graph.graph.initializer)
    for part in itertools.chain(*parts, *(function.node for function in graph.functions)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _run_onnx(content: bytes, pixels: Sequence[Pixels]) -> Floats:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {given.name: images for given, images in zip(session.get_inputs(), pixels, strict=True)}
    return np.asarray(session.run(["probabilities"], given)[0], dtype=np.float64)


@contextmanager
def _silent() -> Iterator[None]:
    """torch's exporter talks about its passes on every channel that there is."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
