"""Validation and testing: every scene once, spread over the ranks, float metrics, pictures in the data's bit depth."""

from __future__ import annotations

import inspect
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate
from tqdm import tqdm

from ifan_plugin.common import stopping
from ifan_plugin.common.files import written_aside
from ifan_plugin.common.words import counted
from ifan_plugin.data.labels import labels_of, read_labels
from ifan_plugin.images.color import to_8bit
from ifan_plugin.images.image_io import write_image
from ifan_plugin.metrics import MetricUnavailableError
from ifan_plugin.metrics.protocols import BETTER, CUSTOM, NO_REFERENCE, PROTOCOLS, Protocol
from ifan_plugin.models import figures
from ifan_plugin.options.schema import Option
from ifan_plugin.pictures.visual import ERROR_SCALE, colour_disparity, contact_sheet, error_map, kernel_grid

VAL_OPTIONS = {
    "tile": Option((int, str, bool), None, help="restore by tiles of so many pixels a side; auto, off"),
    "ensemble": Option(bool, False, help="mean over the flips and turns that the views allow"),
    "save_disparity": Option(bool, False, help="write the disparity map, in colours and as .npy"),
    "baseline": Option(bool, False, help="measure the blurred input, too"),
    "contact_sheet": Option(int, 0, minimum=0, help="write a sheet of so many scenes"),
    "error_map": Option(bool, False, help="with the difference from the sharp picture"),
    "kernels": Option(int, 0, minimum=0, maximum=12, help="with the effective kernels at so many by so many places"),
    "protocol": Option(str, None, choices=tuple(PROTOCOLS), help="evaluation protocol that is kept to in all"),
    "labels": Option((str, dict), None, help="file of scenes and labels, whose groups get means of their own"),
}
"""What IFANModel reads from ``val`` beside the host's keys.

``tile``: restore by tiles of so many pixels, ``auto`` or ``off``; ``ensemble``: the mean over the legal flips and
turns, which is told beside the figures. Both as in :func:`ifan_plugin.inference.run_network`.
``save_disparity``: write the disparity map (colours, and numbers as ``.npy``) beside each restored picture.
``baseline``: measure the blurred input too, and log both. ``contact_sheet``: write a sheet of so many scenes.
``error_map``: with the difference from the sharp picture, restored and blurred
(:func:`ifan_plugin.pictures.visual.error_map`).
``kernels``: with the effective kernels at so many by so many places, the mean of all channels, on one scale
(:mod:`ifan_plugin.pictures.kernels`). TensorBoard gets the same pictures, these two of each set's first scene by
themselves, too.
``protocol``: one of :data:`ifan_plugin.metrics.protocols.PROTOCOLS`, kept to in all: what data sets leave open it sets,
and what contradicts it is refused; ``metrics`` then defaults to psnr, ssim and mae. Without it the figures are those of
``ifan``, or called ``custom`` where a data set or metric isn't. ``labels``: a file of scenes and their labels
(:func:`ifan_plugin.data.labels.read_labels`), whose groups get means of their own; with several data sets with ground
truth a mapping of data set name to file.
"""

ERROR_CAPTION = f"error: bright at {ERROR_SCALE:g}"
KERNEL_CAPTION = "kernels, fullest at"
KERNEL_GRID_SIDE = 600  # px: twice a sheet's cell, since TensorBoard gets it by itself, too

logger = logging.getLogger("basicsr")


