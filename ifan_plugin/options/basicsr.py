"""What BasicSR itself reads from an option file, beside what the classes named there declare."""

from __future__ import annotations

from ifan_plugin.options.schema import Option

LOADER_KEYS = {
    "name": Option(str, help="of the data set; results and figures are kept under it"),
    "type": Option(str, help="name of a registered data set"),
    "phase": Option(str, None, help="follows from the key; train, val or test"),
    "scale": Option(int, None, help="of super-resolution; the file's own"),
    "io_backend": Option(dict, None, help="of BasicSR's own data sets: disk or lmdb"),
    "batch_size_per_gpu": Option(int, None, minimum=1, help="samples of one step on each GPU; training needs it"),
    "num_worker_per_gpu": Option(int, None, minimum=0, help="processes that read samples; training needs it"),
    "dataset_enlarge_ratio": Option((int, float), 1, help="how often an epoch shows each sample"),
    "prefetch_mode": Option(
        str, None, choices=("cpu", "cuda"), help="read ahead: in a thread (cpu) or to the GPU (cuda)"
    ),
    "num_prefetch_queue": Option(int, 1, minimum=1, help="batches that cpu reads ahead"),
    "pin_memory": Option(bool, False, help="batches in memory that a GPU copies fast"),
    "persistent_workers": Option(bool, False, help="keep the processes from epoch to epoch"),
    "use_shuffle": Option(bool, True, help="draw training samples in random order"),
}
"""What the host's loader reads from every data set's options."""

TOP_KEYS = {
    "name": Option(str, help="of the experiment; its folder's name"),
    "model_type": Option(str, help="name of a registered model, such as IFANModel"),
    "num_gpu": Option((int, str), "auto", help="0: the CPU; auto: all there are"),
    "datasets": Option(dict, help="train, val, test (or test_1, …) and their options"),
    "path": Option(dict, {}, optional=True, help="checkpoints to start from, and where results go"),
    "scale": Option(int, 1, minimum=1, help="of super-resolution; 1 for deblurring"),
    "manual_seed": Option(int, 0, minimum=0, optional=True, help="of all random numbers"),
    "train": Option(dict, None, help="what training needs: iterations, optimiser, losses"),
    "val": Option(dict, None, help="validation: when, metrics, pictures"),
    "logger": Option(dict, {}, optional=True, help="how often is logged and saved, and where"),
    "dist_params": Option(dict, None, help="of torch.distributed, such as backend"),
    "find_unused_parameters": Option(bool, False, help="for networks of which a step uses a part"),
    "plugins": Option(list, [], items=str, optional=True, help="installed modules to import: other people's classes"),
}

LOGGER_KEYS = {
    "print_freq": Option(int, 100, minimum=1, help="iterations from one line of the log to the next"),
    "save_checkpoint_freq": Option((int, float), 5000, minimum=1, help="iterations from one checkpoint to the next"),
    "use_tb_logger": Option(bool, False, help="write TensorBoard's files"),
    "wandb": Option(dict, None, help="project and resume_id of Weights & Biases"),
}

VAL_KEYS = {
    "val_freq": Option((int, float), 5000, minimum=1, help="iterations from one validation to the next"),
    "save_img": Option(bool, False, help="write the restored pictures"),
    "suffix": Option(str, None, help="of the pictures' names, instead of the experiment's name"),
    "pbar": Option(bool, True, help="show a progress bar"),
    "metrics": Option(dict, None, help="name of your choice: {type: metric, …}"),
    "save_best": Option((bool, str), True, help="metric whose best weights are kept; true: the first; false: none"),
}

PATH_KEYS = {
    "resume_state": Option(str, None, help="training state to go on from; --auto_resume finds the newest"),
    "ignore_resume_networks": Option((list, str), None, help="networks whose checkpoint a state may lack"),
    "root": Option(str, None, help="folder for experiments/, results/ and tb_logger/; the working directory"),
}

NETWORK_PATHS = {
    "pretrain_network_…": Option(str, None, help="checkpoint that the network starts from"),
    "param_key_…": Option(
        str,
        None,
        help="which of its sets of parameters: params (the last) or params_ema; the averaged ones where it has them",
    ),
    "strict_load_…": Option(bool, True, help="whether it must have exactly the network's parameters"),
}
"""What ``path`` has for each network; … stands for its key, or what follows ``network_`` there."""

METRIC_KEYS = {
    "type": Option(str, help="name of a registered metric"),
    "better": Option(str, "higher", choices=("higher", "lower"), help="which figures are the better ones"),
}
