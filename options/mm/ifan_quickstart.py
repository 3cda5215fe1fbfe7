# A small IFAN on the small simulated data set of the quickstart, on mmengine's Runner.
#
# Reproduces: options/train_IFAN_quickstart.yml: the same networks, data, order, learning rate and losses, so that the
#             figures can be compared; blurred pictures it never saw gain at least 0.5 dB in PSNR.
# Data:       datasets/quickstart (basicsr simulate --preset quickstart --out datasets/quickstart).
# Hardware:   2 CPU cores, or a GPU if there is one.
# How long:   six to nine minutes on 2 CPU cores.
#
#   python -m ifan_plugin.mm train options/mm/ifan_quickstart.py            (add --resume to continue)
#   python -m ifan_plugin.mm test options/mm/ifan_quickstart.py work_dirs/ifan_quickstart/iter_1800.pth
#
# The recipe is its own, not the paper's (that is ifan_dpdd.py): fewer and larger steps, a narrow network.

custom_imports = dict(imports=["ifan_plugin.mm"])  # puts IFAN's classes into mmengine's registries
dataroot = "datasets/quickstart"

model = dict(
    type="IFANRestorer",
    generator=dict(type="IFAN", width=16, num_steps=4, taps=3, res_units=1, filter_init="identity", weight_init="he"),
    reblur=dict(type="ReblurNet", num_steps=4),  # the rest follows the generator
    pixel_loss=dict(type="PixelLoss", norm="l1", loss_weight=1.0),
    disparity_loss=dict(type="DisparityLoss", loss_weight=2.0),
    reblur_loss=dict(type="ReblurLoss", loss_weight=0.1),
    pretrained=None,
)

train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type="EpochSampler", batch_size=4, ratio=10),  # an epoch shows each scene ten times
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(
        type="DualPixelDataset",
        phase="train",
        dataroot=dataroot,
        layout="dpdd",
        views=["center"],
        aux_views=["left", "right"],
        bit_depth=16,
        patch_size=64,
        augment=dict(noise_probability=0.05, grey_probability=0.1, scale_probability=0.3),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="DualPixelDataset",
        phase="val",
        dataroot=dataroot,
        layout="dpdd",
        views=["center"],
        bit_depth=16,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="DualPixelDataset",
        phase="test",
        dataroot=dataroot,
        layout="dpdd",
        views=["center"],
        bit_depth=16,
    ),
)
val_evaluator = [dict(type="RestorationMetrics", metrics=["psnr", "ssim"], baseline=True)]
test_evaluator = [dict(type="RestorationMetrics", metrics=["psnr", "ssim", "mae"], baseline=True)]

train_cfg = dict(type="ResumableTrainLoop", max_iters=1800, val_interval=600)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(  # --amp puts another in its place
    type="OptimWrapper",
    optimizer=dict(type="Adam", lr=1e-3, betas=(0.9, 0.99)),
    clip_grad=dict(max_norm=0.5),  # joint norm of both networks' gradients
)
param_scheduler = dict(
    type="WarmupCosineRestartLR", warmup_iter=50, periods=[1800], restart_weights=[1], eta_min=1e-5, by_epoch=False
)

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=25, log_metric_by_epoch=False),
    checkpoint=dict(type="AsideCheckpointHook", interval=600, max_keep_ckpts=3, save_best="psnr"),
)
custom_hooks = [
    dict(type="BasicSREMAHook", decay=0.99),
    dict(type="FiniteGradientHook"),
    dict(type="ProgressBarHook"),
    dict(type="RestorationVisualizationHook", contact_sheet=3, save=["test"]),
]

randomness = dict(seed=0)
default_scope = "mmengine"
log_processor = dict(by_epoch=False, window_size=25, num_digits=6, mean_pattern=r".*(loss|l_|time|grad_norm).*")
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