def validate(model: Any, dataset: Any, current_iter: int | str, tb_logger: Any, *, save_img: bool) -> None:
    """Run ``model`` over ``dataset``; rank 0 logs the means and, when testing, writes ``metrics.csv`` and ``.json``.

    Args:
        model: has ``opt``, ``feed_data``, ``test``, ``lq``, ``output`` and optionally ``gt``, ``disparity_map()``.
        dataset: gives ``lq``, ``lq_path`` and optionally ``gt``.
        current_iter: the iteration, or the experiment's name when testing.
        tb_logger: TensorBoard writer or None.
        save_img: whether the restored pictures are written.
    """
    opt, options = model.opt, model.opt["val"]
    if opt["is_train"]:  # the host's loop has counted on when it validates for the last time
        current_iter = min(current_iter, opt["train"]["total_iter"])
    rank, world_size = opt["rank"], opt["world_size"]
    name = dataset.opt["name"]
    indices = range(rank, len(dataset), world_size)
    protocol = _protocol(model, name)
    model.views = tuple(dataset.opt.get("views") or ("center",))
    labels = _labels(options, name, [scene.key for scene in getattr(dataset, "scenes", ())])
    bar = tqdm(total=len(indices), unit="picture", desc=name, disable=rank != 0 or not options.get("pbar", True))
    records: list[dict[str, Any]] = []
    unavailable: dict[str, str] = {}
    for index in indices:
        data = default_collate([dataset[index]])
        model.feed_data(_prepared(data, PROTOCOLS.get(protocol)))
        model.test()
        record: dict[str, Any] = {
            "index": index,
            "image": data["key"][0] if "key" in data else Path(data["lq_path"][0]).stem,
        }
        if record["image"] in labels:
            record["label"] = labels[record["image"]]
        record |= _measure(model, dataset, options, unavailable, PROTOCOLS.get(protocol))
        if index == 0 and getattr(model, "gt", None) is None:  # rank 0 has it
            logger.info(_without_ground_truth(name, options.get("metrics") or {}))
        if save_img:
            _save_pictures(model, dataset, record["image"], current_iter)
        if index < options.get("contact_sheet", 0):
            record["pictures"] = _sheet_row(model, dataset, record)
        records.append(record)
        bar.update()
        if opt["is_train"] and not opt["dist"]:  # ranks would have to agree at the same picture
            stopping.raise_if_asked()
    bar.close()
    model.forget_data()
    if opt["dist"]:
        gathered: list[list[dict]] = [[] for _ in range(world_size)]
        torch.distributed.all_gather_object(gathered, records)
        records = sorted((r for part in gathered for r in part), key=lambda r: r["index"])
    if rank == 0:
        for metric, reason in unavailable.items():
            logger.warning(f"{name}: '{metric}' is left out: {reason}")
        _report(model, dataset, protocol, records, current_iter, tb_logger)


def _labels(options: dict[str, Any], name: str, scenes: list[str]) -> dict[str, str]:
    """Scene -> label of a data set; checked when the option file was."""
    path = (options.get("labels") or {}).get(name)
    return {} if path is None else labels_of(read_labels(path), scenes)


def _prepared(data: dict[str, Any], protocol: Protocol | None) -> dict[str, Any]:
    """A sample cropped or resized as the protocol says; it says nothing of samples that aren't compared."""
    if protocol is None or "gt" not in data:
        return data
    pictures = {role: data[role] for role in ("lq", "gt", "left", "right") if role in data}
    return data | {role: protocol.prepared(picture) for role, picture in pictures.items()}


def _without_ground_truth(name: str, metrics: dict[str, Any]) -> str:
    """What is said, once a data set, where there is nothing to compare with."""
    left_out = [metric for metric, description in metrics.items() if _needs_sharp(description["type"])]
    kept = [metric for metric in metrics if metric not in left_out]
    what = f"pictures and no-reference metrics ({', '.join(kept)})" if kept else "pictures"
    ends = f"; left out, for want of sharp pictures: {', '.join(left_out)}" if left_out else ""
    return f"{name}: no ground truth: {what} only{ends}."


def _measure(
    model: Any, dataset: Any, options: dict[str, Any], unavailable: dict[str, str], protocol: Protocol | None = None
) -> dict[str, Any]:
    """Metrics of the current picture, restored and (``baseline``) blurred. Empty without ground truth."""
    from basicsr.metrics import calculate_metric

    measured: dict[str, Any] = {"restored": {}, "blurred": {}}
    sharp: Any = getattr(model, "gt", None)
    compared = {"restored": model.output}
    blurred = center_view(model.lq, dataset) if options.get("baseline") else None
    if blurred is not None:
        compared["blurred"] = blurred
    for metric, description in (options.get("metrics") or {}).items():
        arguments = {key: value for key, value in description.items() if key != "better"}
        compares = _needs_sharp(arguments["type"])
        if metric in unavailable or (sharp is None and compares):
            continue
        try:
            for which, picture in compared.items():
                if protocol is not None and compares:
                    kind = arguments["type"].removeprefix("calculate_")
                    border = arguments.get("crop_border", 0)
                    measured[which][metric] = protocol.metrics(picture, sharp, (kind,), border)[kind]
                    continue
                pictures = {"img": _host_form(picture, arguments)}
                if compares:
                    pictures["img2"] = _host_form(sharp, arguments)
                measured[which][metric] = float(calculate_metric(pictures, arguments))
        except MetricUnavailableError as error:
            unavailable[metric] = str(error)
            for values in measured.values():
                values.pop(metric, None)
    return measured


def _needs_sharp(metric_type: str) -> bool:
    """Whether a registered metric compares with the sharp picture (else it is a no-reference metric)."""
    from basicsr.utils.registry import METRIC_REGISTRY

    return "img2" in inspect.signature(METRIC_REGISTRY.get(metric_type)).parameters


def _host_form(picture: Tensor, metric: dict[str, Any]) -> Tensor | np.ndarray:
    """The host's own metrics take uint8 BGR arrays (``…_pt``: float tensors); ours take the float tensor as it is."""
    if not metric["type"].startswith("calculate_") or metric["type"].endswith("_pt"):
        return picture
    return np.ascontiguousarray(to_8bit(_as_array(picture))[..., ::-1])


