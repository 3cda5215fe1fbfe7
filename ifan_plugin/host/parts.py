"""What our model takes from BasicSR, which is mended here before it is imported."""

from ifan_plugin.host.importing import prepare

prepare()

from basicsr.archs import build_network  # noqa: E402
from basicsr.losses import build_loss  # noqa: E402
from basicsr.models.base_model import BaseModel  # noqa: E402
from basicsr.utils import get_root_logger  # noqa: E402

__all__ = ["BaseModel", "build_loss", "build_network", "get_root_logger"]
