"""Shape of grist: every number of the model, and the list of its 30 structures."""

from dataclasses import asdict, dataclass, field
import itertools

BOS = 256
VOCAB = 257
ATTENTION = ("gqa", "mha", "mqa", "linformer", "performer")   # the first is the default
SOFTMAX = ("gqa", "mha", "mqa")
FFN = ("swiglu", "gelu", "moe")
SHARING = ("none", "all")
STRUCTURES = tuple(itertools.product(ATTENTION, FFN, SHARING))


@dataclass
class Config:
    """Hyper-parameters; stored in every training checkpoint and, renamed, in config.json."""

    d: int = 192
    layers: int = 6
    heads: int = 6
    dh: int = 32
    context: int = 1088          # columns of Linformer's E and F
    eps: float = 1e-5
    theta: float = 10000.0
    lags: int = 7                # look-up tables for the preceding bytes
    kv: dict = field(default_factory=lambda: {"gqa": 2, "mha": 6, "mqa": 1, "linformer": 6, "performer": 6})
    rope: dict = field(default_factory=lambda: {"gqa": True, "mha": True, "mqa": True,
                                                "linformer": True, "performer": True})
    k: int = 64                  # Linformer slots
    ef_per_block: bool = False   # False: one E and one F for the whole model
    m: int = 64                  # Performer features
    swiglu: int = 512
    gelu: int = 768
    experts: int = 4
    top: int = 2
    expert: int = 256

    def as_dict(self):
        """Return plain data for the training checkpoint."""
        return asdict(self)


def group(attention):
    """Return the name under which a member's q and o projections are kept: the softmax members share theirs."""
    return "softmax" if attention in SOFTMAX else attention
