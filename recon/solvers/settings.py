"""Choices that only the engines beside the default one have; part of ``ReconstructionParams``."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Vector = tuple[
    Annotated[float, Field(allow_inf_nan=False)], Annotated[float, Field(allow_inf_nan=False)]
]


class _Prior(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BandLimit(_Prior):
    """No detail finer than ``finest_A``."""

    kind: Literal["band_limit"]
    finest_A: Positive

    def label(self) -> str:
        """Words for the output."""
        return f"band limit: nothing finer than {self.finest_A:g} Å"


class TotalVariation(_Prior):
    """Flat areas with sharp edges; ``weight`` in electrons' worth of likelihood per radian."""

    kind: Literal["tv"]
    weight: Positive = 2.0

    def label(self) -> str:
        """Words for the output."""
        return f"total variation, weight {self.weight:g} per rad"


class LatticeAverage(_Prior):
    """Repeats with the lattice vectors ``a_A`` and ``b_A`` (row, col), by a part ``strength``."""

    kind: Literal["lattice"]
    a_A: Vector
    b_A: Vector
    strength: Annotated[float, Field(gt=0, le=1)] = 0.5

    def label(self) -> str:
        """Words for the output."""
        return (
            f"lattice average, strength {self.strength:g}, vectors {self.a_A} and {self.b_A} Å; "
            f"see the residual map for what does not repeat"
        )


Regulariser = Annotated[BandLimit | TotalVariation | LatticeAverage, Field(discriminator="kind")]
