"""Sizes of a denoiser and its control net: what a family's counting returns and the memory estimate reads. No torch.

All counts are numbers of elements; activations are those of one image.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field, replace
from typing import Literal

GROUPS = {
    "attention": frozenset({"attention"}),
    "linear": frozenset({"attention", "linear"}),
    "all": frozenset({"attention", "linear", "convolution", "modulation"}),
}
"""Groups of layers for each choice of what a LoRA changes (``Layers.adapted``)."""
NF4_BLOCK = 64
"""Weights that share a scale in 4 bits."""


@dataclass(frozen=True)
class Learned:
    """The trained parts of a run, as far as sizes depend on them. The trainable's facts set it, the family reads it."""

    control: bool = True
    """A control net beside the base, which gives it residuals."""
    rank: int = 0
    """Rank of the control net's low-rank factors; 0: it is trained whole."""
    blocks: int = 0
    """Blocks of a transformer that the control net copies; 0: the family's usual number."""
    single_blocks: int = 0
    """Those of its second kind, with one stream."""
    text: bool = False
    """Words or text encoders are trained, so that gradients go through the whole denoiser."""
    vectors: int = 0
    """Vectors of a new word."""
    base: Literal["nothing", "decoder", "everything", "factors", "svdiff"] = "nothing"
    """What is trained of the base; "decoder": the layers behind the control; "factors": of ``rank``, beside
    its layers; "svdiff": shifts of its weights' singular values."""
    adapted: Literal["attention", "linear", "all"] = "all"
    """The layers that have such factors."""


@dataclass(frozen=True)
class Unit:
    """Activations of one gradient-checkpointing unit: a ResNet block or a transformer layer."""

    checkpointed: int
    """Kept from the forward to the backward pass with gradient checkpointing."""
    kept: int
    """Kept from the forward to the backward pass without it. With it, there while the unit is computed again."""
    backward_extra: int
    """Gradients of activations, beside ``kept``, at the peak of the unit's backward pass."""
    forward_peak: int
    """At the peak of a forward pass that keeps nothing, beside the unit's input."""
    reads: int
    """Size of the tensors that come from far before this unit, not from the one before it: residuals of a control net,
    skip connections from trained layers. Their gradients wait from here to the unit that writes them."""
    writes: int
    """Size of such tensors that this unit makes."""
    trained: int
    """Trained parameters since the unit before."""


