# IFAN, single image, N = 17, on mmengine's Runner: the recipe of the paper (Lee et al., CVPR 2021), with separable
# filters; options/train_IFAN_DPDD.yml on another host.
#
# Reproduces: "IFAN" on DPDD test, 25.37 dB / .789 SSIM / .039 MAE published (8-bit, `ifan` protocol, isotropic filters).
# Data:       DPDD as its authors give it, below datasets/DPDD: train_c/source, train_c/target, train_l/source, …
# Hardware:   made for one GPU of 16 GB or more; runs on a CPU too, for trying it out (10.5 M parameters).
# How long:   600,000 iterations of 8 patches; the log shows the time left.
#
#   python -m ifan_plugin.mm train options/mm/ifan_dpdd.py                  (add --resume to continue)
#   torchrun --nproc_per_node=2 -m ifan_plugin.mm train options/mm/ifan_dpdd.py --launcher pytorch \
#       --cfg-options train_dataloader.batch_size=4                         (two GPUs, the same 8 patches a step)
#   python -m ifan_plugin.mm test options/mm/ifan_dpdd.py work_dirs/ifan_dpdd/iter_600000.pth
#
# The other sizes of the paper are this file with other steps and patches:
#   N =  8:  --cfg-options model.generator.num_steps=8  model.reblur.num_steps=8  train_dataloader.dataset.patch_size=256
#   N = 26:  --cfg-options model.generator.num_steps=26 model.reblur.num_steps=9  train_dataloader.dataset.patch_size=512
#   N = 35:  --cfg-options model.generator.num_steps=35 model.reblur.num_steps=17 train_dataloader.dataset.patch_size=576
#   N = 44:  --cfg-options model.generator.num_steps=44 model.reblur.num_steps=17 train_dataloader.dataset.patch_size=704
#
# The ablations of the paper: model.reblur=None model.reblur_loss=None; model.disparity_loss=None; without the disparity
# estimator also model.generator.use_disparity=false; the plain network all of that and model.generator.use_filters=false.

custom_imports = dict(imports=["ifan_plugin.mm"])  # puts IFAN's classes into mmengine's registries
dataroot = "datasets/DPDD"

model = dict(
    type="IFANRestorer",
    generator=dict(
        type="IFAN",
        width=32,
        num_steps=17,  # N
        taps=3,  # k
        res_units=2,
        dual_pixel=False,
        isotropic=False,  # True: as the released checkpoints
    ),
    reblur=dict(type="ReblurNet", num_steps=17),  # M; the rest follows the generator
    pixel_loss=dict(type="PixelLoss", norm="mse", loss_weight=1.0),
    disparity_loss=dict(type="DisparityLoss", loss_weight=1.0),
    reblur_loss=dict(type="ReblurLoss", loss_weight=1.0),
    pretrained=None,
)

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type="EpochSampler", batch_size=8, ratio=100),  # an epoch shows each scene so often
    collate_fn=dict(type="pseudo_collate"),
    dataset=dict(
        type="DualPixelDataset",
        phase="train",
        dataroot=dataroot,
        layout="dpdd",
        views=["center"],  # the network's input
        aux_views=["left", "right"],  # what the disparity loss needs; delete both for data without views
        bit_depth=8,
        patch_size=256,
        augment=dict(
            noise_probability=0.05,
            noise_sigma=[0.001, 0.0707],
            grey_probability=0.3,
            scale_probability=0.5,
            scale_range=[0.7, 1.0],
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="DualPixelDataset", phase="val", dataroot=dataroot, layout="dpdd", views=["center"], bit_depth=8),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="DualPixelDataset", phase="test", dataroot=dataroot, layout="dpdd", views=["center"], bit_depth=8
    ),
)
val_evaluator = [dict(type="RestorationMetrics", metrics=["psnr", "ssim", "mae"], protocol="ifan")]
test_evaluator = [dict(type="RestorationMetrics", metrics=["psnr", "ssim", "mae"], protocol="ifan")]

train_cfg = dict(type="ResumableTrainLoop", max_iters=600_000, val_interval=5000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

optim_wrapper = dict(  # --amp puts another in its place
    type="OptimWrapper",
    optimizer=dict(type="RAdam", lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, decoupled_weight_decay=True),
    clip_grad=dict(max_norm=0.5),  # joint norm of both networks' gradients
)
param_scheduler = [  # a warm-up of 500 iterations: put dict(type="LinearLR", start_factor=1 / 500, end=500, by_epoch=False) first
    dict(type="MultiStepLR", milestones=[500_000, 550_000], gamma=0.5, by_epoch=False),
]

default_hooks = dict(
    logger=dict(type="LoggerHook", interval=100, log_metric_by_epoch=False),
    checkpoint=dict(type="AsideCheckpointHook", interval=5000, max_keep_ckpts=5, save_best="psnr"),
)
custom_hooks = [  # averaged weights: add dict(type="BasicSREMAHook", decay=0.999)
    dict(type="FiniteGradientHook"),
    dict(type="ProgressBarHook"),
    dict(type="RestorationVisualizationHook", contact_sheet=4, save=["test"]),
]

randomness = dict(seed=0)
default_scope = "mmengine"
log_processor = dict(by_epoch=False, window_size=100, num_digits=6, mean_pattern=r".*(loss|l_|time|grad_norm).*")
visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")])