def center_view(lq: Tensor, dataset: Any) -> Tensor | None:
    """The blurred centre view [B, 3, H, W] within the stack ``lq``; None where the network doesn't see it."""
    views = list(dataset.opt.get("views", ["center"]))
    if "center" not in views:
        return None
    start = 3 * views.index("center")
    return lq[:, start : start + 3]


def _as_array(picture: Tensor) -> np.ndarray:
    """[1, 3, H, W] -> float [H, W, 3] in [0, 1]."""
    return picture[0].detach().float().clamp(0, 1).permute(1, 2, 0).cpu().numpy()


def _turned_back(picture: np.ndarray, dataset: Any) -> np.ndarray:
    unrotate = getattr(dataset, "unrotate", None)
    return unrotate(picture) if unrotate else picture


def _save_pictures(model: Any, dataset: Any, image: str, current_iter: int | str) -> None:
    opt = model.opt
    folder = Path(opt["path"]["visualization"])
    if opt["is_train"]:
        path = folder / dataset.opt["name"] / image / f"{image}_{current_iter}.png"
    else:
        path = folder / dataset.opt["name"] / f"{image}_{opt['val'].get('suffix') or opt['name']}.png"
    bit_depth = getattr(dataset, "bit_depth", 8)
    write_image(path, _turned_back(_as_array(model.output), dataset), bit_depth)
    if opt["val"].get("save_disparity"):
        disparity = _disparity(model, dataset)
        if disparity is not None:
            write_image(path.with_name(f"{path.stem}_disparity.png"), colour_disparity(disparity) / 255.0, 8)
            with written_aside(path.with_name(f"{path.stem}_disparity.npy"), durable=False) as file:
                np.save(file, disparity)


def _disparity(model: Any, dataset: Any) -> np.ndarray | None:
    """The disparity map [H/8, W/8] of the picture being validated, in pixels at 1/8 size."""
    disparity = model.disparity_map() if hasattr(model, "disparity_map") else None
    return None if disparity is None else _turned_back(disparity[0, 0].float().cpu().numpy(), dataset)


def _sheet_row(model: Any, dataset: Any, record: dict[str, Any]) -> list[tuple[str, np.ndarray]]:
    def caption(which: str, metrics: dict[str, float]) -> str:
        return f"{which} {metrics['psnr']:.2f} dB" if "psnr" in metrics else which

    tensors: list[tuple[str, Tensor]] = []
    blurred, sharp, disparity = center_view(model.lq, dataset), getattr(model, "gt", None), _disparity(model, dataset)
    if blurred is not None:
        tensors.append((caption("blurred", record["blurred"]), blurred))
    tensors.append((caption("restored", record["restored"]), model.output))
    if sharp is not None:
        tensors.append(("ground truth", sharp))
    options = model.opt["val"]
    errors = []
    if options.get("error_map") and sharp is not None:
        pairs = [] if blurred is None else [("error before", blurred)]
        pairs.append((ERROR_CAPTION, model.output))
        errors = [(what, error_map(_as_array(picture), _as_array(sharp))) for what, picture in pairs]
    row = [(text, to_8bit(_turned_back(_as_array(picture), dataset))) for text, picture in tensors]
    row += [(text, np.ascontiguousarray(_turned_back(picture, dataset))) for text, picture in errors]
    if disparity is not None:
        row.append(("disparity: blue -, red +", colour_disparity(disparity)))
    if options.get("kernels"):
        kernels = [[kernel.weights for kernel in line] for line in model.inspector().grid(options["kernels"])]
        largest = max(abs(weights).max() for line in kernels for weights in line)
        # Made in the network's frame and turned as a whole, which turns the places and each kernel alike.
        grid = _turned_back(kernel_grid(kernels, KERNEL_GRID_SIDE), dataset)
        row.append((f"{KERNEL_CAPTION} {largest:.2g}", np.ascontiguousarray(grid)))
    return row