@dataclass
class Matrices:
    """Weights of layers that may be quantized (engine/nets/weight_quantization.py)."""

    weights: int = 0
    rows: int = 0
    """Output channels: each has a scale in 8 bits."""
    pairs: int = 0
    """Pairs of weights, rounded up in each layer: bytes of NF4."""
    blocks: int = 0
    """Blocks of ``NF4_BLOCK``, rounded up in each layer."""

    def add(self, weights: int, rows: int) -> None:
        """Count one layer."""
        self.weights, self.rows = self.weights + weights, self.rows + rows
        self.pairs, self.blocks = self.pairs + -(-weights // 2), self.blocks + -(-weights // NF4_BLOCK)

    def bytes(self, kind: str, bytes_each: int) -> int:
        """Bytes with the scales. ``kind``: "same" for unquantized weights of ``bytes_each``, fp8, int8 or nf4."""
        if kind == "same":
            return bytes_each * self.weights
        return self.pairs + 2 * self.blocks if kind == "nf4" else self.weights + 4 * self.rows


@dataclass
class NetSize:
    """Size of one net."""

    weights: int = 0
    """Parameters."""
    adafactor: int = 0
    """Numbers in Adafactor's state: a row and a column of each matrix, over the last two axes of each kernel."""
    units: list[Unit] = field(default_factory=list)
    """In the order of the forward pass."""
    rank: int = 0
    """Rank of a Control-LoRA while the layers that it shares with the base are counted."""
    shared: int = 0
    """Parameters that are the base's own."""
    factors: int = 0
    """Parameters in low-rank factors beside them."""
    part: str = ""
    """Where the layers that are counted next belong: "blocks" or "modulation" may be quantized."""
    blocks: Matrices = field(default_factory=Matrices)
    modulation: Matrices = field(default_factory=Matrices)
    """Layers that turn timestep and pooled text into scale and shift of every token."""
    adapters: int = 0
    """Parameters in low-rank factors of a LoRA, which are all that is trained."""
    adapters_adafactor: int = 0
    """``adafactor`` of these."""
    adapter_rank: int = 0
    """Their rank; 0: there is no LoRA."""
    adapted: Container[str] = ()
    """The groups of layers that have them."""
    spectral: bool = False
    """Shifts of the singular values of all weights are all that is trained."""
    shifts: int = 0
    """Number of these."""
    vectors: int = 0
    """Numbers in the singular vectors that they need."""
    tables: int = 0
    """Numbers that are saved with the weights, are not trained, and stay in RAM (positions.py)."""
    _noted: int = 0

    @property
    def trained(self) -> int:
        """Trained parameters."""
        if self.spectral:
            return self.shifts
        if self.adapter_rank:
            return self.adapters
        return self.weights - self.shared + self.factors

    @property
    def kept(self) -> int:
        """Activations kept until the backward pass without gradient checkpointing."""
        return sum(unit.kept for unit in self.units)

    def layer(self, out: int, inner: int, kernel: int | None = None, bias: bool = True, group: str = "") -> None:
        """Count a convolution of kernel x kernel, or a linear layer.

        Args:
            group: that a LoRA may be trained for: "attention", "linear", "convolution" or "modulation"; "": none.
        """
        if group in self.adapted:
            rank, size = self.adapter_rank, kernel or 1
            self.adapters += rank * (out + inner * size**2)
            of_factors = 2 * rank * (out + inner * size) if kernel else 2 * rank + out + inner
            self.adapters_adafactor += of_factors
        if self.spectral and (kernel in (None, 1) or out <= inner * kernel**2):
            shorter = min(out, inner * (kernel or 1) ** 2)
            self.shifts, self.vectors = self.shifts + shorter, self.vectors + shorter**2
        side, more = kernel or 1, out if bias else 0
        whole, factors = out * inner * side**2, self.rank * (out + inner * side**2)
        self.weights += whole + more
        if 0 < factors < whole:
            self.shared += whole
            self.factors += factors
            rows = 2 * self.rank * (out + inner * side) if kernel else 2 * self.rank + out + inner
            self.adafactor += rows + more
        else:
            self.adafactor += (2 * out * inner * kernel if kernel else out + inner) + more

        if self.part:
            (self.modulation if self.part == "modulation" else self.blocks).add(whole, out)

    def modulating(self, out: int, inner: int) -> None:
        """Count a linear layer whose outputs are scale and shift of every token."""
        before, self.part = self.part, self.part and "modulation"
        self.layer(out, inner, group="modulation")
        self.part = before

    def stored(self, kind: str, modulation: str, bytes_each: int) -> int:
        """Bytes of the net's weights, quantized as far as they may be.

        Args:
            kind: "same", fp8, int8 or nf4.
            modulation: of the layers that modulate: "same", int8, or "base" (as the others).
            bytes_each: of a weight that is not quantized.
        """
        others = self.weights - self.blocks.weights - self.modulation.weights
        own = kind if modulation == "base" or kind == "same" else modulation
        return bytes_each * others + self.blocks.bytes(kind, bytes_each) + self.modulation.bytes(own, bytes_each)

    def adapt(self, learned: Learned) -> None:
        """Count low-rank factors of a LoRA, or shifts, beside the layers from here on, if these are trained."""
        self.spectral = learned.base == "svdiff"
        if learned.base == "factors":
            self.adapter_rank, self.adapted = learned.rank, GROUPS[learned.adapted]

    def of_adapters(self) -> NetSize:
        """The factors of a LoRA, or the shifts, as a net of their own, which is all that is trained; empty if there are
        none."""
        if self.spectral:
            return NetSize(self.shifts, self.shifts)
        return NetSize(self.adapters, self.adapters_adafactor)

    def norm(self, channels: int) -> None:
        """Count a normalization layer."""
        self.weights += 2 * channels
        self.adafactor += 2 * channels

    def unit(
        self, kept: int, checkpointed: int, backward_extra: int = 0, forward_peak: int = 0, reads: int = 0
    ) -> None:
        """End a checkpointing unit: the layers counted since the last one belong to it."""
        trained = self.trained - self._noted
        self.units.append(Unit(checkpointed, kept, backward_extra, forward_peak, reads, 0, trained))
        self._noted = self.trained

    def writes(self, size: int) -> None:
        """The last unit's output is read by a later one that is not its neighbour, too."""
        self.units[-1] = replace(self.units[-1], writes=size)

    def frozen_so_far(self) -> None:
        """Forget the activations counted so far: nothing before the control enters needs a gradient."""
        self.units, self._noted = [], self.weights


@dataclass(frozen=True)
class Sizes:
    """Sizes of the two nets of a run at one resolution."""

    denoiser: NetSize
    controlnet: NetSize
    """Empty where none is trained."""
    decoder: NetSize
    """The denoiser's layers behind the control; their activations are counted in ``denoiser``."""
    residuals: int
    """All residuals that the control net gives to the denoiser; 0 where none is trained."""
    text: int
    """One encoded caption."""


Count = Callable[..., Sizes]
"""``count(config, resolution, tokens, learned)``: see ``unet_sizes.count``."""
