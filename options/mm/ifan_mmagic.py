# The small IFAN of ifan_quickstart.py among MMagic's own parts: its data preprocessor, evaluator, metrics, loops and
# visualiser. It shows what a config for MMagic needs; networks, losses, data, order and learning rate are the same.
#
# Reproduces: ifan_quickstart.py, whose losses it equals; PSNR, SSIM and MAE are MMagic's (MAE as there; PSNR within
#             rounding; SSIM has another window).
# Data:       datasets/quickstart (basicsr simulate --preset quickstart --out datasets/quickstart).
# Hardware:   2 CPU cores, or a GPU if there is one.
# How long:   six to nine minutes on 2 CPU cores.
#
#   ./scripts/mmagic_env.sh                                                 (MMagic 1.2.0, in an environment of its own)
#   .venv-mmagic/bin/python -m ifan_plugin.mm train options/mm/ifan_mmagic.py            (add --resume to continue)
#   .venv-mmagic/bin/python -m ifan_plugin.mm test options/mm/ifan_mmagic.py work_dirs/ifan_mmagic/iter_1800.pth
#
# MMagic's own tools/train.py takes it, too; its --resume and tools/test.py don't work: torch >= 2.6 refuses the
# checkpoints that mmengine writes, which our command reads.

_base_ = "ifan_quickstart.py"

default_scope = "mmagic"
custom_imports = dict(imports=["ifan_plugin.mm.mmagic"])  # all of ifan_plugin.mm, and what follows BaseEditModel

model = dict(type="IFANEditModel")  # its default is MMagic's DataPreprocessor, RGB in [0, 1]

# Another data set: type="BasicImageDataset" with LoadImageFromFile for img, gt (and left, right) and
# PackInputs(keys=["img", "left", "right"]).
train_dataloader = dict(dataset=dict(pipeline=[dict(type="PackEditInputs")]))
val_dataloader = dict(dataset=dict(pipeline=[dict(type="PackEditInputs")]))
test_dataloader = dict(dataset=dict(pipeline=[dict(type="PackEditInputs")]))

val_evaluator = dict(_delete_=True, type="Evaluator", metrics=[dict(type="PSNR"), dict(type="SSIM"), dict(type="MAE")])
test_evaluator = dict(_delete_=True, type="Evaluator", metrics=[dict(type="PSNR"), dict(type="SSIM"), dict(type="MAE")])
val_cfg = dict(type="MultiValLoop")
test_cfg = dict(type="MultiTestLoop")

default_hooks = dict(checkpoint=dict(save_best="PSNR", rule="greater"))
custom_hooks = [
    dict(type="BasicSREMAHook", decay=0.99),
    dict(type="FiniteGradientHook"),
    dict(type="BasicVisualizationHook", interval=1),
]
visualizer = dict(
    _delete_=True,
    type="ConcatImageVisualizer",
    vis_backends=[dict(type="LocalVisBackend")],
    fn_key="img_path",
    img_keys=["input", "pred_img", "gt_img"],
    bgr2rgb=True,
)
