"""The Neural Operator Agent: U-AFNO, its rollout, and the projector into the tokenizer's space."""

from spinlock.noa.agent import NeuralOperatorAgent
from spinlock.noa.compute import EXACT, ComputeConfig
from spinlock.noa.projector import LatentProjector
from spinlock.noa.rollout import Rollout, rollout, sampled_steps
from spinlock.noa.uafno import UAFNO, Step, UAFNOConfig

__all__ = [
    "EXACT",
    "UAFNO",
    "ComputeConfig",
    "LatentProjector",
    "NeuralOperatorAgent",
    "Rollout",
    "Step",
    "UAFNOConfig",
    "rollout",
    "sampled_steps",
]
