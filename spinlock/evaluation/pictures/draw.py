"""Draws everything there is to see of one run."""

from collections.abc import Callable
from pathlib import Path

import torch

from spinlock.errors import DatasetError
from spinlock.evaluation import blocks
from spinlock.evaluation.names import category_titles
from spinlock.evaluation.pictures.codes import Embedding, check_installed, draw_codes
from spinlock.evaluation.pictures.curves import draw_curves
from spinlock.evaluation.pictures.features import draw_features
from spinlock.evaluation.pictures.page import CategoryRow, Section, write_page
from spinlock.evaluation.pictures.usage import draw_usage
from spinlock.evaluation.run import RunData, VQVAERun, load_data
from spinlock.files import own_directory

PAGE = "index.html"


def draw_run(
    run: VQVAERun,
    out: Path,
    *,
    dataset: Path | None = None,
    embedding: Embedding = "tsne",
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the pictures and the page into `out`; the sentences on what could not be drawn.

    Where the data lies no more where the run found it, what needs it is left out and said so.
    A `dataset` that is given must be the run's own: DatasetError otherwise. `progress` is told of
    how many trajectories of how many the features have been read.
    """
    check_installed(embedding)
    data, absent = _data(run, dataset, progress)
    own_directory(out, "pictures")
    names, titles = run.tokenizer.standardizer.names, category_titles(run.tokenizer)
    model = run.tokenizer.vqvae
    groups = model.layout.groups

    draw_curves(run.history, run.kept, out / "curves.png")
    usage = None
    if data is not None:
        codes = blocks.encode(model, data.features)
        usage = [
            torch.bincount(codes[:, book], minlength=size)
            for book, size in enumerate(model.bank.sizes)
        ]
        training = data.features[data.training].double().numpy()
        draw_features(training, names, groups, titles, out / "features.png")
    draw_codes(model, titles, usage, embedding, out / "codes.png")
    if run.quality is not None:
        used, spread = run.quality["utilization"], run.quality["perplexity"]
        draw_usage(titles, model.layout, used, spread, out / "usage.png")
    unfinished = (
        f"{run.path} has no metrics.json: it is written when the run ends. Finish the run with "
        "`spinlock train-vqvae --resume-from`."
    )
    sections = [
        Section(
            "Training",
            "Each term of the loss without its weight, and what is measured on held-out samples. "
            "The dotted line is the epoch whose model was kept.",
            out / "curves.png",
        ),
        Section(
            "Use of the codebooks",
            "By the held-out samples, a row for each category, a column for each level.",
            None if run.quality is None else out / "usage.png",
            unfinished,
        ),
        Section(
            "Codes",
            "Codes of all codebooks by what they say: what the decoder gives with one codebook at "
            "that code and all others at their means, less what it gives with all at their means. "
            "Near each other: codes that say the same of the features. How far apart two groups "
            "are drawn means nothing.",
            out / "codes.png",
        ),
        Section(
            "Features and categories",
            "Correlation |r| of standardized features over the training samples, framed by "
            "category; in each, the features most like the rest of it first.",
            None if data is None else out / "features.png",
            absent,
        ),
    ]
    quality = None if run.quality is None else run.quality["category_reconstruction"]
    write_page(
        out / PAGE,
        heading=f"Tokenizer: {run.path.name}",
        note=f"Epoch {run.kept} of {run.history[-1][0]}, trained on {run.config.data.path.name} "
        f"({run.fingerprint}).",
        metrics=run.best,
        categories=[
            CategoryRow(
                title,
                [names[i] for i in group],
                None if quality is None else quality[number],
                [level.num_tokens for level in model.layout.levels[number]],
            )
            for number, (title, group) in enumerate(zip(titles, groups, strict=True))
        ],
        sections=sections,
    )
    return [section.absent for section in sections if section.picture is None]


def _data(
    run: VQVAERun, dataset: Path | None, progress: Callable[[int, int], None] | None
) -> tuple[RunData | None, str]:
    """The run's features; or None and what is wrong with the file it names."""
    if dataset is not None:
        return load_data(run, dataset, progress), ""
    try:
        return load_data(run, None, progress), ""
    except DatasetError as error:
        return None, f"The features could not be read: {error} If it has moved, give --dataset."
