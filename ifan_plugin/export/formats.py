"""The files that :mod:`ifan_plugin.export.program` writes: out of a traced program, and as something to run."""

from __future__ import annotations

import functools
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ifan_plugin import __version__
from ifan_plugin.common.errors import UserError

EXTRA_FILE = "ifan_plugin.json"
"""The metadata's name among the extra files of a torch.export program."""

_ONNX_LIMIT = 2**31 - 1  # bytes of a protobuf message, and so of an ONNX file with its weights inside


def newest_opset() -> int:
    """The newest that both onnx and onnxscript, which writes it, know."""
    import onnx
    from onnxscript import onnx_opset

    return min(onnx.defs.onnx_opset_version(), max(version for domain, version in onnx_opset.all_opsets if not domain))


def graph_modules(program: torch.export.ExportedProgram) -> list[torch.fx.GraphModule]:
    """The program's graph and those inside it."""
    return [module for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]


def torch_file(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """A torch.export file's content."""
    for graph_module in graph_modules(program):
        for node in graph_module.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
    file = io.BytesIO()
    with quiet():
        torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(dict(metadata), indent=1)})
    return file.getvalue()


def onnx_file(
    program: torch.export.ExportedProgram,
    metadata: Mapping[str, str],
    opset: int | None,
    *,
    any_batch: bool,
    path: Path,
) -> tuple[bytes, int]:
    """An ONNX file's content and its opset.

    Raises:
        UserError: more weights than such a file holds, operators that ONNX lacks, or another opset than asked for.
    """
    import onnx

    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if weights > _ONNX_LIMIT:
        raise UserError(
            f"{path}: {weights / 2**30:.1f} GiB of weights; an ONNX file holds less than 2; use --torch-export"
        )
    dims = ({0: "batch"} if any_batch else {}) | {2: "height", 3: "width"}
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                input_names=["lq"],
                output_names=["restored"],
                opset_version=opset,
                dynamic_shapes={"lq": dims},
            )
    except Exception as error:  # an operator without a translation, or a fault in the translator
        words = " ".join(str(error).split())[:300]
        raise UserError(
            f"{metadata['architecture']}: torch can't translate this network to ONNX: {type(error).__name__}: {words}; "
            "--torch-export may work"
        ) from error
    assert exported is not None  # as it is with dynamo=True
    model = exported.model_proto
    found = {entry.domain: entry.version for entry in model.opset_import}
    foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
    if foreign:
        raise UserError(f"{path}: the network needs operators that ONNX doesn't have: {', '.join(foreign)}")
    if opset is not None and found[""] != opset:
        raise UserError(f"--opset: torch wrote opset {found['']} instead of {opset}; leave the flag out")
    _strip(model.graph)
    del model.functions[:]
    model.producer_name, model.producer_version = "ifan_plugin", __version__
    onnx.helper.set_model_props(model, dict(metadata))
    return model.SerializeToString(), found[""]


def _strip(graph: Any) -> None:
    """Take the tracer's remarks out: source lines with this machine's paths, larger than the graph itself."""
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""


def onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """``lq -> restored`` by onnxruntime on the CPU, in as many threads as torch has now. Memory is given back after
    each run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    once = onnxruntime.RunOptions()
    once.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return lambda lq: torch.from_numpy(session.run(["restored"], {"lq": lq.numpy()}, once)[0])


@functools.cache
def _openvino_core() -> Any:
    """One for the process. Each core sets the stack that the calling thread's signal handlers run on, and takes it
    away with itself: behind two that go in the order in which they came, the next Ctrl+C was a segmentation fault."""
    import openvino

    return openvino.Core()


def openvino_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """``lq -> restored`` by OpenVINO on the CPU, in float32 and as many threads as torch has now. Memory is given back
    after each run."""
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # left to itself it takes bfloat16 or float16 where the CPU has them
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # on a busy machine a thread would wait for its core
    }
    model = _openvino_core().compile_model(str(path), "CPU", settings)

    def run(lq: Tensor) -> Tensor:
        restored = torch.from_numpy(model({"lq": lq.numpy()})["restored"])
        model.release_memory()
        return restored

    return run


def torch_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """``lq -> restored`` by the program as torch.export loads it."""
    with path.open("rb") as file, quiet():
        module = torch.export.load(file).module()

    def run(lq: Tensor) -> Tensor:
        with torch.no_grad():
            return module(lq)

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the exporters say about themselves: deprecations inside them, and progress they log."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"(torch|onnx|onnxscript|onnx_ir|copyreg)\b")
        for logger in loggers:
            logger.setLevel(max(logger.getEffectiveLevel(), logging.WARNING))
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
