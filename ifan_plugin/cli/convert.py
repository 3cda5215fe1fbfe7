"""``basicsr convert``: IFAN's weights between our kind of file, safetensors, mmengine's and the authors' keys."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ifan_plugin.common.errors import UserError
from ifan_plugin.options.arguments import Parser

FORMATS = ("ifan_plugin", "safetensors", "official", "mmengine")  # conversion.FORMATS, without loading torch for --help

_DESCRIPTION = """\
Convert a checkpoint of IFAN. IN may be the IFAN authors' file, one that training here saved (in BasicSR's loop or on
mmengine's Runner), or a .safetensors of either kind of keys; it is read without running code from it, and every name
and shape is checked. No bit of a parameter changes, whichever way and back."""

_EPILOG = """\
kinds of file (--to; otherwise the ending of OUT says it):
  ifan_plugin  .pth, .pt        params and hyper-parameters, as training saves them
  safetensors  .safetensors     the same parameters; hyper-parameters as metadata
  official     .pytorch         the keys of the IFAN authors' files, for their own code
  mmengine     --to mmengine    "state_dict" with "generator." before every name, for mmengine's Runner
All of them work as path: pretrain_network_g of an option file, and as load_from or model.pretrained of an mmengine
config. --param-key chooses among the weights of IN: of mmengine's files params are the last ones, too, and params_ema
what a run with EMAHook has averaged.

examples:
  basicsr convert IFAN.pytorch IFAN.safetensors
  basicsr convert experiments/IFAN_DPDD/models/net_g_latest.pth IFAN.safetensors
  basicsr convert net_g_latest.pth IFAN_mine.pytorch --reblurring net_r_latest.pth
  basicsr convert IFAN_training.pytorch net_g.pth --reblurring net_r.pth
  basicsr convert net_g_latest.pth runner.pth --to mmengine --reblurring net_r_latest.pth
  basicsr convert work_dirs/ifan_dpdd/iter_600000.pth net_g.pth --param-key both

exit status: 0 done, 2 invalid input (one line says what), 1 a fault of the program."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr convert``; its errors are :class:`UserError`."""
    parser = Parser(prog="basicsr convert", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("input", type=Path, metavar="IN", help="checkpoint to read")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write")
    parser.add_argument("--to", choices=FORMATS, help="kind of file to write (default: by the ending of OUT)")
    parser.add_argument(
        "--param-key",
        choices=("params", "params_ema", "both"),
        help="which parameters of IN: the averaged ones (params_ema, default where IN has them), the last ones "
        "(params), or both (ifan_plugin and mmengine only)",
    )
    parser.add_argument(
        "--reblurring",
        type=Path,
        metavar="FILE",
        help="the reblurring network, which only training needs: read from FILE and put into OUT with --to official or "
        "mmengine, else taken out of IN (a training checkpoint with the authors' keys or mmengine's) and written to "
        "FILE",
    )
    parser.add_argument(
        "--isotropic",
        choices=("true", "false"),
        help="how the filters are applied, where IN doesn't say (default: true for the authors' keys)",
    )
    parser.add_argument(
        "--taps", type=int, default=3, metavar="K", help="filter length, where IN doesn't say (default: 3)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    return parser


def main(argv: list[str]) -> int:
    """Convert one checkpoint. Returns 0.

    Raises:
        UserError: invalid arguments or files; one line.
    """
    args = build_parser().parse_args(argv)
    # After parsing, so that --help and wrong arguments are answered at once.
    from ifan_plugin.archs.reblur_arch import ReblurNet
    from ifan_plugin.weights import conversion
    from ifan_plugin.zoo import located

    args.input = Path(located(str(args.input)))

    def writable(path: Path, kind: str | None) -> str:
        kind = kind or conversion.kind_of(path)
        conversion.require_writable(path, kind, overwrite=args.overwrite)
        return kind

    kind = writable(args.output, args.to)
    isotropic = None if args.isotropic is None else args.isotropic == "true"
    reading = {"taps": args.taps, "isotropic": isotropic}
    weights = conversion.read_weights(args.input, args.param_key, **reading)
    if kind == "official":
        conversion.require_official(weights)
    reblurring = None
    lines = [f"{args.input}: {weights.found}", weights.described()]
    if args.reblurring is None:
        lines += [weights.beside] if weights.beside else []
    elif kind in conversion.JOINT:
        reading["taps"] = weights.hyper_parameters.get("taps", args.taps)  # the same in both, where FILE doesn't say
        reblurring = conversion.read_weights(args.reblurring, network=ReblurNet, **reading)
        conversion.require_pair(weights, reblurring)
        lines += [f"{args.reblurring}: {reblurring.found}", reblurring.described()]
    elif not weights.joint:
        raise UserError(
            f"--reblurring: {args.input}: only a file with the authors' keys or mmengine's holds both networks"
        )
    else:
        key = "params" if args.param_key == conversion.BOTH else args.param_key  # BasicSR averages network_g alone
        reblurring = conversion.read_weights(args.input, key, network=ReblurNet, **reading)
        lines.append(reblurring.described())
        reblurring_kind = writable(args.reblurring, None)
        if reblurring_kind in conversion.JOINT:
            raise UserError(f"--reblurring: {args.reblurring}: the ending must be .pth, .pt or .safetensors")
        if args.reblurring.resolve() == args.output.resolve():
            raise UserError(f"--reblurring: {args.reblurring}: is OUT itself; give another name")
    lines += _remarks(weights.hyper_parameters, kind)

    joint = kind in conversion.JOINT
    conversion.write_weights(args.output, kind, weights, reblurring if joint else None, overwrite=args.overwrite)
    lines.append(f"written to {args.output} ({kind})")
    if reblurring is not None and not joint:
        conversion.write_weights(args.reblurring, reblurring_kind, reblurring, overwrite=args.overwrite)
        lines.append(f"written to {args.reblurring} ({reblurring_kind})")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _remarks(hyper_parameters: dict[str, object], kind: str) -> list[str]:
    """What a user should know of how the filters will be applied to the written file."""
    isotropic = hyper_parameters.get("isotropic")
    if kind == "official":
        lines = []
        if isotropic is False:
            lines.append("note: the authors' code, as released, applies isotropic filters; these are separable")
        taps = hyper_parameters.get("taps", 3)
        unsaid = ({"taps": str(taps)} if taps != 3 else {}) | ({"isotropic": "false"} if isotropic is False else {})
        if unsaid:
            flags = " ".join(f"--{name} {value}" for name, value in unsaid.items())
            options = ", ".join(f"{name}: {value}" for name, value in unsaid.items())
            lines.append(f"note: OUT can't say it: read it with {flags}, or in an option file network_g: {options}")
        return lines
    elif isotropic is None and hyper_parameters.get("use_filters", True):
        return ["note: nothing says whether the filters are isotropic; --isotropic true or false puts it into OUT"]
    return []
