"""What a step is made of: a variant of the model, its parts, their memory, and their floor."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from plain_vqvae import PlainVQVAE, prototype_topography, topography
from torch import Tensor
from torch.profiler import profile

from spinlock.vqvae import TERMS, VQVAE, predict, weights

Terms = dict[str, Tensor]
Parts = dict[str, Callable[[], object]]


@dataclass
class Variant:
    """A model, how its five terms are had, and what its steps cost."""

    model: VQVAE | PlainVQVAE
    terms: Callable[[Tensor], Terms]
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.scale = weights(self.model.config)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=7e-4, fused=True)

    def step(self, batch: Tensor) -> Terms:
        """Forward, five terms, backward, AdamW, codebooks."""
        self.optimizer.zero_grad()
        terms = self.terms(batch)
        torch.stack([self.scale[name] * term for name, term in terms.items()]).sum().backward()
        self.optimizer.step()
        self.model.after_update()
        return terms

    def timed(self, batch: Tensor) -> None:
        cpu, wall = time.process_time(), time.perf_counter()
        self.step(batch)
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def parts(variant: Variant, batch: Tensor) -> Parts:
    """The step's parts alone, each forward and backward, on what a forward gave."""
    model = variant.model
    if isinstance(model, PlainVQVAE):
        return plain_parts(variant, model, batch)
    seen = predict(model, batch)
    z, vectors = leaf(seen.latent_rows), leaf(seen.vector_rows)
    known = replace(
        seen,
        reconstruction=leaf(seen.reconstruction),
        partial=leaf(seen.partial),
        latent_rows=z,
        vector_rows=vectors,
    )

    def codebooks() -> None:
        model.bank.rows(model.bank.assign(z))
        model.after_update()

    return {
        "encoders, projectors": lambda: backward([model.latent_rows(batch)]),
        "codebooks": codebooks,
        "shared decoder": lambda: backward([model.reconstruct(vectors.T)]),
        "partial decoders": lambda: backward([model.reconstruct_partially(vectors)]),
        "topographic loss": lambda: TERMS["topography"](known).backward(),
        "the other losses": lambda: [
            term(known).backward() for name, term in TERMS.items() if name != "topography"
        ],
        "AdamW, fused": variant.optimizer.step,
        "AdamW, not fused": torch.optim.AdamW(model.parameters(), lr=7e-4).step,
    }


def plain_parts(variant: Variant, model: PlainVQVAE, batch: Tensor) -> Parts:
    seen = model(batch)
    z, vectors = ([leaf(x) for x in part] for part in (seen.latents, seen.vectors))
    known = replace(
        seen,
        reconstruction=leaf(seen.reconstruction),
        partials=[leaf(x) for x in seen.partials],
        latents=z,
        vectors=vectors,
    )

    def codebooks() -> None:
        for book, latent in zip(model.codebooks, z, strict=True):
            book(latent.detach())
        model.after_update()

    def others() -> None:
        terms = model.terms(known, lambda *_: torch.zeros(()))
        torch.stack(list(terms.values())).sum().backward()

    samples = model.config.topo_samples
    return {
        "encoders, projectors": lambda: backward(model.encode(batch)),
        "codebooks": codebooks,
        "shared decoder": lambda: backward([model.decoder(torch.cat(vectors, 1))]),
        "partial decoders": lambda: backward(model.decode_partially(vectors)),
        "topographic loss": lambda: topography(known, samples).backward(),
        "the prototype's topographic loss": lambda: prototype_topography(known, samples).backward(),
        "the other losses": others,
        "AdamW, fused": variant.optimizer.step,
        "AdamW, not fused": torch.optim.AdamW(model.parameters(), lr=7e-4).step,
    }


def leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_()


def backward(outputs: list[Tensor]) -> None:
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def peak_bytes(run: Callable[[], object]) -> int:
    """The most that `run` held of what it allocated itself."""
    with profile(profile_memory=True) as recorded:
        run()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(held.cumsum(0).max())


def floor(model: VQVAE, batch: int) -> int:
    """Multiplications and additions that the step cannot do without, forward and backward.

    No padding, half of each gram matrix, none recomputed; inputs' gradients only where one flows.
    """
    config, groups = model.config, model.layout.groups
    books, features = model.layout.codebooks, model.layout.features
    v, n = model.latent_dim, config.topo_samples
    partial = sum(
        config.partial_hidden_dim * (book.latent_dim + len(groups[q // model.layout.num_levels]))
        for q, book in enumerate(books)
    )
    twice = config.hidden_dim * features
    thrice = (
        len(groups) * config.hidden_dim * config.embedding_dim
        + config.embedding_dim * v
        + config.decoder_hidden_dim * (v + features)
        + partial
    )
    codes = sum(book.num_tokens * book.latent_dim for book in books)
    pairs = n * n // 2 * (features + 2 * v) + n * n * 2 * v
    return 2 * (batch * (2 * twice + 3 * thrice + codes) + pairs)


def throughput(rounds: int) -> float:
    """Of this machine's sgemm, in FLOP per CPU second, median."""
    a = torch.randn(1024, 1024)
    spent = []
    for _ in range(rounds + 2):
        begun = time.process_time()
        a @ a
        spent.append(time.process_time() - begun)
    return 2 * 1024**3 / statistics.median(spent[2:])
