"""A fine-tuned model as a file for others: ONNX, or safetensors that timm loads; checked to predict the same.

Both carry the names of the classes and how images are prepared. ONNX takes plain pixels, so that normalising and the
temperature are inside; in safetensors the temperature is folded into the classifier.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import logging
import tempfile
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

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

FORMATS = ("onnx", "safetensors")
#: Probabilities of the exported model may differ by this much, which is what other kernels round differently.
TOLERANCE = 1e-3

Floats = npt.NDArray[np.float64]


def export_model(
    model: FineTuned, class_names: Sequence[str], file: Path, file_format: str, samples: Sequence[Sample]
) -> float:
    """Write ``model`` in a format of ``FORMATS``; returns by how much its probabilities differ on ``samples`` at most.

    ``class_names`` are in the order of the model's classes. The file is read back and must predict the same as the
    model; where it does not, nothing is left and CurationError is raised. Raises ConfigError for another format, or
    where the packages for ONNX are not installed.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"format '{file_format}' is not known; use {' or '.join(FORMATS)}")
    pixels = np.array(model.network.store.pixels.pixels(samples))
    expected = model.predict(samples).probabilities
    about = describe(model, class_names)
    content = _onnx(model, about) if file_format == "onnx" else _safetensors(model, about)
    found = _run_onnx(content, pixels) if file_format == "onnx" else _run_timm(content, pixels)
    difference = float(np.abs(found - expected).max(initial=0.0))
    if not difference <= TOLERANCE:  # also where it is no number
        raise CurationError(
            f"the {file_format} export of {model.network.store.backbone.name} predicts otherwise than the model (by "
            f"{difference:.2g}), so {file} was not written; report it with the versions of torch and timm"
        )
    write_whole(file, content)
    return difference


def describe(model: FineTuned, class_names: Sequence[str]) -> dict[str, str]:
    """What somebody needs in order to use the model, as text by name."""
    backbone = model.network.store.backbone
    return {
        "class_names": json.dumps(list(class_names), ensure_ascii=False),
        "class_ids": json.dumps(list(model.class_ids)),
        "architecture": backbone.name.split(".")[0],
        "preprocessing": json.dumps(
            {
                "color": "RGB, transparency on white, EXIF orientation applied",
                "resize": [backbone.size, backbone.size],
                "how": "squashed to the square; Lanczos where a side shrinks, else bicubic",
                "mean": list(backbone.mean),
                "std": list(backbone.std),
            }
        ),
        "output": "softmax gives calibrated probabilities, in the order of class_names",
    }


def _whole_model(model: FineTuned) -> Any:
    """The timm model that was fine-tuned, with a classifier that gives calibrated logits; on the CPU."""
    import copy

    network = model.network
    whole = copy.deepcopy(network.model).cpu().float().eval()
    whole.reset_classifier(len(model.class_ids))
    import torch

    classifier = classifier_of(whole)
    with torch.no_grad():
        classifier.weight.copy_(network.head.weight.cpu() / model.temperature)
        classifier.bias.copy_(network.head.bias.cpu() / model.temperature)
    return whole.requires_grad_(False)


def _safetensors(model: FineTuned, about: dict[str, str]) -> bytes:
    from safetensors.torch import save

    tensors = {name: tensor.contiguous() for name, tensor in _whole_model(model).state_dict().items()}
    # One entry: safetensors writes several in any order, and the same model must be the same file.
    return bytes(save(tensors, metadata={"curation": json.dumps(about, ensure_ascii=False)}))


def _run_timm(content: bytes, pixels: npt.NDArray[np.uint8]) -> Floats:
    """Probabilities (images, classes) by what somebody else would do: timm's model of that name, given the file."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load

    from curation.backbone import create_model

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(content)
        with safe_open(str(file), framework="pt") as opened:
            about = json.loads(opened.metadata()["curation"])
    prepared = json.loads(about["preprocessing"])
    model = create_model(about["architecture"], len(json.loads(about["class_names"])))
    model.load_state_dict(load(content))
    model.eval()
    mean, std = (torch.tensor(prepared[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    return softmax(logits.double().numpy())


def _onnx(model: FineTuned, about: dict[str, str]) -> bytes:
    """The model as one ONNX graph: ``pixels`` (images, side, side, 3) uint8 to ``probabilities`` (images, classes)."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}; install with `pip install 'curation-toolkit[onnx]'`")
    import onnx
    import torch

    backbone = model.network.store.backbone

    class Pixels(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _whole_model(model)
            self.mean = torch.tensor(backbone.mean).view(1, 3, 1, 1) * 255
            self.std = torch.tensor(backbone.std).view(1, 3, 1, 1) * 255

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            images = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
            return torch.softmax(self.model(images), dim=1)

    example = torch.zeros((2, backbone.size, backbone.size, 3), dtype=torch.uint8)
    with _silent():
        program = torch.onnx.export(
            Pixels(), (example,), dynamo=True, input_names=["pixels"], output_names=["probabilities"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("images", min=1)}},
        )  # fmt: skip
    assert program is not None
    graph = program.model_proto
    _forget_where(graph)
    onnx.helper.set_model_props(graph, about)
    onnx.checker.check_model(graph)
    return bytes(graph.SerializeToString())


def _forget_where(graph: Any) -> None:
    """Take out the source lines that torch notes at every node: they name folders of the machine that exported."""
    parts = (graph.graph.node, graph.graph.value_info, graph.graph.input, graph.graph.output, graph.graph.initializer)
    for part in itertools.chain(*parts, *(function.node for function in graph.functions)):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _run_onnx(content: bytes, pixels: npt.NDArray[np.uint8]) -> Floats:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0], dtype=np.float64)


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
