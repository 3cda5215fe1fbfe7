"""Cells: what is measured, that finished ones aren't run again, and that a failed one leaves the others alone."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
import re
import shutil
import subprocess
import types
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import write_dpdd

from ifan_plugin.archs.ifan_arch import IFAN
from ifan_plugin.benchmark import cells, files, models, options, profile_process, quality, report, run
from ifan_plugin.benchmark.options import BLURRED
from ifan_plugin.benchmark.profile_process import profile_model
from ifan_plugin.common.errors import UserError
from ifan_plugin.data.dual_pixel_dataset import DualPixelDataset
from ifan_plugin.host.registry import register_classes
from ifan_plugin.images.image_io import read_image
from ifan_plugin.metrics import MetricUnavailableError, full_reference, psnr, ssim

SMALL = {"width": 2, "num_steps": 1, "res_units": 1}
IFAN_ROW = {"name": "IFAN klein ü", "type": "IFAN", **SMALL}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """One thread: the networks are tiny, and threads that wait for each other would cost most of the time."""
    register_classes()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dpdd(tmp_path_factory.mktemp("a set"), {"test": 2})


def benchmark_options(data: Path, *rows: dict, **more) -> dict:
    return {
        "name": "small",
        "device": "cpu",
        "models": [{"name": "blurred", "type": BLURRED}, *copy.deepcopy(rows)],
        "datasets": [{"name": "tiny", "type": "DualPixelDataset", "dataroot": str(data)}],
        "profile": None,
        "pictures": {"count": 1, "crop": 32},
        **more,
    }


def run_all(content: dict, out: Path, only: list[str] | None = None, overwrite: bool = False) -> dict:
    checked = options.check(content, "b.yml")
    return run.run(checked, out, options.chosen_models(checked, only), overwrite=overwrite)


def cell(found: dict, model: str, dataset: str = "tiny") -> dict:
    return found["quality"][model][dataset]


class TestQuality:
    def test_figures_are_those_of_the_metrics(self, data, tmp_path):
        found = run_all(benchmark_options(data, IFAN_ROW), tmp_path)
        dataset = DualPixelDataset({"phase": "test", "name": "t", "dataroot": str(data)})
        torch.manual_seed(0)
        net = IFAN(**SMALL).eval()
        for index, sample in enumerate(dataset[i] for i in range(2)):
            with torch.no_grad():
                restored = net(sample["lq"][None])
            assert cell(found, "blurred")["images"][index]["psnr"] == psnr(sample["lq"], sample["gt"])
            measured = cell(found, IFAN_ROW["name"])["images"][index]
            assert measured["image"] == dataset.scenes[index].key
            assert measured["psnr"] == pytest.approx(psnr(restored, sample["gt"]), abs=1e-4)
            assert measured["ssim"] == pytest.approx(ssim(restored, sample["gt"]), abs=1e-5)
        images = cell(found, "blurred")["images"]
        assert cell(found, "blurred")["mean"]["mae"] == pytest.approx((images[0]["mae"] + images[1]["mae"]) / 2)
        assert cell(found, IFAN_ROW["name"])["random_weights"]
        assert not cell(found, "blurred")["random_weights"]

    def test_views_follow_the_network(self, data, tmp_path):
        found = run_all(benchmark_options(data, {**IFAN_ROW, "dual_pixel": True}), tmp_path)
        assert cell(found, IFAN_ROW["name"])["status"] == "done"

    def test_pictures_show_the_same_place(self, data, tmp_path):
        found = run_all(benchmark_options(data, {**IFAN_ROW, "dual_pixel": True}), tmp_path)
        (name,) = found["references"]["tiny"]["shown"].values()
        cells = tmp_path / "cells"
        blurred = read_image(cells / cell(found, "blurred")["key"] / name)
        assert blurred.shape == (32, 32, 3)
        np.testing.assert_array_equal(
            blurred, read_image(cells / found["references"]["tiny"]["folder"] / "blurred" / name)
        )

    def test_picture_that_is_nowhere(self, data, tmp_path):
        content = benchmark_options(data, pictures={"keys": ["1P0A0002", "1P0A0001"], "crop": 32})
        found = run_all(content, tmp_path)
        assert list(found["references"]["tiny"]["shown"]) == ["1P0A0001"]
        assert found["notes"] == ["pictures: keys: no test set has '1P0A0002'; did you mean '1P0A0003'?"]

    def test_place_with_the_largest_difference(self):
        sharp, blurred = torch.zeros(3, 40, 60), torch.zeros(3, 40, 60)
        blurred[:, 24:32, 40:48] = 1
        rows, columns = quality.most_blurred(blurred, sharp, 16)
        assert rows.start <= 24
        assert rows.stop >= 32
        assert columns.start <= 40
        assert columns.stop >= 48
        assert quality.most_blurred(blurred, sharp, 100) == (slice(0, 40), slice(0, 60))


class TestResuming:
    def test_finished_cells_stay(self, data, tmp_path, monkeypatch):
        first = run_all(benchmark_options(data, IFAN_ROW), tmp_path)
        assert (first["ran"], first["reused"]) == (2, 0)
        monkeypatch.setattr(quality, "measure_quality", lambda *_: pytest.fail("a finished cell ran again"))
        second = run_all(benchmark_options(data, {**IFAN_ROW, "name": "renamed"}), tmp_path)
        assert (second["ran"], second["reused"]) == (0, 2)
        assert cell(second, "renamed")["images"] == cell(first, IFAN_ROW["name"])["images"]

    @pytest.mark.parametrize("change", ["model", "seed", "data", "broken file"])
    def test_what_changes_runs_again(self, data, tmp_path, change):
        content = benchmark_options(data, IFAN_ROW)
        if change == "data":
            content["datasets"][0]["dataroot"] = str(write_dpdd(tmp_path / "own", {"test": 2}))
        first = run_all(content, tmp_path)
        if change == "model":
            content["models"][1]["width"] = 3
        elif change == "seed":
            content["manual_seed"] = 1
        elif change == "data":
            write_dpdd(tmp_path / "own", {"test": 2}, seed=5)
        else:
            key = cell(first, IFAN_ROW["name"])["key"]
            (tmp_path / "cells" / f"{key}.json").write_text('{"status": "do')
        expected = 1 if change in ("model", "broken file") else 2
        assert run_all(content, tmp_path)["ran"] == expected

    def test_other_checkpoint_at_the_same_place(self, data, tmp_path):
        path = tmp_path / "net.pth"
        content = benchmark_options(data, {**IFAN_ROW, "path": str(path)})
        values = []
        for seed in (1, 2, 2):
            torch.manual_seed(seed)
            torch.save({"params": IFAN(**SMALL).state_dict()}, path)
            values.append(run_all(content, tmp_path))
        assert [found["ran"] for found in values] == [2, 1, 0]
        assert cell(values[0], IFAN_ROW["name"])["mean"] != cell(values[1], IFAN_ROW["name"])["mean"]

    def test_only_and_overwrite(self, data, tmp_path):
        content = benchmark_options(data, IFAN_ROW)
        found = run_all(content, tmp_path, only=["blurred"])
        assert found["ran"] == 1
        assert cell(found, IFAN_ROW["name"])["status"] == "not run"
        run_all(content, tmp_path)
        found = run_all(content, tmp_path, only=["blurred"], overwrite=True)
        assert (found["ran"], found["reused"]) == (1, 1)

    @pytest.mark.parametrize("folder", ["test_l", "test_r"])
    def test_other_view_at_the_same_place(self, tmp_path, folder):
        content = benchmark_options(write_dpdd(tmp_path / "own", {"test": 1}), {**IFAN_ROW, "dual_pixel": True})
        run_all(content, tmp_path)
        (picture,) = (tmp_path / "own" / folder / "source").iterdir()
        os.utime(picture, ns=(1, 1))
        second = run_all(content, tmp_path)
        assert (second["ran"], second["reused"]) == (1, 1)
        assert cell(second, "blurred")["reused"]

    @pytest.mark.parametrize("kind", ["SimulatedDualPixelDataset", "PairedImageDataset"])
    def test_other_files_of_other_data_sets(self, data, tmp_path, kind):
        folders = {"sharp": tmp_path / "sharp", "depth": tmp_path / "depth"}
        for folder in folders.values():
            folder.mkdir()
        (picture, *_) = sorted((data / "test_c" / "target").iterdir())
        shutil.copy(picture, folders["sharp"] / "a.png")
        if kind == "PairedImageDataset":
            shutil.copy(next((data / "test_c" / "source").iterdir()), folders["depth"] / "a.png")
            more = {"dataroot_gt": str(folders["sharp"]), "dataroot_lq": str(folders["depth"])}
            more |= {"io_backend": {"type": "disk"}}
        else:
            np.save(folders["depth"] / "a.npy", np.linspace(6, 2, 48)[:, None] * np.ones(64))
            more = {f"dataroot_{role}": str(folder) for role, folder in folders.items()} | {"max_coc_px": 4.0}
        content = benchmark_options(data, datasets=[{"name": "tiny", "type": kind, **more}])
        ran = [run_all(content, tmp_path / "out")["ran"] for _ in range(2)]
        (changed,) = folders["depth"].iterdir()
        os.utime(changed, ns=(1, 1))
        found = run_all(content, tmp_path / "out")
        assert cell(found, "blurred")["status"] == "done", cell(found, "blurred")
        assert [*ran, found["ran"]] == [1, 0, 1]

    def test_metric_that_was_unavailable(self, data, tmp_path, monkeypatch):
        content = benchmark_options(data, metrics=["psnr", "mae"])
        with monkeypatch.context() as patched:

            def unavailable(*_: object) -> float:
                raise MetricUnavailableError("no weights")

            patched.setattr(full_reference, "mae", unavailable)
            first = run_all(content, tmp_path)
        assert cell(first, "blurred")["unavailable"] == {"mae": "no weights"}
        content["models"].append(IFAN_ROW)
        others = run_all(content, tmp_path, only=[IFAN_ROW["name"]])
        assert cell(others, "blurred")["reused"]  # may not run: what there is, is shown
        second = run_all(content, tmp_path)
        assert (second["ran"], second["reused"]) == (1, 1)
        assert set(cell(second, "blurred")["mean"]) == {"psnr", "mae"}

    def test_metrics_come_and_go_without_the_others(self, data, tmp_path, monkeypatch):
        content = benchmark_options(data, IFAN_ROW, metrics=["psnr", "ssim"])
        first = run_all(content, tmp_path)
        measured, measure = [], quality.measure_quality
        monkeypatch.setattr(quality, "measure_quality", lambda *a: measured.append(list(a[3])) or measure(*a))
        for metrics, expected in ((["ssim"], []), (["mae", "psnr"], [["mae"]] * 2), (["psnr", "ssim", "mae"], [])):
            measured.clear()
            found = run_all({**content, "metrics": metrics}, tmp_path)
            assert measured == expected
            for name in ("blurred", IFAN_ROW["name"]):
                shown = cell(found, name)
                assert list(shown["mean"]) == metrics
                assert all(list(image) == ["image", *metrics] for image in shown["images"])
                for metric in {"psnr", "ssim"} & {*metrics}:
                    assert shown["mean"][metric] == cell(first, name)["mean"][metric]

    def test_a_metric_that_cannot_be_had_runs_nothing_again(self, data, tmp_path, monkeypatch):
        def unavailable(*_: object) -> float:
            raise MetricUnavailableError("no weights")

        content = benchmark_options(data, IFAN_ROW, metrics=["psnr", "mae"])
        with monkeypatch.context() as patched:
            patched.setattr(full_reference, "mae", unavailable)
            assert [run_all(content, tmp_path)["ran"] for _ in range(3)] == [2, 0, 0]
            again = cell(run_all(content, tmp_path), "blurred")
            assert (list(again["mean"]), again["unavailable"]) == (["psnr"], {"mae": "no weights"})
        found = run_all(content, tmp_path)
        assert found["ran"] == 2
        assert cell(found, "blurred")["unavailable"] == {}

    def test_metric_that_the_protocol_never_has(self, data, tmp_path):
        content = benchmark_options(data, protocol="basicsr")
        first = run_all(content, tmp_path)
        path = tmp_path / "cells" / f"{cell(first, 'blurred')['key']}.json"
        stored = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(stored | {"unavailable": {"lpips": "protocol 'basicsr' has none"}}))
        assert run_all(content, tmp_path)["reused"] == 1


class TestNotFinite:
    @pytest.mark.parametrize("case", ["NaN", "identity"])
    def test_reports_both_times(self, data, tmp_path, monkeypatch, capsys, case):
        if case == "NaN":
            monkeypatch.setattr(quality, "run_network", lambda _, lq: torch.full_like(lq, torch.nan))
            content, name = benchmark_options(data, IFAN_ROW), IFAN_ROW["name"]
        else:
            own, name = write_dpdd(tmp_path / "own", {"test": 1}), "blurred"
            (source,), (target,) = ((own / "test_c" / role).iterdir() for role in ("source", "target"))
            source.write_bytes(target.read_bytes())
            weights = tmp_path / "trained.pth"  # networks with random weights are in no plot
            torch.save({"params": IFAN(**SMALL).state_dict()}, weights)
            content = benchmark_options(own, {**IFAN_ROW, "path": str(weights)})
        content["profile"] = {"height": 64, "width": 96}
        monkeypatch.setattr(run, "profile_model", lambda *_: {"latency_s": 1.0, "products": 10**9})
        found = [run_all(content, tmp_path) for _ in range(2)]
        assert [each["ran"] for each in found] == [3, 0]
        assert cell(found[0], name)["mean"] == cell(found[1], name)["mean"]
        assert cell(found[0], name)["mean"]["psnr"] is None
        for each in found:
            made = report.make_report(options.check(content, "b.yml"), each)
            paths = files.write_reports(made, tmp_path)
            texts = {kind: path.read_text(encoding="utf-8") for kind, path in paths.items()}
            row = next(line for line in texts["md"].splitlines() if line.startswith(f"| {name} |"))
            assert row.startswith(f"| {name} | – |")
            assert "not a finite number" in row
            # Where no network has a PSNR there is no plot to say so beneath.
            assert f"PSNR isn&#x27;t a finite number: {name}." in texts["html"] or case == "NaN"
        assert capsys.readouterr().err.count("psnr –") == 2


class TestFailures:
    def test_each_says_why_and_the_others_run(self, data, tmp_path):
        path = tmp_path / "wide.pth"
        torch.save({"params": IFAN(**{**SMALL, "width": 4}).state_dict()}, path)
        unlabelled = tmp_path / "unlabelled"
        for folder in ("source",):
            (unlabelled / folder).mkdir(parents=True)
        for source in (data / "test_c" / "source").iterdir():
            picture = cv2.imread(str(source), cv2.IMREAD_UNCHANGED)
            (unlabelled / "test_c" / "source").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(unlabelled / "test_c" / "source" / source.name), picture)
        content = benchmark_options(
            data,
            {"name": "misspelt", "type": "IFANN"},
            {"name": "wrong key", "type": "IFAN", "widht": 4},
            {"name": "other sizes", "type": "IFAN", "width": 2, "path": str(path)},
            {"name": "no file", "type": "IFAN", "path": str(tmp_path / "nowhere.pth")},
            {"name": "enlarges", "type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 1},
            {"name": "wrong views", "type": "IFAN", **SMALL, "views": ["left", "right"]},
            IFAN_ROW,
        )
        dataset = content["datasets"][0]
        content["datasets"] += [
            {**dataset, "name": "unlabelled", "dataroot": str(unlabelled)},
            {**dataset, "name": "nowhere", "dataroot": str(tmp_path / "none")},
        ]
        found = run_all(content, tmp_path / "out")
        made = report.make_report(options.check(content, "b.yml"), found)
        said = {failure["model"] or failure["cells"][0]: failure["error"] for failure in made["failures"]}
        assert all("\n" not in error for error in said.values())
        assert "did you mean 'IFAN'?" in said["misspelt"]
        assert "did you mean 'width'?" in said["wrong key"]
        assert "width is 4 in the checkpoint, but 2 was asked for" in said["other sizes"]
        assert "file not found" in said["no file"]
        assert "valid: RGB pictures of equal size" in said["enlarges"]
        assert "left, right make 6 channels; IFAN takes 3" in said["wrong views"]
        assert "unlabelled" not in said
        assert "folder not found" in said["nowhere"]
        assert len(said) == len(made["failures"]) == 7
        assert cell(found, "blurred")["status"] == cell(found, IFAN_ROW["name"])["status"] == "done"

    def test_fault_keeps_its_traceback_and_runs_again(self, data, tmp_path, monkeypatch):
        with monkeypatch.context() as patched:
            patched.setattr(quality, "run_network", lambda *_: 1 / 0)
            found = run_all(benchmark_options(data, IFAN_ROW), tmp_path)
        failed = cell(found, IFAN_ROW["name"])
        assert failed["error"] == "ZeroDivisionError: division by zero"
        stored = json.loads((tmp_path / "cells" / f"{failed['key']}.json").read_text(encoding="utf-8"))
        assert "Traceback" in stored["traceback"]
        assert cell(run_all(benchmark_options(data, IFAN_ROW), tmp_path), IFAN_ROW["name"])["status"] == "done"


class TestCheckpoints:
    def test_param_key_and_sizes_from_the_file(self, tmp_path):
        nets = [IFAN(**SMALL), IFAN(**SMALL)]
        path = tmp_path / "net.pth"
        torch.save({"params": nets[0].state_dict(), "params_ema": nets[1].state_dict()}, path)
        for key, net in ((None, nets[1]), ("params_ema", nets[1]), ("params", nets[0])):
            built = models.build(options.Model("x", "IFAN", str(path), key, None))
            assert torch.equal(built.reconstructor.to_image[0].weight, net.reconstructor.to_image[0].weight)
            assert not built.training

    def test_other_networks_file(self, tmp_path):
        path = tmp_path / "net.pth"
        torch.save({"params": IFAN(**SMALL).state_dict()}, path)
        row = options.Model(
            "x", "RIDNet", str(path), None, None, {"in_channels": 3, "mid_channels": 4, "out_channels": 3}
        )
        with pytest.raises(UserError, match=r"net.pth doesn't fit this RIDNet: Missing key"):
            models.build(row)


class TestProfile:
    def test_process_of_its_own(self):
        profile = options.Profile(64, 96, runs=2, max_seconds=60)
        found = profile_model(options.Model("n", "IFAN", None, None, None, SMALL), profile, "cpu", 0)
        assert found["parameters"] == sum(p.numel() for p in IFAN(**SMALL).parameters())
        assert found["products"] < found["paper_count"] < 1.1 * found["products"]
        assert found["runs"] == 2
        assert found["megapixels_per_s"] == pytest.approx(64 * 96 / 1e6 / found["latency_s"])
        assert found["random_weights"]

    def test_user_error_comes_back_as_one(self, monkeypatch):
        def in_this_process(command: list[str], **_: object) -> subprocess.CompletedProcess:
            return subprocess.CompletedProcess(command, profile_process.main(command[-2:]))

        monkeypatch.setattr(profile_process.subprocess, "run", in_this_process)
        profile = options.Profile(64, 96, runs=1, max_seconds=60)
        with pytest.raises(UserError, match="did you mean 'IFAN'"):
            profile_model(options.Model("n", "IFANN", None, None, None), profile, "cpu", 0)

    def test_process_that_was_killed(self, monkeypatch):
        for status, expected in ((-9, "out of memory"), (1, "profiling n failed: Boom: x")):
            done = subprocess.CompletedProcess([], status, "", "Traceback\nBoom: x\n")
            monkeypatch.setattr(profile_process.subprocess, "run", lambda *_, done=done, **__: done)
            with pytest.raises((UserError, RuntimeError), match=expected):
                profile_model(options.Model("n", "IFAN", None, None, None), options.Profile(64, 96, 1, 1), "cpu", 0)

    def test_what_was_counted_before_it_ended_is_shown(self, data, tmp_path, monkeypatch):
        def ended(command: list[str], **_: object) -> subprocess.CompletedProcess:
            Path(command[-1]).write_text(json.dumps({"parameters": 7, "products": 11, "random_weights": True}))
            return subprocess.CompletedProcess(command, -9, "", "")

        monkeypatch.setattr(profile_process.subprocess, "run", ended)
        content = benchmark_options(data, IFAN_ROW, datasets=[], profile={"height": 64, "width": 96})
        row = report.make_report(options.check(content, "b.yml"), run_all(content, tmp_path))["rows"][1]
        assert (row["parameters"], row["products"], row["latency_s"]) == (7, 11, None)
        assert "out of memory" in row["errors"][0]["error"]

    def test_time_limits_it(self):
        profile = options.Profile(64, 96, runs=1, max_seconds=60, time_limit=0.2)
        with pytest.raises(
            UserError, match=r"^model n: not measured within 0\.2 s; lower profile: height and width, or "
        ):
            profile_model(options.Model("n", "IFAN", None, None, None, SMALL), profile, "cpu", 0)

    def test_another_limit_needs_no_new_cell(self, tmp_path):
        store = cells.CellStore(tmp_path)
        model = options.Model("n", "IFAN", None, None, None, SMALL)
        keys = set()
        for limit in (1.0, 2.0):
            profile = options.Profile(64, 96, 1, 60, limit)
            made = types.SimpleNamespace(profile=profile, device="cpu", seed=0)
            keys.add(store.profile_key(made, model, {}))
        assert len(keys) == 1


class TestWithoutTruth:
    @pytest.fixture(scope="class")
    def made(self, tmp_path_factory) -> tuple[dict, dict[str, str]]:
        """A set without sharp pictures beside one with them, large enough for NIQE."""
        folder = tmp_path_factory.mktemp("without truth")
        data = write_dpdd(folder / "data", {"test": 2}, height=128, width=224)
        bare = folder / "bare"
        bare.mkdir()
        for path in (data / "test_c" / "source").iterdir():
            (bare / path.name).write_bytes(path.read_bytes())
        weights = folder / "trained.pth"
        torch.save({"params": IFAN(**SMALL).state_dict()}, weights)
        content = benchmark_options(data, {**IFAN_ROW, "path": str(weights)}, {**IFAN_ROW, "name": "untrained"})
        content["datasets"].append(
            {"name": "bare", "type": "DualPixelDataset", "layout": "cuhk", "dataroot": str(bare)}
        )  # fmt: skip
        found = run_all(content, folder / "out")
        made = report.make_report(options.check(content, "b.yml"), found)
        paths = files.write_reports(made, folder / "out")
        return made, {kind: path.read_text(encoding="utf-8") for kind, path in paths.items()}

    def test_no_reference_metrics_are_measured(self, made):
        assert made[0]["failures"] == []
        assert made[0]["without_truth"] == ["bare"]
        for row in made[0]["rows"]:
            assert set(row["quality"]["bare"]["mean"]) == {"niqe", "sharpness"}
            assert set(row["quality"]["tiny"]["mean"]) == {"psnr", "ssim", "mae"}
            assert row["quality"]["bare"]["mean"]["sharpness"] > 0

    def test_the_reports_have_columns_of_their_own(self, made):
        assert "bare: NIQE | bare: Sharpness" in made[1]["md"]
        assert "bare: niqe,bare: sharpness" in made[1]["csv"]
        assert "compare with no truth" in made[1]["md"]

    def test_pictures_without_error_maps_are_shown(self, made):
        _, bare = made[1]["html"].split("<h3>bare: ")
        viewer = bare.split("</section>")[0]
        assert "Sharpness" in viewer
        assert 'data-do="error"' not in viewer
        assert "<figcaption>sharp</figcaption>" not in viewer
        assert viewer.count('class="picture"') == 2  # blurred, and the trained network

    def test_networks_with_random_weights_are_in_no_plot_and_no_picture(self, made):
        text = made[1]["html"]
        assert 'alt="untrained' not in text
        assert "Left out, since their weights are random: untrained." in text


class TestReport:
    @pytest.fixture
    def made(self, data, tmp_path) -> tuple[dict, dict[str, Path]]:
        content = benchmark_options(data, {**IFAN_ROW, "name": "a|b <i>"}, {"name": "x", "type": "Nope"})
        made = report.make_report(options.check(content, "b.yml"), run_all(content, tmp_path))
        return made, files.write_reports(made, tmp_path)

    def test_json(self, made):
        content = json.loads(made[1]["json"].read_text(encoding="utf-8"))
        assert [row["name"] for row in content["rows"]] == ["blurred", "a|b <i>", "x"]
        assert content["protocol"] == "ifan"
        assert content["machine"]["processor"]
        assert content["versions"]["torch"] == torch.__version__.split("+")[0] or content["versions"]["torch"]

    def test_csv(self, made):
        measured, published = made[1]["csv"].read_text(encoding="utf-8").split("\n\n")
        rows = list(csv.DictReader(io.StringIO(measured)))
        assert float(rows[0]["tiny: psnr"]) == made[0]["rows"][0]["quality"]["tiny"]["mean"]["psnr"]
        assert rows[2]["tiny: psnr"] == ""
        assert "unknown type 'Nope'" in rows[2]["remarks"]
        ifan = next(row for row in csv.DictReader(io.StringIO(published)) if row["method"] == "IFAN")
        assert (ifan["kind"], ifan["DPDD: psnr"], ifan["RealDOF: mae"]) == ("published", "25.37", "")
        assert (ifan["bits"], ifan["DPDD: lpips"], ifan["parameters"]) == ("8", "0.217-0.331", "10.48")

    def test_markdown(self, made):
        text = made[1]["md"].read_text(encoding="utf-8")
        assert "a\\|b &lt;i&gt;" in text
        assert "- **Protocol**: ifan" in text
        head = next(line for line in text.splitlines() if line.startswith("| Model"))
        assert "tiny: PSNR (dB)" in head
        row = next(line for line in text.splitlines() if line.startswith("| a"))
        assert row.replace("\\|", "").count("|") == head.count("|")
        assert text.index("| x |") < text.index("not measured here") < text.index("| DPDNet-D |")
        origin = next(line for line in text.splitlines() if line.startswith("| blurred | tiny | ifan |"))
        facts = made[0]["rows"][0]["quality"]["tiny"]["provenance"]
        assert f"| {facts['bit_depth']} | {facts['code']} | {facts['data'][:12]} | – |" in origin

    def test_latex(self, made):
        text = made[1]["tex"].read_text(encoding="utf-8")
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") >= 2
        for block in re.findall(r"\\begin\{tabular\}\{(l+r+)\}(.*?)\\end", text, re.DOTALL):
            lines = [line for line in block[1].splitlines() if line.endswith(r"\\")]
            assert lines
            assert {line.count(" & ") + 1 for line in lines} == {len(block[0])}

    def test_each_scenes_figures(self, made):
        rows = list(csv.DictReader(io.StringIO(made[1]["scenes"].read_text(encoding="utf-8"))))
        images = made[0]["rows"][0]["quality"]["tiny"]["images"]
        assert len(rows) == len(images) * len(made[0]["metrics"])
        first = next(row for row in rows if row["metric"] == "psnr")
        assert (first["test set"], first["scene"]) == ("tiny", images[0]["image"])
        assert float(first["blurred"]) == images[0]["psnr"]

    def test_the_datas_checksum_follows_its_content(self, data, tmp_path):
        content = benchmark_options(data, {"name": "again", "type": "blurred input"})

        def checksum(folder: Path) -> str:
            made = report.make_report(options.check(content, "b.yml"), run_all(content, folder))
            return made["rows"][0]["quality"]["tiny"]["provenance"]["data"]

        before = checksum(tmp_path / "one")
        assert checksum(tmp_path / "two") == before
        copied = shutil.copytree(data, tmp_path / "data")
        content["datasets"][0]["dataroot"] = str(copied)
        assert checksum(tmp_path / "three") == before, "wherever the files are"
        path = next(iter(sorted((copied / "test_c" / "source").iterdir())))
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        pixels[0, 0] = pixels.max() - pixels[0, 0]
        cv2.imwrite(str(path), pixels)
        assert checksum(tmp_path / "four") != before

    def test_every_published_row_has_its_source(self):
        found = report.published()
        assert len(found["rows"]) == 26
        assert all(row["source"] for row in found["rows"])
        assert "memory" not in json.dumps(found)
        ours = {row["method"]: row["DPDD"] for row in found["rows"]}
        assert ours["IFAN"] == {"psnr": 25.37, "ssim": 0.789, "mae": 0.039, "lpips": [0.217, 0.331]}
        assert ours["IFAN dual"] == {"psnr": 25.99, "ssim": 0.804, "mae": 0.037, "lpips": 0.207}
        assert report.published_value(0.0471, "mae") == "0.0471"
        assert report.published_value(0.04, "mae") == "0.040"
        assert report.published_value([0.277, 0.291], "lpips") == "0.277–0.291"
        assert report.published_value(None, "mae") == "–"
