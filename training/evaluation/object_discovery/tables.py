"""A table for each world, with published rows where the data are the same."""

from collections.abc import Mapping
from dataclasses import dataclass

# figure -> heading, digits after the point
COLUMNS = {
    "fg_ari": ("FG-ARI", 3),
    "fg_ari_several": ("of 2 objects or more", 3),
    "ari": ("ARI", 3),
    "mbo": ("mBO, mSC-FG", 3),
    "mbo_with_background": ("mBO, mSC with background", 3),
    "sc_fg": ("SC-FG", 3),
    "sc": ("SC", 3),
    "monosemanticity": ("monosemanticity", 3),
    "boundary_precision": ("boundary precision", 3),
    "boundary_recall": ("boundary recall", 3),
    "segments": ("segments", 1),
    "spearman": ("Spearman", 3),
}
TITLES = {
    "setok": "SeTok",
    "setok_sharp": "SeTok, sharpened",
    "kmeans": "k-means",
    "kmeans_sharp": "k-means, sharpened",
    "spectral": "spectral clustering",
    "spectral_sharp": "spectral clustering, sharpened",
    "dpc_knn": "DPC-KNN, fixed number",
    "grid": "grid",
    "slic": "SLIC (pixels)",
    "slots": "slots, trained briefly",
}


@dataclass(frozen=True)
class Published:
    """Figures of others, on the published data that a world is drawn after, not on its very pictures."""

    title: str
    figures: Mapping[str, float]
    source: str


PUBLISHED = {
    "multi_dsprites": [
        Published(
            "GENESIS, released checkpoint",
            {"fg_ari": 0.57, "mbo": 0.69},
            "README of applied-ai-lab/genesis; its own drawing of Multi-dSprites, of 125 colours",
        )
    ]
}


def world_table(world: str, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown: a row for each method, mean ± standard deviation over seeds; sources of published rows below."""
    published = PUBLISHED.get(world, [])
    rows = [["", *(heading for heading, _ in COLUMNS.values())]]
    rows.append(["---", *["---:"] * len(COLUMNS)])
    rows += [
        [TITLES[method], *(_cell(figures.get(key), digits) for key, (_, digits) in COLUMNS.items())]
        for method, figures in results.items()
    ]
    for row in published:
        cells = (f"{row.figures[key]:.2f}" if key in row.figures else "–" for key in COLUMNS)
        rows.append([f"{row.title} (published)", *cells])
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, *(f"\n{row.title}: {row.source}." for row in published)])


def _cell(summary: Mapping[str, float] | None, digits: int) -> str:
    if summary is None:
        return "–"
    mean = f"{summary['mean']:.{digits}f}"
    return f"{mean} ± {summary['std']:.{digits}f}" if len(summary["values"]) > 1 else mean