def _report(  # noqa: C901 (one part of the log a branch)
    model: Any, dataset: Any, protocol: str, records: list[dict[str, Any]], current_iter: int | str, tb_logger: Any
) -> None:
    """Means to the log and TensorBoard; when testing also files beside the log."""
    opt, name = model.opt, dataset.opt["name"]
    means = figures.means_of(records)
    if not _compared(model, means):
        protocol = NO_REFERENCE
    if not means["restored"]:
        why = "none of the metrics asked for" if opt["val"].get("metrics") else "no metrics are asked for"
        logger.info(f"Validation {name}: {counted(len(records), 'picture')}; {why}.")
    else:
        if opt["is_train"]:
            _add_best_records(model, name)
        lines = [f"Validation {name}: mean of {counted(len(records), 'picture')}, {_kind(protocol)}"]
        for metric, value in means["restored"].items():
            line = f"\t # {metric}: {figures.shown(metric, value)}"
            if metric in means["blurred"]:
                before = means["blurred"][metric]
                better = opt["val"]["metrics"].get(metric, {}).get("better", "higher")
                gain = figures.gain(metric, before, value, better)
                line += f"\tblurred input: {figures.shown(metric, before)}\tgain: {gain}"
            if opt["is_train"]:
                model._update_best_metric_result(name, metric, value, current_iter)
                best = model.best_metric_results[name][metric]
                line += f"\tbest: {figures.shown(metric, best['val'])} @ {best['iter']} iter"
            lines.append(line)
            if tb_logger:
                tb_logger.add_scalar(f"metrics/{name}/{metric}", value, current_iter)
        if opt["is_train"]:
            lines += _group_lines(records)
        else:
            lines += figures.table(records, means)
        logger.info("\n".join(lines))
    folder = Path(opt["path"]["visualization"]) / name if opt["is_train"] else Path(opt["path"]["results_root"]) / name
    if not opt["is_train"] and means["restored"]:
        facts = _facts(dataset) | ({"ensemble": True} if opt["val"].get("ensemble") else {})
        figures.write_tables(folder, name, protocol, facts, records, means)
    rows = [r["pictures"] for r in records if "pictures" in r]
    if rows:
        path = folder / f"contact_sheet{f'_{current_iter}' if opt['is_train'] else ''}.png"
        sheet = contact_sheet(rows)
        write_image(path, sheet / 255.0, 8)
        logger.info(f"Contact sheet: {path}")
        if tb_logger:
            tb_logger.add_image(f"pictures/{name}", sheet, current_iter, dataformats="HWC")
            for caption, picture in rows[0]:
                for kind, start in (("errors", ERROR_CAPTION), ("kernels", KERNEL_CAPTION)):
                    if caption.startswith(start):
                        tb_logger.add_image(f"{kind}/{name}", picture, current_iter, dataformats="HWC")


def _kind(protocol: str) -> str:
    """What the figures of a data set are, for the log."""
    if protocol == NO_REFERENCE:
        return "no-reference metrics"
    what = PROTOCOLS[protocol].compared if protocol in PROTOCOLS else "not comparable with published figures"
    return f"protocol {protocol} ({what})"


def _group_lines(records: list[dict[str, Any]]) -> list[str]:
    lines = []
    for label, group in figures.groups_of(records).items():
        values = ", ".join(f"{metric} {figures.shown(metric, value)}" for metric, value in group["restored"].items())
        lines.append(f"\t   {group['count']} {label}: {values}")
    return lines


def _facts(dataset: Any) -> dict[str, Any]:
    """How the pictures were read, as far as the data set's options say."""
    defaults = {key: option.default for key, option in getattr(dataset, "OPTIONS", {}).items()}
    options = defaults | dict(dataset.opt)
    known = ("type", "layout", "split", "views", "bit_depth", "crop_multiple", "max_images")
    return {"data": {key: options[key] for key in known if options.get(key) is not None}}


def _compared(model: Any, means: dict[str, dict[str, float]]) -> bool:
    """Whether any of the figures compares with the sharp pictures."""
    metrics = model.opt["val"].get("metrics") or {}
    return any(_needs_sharp(metrics[metric]["type"]) for metric in means["restored"])


def _protocol(model: Any, name: str) -> str:
    """The protocol that the option file names; else ``ifan`` where every figure is of that kind, and ``custom`` where
    one isn't: not comparable with the papers' figures.

    (Without ground truth it is ``no-reference``.)
    """
    named = model.opt["val"].get("protocol")
    if named is not None:
        return named
    metrics = (model.opt["val"].get("metrics") or {}).values()
    data = next(d for d in model.opt["datasets"].values() if d["name"] == name)
    compared = [m for m in metrics if _needs_sharp(m["type"])]
    ours = all(m["type"] in BETTER and not m.get("crop_border") and m.get("net", "alex") == "alex" for m in compared)
    fits = data["type"] == "DualPixelDataset" and data.get("crop_multiple", 8) == 8
    return "ifan" if ours and fits else CUSTOM


def _add_best_records(model: Any, name: str) -> None:
    """The host makes a set's records once; a metric added before a resume needs its own."""
    model._initialize_best_metric_results(name)
    for metric, description in model.opt["val"]["metrics"].items():
        better = description.get("better", "higher")
        worst = -math.inf if better == "higher" else math.inf
        model.best_metric_results[name].setdefault(metric, {"better": better, "val": worst, "iter": -1})
